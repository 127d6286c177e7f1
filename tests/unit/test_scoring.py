"""From annotation and prediction files to figures: formats, faults, definitions, intervals, agreement, curves, AP."""

import math
from typing import Any

import numpy as np
import pytest

from evaluation_toys import ANSWERS, PAIRS, SIZE, coco, code, entry, saco
from sam3_hf.evaluation.agreement import human_agreement
from sam3_hf.evaluation.annotations import load_annotations
from sam3_hf.evaluation.bootstrap import confidence_intervals
from sam3_hf.evaluation.coco_ap import coco_ap
from sam3_hf.evaluation.concept_f1 import concept_f1, score_pairs
from sam3_hf.evaluation.curves import calibration, precision_recall
from sam3_hf.evaluation.judge import CURVE_THRESHOLDS, Judge
from sam3_hf.evaluation.lvis_ap import lvis_ap
from sam3_hf.evaluation.predictions import ConceptPrediction, ConceptTarget
from sam3_hf.evaluation.results import load_results
from sam3_hf.evaluation.scoring import Scores, ScoreSettings, score_results
from sam3_hf.evaluation.tally import figures_of, floats, rows_of

QUICK = {"bootstrap": 0, "average_precision": False}


def score(annotations: Any, results: Any, lenient: bool = False, **settings: Any) -> Scores:
    annotated = load_annotations(annotations, lenient)
    checked = load_results(results, annotated, lenient)
    return score_results(annotated, checked, ScoreSettings(**(QUICK | settings)))


# ---- formats ----


def test_figures_of_a_known_case() -> None:
    scores = score(saco(PAIRS), ANSWERS, average_precision=True)
    mcc = (2 * 1 - 1 * 0) / (3 * 2 * 2 * 1) ** 0.5
    assert scores.metrics["IL_MCC"] == scores.metrics["cgF1_eval_segm_IL_MCC"] == pytest.approx(mcc, abs=1e-5)
    # the second answer has an IoU of 0.8: right at 7 of the 10 thresholds
    assert scores.metrics["positive_micro_F1"] == pytest.approx((7 * 1 + 3 * 2 / 3) / 10, abs=1e-3)
    assert scores.metrics["cgF1"] == pytest.approx(mcc * 0.9, abs=1e-3)
    assert scores.metrics["positive_micro_F1@0.75"] == pytest.approx(1, abs=1e-3)
    assert (scores.metrics["count_MAE"], scores.metrics["plain_count_accuracy"]) == (0, 1)
    assert scores.metrics["box_AP50"] == scores.metrics["mask_AP50"] > 0.5
    assert (scores.metrics["num_pairs"], scores.metrics["num_positive_pairs"]) == (4, 2)
    assert scores.phrases["bus"]["IL_FPR"] == pytest.approx(1, abs=1e-5)
    assert scores.phrases["dial"]["num_positive_pairs"] == 2


def test_in_coco_every_category_is_asked_of_every_picture() -> None:
    objects = [(1, 1, (0, 0, 10, 10)), (2, 2, (5, 5, 15, 20))]
    annotated = load_annotations(coco(["a.png", "b.png"], objects))
    assert annotated.kind == "coco"
    assert [pair.key for pair in annotated if pair.is_positive] == [(1, "dial"), (2, "knob")]
    assert len(annotated) == 6
    scores = score(coco(["a.png", "b.png"], objects), [entry(1, (0, 0, 10, 10), 1, score=0.9)])
    assert scores.metrics["IL_recall"] == pytest.approx(0.5, abs=1e-5) and scores.metrics["IL_FPR"] == 0


def test_crowds_and_polygons_of_coco() -> None:
    data = coco(["a.png"], [(1, 1, (0, 0, 10, 10)), (1, 2, (0, 0, 5, 5))])
    data["annotations"][0]["segmentation"] = [[0, 0, 10, 0, 10, 10, 0, 10]]
    data["annotations"][1]["iscrowd"] = 1
    [dial, knob, bus] = load_annotations(data)
    assert dial.targets[0].masks == [code((0, 0, 10, 10))]
    assert (dial.is_exhaustive, knob.is_exhaustive, bus.is_exhaustive) == (True, False, True)


