"""Concept F1: is the phrase in the picture, and are its objects found?  At one threshold, without ranking.

    cgF1 = pmF1 * IL_MCC        (arXiv 2511.16719, section E.3)

- Answers that score at least 0.5 count.  They are matched one to one with the objects so that the sum of IoUs is the
  largest; at an IoU threshold t, matches of IoU >= t are true positives.
- pmF1 (`positive_micro_F1`): F1 of the objects pooled over the pairs whose phrase is present.
- IL_MCC: Matthews correlation, over all pairs, of "something was found" and "something is there".

Figures are means over the IoU thresholds 0.50, 0.55, ..., 0.95, or at one ("cgF1@0.5"), and lie in 0..1 (IL_MCC and
cgF1 in -1..1), with the names and the small constants of the reference's evaluator.  Papers print cgF1 times 100.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from .overlap import box_ious, mask_ious_of_rows
from .predictions import ConceptPrediction, ConceptTarget, PairKey

__all__ = ["IOU_THRESHOLDS", "PairScore", "best_score", "concept_f1", "evaluate_concepts", "score_pairs"]

# The reference's very numbers, so that an IoU that meets a threshold is judged alike: 0.05 steps would miss by a bit.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_SHOWN = (None, 0.5, 0.75)
_EPS, _IMAGE_EPS = 1e-4, 1e-6  # the reference's guards against division by zero; part of its numbers
_ROWS_AT_ONCE = 64
_NAMES = (
    "cgF1",
    "precision",
    "recall",
    "F1",
    "positive_macro_F1",
    "positive_micro_F1",
    "positive_micro_precision",
)

Pair = tuple[ConceptPrediction, ConceptTarget]


@dataclass(frozen=True)
class PairScore:
    """What concept F1 needs to know of one picture-phrase pair.

    Attributes:
        key: (image_id, phrase).
        num_predictions: answers at or above the threshold.
        num_targets: objects, crowd regions left out.
        true_positives: (10,) int64, at each of `IOU_THRESHOLDS`.
    """

    key: PairKey
    num_predictions: int
    num_targets: int
    true_positives: np.ndarray

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there and nothing was found."""
        return self.num_predictions == 0 and self.num_targets == 0

    def local_f1(self) -> np.ndarray:
        """(10,) F1 of this pair alone, at each of `IOU_THRESHOLDS`."""
        precision = self.true_positives / (self.num_predictions + _EPS)
        return _harmonic(precision, self.true_positives / (self.num_targets + _EPS), _EPS)


def score_pairs(pairs: Sequence[Pair], threshold: float = 0.5, iou_type: str = "segm") -> list[PairScore]:
    """The scores of predictions against targets, in their order; `iou_type` is "segm" (masks) or "bbox" (boxes).

    Crowd regions are left out, as in the reference: an answer that lies on one counts as wrong.
    """
    scores = []
    for start in range(0, len(pairs), _ROWS_AT_ONCE):
        part = pairs[start : start + _ROWS_AT_ONCE]
        chosen = [(one.kept(threshold), np.flatnonzero(~target.is_crowd)) for one, target in part]
        for (one, _), (kept, real), ious in zip(part, chosen, _ious(part, chosen, iou_type), strict=True):
            matched = ious[linear_sum_assignment(-ious)]
            true_positives = (matched[None] >= IOU_THRESHOLDS[:, None]).sum(1)
            scores.append(PairScore(one.key, len(kept), len(real), true_positives))
    return scores


def best_score(scores: Sequence[PairScore]) -> PairScore:
    """The oracle over several annotators of one pair: the score with the best mean local F1, the first of equals.

    An annotator who saw nothing where nothing was found is beaten by nobody.
    """
    best = scores[0]
    for score in scores[1:]:
        if score.is_empty or (not best.is_empty and score.local_f1().mean() > best.local_f1().mean()):
            best = score
    return best


