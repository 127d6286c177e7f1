"""From a model's outputs to figures: `ConceptMetrics` over batches and processes, `evaluate_model` over pictures."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from sam3_hf import ConceptSegmentationPipeline, Sam3Detector, Sam3Processor, tiny_config
from sam3_hf.data.examples import ConceptExample
from sam3_hf.evaluation import (
    ConceptMetrics,
    ConceptPrediction,
    ConceptTarget,
    Exemplars,
    add_correction,
    evaluate_model,
    predict_examples,
    predict_rounds,
    true_boxes,
)

SIDE = 16


def square(x: int, y: int, side: int = 6) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def label(image_id: Any, phrase: str, *masks: np.ndarray, **more: Any) -> dict[str, Any]:
    stack = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, SIDE, SIDE))
    return {"image_id": image_id, "phrase": phrase, "masks": stack, **more}


def outputs(*rows: list[tuple[np.ndarray, float]], queries: int = 3) -> SimpleNamespace:
    """What a model would return that draws these masks with these scores; unused queries score 0.0001."""
    masks = torch.full((len(rows), queries, SIDE, SIDE), -5.0)
    scores = torch.full((len(rows), queries), 1e-4)
    boxes = torch.zeros(len(rows), queries, 4)
    for row, answers in enumerate(rows):
        for query, (mask, score) in enumerate(answers):
            masks[row, query][torch.from_numpy(mask)] = 5.0
            scores[row, query] = score
            y, x = np.nonzero(mask)
            boxes[row, query] = torch.tensor([x.min(), y.min(), x.max() + 1, y.max() + 1]) / SIDE
    return SimpleNamespace(
        pred_masks=masks, pred_logits=scores.logit(), pred_boxes=boxes, presence_logits=torch.full((len(rows), 1), 20.0)
    )


LABELS = [
    label(1, "dial", square(0, 0), square(8, 8)),
    label(1, "cat"),
    label(2, "dial", square(4, 4)),
    label(2, "cat"),
]
ANSWERS: list[list[tuple[np.ndarray, float]]] = [
    [(square(0, 0), 0.9), (square(8, 8), 0.8)],
    [],
    [(square(4, 4), 0.7)],
    [(square(4, 4), 0.6)],
]


def seen(**options: Any) -> ConceptMetrics:
    metrics = ConceptMetrics(**options)
    metrics.update(outputs(*ANSWERS), LABELS)
    return metrics


# ---- ConceptMetrics ----


def test_figures_of_a_known_case() -> None:
    figures = seen().compute()
    mcc = (2 * 1 - 1 * 0) / (3 * 2 * 2 * 1) ** 0.5
    assert figures["pmF1"] == pytest.approx(1.0, abs=1e-3)
    assert figures["IL_MCC"] == pytest.approx(mcc, abs=1e-4)
    assert figures["cgF1"] == pytest.approx(mcc, abs=1e-3)
    assert figures["IL_FPR"] == pytest.approx(0.5, abs=1e-4)
    assert figures["box_pmF1"] == pytest.approx(1.0, abs=1e-3)
    assert (
        figures["mask_AP"] == figures["box_AP"] == pytest.approx(1.0)
    )  # "cat" has no object anywhere: not in the mean
    assert (figures["count_MAE"], figures["plain_count_accuracy"]) == (0.0, 1.0)
    assert (figures["num_pairs"], figures["num_positive_pairs"]) == (4.0, 2.0)
    assert all(isinstance(value, float) for value in figures.values())
    assert seen().compute(detailed=True).keys() > figures.keys() | {"cgF1@0.75", "positive_macro_F1", "box_cgF1@0.5"}


def test_batches_and_merging_do_not_change_figures() -> None:
    one_by_one, other = ConceptMetrics(), ConceptMetrics()
    for index in (3, 1):
        one_by_one.update(outputs(ANSWERS[index]), [LABELS[index]])
    for index in (2, 0, 1):  # 1 comes twice, as where a sampler fills up the last batch
        other.update(outputs(ANSWERS[index]), [LABELS[index]])
    one_by_one.merge(other)
    assert one_by_one.compute(detailed=True) == seen().compute(detailed=True)
    assert (len(one_by_one), one_by_one.num_repeated) == (4, 1)
    one_by_one.reset()
    assert len(one_by_one) == 0
    with pytest.raises(ValueError, match="nothing to evaluate"):
        one_by_one.compute()


def test_rows_without_an_image_id_all_count() -> None:
    metrics = ConceptMetrics()
    unnamed = [{key: value for key, value in one.items() if key != "image_id"} for one in LABELS]
    metrics.update(outputs(*ANSWERS), unnamed)
    metrics.update(outputs(*ANSWERS), unnamed)
    assert metrics.compute()["num_pairs"] == 8.0


def test_masks_are_compared_at_the_resolution_of_the_label() -> None:
    large = torch.from_numpy(square(0, 0, 8)).repeat_interleave(3, 0).repeat_interleave(2, 1)
    metrics = ConceptMetrics()
    metrics.update(outputs([(square(0, 0, 8), 0.9)]), [{"image_id": 1, "phrase": "dial", "masks": large[None]}])
    assert metrics.predictions()[0].size == (3 * SIDE, 2 * SIDE) == metrics.targets()[0].size
    assert metrics.compute()["pmF1"] == pytest.approx(1.0, abs=1e-3)


def test_boxes_alone_give_box_figures_alone() -> None:
    metrics = ConceptMetrics()
    boxes = torch.tensor([[3 / SIDE, 3 / SIDE, 6 / SIDE, 6 / SIDE]])
    labels = [{"boxes": boxes, "image_id": 1, "phrase": "dial"}, {"boxes": boxes[:0], "image_id": 1, "phrase": "cat"}]
    metrics.update(outputs([(square(0, 0), 0.9)], []), labels)
    figures = metrics.compute()
    assert figures["box_cgF1"] == pytest.approx(1.0, abs=1e-3) and figures["box_AP"] == pytest.approx(1.0)
    assert not any(name.startswith("mask_") or name in ("cgF1", "pmF1") for name in figures)


def test_incomplete_pairs_do_not_judge_answers() -> None:
    metrics = ConceptMetrics()
    crowd = torch.from_numpy(square(4, 4))[None]
    extra = [label(3, "dial", square(0, 0), crowd=crowd), label(4, "dial", square(0, 0), is_exhaustive=False)]
    metrics.update(outputs(*ANSWERS, [(square(4, 4), 0.9)], [(square(4, 4), 0.9)]), [*LABELS, *extra])
    figures, before = metrics.compute(), seen().compute()
    for name in ("cgF1", "pmF1", "IL_MCC", "box_cgF1", "count_MAE", "num_pairs"):
        assert figures[name] == before[name]
    assert figures["mask_AP"] < before["mask_AP"]  # of picture 3, AP sees the missed object; the crowd costs nothing


def test_without_average_precision_nothing_large_is_kept_and_pycocotools_is_not_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = seen().compute()
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    metrics = seen(average_precision=False)
    assert all(one.masks is None for one in [*metrics.predictions(), *metrics.targets()])
    figures = metrics.compute()
    assert figures == {name: value for name, value in expected.items() if "_AP" not in name and "_AR" not in name}


def test_a_score_at_the_threshold_counts() -> None:
    for options in ({}, {"average_precision": False}):
        metrics = ConceptMetrics(**options)  # type: ignore[arg-type]
        at = outputs([(square(0, 0), 0.5)])
        at.presence_logits = torch.full((1, 1), 100.0)
        metrics.update(at, [label(1, "dial", square(0, 0))])
        assert metrics.compute()["IL_recall"] == pytest.approx(1.0, abs=1e-4)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="min_score"):
        ConceptMetrics(threshold=0.5, min_score=0.5)
    with pytest.raises(ValueError, match="2 labels for 4 rows"):
        ConceptMetrics().update(outputs(*ANSWERS), LABELS[:2])


def _one_of_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = ConceptMetrics()
    for index in ((0, 2, 1), (3, 0))[rank]:  # both have the first
        metrics.update(outputs(ANSWERS[index]), [LABELS[index]])
    metrics.gather()
    assert metrics.num_repeated == 1
    torch.save(metrics.compute(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    expected = seen().compute()
    assert [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)] == [expected, expected]


# ---- evaluate_model ----


@pytest.fixture(scope="module")
def model() -> Sam3Detector:
    torch.manual_seed(0)
    return Sam3Detector(tiny_config().detector_config).eval()


@pytest.fixture(scope="module")
def processor(model: Sam3Detector) -> Sam3Processor:
    return Sam3Processor(size=model.config.image_size)


def examples(number: int = 3) -> list[ConceptExample]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(number):
        height, width = int(rng.integers(30, 60)), int(rng.integers(30, 60))
        boxes = np.array([[2, 3, 12, 14], [15, 4, 25, 20], [5, 18, 20, 28]], dtype=np.float32)
        masks = np.zeros((3, height, width), dtype=bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
            mask[y0:y1, x0:x1] = True
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        concepts: dict[str, tuple[int, ...]] = {"red dial": (0, 1), "knob": (2,), "bus": ()}
        made.append(
            ConceptExample(index, image, (height, width), boxes, list(masks), concepts, vocabulary=("cat", "knob"))
        )
    return made


def test_figures_are_those_of_the_pipeline(model: Sam3Detector, processor: Sam3Processor) -> None:
    """Where the pipeline's answers are taken for the truth, the model makes no error."""
    found = list(predict_examples(model, processor, examples(), min_score=0.0))
    threshold = float(np.median(np.concatenate([one.scores for one, _ in found])))
    pipe = ConceptSegmentationPipeline(model, processor)
    truth = []
    for example in examples():
        answers = pipe(
            example.image, text=["red dial", "knob", "bus"], threshold=threshold, mask_format="rle", top_k=99
        )
        phrases = ("red dial", "knob", "bus")
        concepts = {name: tuple(i for i, one in enumerate(answers) if one["label"] == name) for name in phrases}
        masks = [one["mask"] for one in answers]
        boxes = np.array([list(one["box"].values()) for one in answers], dtype=np.float32)
        truth.append(ConceptExample(example.image_id, example.image, example.size, boxes, masks, concepts))
    metrics = ConceptMetrics(threshold, min_score=0.0)
    figures = evaluate_model(model, processor, truth, metrics=metrics, progress=False)
    assert figures["num_positive_pairs"] > 0
    assert figures["pmF1"] == pytest.approx(1.0, abs=1e-3) and figures["IL_FPR"] == 0.0


