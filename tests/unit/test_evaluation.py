"""Records, overlaps, AP and counting: what evaluation is made of. Concept F1 itself is in tests/golden."""

import contextlib
import io
import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sam3_hf.data.examples import ConceptExample
from sam3_hf.evaluation import (
    ConceptPrediction,
    ConceptTarget,
    coco_ap,
    count_errors,
    count_objects,
    count_predictions,
    evaluate_concepts,
    load_predictions,
    load_targets,
    pair_ids,
    predictions_to_coco,
    save_json,
    target_of_example,
    target_of_label,
    targets_to_coco,
)
from sam3_hf.evaluation import overlap as overlap_module
from sam3_hf.evaluation.overlap import MaskRuns, box_ious, mask_ious, mask_ious_of_rows
from sam3_hf.ops.masks import rle_encode

SIZE = (24, 30)


def box_mask(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def random_masks(number: int, size: tuple[int, int], rng: np.random.Generator, noise: bool = False) -> np.ndarray:
    height, width = size
    if noise:
        return rng.random((number, height, width)) < 0.5
    y, x = np.mgrid[:height, :width]
    masks = [
        (y - rng.integers(0, height)) ** 2 + (x - rng.integers(0, width)) ** 2 < rng.integers(0, max(2, height * 4))
        for _ in range(number)
    ]
    return np.array(masks, dtype=bool).reshape(number, height, width)


def codes(masks: np.ndarray) -> list[dict[str, Any]]:
    return rle_encode(torch.from_numpy(masks))


def random_pairs(
    rng: np.random.Generator, number: int, crowds: bool = False
) -> tuple[list[ConceptPrediction], list[ConceptTarget]]:
    """Pairs of 12 pictures and 3 phrases, answers near the objects; scores without ties."""
    predictions, targets = [], []
    scores = iter(rng.permutation(1000) / 1000)
    for index in range(number):
        there = random_masks(int(rng.integers(0, 4)), SIZE, rng)
        found = np.concatenate([np.roll(there, int(rng.integers(0, 4)), axis=2), random_masks(1, SIZE, rng)])
        name: dict[str, Any] = {"image_id": index // 3, "phrase": f"thing {index % 3}", "size": SIZE}
        crowd = rng.random(len(there)) < 0.3 if crowds else None
        targets.append(ConceptTarget(**name, masks=there, is_crowd=crowd))  # type: ignore[arg-type]
        predictions.append(ConceptPrediction(**name, masks=found, scores=[next(scores) for _ in found]))  # type: ignore[arg-type]
    return predictions, targets


# ---- overlap ----


@pytest.mark.parametrize("noise", [False, True])
def test_mask_ious_are_pycocotools_to_the_bit(noise: bool) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(30):
        size = (int(rng.integers(1, 50)), int(rng.integers(1, 50)))
        rows.append(tuple(codes(random_masks(int(rng.integers(0, 5)), size, rng, noise)) for _ in range(2)))
    for (a, b), ious in zip(rows, mask_ious_of_rows(rows), strict=True):  # type: ignore[arg-type]
        assert ious.shape == (len(a), len(b))
        if a and b:
            assert np.array_equal(ious, mask_utils.iou(a, b, [0] * len(b)))


def test_unpacked_and_run_by_run_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    masks = np.concatenate([random_masks(4, SIZE, rng), random_masks(3, SIZE, rng, noise=True)])
    rows = [(codes(masks), codes(masks[::-1].copy()))]
    answers = []
    for cost in (0.0, 1e9):  # a query costs nothing, then more than anything
        monkeypatch.setattr(overlap_module, "_QUERY_COST", cost)
        answers.append(mask_ious_of_rows(rows)[0])
    monkeypatch.setattr(overlap_module, "_QUERIES_AT_ONCE", 5)
    monkeypatch.setattr(overlap_module, "_PIXELS_AT_ONCE", 2 * SIZE[0] * SIZE[1])
    answers.append(mask_ious_of_rows(rows)[0])
    monkeypatch.setattr(overlap_module, "_QUERY_COST", 0.0)
    answers.append(mask_ious_of_rows(rows)[0])
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_runs_of_lists_bytes_and_text() -> None:
    mask = box_mask(3, 4, 9, 10)
    [text] = codes(mask[None])
    listed = {"size": list(SIZE), "counts": [3 * 24 + 4, 6, 18, 6, 18, 6, 18, 6, 18, 6, 18, 6, 21 * 24 + 14]}
    inside = {"size": list(SIZE), "counts": text["counts"].encode()}
    assert np.array_equal(mask_ious([text, listed, inside], [text]), np.ones((3, 1)))
    zero_runs = {"size": [2, 2], "counts": [0, 1, 0, 1, 0, 2, 0]}
    assert MaskRuns.from_rles([zero_runs]).areas().tolist() == [4]


@pytest.mark.parametrize("counts", ["", "o", [3, 4], [800, -80]])
def test_broken_codes_are_refused(counts: Any) -> None:
    with pytest.raises(ValueError, match=r"run.length"):
        mask_ious([{"size": list(SIZE), "counts": counts}], codes(box_mask(0, 0, 3, 3)[None]))


def test_box_ious_are_pycocotools() -> None:
    rng = np.random.default_rng(2)
    a, b = (
        np.concatenate([corner, corner + rng.integers(0, 9, (8, 2))], 1) for corner in rng.integers(0, 9, (2, 8, 2))
    )
    xywh = [np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).astype(np.float64) for boxes in (a, b)]
    assert np.array_equal(box_ious(a, b), mask_utils.iou(*xywh, [0] * 8))


def test_a_hundred_against_a_hundred_is_quick() -> None:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:512, :512]
    discs = [
        (y - rng.integers(0, 512)) ** 2 + (x - rng.integers(0, 512)) ** 2 < rng.integers(8, 100) ** 2
        for _ in range(100)
    ]
    masks = codes(np.array(discs))
    start = time.process_time()
    ious = mask_ious(masks, masks)
    assert time.process_time() - start < 1.0  # 0.1 s on one core of 2.5 GHz
    assert np.array_equal(np.diag(ious), np.ones(100))