def test_in_lvis_only_verified_pairs_are_judged() -> None:
    data = coco(["a.png", "b.png"], [(1, 1, (0, 0, 10, 10))], neg_category_ids=[], not_exhaustive_category_ids=[])
    data["images"][0]["neg_category_ids"] = [3]
    data["images"][1]["not_exhaustive_category_ids"] = [2]
    annotated = load_annotations(data)
    assert annotated.kind == "lvis"
    assert {pair.key: pair.is_exhaustive for pair in annotated} == {
        (1, "dial"): True,
        (1, "bus"): True,
        (2, "knob"): False,
    }
    scores = score(data, [entry(1, (0, 0, 10, 10), 1, score=0.9), entry(2, (0, 0, 9, 9), 3, score=0.9)])
    assert scores.counts["entries of pairs that nobody verified, ignored"] == 1
    assert scores.metrics["num_pairs"] == 2 and scores.metrics["IL_MCC"] == pytest.approx(1, abs=1e-4)


def test_boxes_as_fractions_are_boxes_in_pixels() -> None:
    height, width = SIZE
    given = [ANSWERS[0], entry(1, (16, 0, 25, 8), score=0.7), *ANSWERS[2:]]  # no IoU meets a threshold exactly
    pixels = score(saco(PAIRS), given).metrics
    data, answers = saco(PAIRS), [dict(one) for one in given]
    for one in [*data["annotations"], *answers]:
        one["bbox"] = [v / side for v, side in zip(one["bbox"], (width, height, width, height), strict=True)]
    for found in (answers, given):
        fractions = score(data, found).metrics
        assert fractions == pytest.approx(pixels)


def test_answers_may_lack_boxes_or_masks() -> None:
    whole = score(saco(PAIRS), ANSWERS).metrics
    no_boxes = [{key: value for key, value in one.items() if key != "bbox"} for one in ANSWERS]
    assert score(saco(PAIRS), no_boxes).metrics == whole
    boxes_alone = [{key: value for key, value in one.items() if key != "segmentation"} for one in ANSWERS]
    scores = score(saco(PAIRS), boxes_alone)
    assert "cgF1" not in scores.metrics and scores.metrics["box_cgF1"] == whole["box_cgF1"]
    assert scores.curves["of"] == "boxes" and "the predictions have no masks: only boxes are compared" in scores.notes
    assert "count_MAE" not in scores.metrics and "plain_count_MAE" in scores.metrics


def test_domains_have_figures_of_their_own() -> None:
    data = saco(PAIRS)
    for image in data["images"]:
        image["source"] = {"a.png": "food", "b.png": "sports"}[image["file_name"]]
    domains = score(data, ANSWERS).domains
    assert list(domains) == ["food", "sports"]
    food = {**data, "images": data["images"][:2], "annotations": data["annotations"][:2]}
    alone = score(food, ANSWERS[:2]).metrics
    assert {name: domains["food"][name] for name in ("cgF1", "IL_MCC", "recall")} == pytest.approx(
        {name: alone[name] for name in ("cgF1", "IL_MCC", "recall")}
    )


