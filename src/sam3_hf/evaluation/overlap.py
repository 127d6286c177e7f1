"""Exact overlaps of masks and boxes as float64, for judging: a float32 quotient would fall off a threshold it meets.

Masks come as COCO run-length codes.  Their intersections are counted on the runs, many rows at once, without unpacking:
let F(x) be the number of a mask's pixels before position x (column by column); a run [s, e) of another mask then shares
F(e) - F(s) pixels with it.  F is linear between the ends of runs, so `numpy.interp` gives it exactly, and one table
holds the F of all masks, laid end to end.  Masks of noise have so many runs that a matrix product of unpacked masks is
cheaper; the answer is the same.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .runs import MaskRuns, Rle

__all__ = ["MaskRuns", "box_ious", "mask_intersections", "mask_ious", "mask_ious_of_rows"]

_QUERIES_AT_ONCE = 2**21
_PIXELS_AT_ONCE = 2**24  # of unpacked masks
# Seconds for one look-up of F, for unpacking one pixel and for one multiplication; only their ratios matter.
_QUERY_COST, _UNPACK_COST, _PRODUCT_COST = 2e-8, 4e-9, 5e-11

Row = tuple[Sequence[Rle], Sequence[Rle]]


def box_ious(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union (N, M) float64 of boxes (N, 4) and (M, 4); 0 where they do not meet."""
    a, b = np.asarray(a_xyxy, dtype=np.float64)[:, None], np.asarray(b_xyxy, dtype=np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.where((sides > 0).all(-1), sides.prod(-1), 0.0)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def mask_ious(a_rles: Sequence[Rle], b_rles: Sequence[Rle]) -> np.ndarray:
    """Intersection over union (N, M) float64 of masks given as COCO codes; 0 where they do not meet."""
    return mask_ious_of_rows([(a_rles, b_rles)])[0]


def mask_ious_of_rows(rows: Sequence[Row]) -> list[np.ndarray]:
    """For each row, masks (N) against masks (M), their intersection over union (N, M) float64.

    Rows are independent of one another and may be of different sizes; giving many at once is faster.
    """
    a = MaskRuns.from_rles([rle for left, _ in rows for rle in left])
    b = MaskRuns.from_rles([rle for _, right in rows for rle in right])
    shapes = [(len(left), len(right)) for left, right in rows]
    common, pair_a, pair_b = _common(a, b, shapes)
    union = a.areas()[pair_a] + b.areas()[pair_b] - common
    return _by_row(common / np.maximum(union, 1), shapes)


def mask_intersections(a: MaskRuns, b: MaskRuns, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For each row of `shapes` (N, M), the common pixels (N, M) int64 of its N masks of `a` and M of `b`."""
    return _by_row(_common(a, b, shapes)[0], shapes)


def _by_row(values: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """The values of all pairs as one matrix for each row."""
    found, begin = [], 0
    for n, m in shapes:
        found.append(values[begin : begin + n * m].reshape(n, m))
        begin += n * m
    return found


def _common(a: MaskRuns, b: MaskRuns, shapes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Common pixels (num_pairs,) int64 of all pairs, row by row, and which masks of `a` and `b` they are of."""
    sides = np.array(shapes, dtype=np.int64).reshape(-1, 2)
    starts = np.concatenate([[(0, 0)], np.cumsum(sides, axis=0)])
    first_pair = np.concatenate([[0], np.cumsum(sides.prod(axis=1))])
    pair_a, pair_b = _all_pairs(starts, sides, first_pair)
    found = np.zeros(first_pair[-1], dtype=np.int64)
    (low_a, high_a), (low_b, high_b) = a.spans(), b.spans()
    meet = (low_a[pair_a] < high_b[pair_b]) & (low_b[pair_b] < high_a[pair_a])
    for row in _dense_rows(a, starts, sides, first_pair, np.where(meet, b.num_ends[pair_b], 0)):
        pairs = slice(first_pair[row], first_pair[row + 1])
        found[pairs] = _dense(a, b, starts[row], shapes[row]).ravel()
        meet[pairs] = False
    found[meet] = _on_runs(a, b, pair_a[meet], pair_b[meet])
    return found, pair_a, pair_b


def _all_pairs(starts: np.ndarray, shapes: np.ndarray, first_pair: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into all masks, for every pair of every row, row by row."""
    sizes = np.diff(first_pair)
    place = np.arange(first_pair[-1]) - np.repeat(first_pair[:-1], sizes)
    left, right = np.divmod(place, np.repeat(np.maximum(shapes[:, 1], 1), sizes))
    return left + np.repeat(starts[:-1, 0], sizes), right + np.repeat(starts[:-1, 1], sizes)


def _dense_rows(
    a: MaskRuns, starts: np.ndarray, shapes: np.ndarray, first_pair: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    """Rows for which unpacking all masks costs less than looking up all runs, `queries` (num_pairs,) of each pair."""
    rows = np.flatnonzero(shapes.min(axis=1, initial=1))
    n, m = shapes[rows].T
    pixels = a.num_pixels[starts[rows, 0]]
    unpacking = pixels * ((n + m) * _UNPACK_COST + n * m * _PRODUCT_COST)
    before = np.concatenate([[0], np.cumsum(queries)])
    looking = (before[first_pair[rows + 1]] - before[first_pair[rows]]) * _QUERY_COST
    return rows[looking > unpacking]


def _dense(a: MaskRuns, b: MaskRuns, start: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Common pixels (N, M) of one row's masks by products of unpacked masks, some of them at a time."""
    n, m = shape
    pixels = int(max(a.num_pixels[start[0]], b.num_pixels[start[1]]))
    step = max(1, _PIXELS_AT_ONCE // pixels)
    found = np.zeros(shape, dtype=np.int64)
    for i in range(0, n, step):
        left = a.unpacked(np.arange(start[0] + i, start[0] + min(i + step, n)), pixels)
        for j in range(0, m, step):
            right = b.unpacked(np.arange(start[1] + j, start[1] + min(j + step, m)), pixels)
            # A float32 sum of ones is exact up to 2**24.
            for p in range(0, pixels, 2**22):
                product = left[:, p : p + 2**22] @ right[:, p : p + 2**22].T
                found[i : i + step, j : j + step] += product.astype(np.int64)
    return found


def _on_runs(a: MaskRuns, b: MaskRuns, pair_a: np.ndarray, pair_b: np.ndarray) -> np.ndarray:
    """Common pixels (num_pairs,) int64 of pairs of masks, looked up in the runs."""
    if len(pair_a) == 0:
        return np.zeros(0, dtype=np.int64)
    stride = max(a.num_pixels.max(), b.num_pixels.max()) + 1  # keeps the masks' positions apart in one table
    table_x = (a.ends + np.repeat(np.arange(len(a)) * stride, a.num_ends)).astype(np.float64)
    lengths = a.ends[1::2] - a.ends[0::2]
    table_f = np.repeat(np.cumsum(lengths), 2).astype(np.float64)
    table_f[0::2] -= lengths
    counts = b.num_ends[pair_b]
    parts = np.searchsorted(np.cumsum(counts), np.arange(0, counts.sum(), _QUERIES_AT_ONCE), side="right")
    bounds = np.unique(np.concatenate([[0], parts, [len(pair_a)]]))
    found = np.empty(len(pair_a), dtype=np.int64)
    for begin, end in pairwise(bounds.tolist()):
        number = counts[begin:end]
        at = np.concatenate([[0], np.cumsum(number)])
        index = np.arange(at[-1]) + np.repeat(b.first[pair_b[begin:end]] - at[:-1], number)
        x = b.ends[index] + np.repeat(pair_a[begin:end] * stride, number)
        before = np.interp(x, table_x, table_f).reshape(-1, 2)
        shared = np.concatenate([[0.0], np.cumsum(before[:, 1] - before[:, 0])])
        found[begin:end] = np.rint(shared[at[1:] // 2] - shared[at[:-1] // 2])
    return found
