"""LVIS's average precision on `pycocotools`: federated annotations, 300 answers a picture, rare to frequent phrases.

LVIS judges a category only in pictures that were searched for it (so only pairs are judged), and where not all of its
objects were marked, surplus answers are neither right nor wrong.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .coco_ap import coco_evaluation
from .predictions import ConceptPrediction, ConceptTarget, PairKey

__all__ = ["lvis_ap"]

_GROUPS = {"r": "rare", "c": "common", "f": "frequent"}
_MOST = 300  # answers of a picture, of all its categories together


def lvis_ap(
    predictions: Mapping[PairKey, ConceptPrediction],
    targets: Sequence[ConceptTarget],
    frequencies: Mapping[str, str],
    iou_type: str = "segm",
) -> dict[str, float]:
    """`mask_AP`, `mask_AP50`, `mask_AP75`, `mask_AP_small`..., `mask_AP_rare`... ("segm") or `box_...`, -1 undefined.

    `targets` are the verified pairs; those that are not exhaustive let surplus answers pass. `frequencies` says of each
    phrase whether it is "r"are, "c"ommon or "f"requent.
    """
    kept = _strongest(predictions)
    by_phrase: dict[str, list[ConceptTarget]] = defaultdict(list)
    for target in targets:
        by_phrase[target.phrase].append(target)
    precisions = {}
    for phrase, some in by_phrase.items():
        found = {target.key: kept[target.key] for target in some if target.key in kept}
        forgiven = {target.key for target in some if not target.is_exhaustive}
        evaluation = coco_evaluation(found, some, iou_type, forgiven=forgiven, max_detections=_MOST)
        precisions[phrase] = evaluation.eval["precision"][:, :, 0, :, -1]  # (IoU, recall, area)
    kind = "mask" if iou_type == "segm" else "box"
    every = np.stack(list(precisions.values()))
    figures = {
        "AP": _mean(every[..., 0]),
        "AP50": _mean(every[:, 0, :, 0]),
        "AP75": _mean(every[:, 5, :, 0]),
        "AP_small": _mean(every[..., 1]),
        "AP_medium": _mean(every[..., 2]),
        "AP_large": _mean(every[..., 3]),
    }
    for letter, group in _GROUPS.items():
        some_values = [values[..., 0] for phrase, values in precisions.items() if frequencies.get(phrase) == letter]
        figures[f"AP_{group}"] = _mean(np.stack(some_values)) if some_values else -1.0
    return {f"{kind}_{name}": value for name, value in figures.items()}


def _mean(precision: np.ndarray) -> float:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else -1.0


def _strongest(predictions: Mapping[PairKey, ConceptPrediction]) -> dict[PairKey, ConceptPrediction]:
    """The predictions with the best `_MOST` answers of each picture."""
    by_picture: dict[Any, list[ConceptPrediction]] = defaultdict(list)
    for one in predictions.values():
        by_picture[one.image_id].append(one)
    kept = {}
    for some in by_picture.values():
        scores = np.concatenate([one.scores for one in some])
        chosen = np.zeros(len(scores), dtype=bool)
        chosen[np.argsort(-scores, kind="stable")[:_MOST]] = True
        ends = np.cumsum([len(one) for one in some])
        for one, mine in zip(some, np.split(chosen, ends[:-1]), strict=True):
            kept[one.key] = one if mine.all() else _subset(one, np.flatnonzero(mine))
    return kept


def _subset(one: ConceptPrediction, chosen: np.ndarray) -> ConceptPrediction:
    masks = None if one.masks is None else [one.masks[index] for index in chosen]
    return ConceptPrediction(one.image_id, one.phrase, one.size, one.scores[chosen], one.boxes[chosen], masks)
