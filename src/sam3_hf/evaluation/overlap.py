"""Exact overlaps of masks and boxes as float64, for judging: a float32 quotient would fall off a threshold it meets.

Masks come as COCO run-length codes.  Their intersections are counted on the runs, many rows at once, without unpacking:
let F(x) be the number of a mask's pixels before position x (column by column); a run [s, e) of another mask then shares
F(e) - F(s) pixels with it.  F is linear between the ends of runs, so `numpy.interp` gives it exactly, and one table
holds the F of all masks, laid end to end.  Masks of noise have so many runs that a matrix product of unpacked masks is
cheaper; the answer is the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..ops.masks import rle_decode

__all__ = ["MaskRuns", "box_ious", "mask_intersections", "mask_ious", "mask_ious_of_rows"]

_QUERIES_AT_ONCE = 2**21
_PIXELS_AT_ONCE = 2**24  # of unpacked masks
# Seconds for one look-up of F, for unpacking one pixel and for one multiplication; only their ratios matter.
_QUERY_COST, _UNPACK_COST, _PRODUCT_COST = 2e-8, 4e-9, 5e-11

Rle = Mapping[str, Any]
Row = tuple[Sequence[Rle], Sequence[Rle]]


@dataclass(frozen=True)
class MaskRuns:
    """The runs of ones of many masks, one mask after the other.

    Attributes:
        ends: (num_ends,) int64: start, end, start, end, ... of the runs of ones, in pixels counted column by column.
        first: (num_masks + 1,) int64: mask i has `ends[first[i]:first[i + 1]]`.
        num_pixels: (num_masks,) int64 height x width.
    """

    ends: np.ndarray
    first: np.ndarray
    num_pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.num_pixels)

    @classmethod
    def from_rles(cls, rles: Sequence[Rle]) -> "MaskRuns":
        """The runs of COCO codes with compressed `counts` (str or bytes), or lists of run lengths."""
        num_pixels = np.array([rle["size"][0] * rle["size"][1] for rle in rles], dtype=np.int64)
        runs, num_runs = _run_lengths([rle["counts"] for rle in rles])
        begin = np.concatenate([[0], np.cumsum(num_runs)])
        place = _sums_within(runs, begin)  # where each run ends
        filled = np.zeros(len(rles), dtype=np.int64)
        filled[num_runs > 0] = place[begin[1:][num_runs > 0] - 1]
        if (runs < 0).any() or (filled != num_pixels).any():
            for rle in rles:
                rle_decode(dict(rle))  # says which one is broken, and how
        is_ones = (np.arange(len(runs)) - np.repeat(begin[:-1], num_runs)) % 2 == 1
        is_ones &= runs > 0
        end = place[is_ones]
        ends = np.stack([end - runs[is_ones], end], axis=1).ravel()
        mask_of_run = np.repeat(np.arange(len(rles)), num_runs)[is_ones]
        first = np.concatenate([[0], 2 * np.cumsum(np.bincount(mask_of_run, minlength=len(rles)))])
        return cls(ends, first, num_pixels)

    @property
    def num_ends(self) -> np.ndarray:
        """(num_masks,) int64: twice the number of runs."""
        return np.diff(self.first)

    def areas(self) -> np.ndarray:
        """(num_masks,) int64 pixels."""
        lengths = np.concatenate([[0], np.cumsum(self.ends[1::2] - self.ends[0::2])])
        return lengths[self.first[1:] // 2] - lengths[self.first[:-1] // 2]

    def spans(self) -> tuple[np.ndarray, np.ndarray]:
        """(num_masks,) first and one past the last position of ones; (0, 0) if there are none."""
        some = self.num_ends > 0
        low, high = np.zeros(len(self), dtype=np.int64), np.zeros(len(self), dtype=np.int64)
        low[some] = self.ends[self.first[:-1][some]]
        high[some] = self.ends[self.first[1:][some] - 1]
        return low, high

    def boxes(self, height: int) -> np.ndarray:
        """(num_masks, 4) float64 xyxy in pixels, exclusive ends, of masks that are all so high; zeros if empty."""
        found = np.zeros((len(self), 4))
        some = np.flatnonzero(self.num_ends)
        if len(some) == 0:
            return found
        starts, stops = self.ends[0::2], self.ends[1::2] - 1
        first, last = starts // height, stops // height
        # A run that goes on in the next column touches the bottom of one and the top of the other.
        top = np.where(first == last, starts % height, 0)
        bottom = np.where(first == last, stops % height, height - 1)
        begin = self.first[some] // 2
        found[some, 0] = first[begin]
        found[some, 1] = np.minimum.reduceat(top, begin)
        found[some, 2] = last[self.first[some + 1] // 2 - 1] + 1
        found[some, 3] = np.maximum.reduceat(bottom, begin) + 1
        return found

    def unpacked(self, masks: np.ndarray, num_pixels: int) -> np.ndarray:
        """(len(masks), num_pixels) float32 of zeros and ones, column by column."""
        steps = np.zeros((len(masks), num_pixels + 1), dtype=np.int8)
        for row, mask in enumerate(masks):
            ends = self.ends[self.first[mask] : self.first[mask + 1]]
            steps[row, ends[0::2]] += 1  # starts differ from one another, and so do ends
            steps[row, ends[1::2]] -= 1
        return np.cumsum(steps[:, :-1], axis=1, dtype=np.int8).astype(np.float32)


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
    intersections = mask_intersections(a, b, shapes)
    areas_a, areas_b = a.areas(), b.areas()
    ious, at_a, at_b = [], 0, 0
    for (n, m), intersection in zip(shapes, intersections, strict=True):
        union = areas_a[at_a : at_a + n, None] + areas_b[None, at_b : at_b + m] - intersection
        ious.append(intersection / np.maximum(union, 1))
        at_a, at_b = at_a + n, at_b + m
    return ious


def mask_intersections(a: MaskRuns, b: MaskRuns, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """For each row of `shapes` (N, M), the common pixels (N, M) int64 of its N masks of `a` and M of `b`."""
    starts = np.concatenate([[(0, 0)], np.cumsum(np.array(shapes, dtype=np.int64).reshape(-1, 2), axis=0)])
    sizes = [n * m for n, m in shapes]
    first_pair = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    pair_a, pair_b = _all_pairs(starts, shapes)
    found = np.zeros(first_pair[-1], dtype=np.int64)
    (low_a, high_a), (low_b, high_b) = a.spans(), b.spans()
    meet = (low_a[pair_a] < high_b[pair_b]) & (low_b[pair_b] < high_a[pair_a])
    for row in _dense_rows(a, b, starts, shapes, first_pair, meet, pair_b):
        pairs = slice(first_pair[row], first_pair[row + 1])
        found[pairs] = _dense(a, b, starts[row], shapes[row]).ravel()
        meet[pairs] = False
    found[meet] = _on_runs(a, b, pair_a[meet], pair_b[meet])
    return [found[first_pair[row] : first_pair[row + 1]].reshape(shape) for row, shape in enumerate(shapes)]


def _all_pairs(starts: np.ndarray, shapes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Indices into all masks, for every pair of every row, row by row."""
    if not shapes:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    left = [np.repeat(np.arange(at, at + n), m) for (at, _), (n, m) in zip(starts, shapes, strict=False)]
    right = [np.tile(np.arange(at, at + m), n) for (_, at), (n, m) in zip(starts, shapes, strict=False)]
    return np.concatenate(left), np.concatenate(right)


