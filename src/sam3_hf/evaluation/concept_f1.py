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
from .tally import IOU_THRESHOLDS, figures_of, floats, local_f1, rows_of

__all__ = [
    "IOU_THRESHOLDS",
    "Pair",
    "PairScore",
    "best_score",
    "concept_f1",
    "evaluate_concepts",
    "ious_of_pairs",
    "score_pairs",
    "true_positives",
]

_ROWS_AT_ONCE = 64

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

    def local_f1(self, definition: str = "released") -> np.ndarray:
        """(10,) F1 of this pair alone, at each of `IOU_THRESHOLDS`."""
        return local_f1(self.num_predictions, self.num_targets, self.true_positives, definition)


def score_pairs(pairs: Sequence[Pair], threshold: float = 0.5, iou_type: str = "segm") -> list[PairScore]:
    """The scores of predictions against targets, in their order; `iou_type` is "segm" (masks) or "bbox" (boxes).

    Crowd regions are left out, as in the reference: an answer that lies on one counts as wrong.
    """
    scores = []
    for start in range(0, len(pairs), _ROWS_AT_ONCE):
        part = pairs[start : start + _ROWS_AT_ONCE]
        chosen = [(one.kept(threshold), np.flatnonzero(~target.is_crowd)) for one, target in part]
        for (one, _), (kept, real), ious in zip(part, chosen, ious_of_pairs(part, chosen, iou_type), strict=True):
            scores.append(PairScore(one.key, len(kept), len(real), true_positives(ious)))
    return scores


def true_positives(ious: np.ndarray) -> np.ndarray:
    """(10,) int64: matches at each of `IOU_THRESHOLDS`, of the one-to-one matching with the largest sum of IoUs."""
    matched = ious[linear_sum_assignment(-ious)]
    return (matched[None] >= IOU_THRESHOLDS[:, None]).sum(1)


def best_score(scores: Sequence[PairScore], definition: str = "released") -> PairScore:
    """The oracle over several annotators of one pair: the score with the best mean local F1, the first of equals.

    An annotator who saw nothing where nothing was found is beaten by nobody.
    """
    best = scores[0]
    for score in scores[1:]:
        if score.is_empty or (
            not best.is_empty and score.local_f1(definition).mean() > best.local_f1(definition).mean()
        ):
            best = score
    return best


def concept_f1(scores: Sequence[PairScore], definition: str = "released") -> dict[str, float]:
    """All figures over `scores`: means over the IoU thresholds, "@0.5", "@0.75", and the image-level `IL_...`.

    `positive_macro_F1` is -1 where no pair has both objects and answers, as in the reference. The definitions are those
    of `tally`.
    """
    if not scores:
        raise ValueError("no picture-phrase pair to evaluate; concept F1 needs at least one exhaustively annotated.")
    found, there = [score.num_predictions for score in scores], [score.num_targets for score in scores]
    rows = rows_of(found, there, [score.true_positives for score in scores], definition)
    return floats(figures_of(rows.sum(0), definition))


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


def ious_of_pairs(
    pairs: Sequence[Pair], chosen: Sequence[tuple[np.ndarray, np.ndarray]], iou_type: str
) -> list[np.ndarray]:
    """IoU (num_kept, num_real) float64 of each pair's chosen answers and objects, given by their indices."""
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
