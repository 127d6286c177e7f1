"""How many are there?  The counting recipe of arXiv 2511.16719, and its errors.

The phrase is known to be there, so presence is left out of the score; queries that score above 0.5 count, after those
that a better one overlaps by more than half of the smaller mask have been dropped.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.nms import greedy_nms
from .overlap import mask_intersections
from .predictions import ConceptPrediction, Rle
from .runs import MaskRuns

__all__ = ["count_errors", "count_many", "count_objects", "count_predictions"]

_PIXELS_PER_PRODUCT = 2**22  # a float32 sum of ones is exact up to 2**24


def count_objects(outputs: Any, threshold: float = 0.5, overlap: float = 0.5) -> list[int]:
    """Number of objects of each row, from the model's outputs at their own mask resolution."""
    scores = outputs.pred_logits.float().sigmoid()
    counts = []
    for row, row_scores in enumerate(scores):
        keep = torch.nonzero(row_scores > threshold).flatten()
        masks = outputs.pred_masks[row][keep].float() > 0
        counts.append(len(greedy_nms(_over_smaller(masks), row_scores[keep], overlap)))
    return counts


def count_predictions(prediction: ConceptPrediction, threshold: float = 0.5, overlap: float = 0.5) -> int:
    """Number of objects among predictions made elsewhere, whose scores are taken as they are; they need masks."""
    return count_many([prediction], threshold, overlap)[0]


def count_many(predictions: Sequence[ConceptPrediction], threshold: float = 0.5, overlap: float = 0.5) -> list[int]:
    """`count_predictions` of each; many at once are faster."""
    kept: list[np.ndarray] = []
    masks: list[Rle] = []
    for one in predictions:
        if one.masks is None:
            raise ValueError(f"the prediction of {one.key} has no masks; counting compares masks.")
        kept.append(np.flatnonzero(one.scores > threshold))
        masks += [one.masks[index] for index in kept[-1]]
    runs = MaskRuns.from_rles(masks)
    commons = mask_intersections(runs, runs, [(len(some), len(some)) for some in kept])
    parts = np.split(runs.areas(), np.cumsum([len(some) for some in kept])[:-1]) if predictions else []
    counts = []
    for one, some, common, areas in zip(predictions, kept, commons, parts, strict=True):
        share = common / np.maximum(np.minimum(areas[:, None], areas[None]), 1)
        counts.append(_num_kept(share, one.scores[some], overlap))
    return counts


def _num_kept(share: np.ndarray, scores: np.ndarray, overlap: float) -> int:
    """How many greedy suppression keeps: each, from the best on, drops all later ones that it overlaps by more."""
    order = np.argsort(-scores, kind="stable")
    drops = (share > overlap)[order][:, order]
    dropped = np.zeros(len(order), dtype=bool)
    for rank in range(len(order)):
        if not dropped[rank]:
            dropped[rank + 1 :] |= drops[rank, rank + 1 :]
    return int((~dropped).sum())


def count_errors(found: Sequence[int], there: Sequence[int]) -> dict[str, float]:
    """`count_MAE`, the mean absolute error, and `count_accuracy`, the share of exact counts."""
    if len(found) != len(there) or not len(there):
        raise ValueError(f"{len(found)} counts for {len(there)} true ones; expected as many, and at least one.")
    error = np.abs(np.asarray(found) - np.asarray(there))
    return {"count_MAE": float(error.mean()), "count_accuracy": float((error == 0).mean())}


def _over_smaller(masks_bool: Tensor) -> Tensor:
    """Intersection over the smaller area (N, N) float32 of masks (N, H, W); 0 where one is empty."""
    flat = masks_bool.flatten(1)
    common = torch.zeros(len(flat), len(flat), device=flat.device)
    for piece in flat.split(_PIXELS_PER_PRODUCT, dim=1):
        common += piece.float() @ piece.float().T
    areas = flat.sum(1).float()
    return common / torch.minimum(areas[:, None], areas[None]).clamp(min=1)
