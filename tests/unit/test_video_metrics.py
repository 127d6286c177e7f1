"""Metrics of videos on cases that can be worked out by hand; reading of files, and what it refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sam3_hf.evaluation import (
    Track,
    VideoPair,
    davis_folder,
    hota,
    j_and_f,
    load_video_predictions,
    load_video_targets,
    score_veval,
    teta,
    veval_results,
    video_ap,
    video_f1,
    video_results,
)
from sam3_hf.evaluation.j_and_f import boundary_f
from sam3_hf.ops.masks import masks_to_boxes, rle_encode
from sam3_hf.video.writers import ResultJournal, write_youtube_vis

SIZE = (10, 12)
KINDS = ("segm", "bbox")


def code(x: int, y: int = 1, side: int = 2, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, y : y + side, x : x + side] = True
    return rle_encode(mask)[0]


def track(places: list[int | None], category: int = 1, score: float = 0.9, video: int = 1, **values: Any) -> Track:
    """A square that is at these columns on the frames."""
    return Track(video, category, [None if x is None else code(x) for x in places], score=score, **values)


def pair(predictions: list[Track], targets: list[Track], video: int = 1) -> VideoPair:
    [num_frames] = {one.num_frames for one in (*predictions, *targets)} or {4}
    return VideoPair(video, 1, num_frames, tuple(predictions), tuple(targets))


def dataset(**changes: Any) -> dict[str, Any]:
    """Two videos of 3 frames; a dog in the first one, and two phrases that are absent."""
    video = {"height": SIZE[0], "width": SIZE[1], "length": 3}
    data: dict[str, Any] = {
        "videos": [{"id": n, "video_name": f"clip {n}", "file_names": [], **video} for n in (1, 2)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"id": 1, "video_id": 1, "category_id": 7, "segmentations": [code(1), code(2), None], "iscrowd": 0}
        ],
        "video_np_pairs": [{"video_id": v, "category_id": c} for v, c in ((1, 7), (1, 9), (2, 7))],
    }
    return data | changes


def result(**changes: Any) -> dict[str, Any]:
    return {"video_id": 1, "category_id": 7, "score": 0.8, "segmentations": [code(1), code(2), None]} | changes


# ---- concept F1 ----


@pytest.mark.parametrize("iou_type", KINDS)
def test_an_object_that_changes_its_number_half_way_is_two_halves(iou_type: str) -> None:
    halves = [track([1, 2, None, None]), track([None, None, 3, 4])]
    figures = video_f1([pair(halves, [track([1, 2, 3, 4])]), pair([], [], video=2)], iou_type=iou_type)
    # Each half has a volume IoU of 0.5: one is right at that threshold, the other false.
    assert figures["precision@0.5"] == pytest.approx(0.5, abs=1e-3)
    assert figures["recall@0.5"] == pytest.approx(1, abs=1e-3)
    assert figures["positive_micro_F1@0.5"] == pytest.approx(2 / 3, abs=1e-3)
    assert figures["positive_micro_F1@0.75"] == 0
    assert figures["IL_MCC"] == pytest.approx(1, abs=1e-3)


def test_absent_phrases_count_for_the_image_level_alone() -> None:
    good = pair([track([1, 1])], [track([1, 1])])
    false = pair([track([1, 1], video=2)], [], video=2)
    silent = pair([], [], video=3)
    figures = video_f1([good, false, silent])
    assert figures["IL_MCC"] == pytest.approx(0.5, abs=1e-3)  # tp, fp, tn = 1: 1 / sqrt(2 * 1 * 2 * 1)
    assert figures["positive_micro_F1"] == pytest.approx(1, abs=1e-3)
    assert figures["cgF1"] == pytest.approx(0.5, abs=1e-3)
    assert figures["precision"] == pytest.approx(0.5, abs=1e-3)


def test_a_score_of_the_threshold_counts_for_f1_and_not_for_hota() -> None:
    exact = pair([track([1, 1], score=0.5)], [track([1, 1])])
    assert video_f1([exact])["F1"] == pytest.approx(1, abs=1e-3)
    assert hota([exact])["HOTA"] == 0
    assert hota([exact], threshold=0.49)["HOTA"] == 1


def test_crowds_are_no_objects_for_f1() -> None:
    figures = video_f1([pair([], [track([1, 1], is_crowd=True)]), pair([track([1])], [track([1])], video=2)])
    assert figures["recall"] == pytest.approx(1, abs=1e-3)


# ---- HOTA and TETA ----


@pytest.mark.parametrize("iou_type", KINDS)
def test_hota_of_a_new_number_half_way(iou_type: str) -> None:
    halves = [track([1, 2, None, None]), track([None, None, 3, 4])]
    figures = hota([pair(halves, [track([1, 2, 3, 4])])], iou_type=iou_type)
    # All is found on each frame; either half shares 2 of the 4 frames of what belongs together.
    assert figures == pytest.approx(
        {"HOTA": 0.5**0.5, "DetA": 1, "AssA": 0.5, "DetRe": 1, "DetPr": 1, "AssRe": 0.5, "AssPr": 1, "LocA": 1}
        | {"OWTA": 0.5**0.5}
    )


def test_hota_of_an_object_that_is_lost_after_half_of_its_frames() -> None:
    figures = hota([pair([track([1, 2, None, None])], [track([1, 2, 3, 4])])])
    assert (figures["DetA"], figures["AssA"], figures["HOTA"]) == pytest.approx((0.5, 0.5, 0.5))


def test_hota_pools_counts_over_pairs_and_counts_answers_to_absent_phrases() -> None:
    good, false = pair([track([1, 2])], [track([1, 2])]), pair([track([1, 2], video=2)], [], video=2)
    assert hota([good])["HOTA"] == 1
    assert hota([good, false])["DetA"] == pytest.approx(0.5)
    assert hota([false])["HOTA"] == 0
    with pytest.raises(ValueError, match="at least one"):
        hota([])


def test_an_empty_mask_is_no_answer_but_an_object_that_is_missed() -> None:
    gone = code(1, side=0)
    empty = Track(1, 1, [code(1), gone])
    full = Track(1, 1, [code(1), code(1)])
    assert hota([pair([empty], [full])])["DetPr"] == 1
    assert hota([pair([full], [empty])])["DetRe"] == 0.5
    nothing = Track(1, 1, [gone, gone])
    assert video_f1([pair([nothing], [nothing])])["F1"] == pytest.approx(1, abs=1e-3)  # volume IoU of 0 / 0 is 1


def test_teta_judges_place_and_name_apart() -> None:
    objects = [track([1, 2, 3], category=1)]
    assert teta([([track([1, 2, 3], category=1)], objects, 3)], [1, 2])["TETA"] == pytest.approx(1)
    misnamed = teta([([track([1, 2, 3], category=2)], objects, 3)], [1, 2])
    assert (misnamed["LocA"], misnamed["AssocA"], misnamed["ClsA"]) == pytest.approx((1, 1, 0))
    assert misnamed["TETA"] == pytest.approx(2 / 3)


def test_teta_counts_false_names_where_there_are_objects() -> None:
    objects = [track([1, 2, None], category=1)]
    surplus = track([8, 8, 8], category=1)  # the third frame has no object, and is not looked at
    figures = teta([([track([1, 2, None], category=1), surplus], objects, 3)], [1])
    assert figures["ClsPr"] == pytest.approx(0.5)
    assert figures["LocA"] == pytest.approx(1)
    assert teta([([surplus], [], 3)], [1])["TETA"] == 0


# ---- average precision ----


@pytest.mark.parametrize("per_phrase", [False, True])
@pytest.mark.parametrize("iou_type", KINDS)
def test_average_precision_ranks_by_score(iou_type: str, per_phrase: bool) -> None:
    targets = [track([1, 2])]
    right, wrong = track([1, 2], score=0.9), track([7, 8], score=0.3)
    options: dict[str, Any] = {"iou_type": iou_type, "per_phrase": per_phrase}
    assert video_ap([pair([wrong, right], targets)], **options) == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1})
    better = track([7, 8], score=0.95)
    assert video_ap([pair([right, better], targets)], **options)["AP"] == pytest.approx(0.5)
    assert video_ap([pair([right], [])], **options)["AP"] == -1
    assert video_ap([], **options)["AP50"] == -1


def test_class_map_is_the_mean_over_phrases_and_phrase_ap_pools() -> None:
    found = VideoPair(1, 1, 2, (track([1, 2]),), (track([1, 2]),))
    missed = [VideoPair(v, 2, 2, (), (track([1, 2], category=2, video=v),)) for v in (1, 2, 3)]
    assert video_ap([found, *missed], per_phrase=True)["AP"] == pytest.approx(0.5)
    assert video_ap([found, *missed])["AP"] == pytest.approx(26 / 101)  # recall 0.25: 26 of 101 points


def test_an_annotation_numbered_zero_is_never_found_as_in_the_reference() -> None:
    answer = [track([1, 2])]
    assert video_ap([pair(answer, [track([1, 2], number=1)])])["AP"] == pytest.approx(1)
    assert video_ap([pair(answer, [track([1, 2], number=0)])])["AP"] == 0


# ---- J and F ----


def square(x: int, side: int = 100, size: int = 400) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[100 : 100 + side, x : x + side] = True
    return mask


def test_j_is_the_overlap_and_f_forgives_the_official_distance() -> None:
    there = [square(100)] * 4
    exact = j_and_f(there, there)
    assert exact == pytest.approx(dict.fromkeys(exact, 1.0) | {"J-Decay": 0, "F-Decay": 0})
    # ceil(0.008 * 400 * sqrt(2)) = 5 pixels
    assert boundary_f(square(105), square(100)) == 1
    assert 0.5 < boundary_f(square(106), square(100)) < 1
    shifted = j_and_f([square(150)] * 4, there)
    assert shifted["J-Mean"] == pytest.approx(1 / 3)
    assert shifted["J-Recall"] == 0


def test_recall_and_decay_of_an_object_that_is_lost() -> None:
    there = np.stack([square(100)] * 8)
    found = there.copy()
    found[4:] = False
    figures = j_and_f(found, there, skip_ends=False)
    assert (figures["J-Mean"], figures["J-Recall"], figures["J-Decay"]) == (0.5, 0.5, 1)
    assert figures["J&F-Mean"] == 0.5
    inner = j_and_f(found, there)  # without the first and the last frame: 3 of 6
    assert inner["J-Mean"] == 0.5


def test_objects_may_be_codes_and_none_and_are_averaged() -> None:
    there = [code(1), code(2), code(3)]
    good = j_and_f(there, there)
    bad = j_and_f([None, None, None], there)
    assert (good["J&F-Mean"], bad["J&F-Mean"]) == (1, 0)
    both = j_and_f([there, [None] * 3], [there, there])
    assert both["J&F-Mean"] == 0.5
    assert j_and_f([None] * 3, [code(1), None, code(1)])["J-Mean"] == 1


def test_j_and_f_refuse_what_does_not_fit() -> None:
    there = [code(1)] * 3
    with pytest.raises(ValueError, match="2 frames, the true one 3"):
        j_and_f(there[:2], there)
    with pytest.raises(ValueError, match="skip_ends=False"):
        j_and_f(there[:2], there[:2])
    with pytest.raises(ValueError, match=r"size \(4, 4\), the true one \(10, 12\)"):
        j_and_f([np.ones((4, 4), bool)] * 3, there)
    with pytest.raises(ValueError, match="1 objects found, 2 true"):
        j_and_f([there], [there, there])
    with pytest.raises(ValueError, match="of both"):
        j_and_f(there, [there])


def labels(folder: Path, name: str, *pictures: np.ndarray) -> None:
    (folder / name).mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture.astype(np.uint8)).save(folder / name / f"{number:05d}.png")


def test_folders_of_label_pictures(tmp_path: Path) -> None:
    first = np.zeros((40, 40))
    first[5:15, 5:15], first[20:35, 20:35], first[0, 0] = 1, 2, 255
    without = np.where(first == 2, 0, first)
    labels(tmp_path / "there", "clip", first, first, first, first)
    labels(tmp_path / "found", "clip", first % 255, without % 255, without % 255, first % 255)
    figures = davis_folder(tmp_path / "found", tmp_path / "there")
    assert {name: one["J&F-Mean"] for name, one in figures.items()} == {"clip_1": 1, "clip_2": 0, "all": 0.5}
    assert davis_folder(tmp_path / "found", tmp_path / "there", skip_ends=False)["clip_2"]["J-Mean"] == 0.5
    Image.fromarray(np.full((40, 40), 3, np.uint8)).save(tmp_path / "found" / "clip" / "00001.png")
    with pytest.raises(ValueError, match="numbers up to 3; expected"):
        davis_folder(tmp_path / "found", tmp_path / "there")
    (tmp_path / "found" / "clip" / "00001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 of 4 annotated frames, such as 00001\.png"):
        davis_folder(tmp_path / "found", tmp_path / "there")


# ---- files ----


def test_veval_of_perfect_answers_and_of_none() -> None:
    figures = score_veval([result()], dataset())
    assert figures["video_mask_demo_cgf1_micro_50_95"] == pytest.approx(1, abs=1e-3)
    assert figures["video_mask_demo_cgf1_50_95"] == figures["video_mask_demo_cgf1_micro_50_95"]
    assert figures["video_mask_all_phrase_HOTA"] == 1
    assert figures["video_bbox_mAP_50_95"] == pytest.approx(1)
    assert figures["video_mask_teta"] == 100
    nothing = score_veval([], dataset())
    assert nothing.keys() == figures.keys()
    assert nothing["video_mask_all_phrase_HOTA"] == nothing["video_mask_demo_ilmcc_50"] == 0
    absent = score_veval([], dataset(annotations=[]))
    assert absent.keys() == figures.keys()
    assert (absent["video_mask_all_phrase_HOTA"], absent["video_mask_mAP_50_95"]) == (0, -1)


def test_names_follow_what_is_known() -> None:
    plain = score_veval([result()], dataset(video_np_pairs=None), dataset_name="sav")
    assert not any("demo" in name for name in plain)
    assert all(name.startswith("sav_") for name in plain)
    boxes = {"bboxes": [[1, 1, 2, 2], [2, 1, 2, 2], None], "segmentations": None}
    alone = score_veval([result(**boxes)], dataset())
    assert not any("mask" in name for name in alone)
    assert alone["video_bbox_all_phrase_HOTA"] == 1
    tagged = dataset()
    tagged["annotations"][0]["tags"] = ["tracking_challenging_pair"]
    assert score_veval([result()], tagged)["video_mask_challenging_phrase_HOTA"] == 1


def test_each_pair_has_a_row() -> None:
    rows = veval_results([result(score=0.4), result(category_id=9)], dataset())["video_np_results"]
    assert [(row["video_id"], row["category_id"]) for row in rows] == [(1, 7), (1, 9), (2, 7)]
    assert [(row["mask_F1_50"], row["mask_FP_50"], row["mask_FN_50"]) for row in rows] == [
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
    ]
    assert ["mask_HOTA" in row for row in rows] == [True, True, False]


def test_what_the_video_command_writes_can_be_scored(tmp_path: Path) -> None:
    with ResultJournal(tmp_path / "journal") as journal:
        for frame, x in enumerate((1, 2)):
            box = [x, 1, x + 2, 3]
            journal.append(frame, [{"id": 5, "label": "dog", "score": 0.75 + frame / 10, "box": box, "mask": code(x)}])
        write_youtube_vis(
            journal, tmp_path / "tracks.json", size=SIZE, num_frames=3, name="clip 1", categories=["cat", "dog"]
        )
    [found] = load_video_predictions(tmp_path / "tracks.json", load_video_targets(dataset()))
    assert (found.video_id, found.category_id, found.score) == (1, 7, pytest.approx(0.8))
    files = [json.loads((tmp_path / "tracks.json").read_text())]
    assert score_veval(files, dataset())["video_mask_all_phrase_HOTA"] == 1
    with pytest.raises(ValueError, match="'dog' of the predictions: the annotations has none"):
        score_veval(files, dataset(categories=[{"id": 7, "name": "hound"}, {"id": 9, "name": "cat"}]))


def test_what_a_session_found_becomes_results() -> None:
    def found(x: int, ids: list[int]) -> dict[str, Any]:
        masks = torch.zeros(len(ids), *SIZE, dtype=torch.bool)
        masks[:, 1:3, x : x + 2] = True
        return {"object_ids": ids, "labels": ["dog"] * len(ids), "scores": [0.5 + x / 4] * len(ids), "masks": masks}

    results = video_results([(1, found(2, [4])), (0, found(1, [4, 6]))], 1, {"dog": 7}, 3)
    assert results[0] == {"video_id": 1, "category_id": 7, "segmentations": [code(1), code(2), None], "score": 0.875}
    assert results[1]["segmentations"][1:] == [None, None]
    assert score_veval(results[:1], dataset())["video_mask_all_phrase_HOTA"] == 1
    with pytest.raises(ValueError, match=r"object 4 is called 'dog'; expected one of \['cat'\]"):
        video_results([(0, found(1, [4]))], 1, {"cat": 9}, 3)
    with pytest.raises(ValueError, match="frame 3 in a video of 3"):
        video_results([(3, found(1, [4]))], 1, {"dog": 7}, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_id": 5}, "prediction 1 has video_id 5, which the annotations do not list"),
        ({"category_id": 8}, "prediction 1 has category_id 8, which"),
        ({"category_id": "dog"}, "category_id 'dog'; expected a whole number"),
        ({"segmentations": [code(1)]}, "has 1 segmentations; expected 3, the frames of video 1"),
        ({"bboxes": [None] * 4}, "has 4 bboxes; expected 3"),
        ({"score": float("nan")}, "prediction 1: .* score nan; expected a finite number"),
        ({"bboxes": [[1, 1, float("inf"), 2], None, None]}, "a box that is not finite"),
        ({"bboxes": [[float("nan")] * 4, None, None]}, "a box that is not finite"),
        ({"bboxes": [[1, 1, 2], None, None]}, "a box has other than four numbers"),
        ({"segmentations": [code(1, size=(12, 10)), None, None]}, r"frame 0: the mask is of size \[12, 10\]; expected"),
        ({"segmentations": [{"size": list(SIZE), "counts": "0"}, None, None]}, "prediction 1: run lengths sum to 0"),
        (
            {"segmentations": [[[0, 0, 4, 0, 4, 4]], None, None]},
            "prediction 1, frame 0: the mask is no run-length code",
        ),
        ({"score": "good"}, "prediction 1: could not convert"),
        ({"segmentations": None}, "has neither masks nor boxes"),
    ],
)
def test_bad_predictions_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_veval([result(), result(**changes)], dataset())


def test_bad_files_are_refused() -> None:
    with pytest.raises(ValueError, match="have no categories, annotations"):
        score_veval([], {"videos": []})
    with pytest.raises(ValueError, match="1 annotation ids come more than once, such as 1"):
        load_video_targets(dataset(annotations=dataset()["annotations"] * 2))
    with pytest.raises(ValueError, match=r"2 videos have 1 different ids"):
        load_video_targets(dataset(videos=dataset()["videos"][:1] * 2))
    with pytest.raises(ValueError, match=r"video_np_pairs come more than once, such as \(1, 7\)"):
        load_video_targets(dataset(video_np_pairs=[{"video_id": 1, "category_id": 7}] * 2))
    with pytest.raises(ValueError, match="ids of predictions come more than once, such as 3"):
        score_veval([result(id=3), result(id=3, score=0.5)], dataset())
    with pytest.raises(ValueError, match="video 1 has no width, length; it has id, height"):
        load_video_targets(dataset(videos=[{"id": 1, "height": 4}]))
    with pytest.raises(TypeError, match="prediction 0 is str; expected a dict"):
        score_veval(["tracks.json"], dataset())  # type: ignore[list-item]
    with pytest.raises(ValueError, match="prediction 0 has no score"):
        score_veval([{"video_id": 1, "category_id": 7}], dataset())


def test_odd_predictions_are_counted_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="1 predictions come more than once .* each counts"):
        assert score_veval([result(), result()], dataset())["video_mask_all_phrase_DetPr"] == pytest.approx(0.5)
    with pytest.warns(UserWarning, match=r"1 video-phrase pairs .* such as \(2, 9\); they count as false"):
        figures = score_veval([result(), result(video_id=2, category_id=9)], dataset())
    assert figures["video_mask_demo_ilmcc_50_95"] < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_boxes_are_made_from_masks(seed: int) -> None:
    masks = torch.from_numpy(np.random.default_rng(seed).random((6, 9, 7)) > 0.9 - 0.02 * seed)
    masks[0], masks[1, :, 3] = False, True
    boxes = masks_to_boxes(masks).double().numpy()
    boxes[:, 2:] -= boxes[:, :2]
    np.testing.assert_array_equal(Track(1, 1, rle_encode(masks)).boxes, boxes)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackeval.metrics", None)
    with pytest.raises(ImportError, match=r"TrackEval: pip install 'sam3-hf\[evaluate\]'"):
        hota([pair([track([1])], [track([1])])])
    assert video_f1([pair([track([1])], [track([1])])])["F1"] > 0.9
