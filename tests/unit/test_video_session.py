"""Sessions on tiny random models: batches, streams, directions, prompts at any time, files, bad input."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sam3_hf import Sam3Model, Sam3Processor, Sam3VideoTracker, VideoRules, VideoSession, tiny_config
from sam3_hf.video import Sam3VideoOutput, flush, propagate, track_frame
from sam3_hf.video.engine import prepare
from sam3_hf.video.memory_bank import MAX_FIXED_FRAMES, FrameMemory, MemoryBank
from sam3_hf.video.propagation import hold_back

SIZE, NUM_FRAMES = 112, 8
# A random model is sure of nothing: rules that let many detections through, and most of the objects live.
LOOSE = VideoRules(
    detection_threshold=0.09, new_object_threshold=0.09, nms_iou=0.6, hot_start_delay=3, hot_start_unmatched=3,
    hot_start_duplicate=3, recondition_every=4, recondition_score=0.05, recondition_iou=0.2,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Sam3Model:
    torch.manual_seed(0)
    return Sam3Model(tiny_config(SIZE)).eval()


@pytest.fixture(scope="module")
def processor() -> Sam3Processor:
    return Sam3Processor(size=SIZE)


def _frames(count: int = NUM_FRAMES, height: int = 60, width: int = 80) -> list[np.ndarray]:
    """Two squares that cross a textured background."""
    rng = np.random.default_rng(0)
    background = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    frames = []
    for t in range(count):
        frame = background.copy()
        frame[10:30, 5 + 4 * t : 25 + 4 * t] = (200, 40, 40)
        frame[30:50, 55 - 4 * t : 70 - 4 * t] = (40, 60, 200)
        frames.append(frame)
    return frames


def _points(
    session: VideoSession, processor: Sam3Processor, places: dict[int, tuple[int, int]], frame: int = 0
) -> None:
    processor.add_inputs_to_inference_session(
        session,
        frame_idx=frame,
        obj_ids=list(places),
        input_points=[[[list(xy)] for xy in places.values()]],
        input_labels=[[[1]] * len(places)],
    )


def _same(a: Sam3VideoOutput, b: Sam3VideoOutput) -> bool:
    return (
        a.frame_idx == b.frame_idx
        and a.object_ids == b.object_ids
        and a.removed_obj_ids == b.removed_obj_ids
        and a.suppressed_obj_ids == b.suppressed_obj_ids
        and all(torch.equal(a.obj_id_to_mask[number], b.obj_id_to_mask[number]) for number in a.object_ids)
    )


def test_objects_together_equal_each_alone(model: Sam3Model, processor: Sam3Processor) -> None:
    rng = np.random.default_rng(1)
    places = {number: (int(rng.integers(5, 75)), int(rng.integers(5, 55))) for number in range(32)}
    together = processor.init_video_session(_frames())
    _points(together, processor, places)
    batch = {out.frame_idx: out for out in propagate(model, together)}
    for number in (0, 7, 31):
        alone = processor.init_video_session(_frames())
        _points(alone, processor, {number: places[number]})
        for out in propagate(model, alone):
            expected = out.obj_id_to_mask[number]
            difference = (batch[out.frame_idx].obj_id_to_mask[number] - expected).abs().max()
            assert difference <= 1e-4 * max(float(expected.max() - expected.min()), 1), (number, out.frame_idx)


def test_chunks_of_objects_change_nothing(model: Sam3Model, processor: Sam3Processor) -> None:
    results = []
    for objects_at_once in (None, 2):
        session = processor.init_video_session(_frames(), objects_at_once=objects_at_once)
        _points(session, processor, {n: (10 * n + 5, 20) for n in range(5)})
        results.append(torch.stack([out.pred_masks for out in propagate(model, session)]))
    assert torch.allclose(*results, atol=1e-3)


def _streamed(model: Sam3Model, session: VideoSession, frames: list[np.ndarray]) -> Iterator[Sam3VideoOutput]:
    for index, frame in enumerate(frames):
        yield from hold_back(session, track_frame(model, session, index, prepare(session, frame)))
    yield from flush(session)


def test_a_stream_gives_what_the_whole_video_gives(model: Sam3Model, processor: Sam3Processor) -> None:
    frames = _frames(20)  # a stream cannot know that a video is shorter than the tracker's memory
    results: list[list[Sam3VideoOutput]] = []
    for video in (frames, None, iter(frames)):
        session = processor.init_video_session(video, rules=LOOSE)
        processor.add_text_prompt(session, ["square", "dog"])
        made = propagate(model, session) if video is not None else _streamed(model, session, frames)
        results.append(list(made))
    assert [out.frame_idx for out in results[0]] == list(range(20))
    assert any(out.object_ids for out in results[0]), "nothing was found, so nothing is compared"
    for other in results[1:]:
        assert all(_same(a, b) for a, b in zip(results[0], other, strict=True))


def test_immediate_results_come_with_their_frame(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(), rules=LOOSE)
    processor.add_text_prompt(session, "square")
    read: list[int] = []
    frames = session.frames
    session.frames = _Watched(frames, read)
    for out in propagate(model, session, immediate=True):
        assert read[-1] == out.frame_idx
    session = processor.init_video_session(_frames(), rules=LOOSE)
    session.frames = _Watched(session.frames, read)
    processor.add_text_prompt(session, "square")
    read.clear()
    first = next(iter(propagate(model, session)))
    assert (first.frame_idx, read[-1]) == (0, LOOSE.hot_start_delay - 1)


class _Watched:
    """A video that notes which frames were read."""

    def __init__(self, frames: Any, read: list[int]) -> None:
        self.frames, self.read_frames = frames, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self.frames, name)

    def frames_from(self, first: int) -> Iterator[Any]:
        for frame in self.frames.frames_from(first):
            self.read_frames.append(frame.index)
            yield frame


def test_several_phrases_share_a_vision_pass(
    model: Sam3Model, processor: Sam3Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    original = Sam3Model.get_vision_features
    monkeypatch.setattr(
        Sam3Model, "get_vision_features", lambda self, pixels, **k: passes.append(1) or original(self, pixels, **k)
    )
    session = processor.init_video_session(_frames(), rules=LOOSE)
    processor.add_text_prompt(session, ["square", "dog", "red thing"])
    _points(session, processor, {100: (10, 20)})
    list(propagate(model, session))
    assert len(passes) == NUM_FRAMES


def test_phrases_together_equal_each_alone(model: Sam3Model, processor: Sam3Processor) -> None:

    def masks(phrases: list[str]) -> dict[str, list[list[Tensor]]]:
        session = processor.init_video_session(_frames(), rules=LOOSE)
        processor.add_text_prompt(session, phrases)
        found: dict[str, list[list[Tensor]]] = {phrase: [] for phrase in phrases}
        for out in propagate(model, session):
            shown = processor.postprocess_outputs(session, out)
            for phrase in phrases:
                rows = [row for row, label in enumerate(shown["labels"]) if label == phrase]
                found[phrase].append([shown["masks"][row] for row in rows])
        return found

    both = masks(["square", "dog"])
    for phrase in both:
        for a, b in zip(both[phrase], masks([phrase])[phrase], strict=True):
            assert len(a) == len(b)
            assert all((x != y).float().mean() < 1e-3 for x, y in zip(a, b, strict=True))


def test_removing_and_correcting_an_object_leaves_the_others_alone(model: Sam3Model, processor: Sam3Processor) -> None:
    def run(change: str) -> dict[int, Sam3VideoOutput]:
        session = processor.init_video_session(_frames())
        _points(session, processor, {1: (10, 20), 2: (60, 40), 3: (40, 10)})
        results = {}
        for out in propagate(model, session):
            results[out.frame_idx] = out
            if out.frame_idx == 3 and change == "remove":
                session.remove_object(2)
            if out.frame_idx == 3 and change == "correct":
                _points(session, processor, {2: (30, 40)}, frame=4)
            if out.frame_idx == 5 and change == "remove":
                _points(session, processor, {2: (35, 40)}, frame=6)
        return results

    plain, removed, corrected = run(""), run("remove"), run("correct")
    assert [2 in removed[t].object_ids for t in range(8)] == [True] * 4 + [False] * 2 + [True] * 2
    assert not torch.equal(plain[4].obj_id_to_mask[2], corrected[4].obj_id_to_mask[2])
    for t in range(NUM_FRAMES):
        for number in (1, 3):
            for other in (removed, corrected):
                assert torch.equal(plain[t].obj_id_to_mask[number], other[t].obj_id_to_mask[number]), (t, number)


def test_following_again_gives_the_same(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(), rules=LOOSE)
    processor.add_text_prompt(session, "square")
    _points(session, processor, {50: (10, 20)})
    first = list(propagate(model, session))
    again = list(propagate(model, session, start_frame_idx=0))
    assert all(_same(a, b) for a, b in zip(first, again, strict=True))


def test_a_detection_never_takes_a_number_that_a_user_gave(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(), rules=LOOSE)
    processor.add_text_prompt(session, "square")
    _points(session, processor, {0: (10, 20)}, frame=5)  # shown later than the first detections
    results = list(propagate(model, session))
    assert any(results[0].object_ids), "nothing was detected, so nothing is checked"
    assert [0 in output.object_ids for output in results] == [False] * 5 + [True] * 3
    assert all(output.obj_id_to_concept[0] is None for output in results[5:])


def test_backwards_and_both_ways(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames())
    _points(session, processor, {1: (40, 20)}, frame=4)
    forward = [out.frame_idx for out in propagate(model, session)]
    backward = [out.frame_idx for out in propagate(model, session, start_frame_idx=4, reverse=True)]
    assert (forward, backward) == ([4, 5, 6, 7], [4, 3, 2, 1, 0])
    few = [out.frame_idx for out in propagate(model, session, start_frame_idx=2, max_frame_num_to_track=3)]
    assert few == [2, 3, 4, 5]


def test_a_saved_session_goes_on_where_it_was(model: Sam3Model, processor: Sam3Processor, tmp_path: Path) -> None:
    def session() -> VideoSession:
        made: VideoSession = processor.init_video_session(_frames(), rules=LOOSE, forget_after=50)
        processor.add_text_prompt(made, "square")
        _points(made, processor, {50: (10, 20)})
        return made

    whole = list(propagate(model, session()))
    cut = session()
    taken = []
    for out in propagate(model, cut):
        taken.append(out)
        if len(taken) == 2:
            break
    cut.save(tmp_path / "session.pt")
    again = VideoSession.load(tmp_path / "session.pt", processor.init_video_session(_frames()).frames)
    assert (again.last_frame, again.forget_after) == (cut.last_frame, 50)
    taken += list(propagate(model, again, start_frame_idx=again.last_frame + 1))
    assert all(_same(a, b) for a, b in zip(whole, taken, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["session.pt"]


def test_a_file_that_is_no_session_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"nothing")
    torch.save({"version": 99}, tmp_path / "b.pt")
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match="session"):
            VideoSession.load(tmp_path / name)


def test_masks_and_boxes_point_out_objects(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames())
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:30, 5:25] = True
    processor.add_inputs_to_inference_session(session, 0, obj_ids=1, input_masks=mask)
    processor.add_inputs_to_inference_session(session, 0, obj_ids=2, input_boxes=[[[40, 28, 60, 52]]])
    shown = processor.postprocess_outputs(session, model(inference_session=session, frame_idx=0))
    assert shown["object_ids"][0] == 1
    given = shown["masks"][0]
    assert (given & torch.as_tensor(mask)).sum() / (given | torch.as_tensor(mask)).sum() > 0.85
    assert [out.frame_idx for out in model.propagate_in_video_iterator(session)] == list(range(NUM_FRAMES))


def test_a_stream_takes_its_size_with_given_masks(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session()
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:30, 5:25] = True
    processor.add_inputs_to_inference_session(session, 0, obj_ids=1, input_masks=mask, original_size=(60, 80))
    pixels = processor(images=_frames()[0], return_tensors="pt")["pixel_values"][0]
    shown = processor.postprocess_outputs(session, model(inference_session=session, frame=pixels))
    assert shown["masks"].shape == (1, 60, 80)


def test_a_tracker_alone_follows_what_is_pointed_out(processor: Sam3Processor) -> None:
    torch.manual_seed(0)
    tracker = Sam3VideoTracker(tiny_config(SIZE).tracker_config).eval()
    session = processor.init_video_session(_frames())
    _points(session, processor, {1: (10, 20)})
    assert len(list(tracker.propagate_in_video_iterator(session))) == NUM_FRAMES
    processor.add_text_prompt(session, "square")
    with pytest.raises(ValueError, match="Sam3Model"):
        list(tracker.propagate_in_video_iterator(session))


def test_exemplars_count_on_their_frame(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(), rules=LOOSE)
    processor.add_text_prompt(session, None, frame_idx=2, input_boxes=[[13, 10, 33, 30]])
    born = [out.frame_idx for out in propagate(model, session, start_frame_idx=0, immediate=True) if out.object_ids]
    assert born and min(born) >= 2


# ---- bounds ----


def test_a_bank_does_not_grow() -> None:
    config = tiny_config(SIZE).tracker_config
    bank, features = MemoryBank(), torch.zeros(64, 2, 2)
    for frame in range(3000):
        memory = FrameMemory(features, torch.zeros(32), 0.5 if frame % 3 else 0.0)
        bank.add(frame, memory, config)
        if frame % 16 == 0:
            bank.fix(frame, memory)
        assert len(bank.recent) <= config.max_object_pointers_in_encoder
        assert len(bank.fixed) <= MAX_FIXED_FRAMES
        assert sum(entry.features is not None for _, entry in bank.recent) <= config.num_maskmem
    assert 0 in bank.fixed  # where the object appeared first


def test_a_bank_forgets_the_frames_that_it_doubts() -> None:
    config = tiny_config(SIZE).tracker_config
    bank = MemoryBank()
    for frame in range(6):
        bank.add(frame, FrameMemory(torch.zeros(64, 2, 2), torch.zeros(32), 0.5), config)
    bank.fix(4, FrameMemory(torch.zeros(64, 2, 2), torch.zeros(32), 1.0))
    bank.doubt(6, 3)
    assert [frame for frame, _ in bank.recent] == [0, 1, 2]
    assert list(bank.fixed) == [4]


def test_rules_are_those_of_the_model_unless_others_are_given(processor: Sam3Processor, tmp_path: Path) -> None:
    config = tiny_config(SIZE)
    config.hotstart_delay = config.hotstart_unmatch_thresh = config.hotstart_dup_thresh = 2
    model = Sam3Model(config).eval()
    session = processor.init_video_session(_frames(4))
    processor.add_text_prompt(session, "dog")
    assert session.rules == VideoRules()  # nobody has followed it
    outputs = propagate(model, session)
    next(outputs)
    assert session.rules == VideoRules.from_config(config) and session.last_frame == 1  # held back by one frame, not 14
    session.save(tmp_path / "session.pt")
    assert VideoSession.load(tmp_path / "session.pt").rules == session.rules
    given = processor.init_video_session(_frames(4), rules=VideoRules(hot_start_delay=8))
    processor.add_text_prompt(given, "dog")
    list(propagate(model, given))
    assert given.rules == VideoRules(hot_start_delay=8)


@pytest.mark.parametrize("on_tracks", [True, False])
def test_a_detection_prompts_its_track_anew_or_takes_its_place(on_tracks: bool, processor: Sam3Processor) -> None:
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(SIZE)).eval()
    model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(9.0)  # never lost
    rules = VideoRules(
        hot_start_delay=0, hot_start_unmatched=0, hot_start_duplicate=0, association_iou=0.0, max_hole_area=0,
        recondition_every=1, recondition_score=0.6, recondition_iou=0.0, recondition_on_tracks=on_tracks,
    )  # fmt: skip
    session = processor.init_video_session(_frames(3), rules=rules)
    processor.add_text_prompt(session, "red square")
    side = 4 * SIZE // 14

    def detected(x: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        masks = torch.full((1, side, side), -5.0)
        masks[0, 4:10, x : x + 6] = 5.0
        return [(masks, torch.tensor([0.9]))]

    frames = _frames(3)
    track_frame(model, session, 0, prepare(session, frames[0]), detections=detected(2))
    found = track_frame(model, session, 1, prepare(session, frames[1]), detections=detected(4))
    [number] = found.object_ids
    assert 1 in session.objects[number].bank.fixed
    is_detection = torch.equal(found.obj_id_to_mask[number].squeeze(), detected(4)[0][0][0])
    assert is_detection is not on_tracks
    weak = [(detected(6)[0][0], torch.tensor([0.55]))]
    found = track_frame(model, session, 2, prepare(session, frames[2]), detections=weak)
    assert 2 not in session.objects[number].bank.fixed
    assert not torch.equal(found.obj_id_to_mask[number].squeeze(), weak[0][0][0])


@pytest.mark.parametrize("reclaims", [True, False])
def test_a_lost_object_that_a_detection_finds_again_keeps_its_number(reclaims: bool, processor: Sam3Processor) -> None:
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(SIZE)).eval()
    model.tracker_model.mask_decoder.pred_obj_score_head.proj_out.bias.data.fill_(-9.0)  # always lost
    rules = VideoRules(hot_start_delay=0, reclaim_from=2 * reclaims, reclaim_to=9 * reclaims)
    session = processor.init_video_session(_frames(6), rules=rules)
    processor.add_text_prompt(session, "red square")
    side = 4 * SIZE // 14
    masks = torch.full((2, side, side), -5.0)
    masks[0, 4:10, 2:8] = 5.0
    masks[1, 4:10, 12:18] = 5.0
    nothing, one, both = ([(masks[:count], torch.tensor([0.9, 0.8])[:count])] for count in range(3))
    seen = []
    for frame, (image, found) in enumerate(
        zip(_frames(6), [one, nothing, nothing, nothing, both, nothing], strict=True)
    ):
        output = track_frame(model, session, frame, prepare(session, image), detections=found)
        seen.append({number: bool((mask > 0).any()) for number, mask in output.obj_id_to_mask.items()})
    [first], bank = seen[0], session.objects[0].bank
    assert seen[1:4] == [{first: False}] * 3
    after = {first: True, first + 1: True} if reclaims else {first: False, first + 1: True, first + 2: True}
    assert seen[4] == after
    assert list(bank.fixed) == ([0, 4] if reclaims else [0])
    assert [frame for frame, _ in bank.recent] == [5]


def test_unseen_objects_are_forgotten_and_new_ones_limited(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(), rules=replace(LOOSE, max_objects=2, nms_iou=0.0), forget_after=1)
    processor.add_text_prompt(session, "square")
    with pytest.warns(UserWarning, match="room for 2 objects"):
        for _ in propagate(model, session):
            assert len(session.objects) <= 2
    assert session.num_dropped > 0


# ---- bad input ----


@pytest.fixture
def session(processor: Sam3Processor) -> VideoSession:
    made: VideoSession = processor.init_video_session(_frames())
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_idx": 99, "obj_ids": 1, "input_points": [[[[1, 1]]]], "input_labels": [[[1]]]}, "frame 99"),
        ({"frame_idx": 0, "obj_ids": [1, 1], "input_points": [[[[1, 1]], [[2, 2]]]]}, "twice"),
        ({"frame_idx": 0, "obj_ids": [1, 2], "input_points": [[[[1, 1]]]]}, "2"),
        ({"frame_idx": 0, "obj_ids": 1}, "points or boxes"),
        ({"frame_idx": 0, "obj_ids": 1, "input_masks": np.zeros((2, 4, 4))}, "input_masks"),
        ({"frame_idx": 0, "obj_ids": -1, "input_points": [[[[1, 1]]]]}, "object id -1"),
    ],
)
def test_prompts_that_cannot_be_used(
    session: VideoSession, processor: Sam3Processor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processor.add_inputs_to_inference_session(session, **arguments)


def test_other_bad_input(model: Sam3Model, processor: Sam3Processor, session: VideoSession) -> None:
    with pytest.raises(ValueError, match="nothing to follow"):
        list(propagate(model, session))
    with pytest.raises(KeyError, match="no object 7"):
        session.remove_object(7)
    with pytest.raises(ValueError, match="frame 50"):
        _points(session, processor, {1: (1, 1)})
        list(propagate(model, session, start_frame_idx=50))
    with pytest.raises(ValueError, match="no phrase"):
        processor.add_text_prompt(session, [])
    stream = processor.init_video_session()
    with pytest.raises(ValueError, match="original_size"):
        _points(stream, processor, {1: (1, 1)})
    with pytest.raises(ValueError, match="no video"):
        processor.add_text_prompt(stream, "dog")
        list(propagate(model, stream))
    track_frame(model, stream, 0, prepare(stream, _frames()[0]))
    with pytest.raises(ValueError, match="must not change size"):
        prepare(stream, np.zeros((10, 10, 3), dtype=np.uint8))
    track_frame(model, stream, 1, prepare(stream, _frames()[1]))
    with pytest.raises(ValueError, match="is gone"):
        _points(stream, processor, {1: (1, 1)}, frame=0)


def test_a_phrase_without_a_match_gives_empty_frames(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(), rules=VideoRules(detection_threshold=1.0))
    processor.add_text_prompt(session, "dog")
    results = [processor.postprocess_outputs(session, out) for out in propagate(model, session)]
    assert [len(found["object_ids"]) for found in results] == [0] * NUM_FRAMES
    assert results[0]["masks"].shape == (0, 60, 80)


def test_one_frame_is_a_video(model: Sam3Model, processor: Sam3Processor) -> None:
    session = processor.init_video_session(_frames(1), rules=LOOSE)
    processor.add_text_prompt(session, "dog")
    assert [out.frame_idx for out in propagate(model, session)] == [0]