# ---- faults ----

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "unknown id": ({"image_id": 99}, "1 entries with an unknown image_id (entry 4: 99)"),
    "no id": ({"image_id": None}, "unknown image_id (entry 4: None)"),
    "nan": ({"score": math.nan}, "score is missing or not finite (entry 4: nan)"),
    "infinite box": ({"bbox": [0, 0, math.inf, 1]}, "bbox is not four finite numbers (entry 4"),
    "three numbers": ({"bbox": [0, 0, 1]}, "bbox is not four finite numbers (entry 4"),
    "no score": ({"score": None}, "score is missing or not finite (entry 4: None)"),
    "wrong size": ({"segmentation": code((0, 0, 4, 4), (30, 24))}, "wrong size (entry 4: [30, 24], expected [24, 30])"),
    "broken code": ({"segmentation": {"size": list(SIZE), "counts": "o"}}, "run lengths are broken (entry 4"),
    "short code": ({"segmentation": {"size": list(SIZE), "counts": [5, 5]}}, "run lengths are broken (entry 4"),
    "polygon": ({"segmentation": [[0, 0, 1, 1, 2, 2]]}, "not a run-length code (entry 4)"),
    "no mask": ({"segmentation": None}, "without a segmentation, which others have (entry 4)"),
    "nothing": ({"segmentation": None, "bbox": None}, "neither segmentation nor bbox (entry 4)"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_entries_are_an_error_or_left_out_and_counted(change: dict[str, Any], message: str) -> None:
    answers = [*ANSWERS, entry(2, (0, 0, 9, 9), score=0.9) | change]
    with pytest.raises(ValueError, match="cannot be scored: 1 entries") as caught:
        score(saco(PAIRS), answers)
    assert message in str(caught.value) and "--lenient" in str(caught.value)
    scores = score(saco(PAIRS), answers, lenient=True)
    assert scores.metrics == score(saco(PAIRS), ANSWERS).metrics
    assert sum("left out" in note for note in scores.notes) == 1 and 1 in scores.counts.values()


def test_all_faults_are_told_at_once() -> None:
    answers = [*ANSWERS, entry(98, (0, 0, 1, 1), score=1), entry(99, (0, 0, 1, 1), score=1), {"score": 1.0}]
    with pytest.raises(ValueError, match=r"2 entries with an unknown image_id \(entry 4: 98, entry 5: 99\); 1 "):
        score(saco(PAIRS), answers)


def test_repeated_entries_count_as_in_the_reference_unless_lenient() -> None:
    answers = [*ANSWERS, dict(ANSWERS[0])]
    strict, lenient = score(saco(PAIRS), answers), score(saco(PAIRS), answers, lenient=True)
    assert strict.counts["entries that come twice, each counted as an answer"] == 1
    assert strict.metrics["precision@0.5"] == pytest.approx(3 / 5, abs=1e-4)
    assert lenient.metrics["precision@0.5"] == pytest.approx(3 / 4, abs=1e-4)
    assert lenient.counts["entries that come twice, left out"] == 1


def test_pairs_without_an_entry_are_counted() -> None:
    scores = score(saco(PAIRS), ANSWERS[:2])
    assert scores.counts["pairs without an entry, taken as nothing found"] == 3
    assert "3 'dial'" in " ".join(scores.notes)
    assert score(saco(PAIRS), []).metrics["IL_recall"] == 0


def test_results_must_be_a_list() -> None:
    annotated = load_annotations(saco(PAIRS))
    with pytest.raises(ValueError, match="the predictions is dict; expected COCO results: a list"):
        load_results({"annotations": []}, annotated)  # type: ignore[arg-type]


WRONG_ANNOTATIONS: dict[str, tuple[Any, str]] = {
    "no images": ({"annotations": []}, "no list 'images'"),
    "no pairs": ({"images": []}, "no picture-phrase pair"),
    "id twice": ({"images": [{"id": 1}, {"id": 1}]}, "the id 1 in 'images' is missing or used twice"),
    "unknown picture": (saco(PAIRS[:1]) | {"annotations": [entry(5, (0, 0, 1, 1), id=3)]}, "annotation 3"),
    "wrong size": (
        saco(PAIRS[:1]) | {"annotations": [entry(1, (0, 0, 1, 1), size=(9, 9), id=3)]},
        "annotation 3: a mask of size [9, 9] in a picture of [24, 30]",
    ),
}


@pytest.mark.parametrize(("data", "message"), WRONG_ANNOTATIONS.values(), ids=WRONG_ANNOTATIONS)
def test_wrong_annotations_are_named(data: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_annotations(data)
    assert message in str(caught.value)


# ---- several annotators ----


def test_annotators_must_have_been_asked_the_same() -> None:
    other = saco([*PAIRS[:3], ("b.png", "lorry", [])])
    with pytest.raises(ValueError, match=r"annotators were not asked the same.*entry 4 as 'bus'"):
        load_annotations([saco(PAIRS), other])
    with pytest.raises(ValueError, match="lacks it"):
        load_annotations([saco(PAIRS), saco(PAIRS[:3])])
    with pytest.raises(ValueError, match="must be SA-Co"):
        load_annotations([coco(["a.png"], []), coco(["a.png"], [])])


def test_the_agreement_of_people() -> None:
    whole, left, far = (0, 0, 10, 10), (0, 0, 8, 10), (15, 5, 25, 20)
    first = saco([("a.png", "dial", [whole]), ("b.png", "dial", [whole]), ("c.png", "bus", [])])
    second = saco([("a.png", "dial", [whole]), ("b.png", "dial", [left]), ("c.png", "bus", [])])
    third = saco([("a.png", "dial", [far]), ("b.png", "dial", []), ("c.png", "bus", [far])])
    annotated = load_annotations([first, second, third])
    found = human_agreement(annotated.pairs)
    # best pairs: equal; IoU 0.8, so right at 7 of 10 thresholds; nothing and nothing
    assert found["oracle"]["positive_micro_F1"] == pytest.approx((7 * 1 + 3 * 0.5) / 10, abs=1e-3)
    assert found["oracle"]["IL_MCC"] == pytest.approx(1, abs=1e-4)
    assert 0 < found["random_pair"]["positive_micro_F1"] < found["oracle"]["positive_micro_F1"]
    assert found == human_agreement(annotated.pairs)  # the draws have a seed
    assert human_agreement(load_annotations(first).pairs) == {}
    scores = score([first, second, third], [entry(1, whole, score=0.9), entry(2, left, score=0.9)])
    assert scores.human.keys() == {"oracle", "random_pair"} and scores.settings["annotators"] == 3
    assert scores.metrics["cgF1"] == pytest.approx(1, abs=1e-3)  # for each pair somebody agrees


# ---- definitions, intervals, curves ----


def random_rows(seed: int, definition: str, number: int = 60) -> tuple[np.ndarray, Any]:
    rng = np.random.default_rng(seed)
    there = rng.integers(0, 4, number) * rng.integers(0, 2, number)
    found = rng.integers(0, 4, number) * rng.integers(0, 2, number)
    true = np.minimum(np.minimum(there, found)[:, None], rng.integers(0, 4, (number, 10)))
    return rows_of(found, there, true, definition), (found, there, true)


def test_the_papers_definition() -> None:
    rows, (found, there, true) = random_rows(0, "paper")
    figures = floats(figures_of(rows.sum(0), "paper"))
    positive = there > 0
    tp, fp, fn = true[positive].sum(0), (found[positive, None] - true[positive]).sum(0), there.sum() - true.sum(0)
    assert figures["positive_micro_F1"] == pytest.approx((2 * tp / (2 * tp + fp + fn)).mean())
    local = 2 * true[positive] / (found + there)[positive, None]
    assert figures["positive_macro_F1"] == pytest.approx(local.mean())
    mcc = np.corrcoef(found > 0, positive)[0, 1]
    assert figures["IL_MCC"] == pytest.approx(mcc)
    assert figures["cgF1"] == pytest.approx(figures["positive_micro_F1"] * mcc)
    released = floats(figures_of(random_rows(0, "released")[0].sum(0)))
    answered = positive & (found > 0)  # the released code divides by these
    assert released["positive_macro_F1"] == pytest.approx(local.sum(0).mean() / answered.sum(), abs=1e-3)
    with pytest.raises(ValueError, match="expected one of released, paper"):
        figures_of(rows.sum(0), "mine")


def test_the_paper_wants_scores_above_the_threshold() -> None:
    answers = [entry(1, (0, 0, 10, 10), score=0.5)]
    assert score(saco(PAIRS), answers).metrics["IL_recall"] == pytest.approx(0.5, abs=1e-5)
    assert score(saco(PAIRS), answers, definition="paper").metrics["IL_recall"] == 0


def test_intervals_are_those_of_a_share() -> None:
    number = 400
    found = np.arange(number) % 2
    rows = rows_of(found, np.ones(number), np.tile(found[:, None], 10))
    low, high = confidence_intervals(rows, num_samples=2000)["IL_recall"]
    half = 1.96 * (0.25 / number) ** 0.5
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.1 * half)
    assert confidence_intervals(rows, num_samples=50, seed=1) == confidence_intervals(rows, num_samples=50, seed=1)
    perfect = rows_of(np.ones(9), np.ones(9), np.ones((9, 10)))
    low, high = confidence_intervals(perfect, num_samples=10)["recall"]
    assert low == high == pytest.approx(1, abs=1e-4)
    with pytest.raises(ValueError, match="num_samples 1"):
        confidence_intervals(rows, num_samples=1)


def test_each_threshold_of_the_curve_is_an_evaluation_of_its_own() -> None:
    annotated = load_annotations(saco(PAIRS))
    results = load_results(ANSWERS, annotated)
    pairs = [(results.prediction(index), pair.targets) for index, pair in enumerate(annotated)]
    judge = Judge()
    judge.add(pairs)
    single = [(prediction, targets[0]) for prediction, targets in pairs]
    for point in judge.over_thresholds():
        figures = concept_f1(score_pairs(single, point["threshold"]))
        assert {name: point[name] for name in ("cgF1", "IL_MCC")} == {
            name: figures[name] for name in ("cgF1", "IL_MCC")
        }
    assert [point["threshold"] for point in judge.over_thresholds()] == list(CURVE_THRESHOLDS)
    assert sorted(judge.answers().tolist()) == [[0.6, 1.0], [0.7, 0.8], [0.8, 0.0], [0.9, 1.0]]


def test_precision_recall_and_calibration() -> None:
    answers = np.array([[0.9, 1.0], [0.8, 0.0], [0.8, 0.6], [0.2, 0.9]])
    points = [(point["recall"], point["precision"], point["score"]) for point in precision_recall(answers, 4)]
    assert points == [(0.25, 1.0, 0.9), (0.5, 2 / 3, 0.8), (0.75, 0.75, 0.2)]
    assert precision_recall(answers, 4, 0.75)[-1]["recall"] == 0.5
    assert precision_recall(answers[:0], 4) == precision_recall(answers, 0) == []
    bins = calibration(answers)
    assert [(one["from"], one["answers"], one["mean_iou"]) for one in bins] == [
        (pytest.approx(0.2), 1, 0.9),
        (pytest.approx(0.8), 2, 0.3),
        (pytest.approx(0.9), 1, 1.0),
    ]
    assert calibration(np.array([[1.0, 1.0]]))[0]["to"] == 1.0


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="threshold is 1"):
        ScoreSettings(threshold=1)
    with pytest.raises(ValueError, match="definition is 'mine'"):
        ScoreSettings(definition="mine")
    data = saco(PAIRS, is_instance_exhaustive=0)
    with pytest.raises(ValueError, match="none of them exhaustively annotated"):
        score(data, ANSWERS)


