"""Interactive rounds and mined negatives: what is shown next, and which absent names a model is asked about."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sam3_hf import Sam3Detector, Sam3Processor, tiny_config
from sam3_hf.data.examples import ConceptExample
from sam3_hf.ops.boxes import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh
from sam3_hf.training.collator import ConceptCollator, ConceptDataset
from sam3_hf.training.interactive import interactive_loss, next_exemplars
from sam3_hf.training.negatives import mine_negatives
from sam3_hf.training.sampling import AllPhrases, MinedNegatives

LEFT, RIGHT = [0.0, 0.0, 0.25, 0.25], [0.5, 0.5, 1.0, 1.0]
ELSEWHERE = [0.6, 0.0, 0.9, 0.3]


def painted(boxes: list[list[float]], size: int = 40) -> Tensor:
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    for mask, box in zip(masks, boxes, strict=True):
        x0, y0, x1, y1 = (round(value * size) for value in box)
        mask[y0:y1, x0:x1] = True
    return masks


def label(*boxes: list[float], masks: bool = True, **more: Any) -> dict[str, Any]:
    target = {"boxes": box_xyxy_to_cxcywh(torch.tensor(boxes).reshape(-1, 4))}
    return target | ({"masks": painted(list(boxes))} if masks else {}) | more


def answer(*predictions: tuple[list[float], float], presence: float = 10.0) -> SimpleNamespace:
    """Outputs of one row: (box, probability) of each query; its mask is its box."""
    boxes = torch.tensor([box for box, _ in predictions])
    return SimpleNamespace(
        pred_boxes=boxes[None],
        pred_masks=painted([box for box, _ in predictions]).float()[None] * 20 - 10,
        pred_logits=torch.logit(torch.tensor([p for _, p in predictions]))[None],
        presence_logits=torch.tensor([[presence]]),
    )


def shown(exemplars: dict[str, Tensor], row: int = 0) -> list[tuple[list[float], int]]:
    boxes = box_cxcywh_to_xyxy(exemplars["input_boxes"][row])
    kinds = exemplars["input_boxes_labels"][row].tolist()
    return [(box.tolist(), kind) for box, kind in zip(boxes, kinds, strict=True) if kind != -10]


def near(box: list[float]) -> Any:
    return pytest.approx(box, abs=0.021)


@pytest.mark.parametrize("masks", [True, False])
def test_a_miss_becomes_a_positive_and_a_false_alarm_a_negative_box(masks: bool) -> None:
    outputs = answer((LEFT, 0.9), (ELSEWHERE, 0.8), (RIGHT, 0.1))
    [positive, negative] = shown(next_exemplars(outputs, [label(LEFT, RIGHT, masks=masks)]))
    assert positive == (near(RIGHT), 1)
    assert negative == (pytest.approx(ELSEWHERE, abs=1e-6), 0)


def test_a_right_answer_gets_no_box() -> None:
    exemplars = next_exemplars(answer((LEFT, 0.9), (RIGHT, 0.9), (ELSEWHERE, 0.4)), [label(LEFT, RIGHT)])
    assert exemplars["input_boxes_labels"].tolist() == [[-10]]
    assert exemplars["input_boxes"].shape == (1, 1, 4)


def test_presence_counts_in_the_score() -> None:
    exemplars = next_exemplars(answer((LEFT, 0.9), presence=-5.0), [label(LEFT)])
    assert shown(exemplars) == [(near(LEFT), 1)]


def test_an_absent_phrase_gets_negatives_alone_the_surest_first() -> None:
    exemplars = next_exemplars(answer((LEFT, 0.6), (RIGHT, 0.9)), [label()])
    assert shown(exemplars) == [(pytest.approx(RIGHT, abs=1e-6), 0)]


def test_a_second_answer_for_one_target_and_a_part_of_it_are_no_counterexamples() -> None:
    part = [0.5, 0.5, 1.0, 0.75]
    outputs = answer((RIGHT, 0.9), ([0.5, 0.5, 1.0, 0.95], 0.8), (part, 0.7))
    assert shown(next_exemplars(outputs, [label(RIGHT)])) == []
    # Even where overlap is no excuse, the answer that matches is right: the next best is the counterexample.
    [(box, kind)] = shown(next_exemplars(outputs, [label(RIGHT)], negative_iou=1.0))
    assert (box, kind) == (pytest.approx([0.5, 0.5, 1.0, 0.95], abs=1e-6), 0)


def test_crowds_and_incomplete_labels_give_no_counterexample() -> None:
    outputs = answer((LEFT, 0.9), (ELSEWHERE, 0.8))
    assert shown(next_exemplars(outputs, [label(LEFT, crowd=painted([ELSEWHERE]))])) == []
    assert shown(next_exemplars(outputs, [label(LEFT, is_exhaustive=False)])) == []


def test_exemplars_are_kept_and_not_repeated() -> None:
    outputs = answer((ELSEWHERE, 0.8), (RIGHT, 0.1))
    labels = [label(LEFT, RIGHT)]
    generator = torch.Generator().manual_seed(0)
    first = next_exemplars(outputs, labels, generator=generator)
    second = next_exemplars(outputs, labels, first, generator=generator)
    assert shown(second)[:2] == shown(first)
    assert sorted(kind for _, kind in shown(second)) == [0, 1, 1]
    third = next_exemplars(outputs, labels, second, generator=generator)
    assert shown(third) == shown(second)  # both targets and the false alarm were shown


def test_rows_are_padded_and_the_generator_decides() -> None:
    one, two = answer((ELSEWHERE, 0.8)), answer((LEFT, 0.9))
    outputs = SimpleNamespace(**{name: torch.cat([getattr(one, name), getattr(two, name)]) for name in vars(one)})
    labels = [label(LEFT, RIGHT), label(LEFT)]
    draws = [next_exemplars(outputs, labels, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2, 3, 4)]
    assert draws[0]["input_boxes_labels"].tolist() == [[1, 0], [-10, -10]]
    assert torch.equal(draws[0]["input_boxes"], draws[1]["input_boxes"])
    assert len({tuple(draw["input_boxes"][0, 0].tolist()) for draw in draws}) == 4
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        next_exemplars(outputs, labels[:1])


# With a model


@pytest.fixture(scope="module")
def detector() -> Sam3Detector:
    torch.manual_seed(0)
    return Sam3Detector(tiny_config(56).detector_config)


@pytest.fixture
def examples() -> list[ConceptExample]:
    rng = np.random.default_rng(0)
    masks = [np.zeros((50, 50), dtype=bool) for _ in range(2)]
    masks[0][5:20, 5:20], masks[1][30:45, 25:48] = True, True
    boxes = np.array([[5, 5, 20, 20], [25, 30, 48, 45]], dtype=np.float32)
    concepts, names = {"cat": (0, 1)}, ("cat", "dog", "cow")
    return [
        ConceptExample(i, rng.integers(0, 256, (50, 50, 3), dtype=np.uint8), (50, 50), boxes, masks, concepts,
                       vocabulary=names)
        for i in (7, 8)
    ]  # fmt: skip


def test_five_rounds_train_and_look_at_the_picture_once(
    detector: Sam3Detector, examples: list[ConceptExample], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ConceptDataset(examples, AllPhrases(negatives=1))
    batch = ConceptCollator(Sam3Processor(size=56))([dataset[0], dataset[1]])
    looks, asked = [], []
    vision, forward = detector.get_vision_features, detector.forward
    monkeypatch.setattr(detector, "get_vision_features", lambda pixels, **_: looks.append(1) or vision(pixels))
    monkeypatch.setattr(detector, "forward", lambda **inputs: asked.append(inputs) or forward(**inputs))
    detector.train()
    outputs = interactive_loss(detector, batch, 3, generator=torch.Generator().manual_seed(0))
    assert len(looks) == 1 and len(asked) == 3
    # A random model finds nothing sure, so each round shows another of the two targets, and none where there is none.
    assert [int((inputs["input_boxes_labels"] == 1).sum()) for inputs in asked] == [0, 2, 4]
    assert torch.isfinite(outputs.loss)
    assert outputs.loss.item() == pytest.approx(sum(outputs.loss_dict.values()).item(), rel=1e-4)
    detector.zero_grad()
    outputs.loss.backward()
    for part in ("vision_encoder", "geometry_encoder.boxes_direct_project", "detr_decoder"):
        assert any(p.grad is not None and p.grad.any() for p in detector.get_submodule(part).parameters()), part
    with pytest.raises(ValueError, match="rounds is 0"):
        interactive_loss(detector, batch, 0)


def test_negatives_are_the_absent_names_that_the_model_accepts(
    detector: Sam3Detector, examples: list[ConceptExample], tmp_path: Path
) -> None:
    processor = Sam3Processor(size=56)
    detector.train()
    store = MinedNegatives(tmp_path / "mined.json")
    store.update({"7": ["cow", "bus"], "other": ["bus"]})
    everything = mine_negatives(detector, processor, examples, threshold=0.0, store=store, rows_at_once=1)
    assert detector.training
    assert {image: sorted(names) for image, names in everything.items()} == {"7": ["cow", "dog"], "8": ["cow", "dog"]}
    assert MinedNegatives(tmp_path / "mined.json").phrases == everything | {"other": ["bus"]}
    detector.eval()
    for example in examples:
        names = everything[str(example.image_id)]
        inputs = processor(images=example.image, text=names)
        with torch.no_grad():
            outputs = detector(**inputs)
        best = (outputs.pred_logits.sigmoid() * outputs.presence_logits.sigmoid()).amax(1)
        assert best[0] >= best[1]  # the surest first
    assert mine_negatives(detector, processor, examples, threshold=1.1) == {"7": [], "8": []}
    fewer = mine_negatives(detector, processor, examples, threshold=0.0, max_phrases=1)
    assert [len(names) for names in fewer.values()] == [1, 1]
