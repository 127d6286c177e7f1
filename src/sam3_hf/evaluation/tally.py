"""Concept F1 as sums over pairs: any subset of pairs, weighted in any way, is one addition away from its figures.

A pair becomes a row of numbers (`rows_of`); rows of a domain, a phrase or a bootstrap sample are added; `figures_of`
turns sums into figures. Two definitions are known:

- "released": what the reference's evaluator computes, with its small constants.  Its `positive_macro_F1` divides by the
  positive pairs *with answers*, its answers score at least the threshold.
- "paper": arXiv 2511.16719, section E.3: no constants, F1 = 2 TP / (2 TP + FP + FN), `positive_macro_F1` over all
  positive pairs; answers score more than the threshold.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["DEFINITIONS", "IOU_THRESHOLDS", "figures_of", "floats", "local_f1", "rows_of"]

DEFINITIONS = ("released", "paper")

# The reference's very numbers, so that an IoU that meets a threshold is judged alike: 0.05 steps would miss by a bit.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_SHOWN = (None, 0.5, 0.75)
_EPS, _IMAGE_EPS = 1e-4, 1e-6  # the reference's guards against division by zero; part of its numbers

# Columns of a row: counts, then true positives and local F1s at each IoU threshold.
_FOUND, _THERE, _FOUND_POSITIVE, _BOTH, _IL_TP, _IL_FP, _IL_FN, _IL_TN = range(8)
_TRUE, _LOCAL = slice(8, 18), slice(18, 28)
_NUM_COLUMNS = 28


def rows_of(
    num_found: Sequence[int] | np.ndarray,
    num_there: Sequence[int] | np.ndarray,
    true_positives: Sequence[Any] | np.ndarray,
    definition: str = "released",
) -> np.ndarray:
    """Rows (num_pairs, 28) float64 of pairs with so many answers, objects, and true positives (num_pairs, 10)."""
    found, there = np.asarray(num_found, dtype=np.float64), np.asarray(num_there, dtype=np.float64)
    true = np.asarray(true_positives, dtype=np.float64).reshape(-1, len(IOU_THRESHOLDS))
    rows = np.zeros((len(found), _NUM_COLUMNS))
    is_found, positive = found > 0, there > 0
    rows[:, _FOUND], rows[:, _THERE], rows[:, _FOUND_POSITIVE] = found, there, found * positive
    rows[:, _IL_TP], rows[:, _IL_FP] = is_found & positive, is_found & ~positive
    rows[:, _IL_FN], rows[:, _IL_TN] = ~is_found & positive, ~is_found & ~positive
    rows[:, _BOTH] = rows[:, _IL_TP]
    rows[:, _TRUE] = true
    rows[:, _LOCAL] = local_f1(found[:, None], there[:, None], true, definition) * positive[:, None]
    return rows


def local_f1(num_found: Any, num_there: Any, true_positives: Any, definition: str = "released") -> np.ndarray:
    """F1 of each pair alone, at each IoU threshold; arguments broadcast. 0 where nothing is there and nothing found."""
    true = np.asarray(true_positives, dtype=np.float64)
    if definition == "paper":
        return _ratio(2 * true, np.asarray(num_found + num_there, dtype=np.float64))
    return _harmonic(true / (num_found + _EPS), true / (num_there + _EPS), _EPS)


def figures_of(sums: np.ndarray, definition: str = "released") -> dict[str, np.ndarray]:
    """Figures by name, each (...), of sums of rows (..., 28): means over IoU thresholds, "name@0.5", and `IL_...`.

    `positive_macro_F1` is -1 where no pair could enter it.
    """
    if definition not in DEFINITIONS:
        raise ValueError(f"definition is {definition!r}; expected one of {', '.join(DEFINITIONS)}.")
    image = _image_level(sums, definition)
    true = sums[..., _TRUE]
    found, there, found_positive = (sums[..., at, None] for at in (_FOUND, _THERE, _FOUND_POSITIVE))
    counted = sums[..., _BOTH] if definition == "released" else sums[..., _IL_TP] + sums[..., _IL_FN]
    local = np.where(counted[..., None] > 0, sums[..., _LOCAL] / np.maximum(counted, 1)[..., None], -1.0)
    if definition == "released":
        precision, recall, positive_precision = (true / (n + _EPS) for n in (found, there, found_positive))
        f1, micro = _harmonic(precision, recall, _EPS), _harmonic(positive_precision, recall, _EPS)
    else:
        precision, recall, positive_precision = (_ratio(true, n) for n in (found, there, found_positive))
        f1, micro = _ratio(2 * true, found + there), _ratio(2 * true, found_positive + there)
    at_thresholds = {
        "cgF1": micro * image["IL_MCC"][..., None],
        "precision": precision,
        "recall": recall,
        "F1": f1,
        "positive_macro_F1": local,
        "positive_micro_F1": micro,
        "positive_micro_precision": positive_precision,
    }
    flat = {}
    for threshold in _SHOWN:
        which = slice(None) if threshold is None else np.isclose(IOU_THRESHOLDS, threshold)
        for name, values in at_thresholds.items():
            flat[name if threshold is None else f"{name}@{threshold}"] = values[..., which].mean(-1)
    return flat | image


def floats(figures: dict[str, np.ndarray]) -> dict[str, float]:
    """Figures of one sum as plain numbers."""
    return {name: float(value) for name, value in figures.items()}


def _image_level(sums: np.ndarray, definition: str) -> dict[str, np.ndarray]:
    tp, fp, fn, tn = (sums[..., at] for at in (_IL_TP, _IL_FP, _IL_FN, _IL_TN))
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    if definition == "paper":
        precision, recall, rate = _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(fp, fp + tn)
        f1, mcc = _ratio(2 * tp, 2 * tp + fp + fn), _ratio(tp * tn - fp * fn, root)
    else:
        precision, recall, rate = (a / (b + _IMAGE_EPS) for a, b in ((tp, tp + fp), (tp, tp + fn), (fp, fp + tn)))
        f1, mcc = _harmonic(precision, recall, _IMAGE_EPS), (tp * tn - fp * fn) / (root + _IMAGE_EPS)
    return {"IL_precision": precision, "IL_recall": recall, "IL_F1": f1, "IL_FPR": rate, "IL_MCC": mcc}


def _harmonic(precision: np.ndarray, recall: np.ndarray, eps: float) -> np.ndarray:
    return np.asarray(2 * precision * recall / (precision + recall + eps))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where there is no whole."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