# ---- records ----


def test_masks_may_come_in_every_form() -> None:
    mask = box_mask(3, 4, 9, 10)
    [text] = codes(mask[None])
    as_bytes = {"size": list(SIZE), "counts": text["counts"].encode()}
    as_list = {"size": list(SIZE), "counts": [3 * 24 + 4, 6, 18, 6, 18, 6, 18, 6, 18, 6, 18, 6, 21 * 24 + 14]}
    forms = [mask[None], torch.from_numpy(mask)[None], [mask], [text], [as_bytes], [as_list]]
    targets = [ConceptTarget(1, "dial", SIZE, masks=form) for form in forms]  # type: ignore[arg-type]
    assert all(target.masks == [text] for target in targets)
    assert all(target.boxes.tolist() == [[3, 4, 9, 10]] for target in targets)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"masks": np.zeros((1, 5, 5), dtype=bool)}, r"mask 0 is of size \[5, 5\]; expected \[24, 30\]"),
        ({"scores": [0.5, 0.5]}, "scores"),
        ({"scores": [math.nan]}, "finite"),
        ({"boxes": [[0, 0, math.inf, 1]]}, "not finite"),
        ({"boxes": np.zeros((2, 4))}, "1 masks and 2 boxes"),
        ({"masks": None}, "neither masks nor boxes"),
    ],
)
def test_bad_records_are_refused(changed: dict[str, Any], message: str) -> None:
    good = {"size": SIZE, "scores": [0.5], "masks": box_mask(0, 0, 2, 2)[None]}
    with pytest.raises(ValueError, match=message):
        ConceptPrediction(1, "dial", **(good | changed))


