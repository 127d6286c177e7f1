"""Model outputs to scores, boxes in pixels and masks: the one score formula, the thresholds, the resizing.

Pure functions of the outputs (any object with the named attributes, any dtype, any device); all sums are done in
float32. `target_sizes` are (height, width) of the pictures: a list or tensor with one entry for each row, or one entry
for all.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.boxes import scale_boxes
from ..ops.masks import rle_encode
from ..ops.nms import mask_nms

__all__ = [
    "TargetSizes",
    "object_scores",
    "post_process_instance_segmentation",
    "post_process_masks",
    "post_process_object_detection",
    "post_process_semantic_segmentation",
]

TargetSizes = Sequence[Sequence[int]] | Tensor | np.ndarray

_CHUNK_PIXELS = 2**24  # float32 mask logits held at once while resizing: 64 MiB


def object_scores(outputs: Any) -> Tensor:
    """Scores (num_rows, num_queries) float32 in 0..1: sigmoid(pred_logits) * sigmoid(presence_logits).

    The presence logit says whether the phrase is in the picture at all, a query's logit whether the query is one of its
    objects given that it is (arXiv 2511.16719, section 3).  Outputs without `presence_logits` are scored by the queries
    alone.
    """
    scores = outputs.pred_logits.float().sigmoid()
    presence = getattr(outputs, "presence_logits", None)
    return scores if presence is None else scores * presence.float().sigmoid().reshape(-1, 1)


def post_process_object_detection(
    outputs: Any, threshold: float = 0.3, target_sizes: TargetSizes | None = None, *, top_k: int | None = None
) -> list[dict[str, Tensor]]:
    """For each row `scores` (N,) descending and `boxes` (N, 4) xyxy in pixels (in 0..1 without `target_sizes`)."""
    scores = object_scores(outputs)
    sizes = _row_sizes(target_sizes, len(scores))
    results = []
    for row_scores, row_boxes, size in zip(scores, outputs.pred_boxes.float(), sizes, strict=True):
        keep = _best(row_scores, threshold)[:top_k]
        boxes = row_boxes[keep] if size is None else scale_boxes(row_boxes[keep], size)
        results.append({"scores": row_scores[keep], "boxes": boxes})
    return results


def post_process_instance_segmentation(
    outputs: Any,
    threshold: float = 0.3,
    mask_threshold: float = 0.5,
    target_sizes: TargetSizes | None = None,
    *,
    nms_threshold: float | None = None,
    top_k: int | None = None,
    mask_format: str = "bool",
    phrases: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """For each row the objects that score above `threshold`, best first.

    Each dictionary holds `scores` (N,) in 0..1, `boxes` (N, 4) xyxy in pixels (in 0..1 without `target_sizes`), `masks`
    (N, H, W) bool at the target size (at the model's mask size without), or with `mask_format="rle"` a list of COCO
    run-length codes made piece by piece, so that N full-size masks never lie in memory, and, if `phrases` (one for each
    row) are given, `labels`. `nms_threshold` drops objects whose mask overlaps a better one by more than this IoU,
    measured at the model's mask size.
    """
    if mask_format not in ("bool", "rle"):
        raise ValueError(f"mask_format is {mask_format!r}; expected 'bool' or 'rle'.")
    mask_logit = _logit(mask_threshold, "mask_threshold")
    scores = object_scores(outputs)
    sizes = _row_sizes(target_sizes, len(scores))
    if phrases is not None and (isinstance(phrases, str) or len(phrases) != len(scores)):
        raise ValueError(f"phrases is {phrases!r}; expected a list of {len(scores)}, one for each row of the outputs.")
    results = []
    for row, (row_scores, size) in enumerate(zip(scores, sizes, strict=True)):
        keep = _best(row_scores, threshold)
        if nms_threshold is not None:
            keep = keep[mask_nms(outputs.pred_masks[row][keep].float() > mask_logit, row_scores[keep], nms_threshold)]
        keep = keep[:top_k]
        boxes = outputs.pred_boxes[row][keep].float()
        result: dict[str, Any] = {
            "scores": row_scores[keep],
            "boxes": boxes if size is None else scale_boxes(boxes, size),
            "masks": _masks(outputs.pred_masks[row][keep], size, mask_logit, mask_format),
        }
        if phrases is not None:
            result["labels"] = [phrases[row]] * len(keep)
        results.append(result)
    return results


def post_process_semantic_segmentation(
    outputs: Any, target_sizes: TargetSizes | None = None, threshold: float = 0.5
) -> list[Tensor]:
    """For each row a map (H, W) int64: 1 where the phrase is seen with a probability above `threshold`, else 0."""
    logits = getattr(outputs, "semantic_seg", None)
    if logits is None:
        raise ValueError("the outputs have no semantic_seg; expected those of a concept prompt (phrase, box or point).")
    limit = _logit(threshold, "threshold")
    sizes = _row_sizes(target_sizes, len(logits))
    return [torch.cat(list(_resized(row, size)))[0].gt(limit).long() for row, size in zip(logits, sizes, strict=True)]


def post_process_masks(
    masks: Tensor | Sequence[Tensor | np.ndarray],
    original_sizes: TargetSizes,
    mask_threshold: float = 0.0,
    binarize: bool = True,
    apply_non_overlapping_constraints: bool = False,
) -> list[Tensor]:
    """For each picture the masks of clicked objects (num_objects, num_masks, H, W) at its original size.

    `masks` are logits (num_images, num_objects, num_masks, h, w) or a list of (num_objects, num_masks, h, w); the
    result is bool (logit above `mask_threshold`), or float32 logits with `binarize=False`.
    `apply_non_overlapping_constraints` leaves each pixel to the object with the highest logit there.
    """
    sizes = _row_sizes(original_sizes, len(masks))
    results = []
    for image_masks, size in zip(masks, sizes, strict=True):
        logits = torch.as_tensor(image_masks)
        if logits.ndim != 4:
            raise ValueError(f"masks of a picture have shape {tuple(logits.shape)}; expected (objects, masks, h, w).")
        if apply_non_overlapping_constraints:
            full = torch.cat(list(_resized(logits.flatten(0, 1), size))).unflatten(0, logits.shape[:2])
            winner = (
                full.argmax(dim=0, keepdim=True) == torch.arange(len(full), device=full.device)[:, None, None, None]
            )
            pieces = iter([torch.where(winner, full, full.clamp(max=-10.0)).flatten(0, 1)])
        else:
            pieces = _resized(logits.flatten(0, 1), size)
        done = torch.cat([piece > mask_threshold if binarize else piece for piece in pieces])
        results.append(done.unflatten(0, logits.shape[:2]))
    return results


def _best(scores: Tensor, threshold: float) -> Tensor:
    """Indices of the scores above `threshold`, best first; equal ones keep the order of the queries."""
    order = scores.argsort(descending=True, stable=True)
    return order[scores[order] > threshold]


def _masks(logits: Tensor, size: tuple[int, int] | None, limit: float, mask_format: str) -> Any:
    binary = (piece > limit for piece in _resized(logits, size))
    if mask_format == "rle":
        return [code for piece in binary for code in rle_encode(piece)]
    return torch.cat(list(binary))


def _resized(logits: Tensor, size: tuple[int, int] | None) -> Iterator[Tensor]:
    """Pieces (n, H, W) float32 of the logits (N, h, w) at the target size, each of bounded memory; at least one."""
    height, width = size or tuple(logits.shape[-2:])
    if len(logits) == 0:
        yield logits.new_zeros((0, height, width), dtype=torch.float32)
    for piece in logits.split(max(1, _CHUNK_PIXELS // (height * width))):
        if size is None:
            yield piece.float()
        elif len(piece):
            yield torch.nn.functional.interpolate(piece[None].float(), size, mode="bilinear", align_corners=False)[0]


def _row_sizes(target_sizes: TargetSizes | None, num_rows: int) -> list[tuple[int, int] | None]:
    """(height, width) for each row; a single given one holds for all."""
    if target_sizes is None:
        return [None] * num_rows
    given = target_sizes.tolist() if isinstance(target_sizes, Tensor | np.ndarray) else list(target_sizes)
    if any(not isinstance(size, Sequence | Tensor | np.ndarray) or len(size) != 2 for size in given):
        raise ValueError(f"target_sizes is {given}; expected one (height, width) for each row, as a nested list.")
    if len(given) not in (1, num_rows):
        raise ValueError(
            f"target_sizes has {len(given)} entries; expected {num_rows}, one for each row, or one for all."
        )
    sizes: list[tuple[int, int] | None] = [(int(height), int(width)) for height, width in given]
    return sizes * num_rows if len(sizes) == 1 else sizes


def _logit(probability: float, name: str) -> float:
    if not 0 < probability < 1:
        raise ValueError(f"{name} is {probability}; expected a probability between 0 and 1, both excluded.")
    return math.log(probability / (1 - probability))
