"""Confidence intervals of concept F1 by the bootstrap: the pairs are drawn again, with replacement, many times.

A figure of a sample needs only sums of rows (`tally`), so a thousand samples of 100,000 pairs take seconds.
"""

import numpy as np

from .tally import figures_of

__all__ = ["confidence_intervals"]


def confidence_intervals(
    rows: np.ndarray,
    definition: str = "released",
    num_samples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Low and high end of each figure of `rows` (num_pairs, 28): percentiles over samples of the pairs.

    The same rows and seed give the same ends. Pairs are drawn independently of one another; pairs of one picture are
    not, so intervals are a little narrow where pictures have many phrases.
    """
    if not 0 < level < 1 or num_samples < 2:
        raise ValueError(f"level is {level}, num_samples {num_samples}; expected 0 < level < 1 and at least 2 samples.")
    rng = np.random.default_rng(seed)
    number = len(rows)
    sums = np.stack([np.bincount(rng.integers(0, number, number), minlength=number) @ rows for _ in range(num_samples)])
    ends = [(1 - level) / 2, (1 + level) / 2]
    figures = figures_of(sums, definition)
    return {name: tuple(map(float, np.quantile(values, ends))) for name, values in figures.items()}  # type: ignore[misc]