def _dense_rows(
    a: MaskRuns,
    b: MaskRuns,
    starts: np.ndarray,
    shapes: Sequence[tuple[int, int]],
    first_pair: np.ndarray,
    meet: np.ndarray,
    pair_b: np.ndarray,
) -> list[int]:
    """Rows for which unpacking all masks costs less than looking up all runs."""
    queries = np.concatenate([[0], np.cumsum(np.where(meet, b.num_ends[pair_b], 0))])
    dense = []
    for row, (n, m) in enumerate(shapes):
        if n == 0 or m == 0:
            continue
        pixels = a.num_pixels[starts[row][0]]
        cost = pixels * ((n + m) * _UNPACK_COST + n * m * _PRODUCT_COST)
        if (queries[first_pair[row + 1]] - queries[first_pair[row]]) * _QUERY_COST > cost:
            dense.append(row)
    return dense


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


def _run_lengths(counts: Sequence[str | bytes | Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Run lengths (int64) of all codes, one after the other, and how many each code has."""
    if any(not isinstance(code, str | bytes) for code in counts):
        lists = [_run_lengths([code])[0] if isinstance(code, str | bytes) else np.asarray(code) for code in counts]
        return np.concatenate(lists).astype(np.int64), np.array([len(one) for one in lists], dtype=np.int64)
    texts = [code.encode("ascii") if isinstance(code, str) else bytes(code) for code in counts]
    chars = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64) - 48
    length = np.array([len(text) for text in texts], dtype=np.int64)
    last = (chars & 32) == 0
    char_ends = np.cumsum(length)
    if (length == 0).any() or not last[char_ends - 1].all():
        raise ValueError("a run-length string is cut off: its last number is incomplete.")
    number_ends = np.flatnonzero(last)
    begins = np.concatenate([[0], number_ends[:-1] + 1]) if len(number_ends) else number_ends
    groups = number_ends + 1 - begins
    place = np.arange(len(chars)) - np.repeat(begins, groups)
    numbers = np.add.reduceat((chars & 31) << (5 * place), begins) if len(begins) else np.zeros(0, dtype=np.int64)
    numbers -= np.where(chars[number_ends] & 16, 1 << (5 * groups), 0)  # the last group's high bit is the sign
    done = np.concatenate([[0], np.cumsum(last)])[np.concatenate([[0], char_ends])] if len(texts) else np.zeros(1, int)
    num_runs = np.diff(done)
    order = np.arange(len(numbers)) - np.repeat(done[:-1], num_runs)
    # From the fourth run on, the difference to the run two before is stored.
    odd, even = order % 2 == 1, (order % 2 == 0) & (order > 0)
    numbers[odd] = _sums_within(numbers[odd], np.concatenate([[0], np.cumsum(num_runs // 2)]))
    numbers[even] = _sums_within(numbers[even], np.concatenate([[0], np.cumsum((num_runs - 1) // 2)]))
    return numbers, num_runs


def _sums_within(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Running sums of `values` that start anew at each of `begin` (num_parts + 1)."""
    total = np.concatenate([[0], np.cumsum(values)])
    return total[1:] - np.repeat(total[begin[:-1]], np.diff(begin))
