import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sam3_hf import Sam3Config
from sam3_hf.video.rules import (
    Association,
    LifeState,
    advance,
    associate,
    forget,
    keep_detections,
    limit_new,
    reclaim,
    resolve_overlaps,
    suppress_overlaps,
    suppress_shrunken,
)
from sam3_hf.video.settings import VideoRules

RULES = VideoRules()


def boxes(*corners: tuple[int, int, int, int], size: int = 20) -> Tensor:
    """Masks (N, size, size) bool of rectangles x0, y0, x1, y1."""
    masks = torch.zeros(len(corners), size, size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def logits(masks: Tensor) -> Tensor:
    return torch.where(masks, 3.0, -3.0)


def lived(num_frames: int, association: Association, rules: VideoRules = RULES, born: tuple[int, ...] = (0, 1)) -> Any:
    """What `advance` answers on the last of some frames that are all alike, after births on frame 0."""
    state, removed, hidden = advance(LifeState(), 0, Association(), born, rules)
    for frame in range(1, num_frames + 1):
        state, removed, hidden = advance(state, frame, association, (), rules)
    return state, removed, hidden


# rules


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("detection_threshold", 1.5, ValueError),
        ("nms_iou", -0.1, ValueError),
        ("overlap_iou", "0.7", TypeError),
        ("hot_start_delay", -1, ValueError),
        ("hot_start_delay", 7, ValueError),  # below hot_start_unmatched
        ("hot_start_duplicate", 16, ValueError),
        ("hot_start_unmatched", 8.0, TypeError),
        ("recondition_every", True, TypeError),
        ("suppress_only_in_hot_start", 1, TypeError),
        ("reclaim_from", 1, ValueError),
        ("reclaim_to", 5, ValueError),
        ("reclaim_to", -1, ValueError),
        ("keep_alive_start", 31, ValueError),
        ("keep_alive_min", 31, ValueError),
        ("keep_alive_max", None, TypeError),
        ("max_objects", 0, ValueError),
        ("max_objects", -1, ValueError),
        ("max_hole_area", 1.5, TypeError),
        ("track_iou", float("nan"), ValueError),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"expected|raise the delay"):
        VideoRules(**{name: value})


def test_a_configuration_names_the_rules() -> None:
    assert VideoRules.from_config(Sam3Config()) == RULES
    own = Sam3Config(
        new_det_thresh=0.6, hotstart_delay=4, hotstart_unmatch_thresh=3, hotstart_dup_thresh=2, max_num_objects=7,
        recondition_every_nth_frame=1, recondition_on_trk_masks=False, high_conf_thresh=0.3, high_iou_thresh=0.4,
        fill_hole_area=0, max_trk_keep_alive=40, det_nms_thresh=0.2, trk_assoc_iou_thresh=0.6,
        reclaim_lost_trk_from=2, reclaim_lost_trk_to=9,
    )  # fmt: skip
    assert VideoRules.from_config(own) == VideoRules(
        new_object_threshold=0.6, hot_start_delay=4, hot_start_unmatched=3, hot_start_duplicate=2, max_objects=7,
        recondition_every=1, recondition_on_tracks=False, recondition_score=0.3, recondition_iou=0.4,
        max_hole_area=0, keep_alive_max=40, nms_iou=0.2, track_iou=0.6, reclaim_from=2, reclaim_to=9,
    )  # fmt: skip
    assert VideoRules.from_config(Sam3Config(max_num_objects=-1)).max_objects is None
    changed = VideoRules.from_config(own, new_object_threshold=0.9, max_objects=None)
    assert (changed.new_object_threshold, changed.max_objects, changed.nms_iou) == (0.9, 7, 0.2)
    with pytest.raises(ValueError, match="association_iou is 3"):
        VideoRules.from_config(Sam3Config(assoc_iou_thresh=3.0))


def test_rules_without_heuristics_try_no_track_and_prompt_none_anew() -> None:
    rules = VideoRules.without_heuristics()
    assert not any(rules.reconditions_on(frame) for frame in range(40))
    assert lived(30, Association(unmatched=(0, 1)), rules)[1] == frozenset()
    assert rules.overlap_iou == RULES.overlap_iou