def test_suppression_and_rounds_are_those_of_single_calls(model: Sam3Detector, processor: Sam3Processor) -> None:
    pipe = ConceptSegmentationPipeline(model, processor)
    for answer, target in predict_examples(model, processor, examples(1), nms_threshold=0.3):
        found = pipe(examples(1)[0].image, text=target.phrase, threshold=0.01, nms_threshold=0.3, top_k=100)
        assert len(answer) == len(found) < 12  # queries
    rounds = [answers for answers, _ in predict_rounds(model, processor, examples(), interactive=2)]
    for number in range(3):
        alone = [answer for answer, _ in predict_examples(model, processor, examples(), interactive=number)]
        for answers, answer in zip(rounds, alone, strict=True):
            np.testing.assert_allclose(answers[number].scores, answer.scores, atol=1e-5)


def test_each_picture_is_encoded_once_and_grouping_changes_nothing(
    model: Sam3Detector, processor: Sam3Processor
) -> None:
    calls: list[int] = []
    handle = model.vision_encoder.register_forward_hook(lambda module, given, result: calls.append(len(given[0])))
    model.train()
    try:
        together = list(predict_examples(model, processor, examples(), batch_size=2, interactive=1))
        assert calls == [2, 1]
        assert model.training
        alone = list(predict_examples(model, processor, examples(), batch_size=1, rows_at_once=1, interactive=1))
    finally:
        handle.remove()
        model.eval()
    assert [target.key for _, target in together] == [target.key for _, target in alone]
    assert len(together) == 3 * 4
    for (a, _), (b, _) in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


