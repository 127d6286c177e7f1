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
from .overlap import MaskRuns, mask_intersections
from .predictions import ConceptPrediction

__all__ = ["count_errors", "count_objects", "count_predictions"]

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
    if prediction.masks is None:
        raise ValueError(f"the prediction of {prediction.key} has no masks; counting compares masks.")
    keep = np.flatnonzero(prediction.scores > threshold)
    runs = MaskRuns.from_rles([prediction.masks[index] for index in keep])
    [common] = mask_intersections(runs, runs, [(len(keep), len(keep))])
    areas = runs.areas()
    share = common / np.maximum(np.minimum(areas[:, None], areas[None]), 1)
    return len(greedy_nms(torch.from_numpy(share), torch.from_numpy(prediction.scores[keep]), overlap))


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