def test_tracks_are_prompted_anew_on_every_sixteenth_frame() -> None:
    assert [frame for frame in range(40) if RULES.reconditions_on(frame)] == [0, 16, 32]


# detections and association


def test_detections_keep_the_order_of_the_queries() -> None:
    masks = logits(boxes((0, 0, 5, 5), (0, 0, 5, 6), (10, 10, 15, 15), (16, 0, 20, 4)))
    scores = torch.tensor([0.6, 0.9, 0.8, 0.5])
    assert keep_detections(masks, scores, RULES).tolist() == [1, 2]
    assert keep_detections(masks, scores, replace(RULES, nms_iou=0.0)).tolist() == [0, 1, 2]
    assert keep_detections(masks[:0], scores[:0], RULES).tolist() == []


def test_of_equal_detections_the_first_is_kept() -> None:
    masks = logits(boxes((0, 0, 5, 5), (0, 0, 5, 5), (0, 0, 5, 5)))
    assert keep_detections(masks, torch.tensor([0.6, 0.7, 0.7]), RULES).tolist() == [1]


def test_one_detection_may_belong_to_two_tracks_and_a_weak_one_starts_none() -> None:
    tracks = logits(boxes((0, 0, 10, 10), (0, 0, 10, 6), (0, 0, 0, 0), (15, 0, 20, 5)))
    found = logits(boxes((0, 0, 10, 10), (0, 15, 5, 20), (10, 15, 15, 20)))
    answer = associate(found, torch.tensor([0.9, 0.69, 0.7]), tracks, [4, 7, 9, 2], RULES)
    assert answer == Association(new=(2,), unmatched=(2,), empty=(9,), matches={0: (4, 7)}, recondition={4: 0})


def test_without_tracks_every_detection_starts_one() -> None:
    found = logits(boxes((0, 0, 10, 10), (0, 15, 5, 20)))
    assert associate(found, torch.tensor([0.51, 0.9]), found[:0], [], RULES) == Association(new=(0, 1))


def test_without_detections_what_is_seen_is_unmatched() -> None:
    tracks = logits(boxes((0, 0, 10, 10), (0, 0, 0, 0)))
    answer = associate(torch.zeros(0, 9, 9), torch.zeros(0), tracks, [3, 5], RULES)
    assert answer == Association(unmatched=(3,), empty=(5,))


def test_sizes_may_differ() -> None:
    tracks = logits(boxes((0, 0, 10, 10), (10, 10, 20, 20)))
    found = logits(boxes((10, 10, 20, 20)))
    fine = found.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert associate(fine, torch.tensor([0.9]), tracks, [0, 1], RULES).matches == {0: (1,)}
    assert associate(found[:, ::2, ::2], torch.tensor([0.9]), tracks, [0, 1], RULES).matches == {0: (1,)}


def test_pixels_are_counted_exactly_under_autocast() -> None:
    found = torch.full((1, 20, 30), 3.0)
    track = torch.full((1, 20, 30), -3.0)
    track.view(-1)[:301] = 3.0  # bfloat16 rounds 301 to 300, and so below half of 600 or 601
    state = LifeState(last_occluded={0: 3, 1: 2})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert associate(found, torch.tensor([0.9]), track, [0], RULES).unmatched == ()
        assert keep_detections(
            torch.cat([found, track]), torch.tensor([0.9, 0.8]), replace(RULES, nms_iou=0.501)
        ).tolist() == [0]
        rules = replace(RULES, overlap_iou=0.501)
        assert suppress_overlaps(torch.cat([found, track]) > 0, [0, 1], state, (), 9, rules)[0].tolist() == [
            True,
            False,
        ]