# ---- LVIS ----


def lvis_records(seed: int) -> tuple[dict[Any, ConceptPrediction], list[ConceptTarget]]:
    rng = np.random.default_rng(seed)
    found, targets = {}, []
    for image in range(12):
        for phrase in ("dial", "knob", "bus"):
            boxes = rng.integers(0, 10, (rng.integers(0, 3), 4)) + np.array([0, 0, 11, 12])
            target = ConceptTarget(image, phrase, SIZE, masks=[code(box) for box in boxes])
            near = [np.clip(box + rng.integers(-2, 3, 4), 0, 24) for box in boxes] + [(0, 0, 9, 9)]
            one = ConceptPrediction(image, phrase, SIZE, rng.random(len(near)), masks=[code(box) for box in near])  # type: ignore[arg-type]
            targets.append(target)
            found[one.key] = one
    return found, targets


def test_lvis_ap_is_cocos_where_all_is_exhaustive() -> None:
    found, targets = lvis_records(0)
    ours = lvis_ap(found, targets, {"dial": "r", "knob": "f"})
    theirs = coco_ap(found, targets)
    for name in ("AP", "AP50", "AP75", "AP_small"):
        assert ours[f"mask_{name}"] == pytest.approx(theirs[f"mask_{name}"], abs=1e-12)
    dial = coco_ap(found, [target for target in targets if target.phrase == "dial"])
    assert ours["mask_AP_rare"] == pytest.approx(dial["mask_AP"], abs=1e-12)
    assert ours["mask_AP_common"] == -1


