"""`Judge`: pairs in, numbers out.  It keeps counts of each pair and score and IoU of each answer, but no masks.

Each pair is matched at several score thresholds, so that cgF1 can be drawn over the threshold; IoUs are computed once.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from .concept_f1 import PairScore, best_score, ious_of_pairs, true_positives
from .predictions import ConceptPrediction, ConceptTarget, PairKey
from .tally import IOU_THRESHOLDS, figures_of, rows_of

__all__ = ["CURVE_THRESHOLDS", "Judge"]

# Exactly the decimals: a score of 0.35 meets the threshold 0.35.
CURVE_THRESHOLDS = tuple(float(f"{step * 0.05:.2f}") for step in range(1, 20))


class Judge:
    """Judges picture-phrase pairs, each against one or several annotators, of whom the best-fitting one counts.

    Args:
        iou_type: "segm" (masks) or "bbox" (boxes).
        threshold: least score of an answer; for the definition "paper" answers must score more.
        definition: "released" or "paper", see `tally`.
        curve: further thresholds; () where no curve is wanted.
    """

    def __init__(
        self,
        iou_type: str = "segm",
        threshold: float = 0.5,
        definition: str = "released",
        curve: Sequence[float] = CURVE_THRESHOLDS,
    ) -> None:
        self.iou_type, self.threshold, self.definition = iou_type, threshold, definition
        least = float(np.nextafter(threshold, 2)) if definition == "paper" else float(threshold)
        self.thresholds = np.array(sorted({*curve, least}))
        self.curve = tuple(curve)
        self._at = int(np.searchsorted(self.thresholds, least))
        self.keys: list[PairKey] = []
        self._counts: list[np.ndarray] = []  # for each pair (num_thresholds, 2 + 10): found, there, true positives
        self._answers: list[np.ndarray] = []  # for each pair (num_answers, 2): score, IoU with the matched object

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, pairs: Sequence[tuple[ConceptPrediction, Sequence[ConceptTarget]]]) -> None:
        """Judges some pairs; many at once are faster."""
        flat = [(prediction, target) for prediction, targets in pairs for target in targets]
        chosen = [(one.kept(self.thresholds[0]), np.flatnonzero(~target.is_crowd)) for one, target in flat]
        ious = iter(ious_of_pairs(flat, chosen, self.iou_type))
        kept = iter(chosen)
        for prediction, targets in pairs:
            sides = [(next(ious), next(kept)[0], target.num_objects) for target in targets]
            self._judge(prediction, sides)

    def _judge(self, prediction: ConceptPrediction, sides: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> None:
        """One pair; `sides` are each annotator's IoUs, the answers they are of, and the number of objects."""
        scores = prediction.scores[sides[0][1]]
        numbers = (scores >= self.thresholds[:, None]).sum(1)
        counts = np.zeros((len(self.thresholds), 2 + len(IOU_THRESHOLDS)), dtype=np.int32)
        which = 0
        for at in np.unique(numbers, return_index=True)[1]:  # thresholds between which the answers change
            keep = scores >= self.thresholds[at]
            judged = [
                PairScore(prediction.key, int(numbers[at]), there, true_positives(ious[keep]))
                for ious, _, there in sides
            ]
            best = best_score(judged, self.definition)
            counts[numbers == numbers[at]] = best.num_predictions, best.num_targets, *best.true_positives
            if numbers[at] == numbers[self._at]:
                which = next(index for index, one in enumerate(judged) if one is best)
        self.keys.append(prediction.key)
        self._counts.append(counts)
        self._answers.append(np.stack([scores, _matched(sides[which][0])], axis=1))

    def rows(self) -> np.ndarray:
        """Rows (num_pairs, 28) of `tally`, at the threshold."""
        return self._rows(self._at)

    def over_thresholds(self) -> list[dict[str, float]]:
        """cgF1, positive_micro_F1 and IL_MCC at each threshold of the curve."""
        found = []
        for threshold in self.curve:
            rows = self._rows(int(np.searchsorted(self.thresholds, threshold)))
            figures = figures_of(rows.sum(0), self.definition)
            names = ("cgF1", "positive_micro_F1", "IL_MCC")
            found.append({"threshold": threshold} | {name: float(figures[name]) for name in names})
        return found

    def answers(self) -> np.ndarray:
        """(num_answers, 2): score and IoU with the match (0: none) of all answers above the lowest threshold."""
        return np.concatenate(self._answers) if self._answers else np.zeros((0, 2))

    def num_objects(self) -> int:
        """Objects of the annotators who were chosen, over all pairs."""
        return int(self.rows()[:, 1].sum())

    def _rows(self, at: int) -> np.ndarray:
        counts = np.stack([one[at] for one in self._counts])
        return rows_of(counts[:, 0], counts[:, 1], counts[:, 2:], self.definition)


def _matched(ious: np.ndarray) -> np.ndarray:
    """For each answer the IoU of its match in the one-to-one matching of all answers; 0 where it has none."""
    found = np.zeros(len(ious))
    rows, columns = linear_sum_assignment(-ious)
    found[rows] = ious[rows, columns]
    return found