def test_inputs_that_do_not_fit_are_refused() -> None:
    masks = logits(boxes((0, 0, 5, 5)))
    with pytest.raises(ValueError, match="2 scores"):
        keep_detections(masks, torch.zeros(2), RULES)
    with pytest.raises(ValueError, match="0 track_ids"):
        associate(masks, torch.zeros(1), masks, [], RULES)
    with pytest.raises(TypeError, match="do not threshold"):
        associate(masks > 0, torch.zeros(1), masks, [1], RULES)
    with pytest.raises(TypeError, match="expected bool"):
        suppress_overlaps(masks, [1], LifeState(), (), 0, RULES)
    with pytest.raises(TypeError, match="expected bool"):
        resolve_overlaps(masks, torch.zeros(1))


def test_where_room_is_short_the_best_are_kept_best_first() -> None:
    scores = torch.tensor([0.7, 0.9, 0.8, 0.9])
    limited = replace(RULES, max_objects=4)
    assert limit_new((0, 1, 2, 3), scores, 1, limited) == ((1, 3, 2), 1)
    assert limit_new((0, 2), scores, 2, limited) == ((0, 2), 0)
    assert limit_new((0, 2), scores, 9, limited) == ((), 2)
    assert limit_new((0, 1, 2, 3), scores, 10**6, RULES) == ((0, 1, 2, 3), 0)


# life and death


def test_a_track_unconfirmed_on_eight_frames_of_its_trial_is_removed() -> None:
    assert lived(7, Association(unmatched=(1,)))[1] == frozenset()
    state, removed, _ = lived(8, Association(unmatched=(1,)))
    assert removed == {1}
    assert set(state.first_frame) == set(state.keep_alive) == {0}
    assert state.unmatched == {}


def test_a_track_that_passed_its_trial_stays() -> None:
    state, removed, hidden = lived(14, Association(matches={0: (0,), 1: (1,)}))
    for frame in range(15, 60):
        state, removed, hidden = advance(state, frame, Association(unmatched=(1,)), (), RULES)
        assert not removed
        assert not hidden
    assert state.keep_alive == {0: 30, 1: -1}


def test_a_younger_track_on_the_same_detections_is_removed() -> None:
    state = lived(5, Association(), born=(4,))[0]
    state, removed, _ = advance(state, 6, Association(), (5,), RULES)
    for frame in range(7, 15):
        assert not removed
        state, removed, _ = advance(state, frame, Association(matches={2: (5, 4)}), (), RULES)
    assert removed == {5}
    assert state.overlaps == {}


def test_keep_alive_hides_where_it_may() -> None:
    rules = replace(RULES, suppress_only_in_hot_start=False, keep_alive_start=2, hot_start_delay=0)
    assert lived(1, Association(unmatched=(1,)), rules)[2] == frozenset()
    assert lived(2, Association(unmatched=(1,)), rules)[2] == {1}
    assert lived(2, Association(unmatched=(1,)), replace(rules, suppress_only_in_hot_start=True))[2] == frozenset()
    assert lived(2, Association(empty=(1,)), rules)[0].keep_alive[1] == 2
    assert lived(2, Association(empty=(1,)), replace(rules, count_empty_as_missed=True))[0].keep_alive[1] == 0


def test_backwards_a_trial_counts_the_frames_downwards() -> None:
    state, removed, _ = advance(LifeState(), 100, Association(), (0,), RULES, reverse=True)
    for frame in range(99, 91, -1):
        assert not removed
        state, removed, _ = advance(state, frame, Association(unmatched=(0,)), (), RULES, reverse=True)
    assert removed == {0}


def test_a_users_track_is_the_oldest_and_never_removed() -> None:
    state, removed, _ = lived(8, Association(unmatched=(50,), matches={0: (1, 50)}))
    assert removed == {1}
    assert state.unmatched == {50: 8}


def test_an_id_is_new_only_once() -> None:
    state = lived(1, Association())[0]
    with pytest.raises(ValueError, match=r"\[1\] are tracked"):
        advance(state, 2, Association(), (1, 2), RULES)
    with pytest.raises(ValueError, match="each once"):
        advance(state, 2, Association(), (3, 3), RULES)


