"""Interactive rounds: after each answer a person shows what was missed and what was wrong, and asks again.

In training that person is simulated from the labels: a positive box from a missed target, a negative box from a
confident false positive (arXiv 2511.16719, appendix C.4).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..ops.boxes import box_cxcywh_to_xyxy, box_iou, box_xyxy_to_cxcywh
from ..ops.masks import mask_iou, masks_to_boxes
from ..processing.postprocess import object_scores
from ..processing.prompts import PADDING, pad_rows

__all__ = ["interactive_loss", "next_exemplars"]

Labels = Sequence[Mapping[str, Any]]

_SHOWN = 0.5  # IoU of boxes from which an earlier exemplar shows the same object; box noise stays above it


@torch.no_grad()
def next_exemplars(
    outputs: Any,
    labels: Labels,
    previous: Mapping[str, Tensor] | None = None,
    *,
    threshold: float = 0.5,
    match_iou: float = 0.5,
    negative_iou: float = 0.3,
    box_noise: float = 0.1,
    max_box_noise: float = 0.02,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """`input_boxes` (num_rows, k, 4) cxcywh in 0..1 and `input_boxes_labels` (num_rows, k) of the next round.

    Each row keeps its exemplars and gets at most one positive box, of a target that no confident prediction matches,
    drawn at random, and at most one negative box, of the most confident prediction that matches no target; nothing
    where there is neither. What an earlier exemplar shows is not shown again. Short rows are padded with label -10; k
    is at least 1.

    Args:
        outputs: of the model: `pred_logits`, `presence_logits`, `pred_boxes` xyxy, and `pred_masks` if there are any.
        labels: a dictionary for each row, as in training. Overlap is that of masks where both sides have them.
        previous: this round's `input_boxes` and `input_boxes_labels`; None: there were none.
        threshold: score from which a prediction is confident.
        match_iou: overlap from which a prediction is right, one for each target at most.
        negative_iou: a false positive with more overlap than this with any target or crowd region is no counterexample.
            Rows with `is_exhaustive` False have none: what they lack may be right.
        box_noise: standard deviation of a positive box's noise as a part of its side.
        max_box_noise: its limit, as a part of the picture (0.02: 20 pixels of 1008).
        generator: source of all chance; a CPU generator.
    """
    scores = object_scores(outputs).cpu()
    device = outputs.pred_boxes.device
    if len(labels) != len(scores):
        raise ValueError(f"{len(labels)} labels for {len(scores)} rows of outputs; expected one for each.")
    boxes, marks = [], []
    for row, label in enumerate(labels):
        shown, kinds = _real(previous, row)
        confident = (scores[row] >= threshold).nonzero()[:, 0]
        targets = _target_boxes(label)
        overlap = _overlap(outputs, label, row, confident, targets)
        missed, wrong = _mistakes(scores[row][confident], overlap, match_iou)
        additions = []
        if len(missed):
            positive = _unseen(targets[missed], shown[kinds == 1])
            if len(positive):
                pick = int(torch.randint(len(positive), (), generator=generator))
                additions.append((_noisy(positive[pick], box_noise, max_box_noise, generator), 1))
        if len(wrong) and label.get("is_exhaustive", True):
            far = overlap[wrong].amax(1) <= negative_iou if len(targets) else torch.ones(len(wrong), dtype=torch.bool)
            far &= ~_on_crowd(outputs, label, row, confident[wrong], negative_iou)
            negative = outputs.pred_boxes[row].float().cpu()[confident[wrong[far]]].clamp(0, 1)
            negative = negative[((negative[:, 2:] - negative[:, :2]) > 1e-4).all(1)]
            negative = _unseen(negative, shown[kinds == 0])
            if len(negative):
                additions.append((negative[0], 0))
        new = torch.stack([box for box, _ in additions]) if additions else torch.zeros(0, 4)
        boxes.append(torch.cat([shown, new]))
        marks.append(torch.cat([kinds, torch.tensor([kind for _, kind in additions], dtype=kinds.dtype)]))
    padded = pad_rows([*(box_xyxy_to_cxcywh(entry) for entry in boxes), torch.zeros(1, 4)])[:-1]
    padded_labels = pad_rows([*marks, torch.zeros(1, dtype=torch.int64)])[:-1]
    return {"input_boxes": padded.to(device), "input_boxes_labels": padded_labels.to(device)}


def interactive_loss(
    model: Any,
    batch: Mapping[str, Any],
    rounds: int = 5,
    *,
    generator: torch.Generator | None = None,
    **choices: Any,
) -> Any:
    """The outputs of the last round, whose `loss` and `loss_dict` are the means of all rounds.

    The first round answers the batch as it is; each further one with the exemplars of `next_exemplars` (`choices` go
    there). Pictures are encoded once. Every round goes through the model's `forward`, and their number does not depend
    on the answers, so that processes stay in step.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; expected at least 1.")
    inputs = dict(batch)
    losses, terms = [], []
    for number in range(rounds):
        outputs = model(**inputs)
        losses.append(outputs.loss)
        terms.append(outputs.loss_dict)
        if number + 1 < rounds:
            inputs.pop("pixel_values", None)
            inputs["vision_embeds"] = outputs.vision_embeds
            inputs |= next_exemplars(outputs, inputs["labels"], inputs, generator=generator, **choices)
    means = {name: torch.stack([term[name] for term in terms]).mean() for name in terms[0]}
    return dataclasses.replace(outputs, loss=torch.stack(losses).mean(), loss_dict=means)


