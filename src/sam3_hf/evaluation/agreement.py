"""How well do people agree?  Concept F1 of annotators against one another (arXiv 2511.16719, section E.4).

One annotator's objects are taken for answers (score 1), another's for the truth:

- "oracle": of each picture-phrase pair the two annotators that agree best; the most that people reach;
- "random pair": of each the same number drawn at random, many times; the median of each figure.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from .annotations import AnnotatedPair
from .concept_f1 import PairScore, score_pairs
from .predictions import ConceptPrediction, ConceptTarget
from .tally import figures_of, floats, rows_of

__all__ = ["human_agreement"]

_PAIRS_AT_ONCE = 256


def human_agreement(
    pairs: Sequence[AnnotatedPair],
    iou_type: str = "segm",
    definition: str = "released",
    num_draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Figures by protocol, "oracle" and "random_pair", over the exhaustive pairs; {} where there is one annotator.

    Raises ValueError where no pair is exhaustive.
    """
    pairs = [pair for pair in pairs if pair.is_exhaustive]
    if not pairs:
        raise ValueError("no pair is exhaustively annotated by all annotators; human agreement needs at least one.")
    orders = list(permutations(range(len(pairs[0].targets)), 2))  # (who is taken for the truth, who answers)
    if not orders:
        return {}
    scores: list[list[PairScore]] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = pairs[start : start + _PAIRS_AT_ONCE]
        asked = [(_answers(pair.targets[who]), pair.targets[truth]) for pair in part for truth, who in orders]
        judged = iter(score_pairs(asked, 0.5, iou_type))
        scores += [[next(judged) for _ in orders] for _ in part]
    best = [_best(some, definition) for some in scores]
    found, there, true = _columns([score for some in scores for score in some])
    rows = rows_of(found, there, true, definition).reshape(len(pairs), len(orders), -1)
    rng = np.random.default_rng(seed)
    every = np.arange(len(pairs))
    sums = np.stack([rows[every, rng.integers(0, len(orders), len(pairs))].sum(0) for _ in range(num_draws)])
    drawn = figures_of(sums, definition)
    return {
        "oracle": floats(figures_of(rows_of(*_columns(best), definition).sum(0), definition)),
        "random_pair": {name: float(np.median(values)) for name, values in drawn.items()},
    }


def _answers(target: ConceptTarget) -> ConceptPrediction:
    """An annotator's objects, crowd regions left out, as answers."""
    real = np.flatnonzero(~target.is_crowd)
    masks = None if target.masks is None else [target.masks[index] for index in real]
    boxes = target.boxes[real]
    return ConceptPrediction(target.image_id, target.phrase, target.size, np.ones(len(real)), boxes, masks)


def _best(scores: Sequence[PairScore], definition: str) -> PairScore:
    """The two who agree best: by local F1, then by the fewest errors, then the first."""

    def merit(score: PairScore) -> tuple[float, float]:
        if score.is_empty:
            return 2.0, 0.0
        errors = score.num_predictions + score.num_targets - 2 * score.true_positives.mean()
        return float(score.local_f1(definition).mean()), -float(errors)

    return max(scores, key=merit)


def _columns(scores: Sequence[PairScore]) -> tuple[list[int], list[int], list[np.ndarray]]:
    return (
        [score.num_predictions for score in scores],
        [score.num_targets for score in scores],
        [score.true_positives for score in scores],
    )