def test_a_forgotten_track_leaves_nothing() -> None:
    state = lived(3, Association(unmatched=(1,), matches={0: (0, 1)}))[0]
    state = replace(state, last_occluded={0: 2, 1: 3}, duplicates=frozenset({1}))
    left = forget(state, [1, 77])
    assert left == LifeState(first_frame={0: 0}, keep_alive={0: 30}, last_occluded={0: 2})
    assert forget(state, []) is state


def test_inputs_stay_as_they_were() -> None:
    state = replace(lived(7, Association(unmatched=(1,), matches={0: (0, 1)}))[0], last_occluded={0: 2, 1: 3})
    association = Association(unmatched=(1,), matches={0: (0, 1)})
    before, masks = json.dumps(state.to_dict()), boxes((0, 0, 5, 5), (0, 0, 5, 5))
    kept = masks.clone()
    advanced, removed, _ = advance(state, 8, association, (2,), RULES)
    suppress_overlaps(masks, [0, 1], advanced, removed, 8, RULES)
    resolve_overlaps(masks, torch.tensor([0.5, 0.6]))
    shrinking = logits(masks)
    suppress_shrunken(shrinking)
    forget(state, [0])
    assert json.dumps(state.to_dict()) == before
    assert association == Association(unmatched=(1,), matches={0: (0, 1)})
    assert torch.equal(masks, kept)
    assert torch.equal(shrinking, logits(kept))


def test_the_state_does_not_grow_with_the_video() -> None:
    # Two tracks are steady, and on every frame a false one is born, that has the first one's detection.
    state, _, _ = advance(LifeState(), 0, Association(), (0, 1), RULES)
    sizes = set()
    for frame in range(1, 5001):
        false = tuple(track for track in state.first_frame if track > 1)
        association = Association(unmatched=false, matches={0: (0, *false), 1: (1,)})
        state, removed, _ = advance(state, frame, association, (frame + 1,), RULES)
        if frame > 100:
            assert removed == {frame - 7}
            sizes.add(len(json.dumps(state.to_dict())))
    assert len(state.first_frame) == 10
    assert max(sizes) < 1000


def test_a_state_goes_through_json_and_back() -> None:
    state = LifeState({0: 3, 5: 9}, {0: 30, 5: -1}, {5: 2}, {(0, 5): 3}, frozenset({7, 5}), {0: -1, 5: 12}, {5: 3})
    assert LifeState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    assert LifeState.from_dict(LifeState().to_dict()) == LifeState()


def test_a_damaged_state_is_refused() -> None:
    stored = LifeState({0: 3}).to_dict()
    with pytest.raises(ValueError, match="expected"):
        LifeState.from_dict({name: value for name, value in stored.items() if name != "unmatched"})
    with pytest.raises(ValueError, match="damaged"):
        LifeState.from_dict(stored | {"overlaps": [[1, 2]]})
    with pytest.raises(ValueError, match="damaged"):
        LifeState.from_dict(stored | {"duplicates": None})


# lost objects


LOST = replace(RULES, reclaim_from=3, reclaim_to=20)


def test_lost_counts_the_frames_in_a_row_that_nothing_confirms() -> None:
    state = lived(5, Association(unmatched=(0,), empty=(1,)))[0]
    assert state.lost == {0: 5, 1: 5}
    assert advance(state, 6, Association(empty=(1,)), (), RULES)[0].lost == {1: 6}
    assert forget(state, [1]).lost == {0: 5}


def test_what_is_found_goes_to_the_track_that_was_lost_last() -> None:
    state = LifeState(lost={0: 2, 1: 20, 2: 6, 3: 21, 4: 6})
    seen = Association(new=(1, 2), unmatched=(2, 3), empty=(0, 1, 4), matches={0: (5,)})
    scores = torch.tensor([0.9, 0.8, 0.95])
    after, found = reclaim(state, seen, scores, LOST)
    assert found == {2: 2, 4: 1}  # the better one to the older of two that were lost for equally long
    assert after == Association(unmatched=(3,), empty=(0, 1), matches={0: (5,), 1: (4,), 2: (2,)})
    after, found = reclaim(state, seen, scores, LOST, barred={2, 4})
    assert found == {1: 2}
    assert after == replace(seen, new=(1,), empty=(0, 4), matches={0: (5,), 2: (1,)})
    life, _, _ = advance(state, 30, after, (9,), LOST)
    assert (life.lost, life.keep_alive[1]) == ({2: 7, 3: 22, 0: 3, 4: 7}, 1)