def concept_f1(scores: Sequence[PairScore]) -> dict[str, float]:
    """All figures over `scores`: those of `_NAMES` as means and "@0.5", "@0.75", and the image-level `IL_...`.

    `positive_macro_F1` is -1 where no pair has both objects and answers, as in the reference.
    """
    if not scores:
        raise ValueError("no picture-phrase pair to evaluate; concept F1 needs at least one exhaustively annotated.")
    found = np.array([score.num_predictions for score in scores], dtype=np.int64)
    there = np.array([score.num_targets for score in scores], dtype=np.int64)
    matches = np.stack([score.true_positives for score in scores])  # (num_pairs, 10)
    image = _image_level(found > 0, there > 0)
    true, positive = matches.sum(0), there > 0
    recall = true / (there.sum() + _EPS)
    precision = true / (found.sum() + _EPS)
    positive_precision = true / (found[positive].sum() + _EPS)
    both = int((positive & (found > 0)).sum())
    local = np.sum([score.local_f1() for score in scores if score.num_targets], axis=0) if both else np.full(10, -1.0)
    micro = _harmonic(positive_precision, recall, _EPS)
    at_thresholds = dict(
        zip(
            _NAMES,
            (
                micro * image["IL_MCC"],
                precision,
                recall,
                _harmonic(precision, recall, _EPS),
                local / max(both, 1),
                micro,
                positive_precision,
            ),
            strict=True,
        )
    )
    return _flat(at_thresholds, _SHOWN) | image


def evaluate_concepts(
    predictions: Mapping[PairKey, ConceptPrediction] | Sequence[ConceptPrediction],
    targets: Sequence[ConceptTarget | Sequence[ConceptTarget]],
    threshold: float = 0.5,
    iou_type: str = "segm",
) -> dict[str, float]:
    """`concept_f1` of predictions against targets; a target may be a list of annotators' targets of the same pair.

    Pairs without a prediction are pairs where nothing was found. A pair that some annotator has not marked exhaustively
    is left out.
    """
    if not isinstance(predictions, Mapping):
        predictions = {one.key: one for one in predictions}
    groups = [[target] if isinstance(target, ConceptTarget) else list(target) for target in targets]
    groups = [group for group in groups if all(target.is_exhaustive for target in group)]
    pairs = [(predictions.get(group[0].key) or _nothing(group[0]), target) for group in groups for target in group]
    scores = iter(score_pairs(pairs, threshold, iou_type))
    return concept_f1([best_score([next(scores) for _ in group]) for group in groups])


def _nothing(target: ConceptTarget) -> ConceptPrediction:
    return ConceptPrediction(target.image_id, target.phrase, target.size, np.zeros(0), np.zeros((0, 4)), [])


def _ious(pairs: Sequence[Pair], chosen: Sequence[tuple[np.ndarray, np.ndarray]], iou_type: str) -> list[np.ndarray]:
    """IoU (num_kept, num_real) float64 of each pair's chosen objects."""
    if iou_type == "bbox":
        return [box_ious(one.boxes[i], target.boxes[j]) for (one, target), (i, j) in zip(pairs, chosen, strict=True)]
    if iou_type != "segm":
        raise ValueError(f"iou_type is {iou_type!r}; expected 'segm' (masks) or 'bbox' (boxes).")
    rows = []
    for (one, target), (i, j) in zip(pairs, chosen, strict=True):
        if (one.masks is None and len(i)) or (target.masks is None and len(j)):
            who = "prediction" if one.masks is None else "target"
            raise ValueError(f"the {who} of {one.key} has no masks; compare boxes instead: iou_type='bbox'.")
        if one.size != target.size and len(i) and len(j):
            raise ValueError(f"the prediction of {one.key} is of size {one.size}, its target of {target.size}.")
        rows.append(([(one.masks or [])[k] for k in i], [(target.masks or [])[k] for k in j]))
    return mask_ious_of_rows(rows)


def _image_level(found: np.ndarray, there: np.ndarray) -> dict[str, float]:
    tp, fp = float((found & there).sum()), float((found & ~there).sum())
    fn, tn = float((~found & there).sum()), float((~found & ~there).sum())
    precision, recall = tp / (tp + fp + _IMAGE_EPS), tp / (tp + fn + _IMAGE_EPS)
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    return {
        "IL_precision": precision,
        "IL_recall": recall,
        "IL_F1": float(_harmonic(precision, recall, _IMAGE_EPS)),
        "IL_FPR": fp / (fp + tn + _IMAGE_EPS),
        "IL_MCC": (tp * tn - fp * fn) / (root + _IMAGE_EPS),
    }


def _harmonic(precision: np.ndarray | float, recall: np.ndarray | float, eps: float) -> np.ndarray:
    return np.asarray(2 * precision * recall / (precision + recall + eps))


def _flat(at_thresholds: Mapping[str, np.ndarray], shown: Sequence[float | None]) -> dict[str, float]:
    """Means over the thresholds under the plain name, single thresholds as "name@0.5"."""
    flat = {}
    for threshold in shown:
        for name, values in at_thresholds.items():
            key = name if threshold is None else f"{name}@{threshold}"
            which = slice(None) if threshold is None else np.isclose(IOU_THRESHOLDS, threshold)
            flat[key] = float(values[which].mean())
    return flat