def test_surplus_answers_of_incomplete_pairs_are_forgiven() -> None:
    found, targets = lvis_records(1)
    loose = [
        ConceptTarget(one.image_id, one.phrase, one.size, one.boxes, one.masks, is_exhaustive=False) for one in targets
    ]
    assert lvis_ap(found, loose, {})["mask_AP50"] > lvis_ap(found, targets, {})["mask_AP50"]
    exact = {
        one.key: ConceptPrediction(one.image_id, one.phrase, one.size, np.ones(len(one.boxes)), one.boxes, one.masks)
        for one in targets
    }
    assert lvis_ap(exact, loose, {})["mask_AP"] == pytest.approx(1)


def test_300_answers_of_a_picture_are_judged() -> None:
    masks = [code((0, 0, 10, 10))]
    targets = [ConceptTarget(1, "dial", SIZE, masks=masks), ConceptTarget(1, "knob", SIZE, masks=masks)]
    surplus = ConceptPrediction(1, "knob", SIZE, np.full(300, 0.9), masks=masks * 300)
    late = ConceptPrediction(1, "dial", SIZE, np.array([0.5]), masks=masks)
    found = {one.key: one for one in (surplus, late)}
    assert lvis_ap(found, targets, {"dial": "r"})["mask_AP_rare"] == 0
    found[surplus.key] = ConceptPrediction(1, "knob", SIZE, np.full(299, 0.9), masks=masks * 299)
    assert lvis_ap(found, targets, {"dial": "r"})["mask_AP_rare"] == pytest.approx(1)