def test_a_track_that_is_confirmed_again_or_was_lost_too_shortly_or_too_long_is_not_reclaimed() -> None:
    seen, scores = Association(new=(0,), empty=(1, 2)), torch.tensor([0.9])
    assert reclaim(LifeState(lost={0: 9, 1: 2, 2: 21}), seen, scores, LOST) == (seen, {})


def test_nothing_is_reclaimed_unless_asked_for() -> None:
    seen = Association(new=(0,), empty=(1,))
    assert reclaim(LifeState(lost={1: 9}), seen, torch.tensor([0.9]), RULES) == (seen, {})


# overlaps


def test_of_two_tracks_on_one_object_the_one_occluded_last_yields() -> None:
    masks = boxes((0, 0, 10, 10), (0, 0, 10, 9), (12, 12, 15, 15), (0, 0, 0, 0))
    state = LifeState(last_occluded={0: 7, 1: 5, 2: -1, 3: -1})
    suppressed, after = suppress_overlaps(masks, [0, 1, 2, 3], state, (), 9, RULES)
    assert suppressed.tolist() == [True, False, False, False]
    assert after.last_occluded == {0: 9, 1: 5, 2: -1, 3: 9}


def test_a_track_never_occluded_makes_none_yield() -> None:
    masks = boxes((0, 0, 10, 10), (0, 0, 10, 10))
    state = LifeState(last_occluded={0: 7, 1: -1})
    assert not suppress_overlaps(masks, [0, 1], state, (), 9, RULES)[0].any()


def test_a_removed_track_yields_and_is_forgotten_however_long_the_video() -> None:
    masks = boxes((0, 0, 10, 10), (0, 0, 10, 10))
    state = LifeState(last_occluded={0: 200_000})
    suppressed, after = suppress_overlaps(masks, [0, 1], state, {1}, 200_001, RULES)
    assert suppressed.tolist() == [False, True]
    assert after.last_occluded == {0: 200_000}


def test_overlaps_are_allowed_where_the_rule_is_off() -> None:
    masks = boxes((0, 0, 10, 10), (0, 0, 10, 10))
    state = LifeState(last_occluded={0: 7, 1: 5})
    suppressed, after = suppress_overlaps(masks, [0, 1], state, (), 9, replace(RULES, overlap_iou=0.0))
    assert suppressed.tolist() == [False, False]
    assert after.last_occluded == {}


def test_a_mask_that_loses_most_of_its_pixels_is_suppressed() -> None:
    masks = logits(boxes((0, 0, 10, 10), (0, 0, 10, 8), (12, 12, 15, 15)))
    masks[1] *= 2
    cleared = suppress_shrunken(masks)
    assert (cleared[0] <= -10).all()
    assert torch.equal(cleared[1:], masks[1:])
    assert torch.equal(suppress_shrunken(masks[1:]), masks[1:])
    assert suppress_shrunken(masks[:0]).shape == (0, 20, 20)


def test_an_empty_mask_is_suppressed() -> None:
    assert (suppress_shrunken(torch.full((1, 4, 4), -3.0)) == -10).all()


def test_each_pixel_goes_to_the_best_object() -> None:
    masks = boxes((0, 0, 10, 10), (5, 0, 15, 10), (5, 0, 15, 10), (0, 15, 5, 20))
    shown = resolve_overlaps(masks, torch.tensor([0.5, 0.6, 0.6, 0.0]))
    assert shown.flatten(1).sum(1).tolist() == [50, 100, 0, 0]
    assert resolve_overlaps(masks[3:], torch.tensor([0.0])).sum() == 25