def _real(previous: Mapping[str, Tensor] | None, row: int) -> tuple[Tensor, Tensor]:
    """Exemplars of a row without padding: boxes (k, 4) xyxy and labels (k,), on the CPU."""
    if previous is None or previous.get("input_boxes") is None:
        return torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    boxes = previous["input_boxes"][row].float().cpu()
    labels = previous.get("input_boxes_labels")
    kinds = torch.ones(len(boxes), dtype=torch.int64) if labels is None else labels[row].cpu().long()
    return box_cxcywh_to_xyxy(boxes[kinds != PADDING]), kinds[kinds != PADDING]


def _target_boxes(label: Mapping[str, Any]) -> Tensor:
    """(n, 4) xyxy in 0..1."""
    if label.get("boxes") is None:
        masks = label["masks"].cpu()
        return masks_to_boxes(masks) / torch.tensor([masks.shape[2], masks.shape[1]] * 2)
    return box_cxcywh_to_xyxy(label["boxes"].float().cpu())


def _overlap(outputs: Any, label: Mapping[str, Any], row: int, queries: Tensor, targets: Tensor) -> Tensor:
    """IoU (num_queries, num_targets) of some queries with the row's targets."""
    masks = label.get("masks")
    if masks is not None and getattr(outputs, "pred_masks", None) is not None:
        return _mask_overlap(outputs.pred_masks[row], queries, masks)
    return box_iou(outputs.pred_boxes[row].float().cpu()[queries], targets)


def _mask_overlap(logits: Tensor, queries: Tensor, masks: Tensor) -> Tensor:
    masks = masks.to(logits.device)
    if masks.shape[1:] != logits.shape[1:] and len(masks):
        masks = torch.nn.functional.interpolate(masks[None].float(), logits.shape[1:], mode="nearest-exact")[0] > 0.5
    if not len(masks) or not len(queries):
        return torch.zeros(len(queries), len(masks))
    return mask_iou(logits[queries.to(logits.device)] > 0, masks).cpu()


def _mistakes(scores: Tensor, overlap: Tensor, match_iou: float) -> tuple[Tensor, Tensor]:
    """Targets without a match, and predictions without one, the surest first."""
    right = overlap * (overlap >= match_iou)
    pairs = linear_sum_assignment(right.numpy(), maximize=True)
    matched = [(p, t) for p, t in zip(*pairs, strict=True) if right[p, t] > 0]
    missed = torch.ones(overlap.shape[1], dtype=torch.bool)
    wrong = torch.ones(overlap.shape[0], dtype=torch.bool)
    for prediction, target in matched:
        wrong[prediction], missed[target] = False, False
    extra = wrong.nonzero()[:, 0]
    return missed.nonzero()[:, 0], extra[scores[extra].argsort(descending=True, stable=True)]


def _on_crowd(outputs: Any, label: Mapping[str, Any], row: int, queries: Tensor, limit: float) -> Tensor:
    """(num_queries,) whether a prediction lies on a crowd region."""
    crowd = label.get("crowd")
    if crowd is None or getattr(outputs, "pred_masks", None) is None:
        return torch.zeros(len(queries), dtype=torch.bool)
    return _mask_overlap(outputs.pred_masks[row], queries, crowd).amax(1) > limit


def _unseen(boxes: Tensor, shown: Tensor) -> Tensor:
    """Those of the boxes that no exemplar shows yet."""
    if not len(shown) or not len(boxes):
        return boxes
    return boxes[box_iou(boxes, shown).amax(1) < _SHOWN]


def _noisy(box: Tensor, std: float, limit: float, generator: torch.Generator | None) -> Tensor:
    """A box (4,) xyxy in 0..1 as a person might draw it; as it was where the noise would leave too little of it."""
    sides = (box[2:] - box[:2]).repeat(2)
    moved = (box + (torch.randn(4, generator=generator) * std * sides).clamp(-limit, limit)).clamp(0, 1)
    return moved if bool(((moved[2:] - moved[:2]) > 0.5 * sides[:2]).all()) else box