def test_which_phrases_are_asked(model: Sam3Detector, processor: Sam3Processor) -> None:
    def asked(**options: Any) -> list[str]:
        return [target.phrase for _, target in predict_examples(model, processor, examples(1), **options)]

    assert asked() == ["red dial", "knob", "bus", "cat"]
    assert asked(phrases="present") == asked(prompt="exemplar") == ["red dial", "knob"]
    assert asked(phrases=["cat", "knob", "never heard of"]) == ["knob", "cat"]
    assert asked(phrases=lambda example: example.absent()) == ["bus", "cat"]
    assert len(asked(max_absent=1)) == 3 and asked(max_absent=1) == asked(max_absent=1)
    with pytest.raises(ValueError, match="'everything'"):
        asked(phrases="everything")
    with pytest.raises(ValueError, match="expected one of text, exemplar, both"):
        asked(prompt="image")


def test_what_each_prompt_shows(model: Sam3Detector, processor: Sam3Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []

    class Spy(Sam3Processor):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            shown.append(kwargs)
            return super().__call__(*args, **kwargs)

    spy = Spy(size=processor.image_size)
    one = examples(1)
    boxes = {"red dial": one[0].boxes[:2].tolist(), "knob": one[0].boxes[2:].tolist()}
    list(predict_examples(model, spy, one, prompt="both"))
    texts, given = shown[-1]["text"], shown[-1]["input_boxes"]
    assert texts == ["red dial", "knob", "bus", "cat"] and given[2:] == [None, None]
    assert given[0][0] in boxes["red dial"] and len(given[0]) == 1 and given[1] == boxes["knob"]
    list(predict_examples(model, spy, one, prompt="exemplar", num_exemplars=5))
    assert shown[-1]["text"] == [None, None]
    assert sorted(shown[-1]["input_boxes"][0]) == boxes["red dial"]
    shown.clear()
    list(predict_examples(model, spy, one, interactive=2))
    texts_alone, first, second = shown[1:]  # the first call is the picture's
    assert "input_boxes" not in texts_alone
    assert len(first["input_boxes"][0]) == 1 and len(second["input_boxes"][0]) == 2
    assert first["input_boxes_labels"][0] == [1]


def test_annotations_of_another_size_are_named(model: Sam3Detector, processor: Sam3Processor) -> None:
    [one] = examples(1)
    turned = ConceptExample(5, one.image, one.size[::-1], one.boxes, None, one.concepts)
    with pytest.raises(ValueError, match=r"picture 5 is .* but its annotations are for"):
        list(predict_examples(model, processor, [turned]))


def test_corrections_take_the_worst_error_first() -> None:
    small, large, right = square(0, 0, 3), square(4, 0, 6), square(10, 10)
    name: dict[str, Any] = {"image_id": 1, "phrase": "dial", "size": (SIDE, SIDE)}
    target = ConceptTarget(**name, masks=np.stack([small, right, large]))  # type: ignore[arg-type]

    def found(*masks: np.ndarray) -> ConceptPrediction:
        scores = np.linspace(0.6, 0.9, len(masks))
        stack = np.array(masks, dtype=bool).reshape(-1, SIDE, SIDE)
        return ConceptPrediction(**name, masks=stack, scores=scores)  # type: ignore[arg-type]

    nothing = Exemplars.none()
    assert add_correction(target, None, nothing) is nothing
    positive = add_correction(target, found(right), nothing)
    assert positive.boxes.tolist() == [[4, 0, 10, 6]] and positive.labels.tolist() == [1]
    wrong, surer = square(0, 8, 5), square(5, 9, 5)
    both = add_correction(target, found(small, large, right, wrong, surer), positive)
    assert both.boxes.tolist() == [[4, 0, 10, 6], [5, 9, 10, 14]] and both.labels.tolist() == [1, 0]
    assert add_correction(target, found(small, large, right), positive) is positive


def test_true_boxes_are_the_same_each_time_and_inside_the_picture() -> None:
    boxes = np.array([[-3, -3, 4, 4], [2, 2, 2.5, 9], [5, 5, 99, 9], [6, 6, 9, 9]], dtype=np.float64)
    target = ConceptTarget(1, "dial", (SIDE, SIDE), boxes, is_crowd=np.array([False, False, False, True]))
    chosen = true_boxes(9)(target, None, Exemplars.none())
    assert sorted(chosen.boxes.tolist()) == [[0, 0, 4, 4], [5, 5, SIDE, 9]] and chosen.labels.tolist() == [1, 1]
    again = true_boxes(9)(target, None, Exemplars.none())
    assert np.array_equal(chosen.boxes, again.boxes)