def test_a_label_of_masks_boxes_or_both() -> None:
    mask = box_mask(3, 4, 9, 10)
    boxes = torch.tensor([[6 / 30, 7 / 24, 6 / 30, 6 / 24]])
    both = target_of_label({"boxes": boxes, "masks": torch.from_numpy(mask)[None]}, 1, "dial", (9, 9))
    only_masks = target_of_label({"masks": mask[None]}, 1, "dial", (9, 9))
    only_boxes = target_of_label({"boxes": boxes, "size": torch.tensor(SIZE)}, 1, "dial", (9, 9))
    for target in (both, only_masks, only_boxes):
        assert target.size == SIZE
        np.testing.assert_allclose(target.boxes, [[3, 4, 9, 10]], atol=1e-5)
    assert both.masks == only_masks.masks and only_boxes.masks is None
    assert target_of_label({"boxes": boxes}, 1, "dial", (9, 9)).size == (9, 9)
    absent = target_of_label({"boxes": torch.zeros(0, 4)}, 1, "dial", (9, 9))
    assert absent.num_objects == 0 and absent.masks == []
    with pytest.raises(ValueError, match="neither boxes nor masks"):
        target_of_label({}, 1, "dial", (9, 9))


def test_crowd_regions_of_a_label_make_it_incomplete() -> None:
    label = {"masks": box_mask(0, 0, 4, 4)[None], "crowd": box_mask(10, 10, 20, 20)[None]}
    target = target_of_label(label, 1, "dial", (9, 9))
    assert target.is_crowd.tolist() == [False, True] and target.num_objects == 1 and not target.is_exhaustive
    assert target.boxes.tolist() == [[0, 0, 4, 4], [10, 10, 20, 20]]


def test_a_phrase_of_an_example() -> None:
    masks = np.stack([box_mask(0, 0, 4, 4), box_mask(5, 5, 9, 9), box_mask(10, 10, 20, 20)])
    boxes = np.array([[0, 0, 4, 4], [5, 5, 9, 9], [10, 10, 20, 20]], dtype=np.float32)
    concepts: dict[str, tuple[int, ...]] = {"dial": (0, 1), "knob": (1, 2), "bus": ()}
    example = ConceptExample(
        7, np.zeros((*SIZE, 3), np.uint8), SIZE, boxes, list(masks), concepts, frozenset({2}), ["cat"]
    )
    dial, knob = target_of_example(example, "dial"), target_of_example(example, "knob")
    assert dial.masks == codes(masks[:2]) and dial.is_exhaustive
    assert knob.is_crowd.tolist() == [False, True] and not knob.is_exhaustive
    for absent in ("bus", "cat"):
        assert target_of_example(example, absent).num_objects == 0
    with pytest.raises(KeyError, match="nobody looked for 'dog' in picture 7"):
        target_of_example(example, "dog")


# ---- COCO JSON ----


def test_records_survive_coco_json(tmp_path: Path) -> None:
    predictions, targets = random_pairs(np.random.default_rng(4), 12, crowds=True)
    ids = pair_ids(targets)
    save_json(targets_to_coco(targets), tmp_path / "a" / "truth.json")
    save_json(predictions_to_coco(predictions, ids), tmp_path / "a" / "results.json")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["results.json", "truth.json"]
    read_targets = load_targets(tmp_path / "a" / "truth.json")
    read = load_predictions(tmp_path / "a" / "results.json", read_targets)
    assert [target.phrase for target in read_targets] == [target.phrase for target in targets]
    assert [target.is_crowd.tolist() for target in read_targets] == [target.is_crowd.tolist() for target in targets]
    for one, target in zip(predictions, read_targets, strict=True):
        again = read[target.key]
        assert again.masks == one.masks and np.array_equal(again.scores, one.scores)
        assert np.array_equal(again.boxes, one.boxes)
    before = evaluate_concepts(predictions, targets)
    assert evaluate_concepts(read, read_targets) == before


