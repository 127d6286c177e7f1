"""Curves over all answers, from their scores and the IoUs with what they matched: precision-recall and calibration."""

from typing import Any

import numpy as np

__all__ = ["calibration", "precision_recall"]


def precision_recall(answers: np.ndarray, num_objects: int, iou: float = 0.5) -> list[dict[str, float]]:
    """Precision, recall and score threshold at up to 101 levels of recall, in rising order of recall.

    `answers` (n, 2) are scores and IoUs of one-to-one matches (0: none), pooled over all pairs, absent phrases among
    them; an answer is right where its IoU is at least `iou`. Recall stays below 1 where objects were missed at any
    threshold.
    """
    if len(answers) == 0 or num_objects == 0:
        return []
    order = np.argsort(-answers[:, 0], kind="stable")
    scores, right = answers[order, 0], answers[order, 1] >= iou
    last = np.append(scores[1:] != scores[:-1], True)  # answers of equal score come in together
    true, number = np.cumsum(right)[last], np.flatnonzero(last) + 1
    recall, precision = true / num_objects, true / number
    levels = np.linspace(0, recall[-1], 101)
    at = np.unique(np.searchsorted(recall, levels))
    return [{"recall": float(recall[i]), "precision": float(precision[i]), "score": float(scores[last][i])} for i in at]


def calibration(answers: np.ndarray, num_bins: int = 10) -> list[dict[str, Any]]:
    """For each bin of scores that has answers: its ends, how many there are, their mean score and mean IoU.

    A score that says how good an answer is has a mean IoU near its mean score.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.clip(np.searchsorted(edges, answers[:, 0], side="right") - 1, 0, num_bins - 1)
    bins = []
    for index in np.unique(place):
        mine = answers[place == index]
        bins.append(
            {
                "from": float(edges[index]),
                "to": float(edges[index + 1]),
                "answers": len(mine),
                "mean_score": float(mine[:, 0].mean()),
                "mean_iou": float(mine[:, 1].mean()),
            }
        )
    return bins