def test_results_of_an_unknown_pair_are_refused() -> None:
    _, targets = random_pairs(np.random.default_rng(5), 3)
    truth = load_targets(targets_to_coco(targets))
    result = {"image_id": 99, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}
    with pytest.raises(ValueError, match="result 0 is of image_id 99"):
        load_predictions([result], truth)


# ---- AP ----


def official(truth: dict[str, Any], results: list[dict[str, Any]], iou_type: str, folder: Path) -> list[float]:
    """pycocotools on files, as its documentation has it."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO(str(folder / "truth.json"))
        evaluation = COCOeval(dataset, dataset.loadRes(str(folder / "results.json")), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:9]]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("per_phrase", [True, False])
def test_ap_is_pycocotools(iou_type: str, per_phrase: bool, tmp_path: Path) -> None:
    predictions, targets = random_pairs(np.random.default_rng(6), 36, crowds=True)
    truth, results = targets_to_coco(targets), predictions_to_coco(predictions, pair_ids(targets))
    if per_phrase:  # from a picture for each pair to pictures and categories
        place = {entry["id"]: (entry["source_id"] + 1, int(entry["text_input"][-1]) + 1) for entry in truth["images"]}
        for one in [*truth["annotations"], *results]:
            one["image_id"], one["category_id"] = place[one["image_id"]]
        truth["images"] = [{"id": number + 1, "height": SIZE[0], "width": SIZE[1]} for number in range(12)]
        truth["categories"] = [{"id": number + 1, "name": f"thing {number}"} for number in range(3)]
    for one in results:
        one.pop("bbox" if iou_type == "segm" else "segmentation")
    figures = coco_ap(predictions, targets, iou_type, per_phrase)
    assert list(figures.values()) == official(truth, results, iou_type, tmp_path)
    kind = "mask" if iou_type == "segm" else "box"
    assert 0.1 < figures[f"{kind}_AP"] < figures[f"{kind}_AP50"] < 0.99


def test_ap_of_nothing_and_of_everything() -> None:
    _, targets = random_pairs(np.random.default_rng(7), 9)
    perfect = [
        ConceptPrediction(t.image_id, t.phrase, t.size, np.ones(len(t.boxes)), t.boxes, t.masks) for t in targets
    ]
    assert coco_ap([], targets)["mask_AP"] == 0.0
    assert coco_ap(perfect, targets)["mask_AP"] == pytest.approx(1.0)
    assert coco_ap(perfect, targets, "bbox")["box_AP"] == pytest.approx(1.0)


def test_ap_without_pycocotools_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install 'sam3-hf\[evaluate\]'"):
        coco_ap([], [ConceptTarget(1, "dial", SIZE, masks=[])])


# ---- counting ----


def test_counting_drops_parts_of_better_answers_and_leaves_presence_out() -> None:
    whole, part, apart = box_mask(0, 0, 20, 20), box_mask(2, 2, 6, 6), box_mask(22, 0, 30, 20)
    masks = torch.from_numpy(np.stack([part, whole, apart, apart]))
    logits = torch.tensor([[0.5, 2.0, 1.0, -1.0]])  # the last one scores below 0.5
    outputs = SimpleNamespace(
        pred_logits=logits, presence_logits=torch.tensor([[-9.0]]), pred_masks=torch.where(masks, 3.0, -3.0)[None]
    )
    assert count_objects(outputs) == [2]  # the part is dropped: intersection over its own area is 1, its IoU is small
    assert count_objects(outputs, overlap=1.0) == [3]
    prediction = ConceptPrediction(1, "dial", SIZE, logits[0].sigmoid(), masks=masks)  # type: ignore[arg-type]
    assert count_predictions(prediction) == 2
    assert count_predictions(prediction, overlap=1.0) == 3


def test_counting_errors() -> None:
    assert count_errors([1, 4, 0], [1, 2, 0]) == {
        "count_MAE": pytest.approx(2 / 3),
        "count_accuracy": pytest.approx(2 / 3),
    }
    with pytest.raises(ValueError, match="expected as many"):
        count_errors([1], [])
