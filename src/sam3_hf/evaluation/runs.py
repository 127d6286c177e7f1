"""`MaskRuns`: the runs of ones of many COCO run-length codes at once, decoded without a loop over masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ops.masks import rle_decode

__all__ = ["MaskRuns", "Rle"]

Rle = Mapping[str, Any]


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
        if not rles:
            return cls(np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int64))
        num_pixels = np.array([rle["size"][0] * rle["size"][1] for rle in rles], dtype=np.int64)
        zeros, ones, num_pairs = _decoded([rle["counts"] for rle in rles])
        begin = np.concatenate([[0], np.cumsum(num_pairs)])
        end = _sums_within(zeros + ones, begin)  # where each run of ones ends
        if (zeros < 0).any() or (ones < 0).any() or (end[begin[1:] - 1] != num_pixels).any():
            for rle in rles:
                rle_decode(dict(rle))  # says which one is broken, and how
        real = ones > 0
        ends = np.empty(2 * int(real.sum()), dtype=np.int64)
        ends[1::2] = end[real]
        ends[0::2] = ends[1::2] - ones[real]
        first = np.concatenate([[0], 2 * np.cumsum(np.add.reduceat(real, begin[:-1], dtype=np.int64))])
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


def _decoded(counts: Sequence[str | bytes | Sequence[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths (int64) of runs of zeros and of the runs of ones after them, of all codes, and how many each code has."""
    if any(not isinstance(code, str | bytes) for code in counts):
        parts = [_decoded([code]) if isinstance(code, str | bytes) else _listed(code) for code in counts]
        zeros, ones, numbers = (np.concatenate(some) for some in zip(*parts, strict=True))
        return zeros, ones, numbers
    numbers, num_runs = _numbers([code.encode("ascii") if isinstance(code, str) else bytes(code) for code in counts])
    odd = num_runs % 2 == 1
    if odd.any():  # a code that ends with zeros gets a run of no ones
        numbers = np.insert(numbers, np.cumsum(num_runs)[odd], 0)
    num_pairs = (num_runs + 1) // 2
    begin = np.concatenate([[0], np.cumsum(num_pairs)])
    zeros, ones = numbers[0::2].copy(), numbers[1::2].copy()
    # From the fourth run on, the difference to the run two before is stored.
    first = zeros[begin[:-1]]
    zeros[begin[:-1]] = 0
    zeros, ones = _sums_within(zeros, begin), _sums_within(ones, begin)
    zeros[begin[:-1]] = first
    ones[begin[1:][odd] - 1] = 0
    return zeros, ones, num_pairs


def _listed(code: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `_decoded` gives, of one list of run lengths."""
    runs = np.zeros(max(len(code) + len(code) % 2, 2), dtype=np.int64)
    runs[: len(code)] = code
    return runs[0::2], runs[1::2], np.array([len(runs) // 2])


def _numbers(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The stored numbers (int64) of all codes, one after the other, and how many each code has."""
    chars = np.frombuffer(b"".join(texts), dtype=np.uint8) - np.uint8(48)
    length = np.array([len(text) for text in texts], dtype=np.int64)
    char_ends = np.cumsum(length)
    last = (chars & 32) == 0
    if (length == 0).any() or not last[char_ends - 1].all():
        raise ValueError("a run-length string is cut off: its last number is incomplete.")
    ends = np.flatnonzero(last)
    begins = np.concatenate([[0], ends[:-1] + 1])
    groups = ends - begins + 1
    numbers = (chars[begins] & 31).astype(np.int64)
    longer, group = np.flatnonzero(groups > 1), 1
    while len(longer):  # most numbers are of one group
        numbers[longer] |= (chars[begins[longer] + group] & 31).astype(np.int64) << (5 * group)
        group += 1
        longer = longer[groups[longer] > group]
    negative = np.flatnonzero(chars[ends] & 16)  # the last group's high bit is the sign
    numbers[negative] -= 1 << (5 * groups[negative])
    return numbers, np.diff(np.searchsorted(ends, np.concatenate([[0], char_ends])))


def _sums_within(values: np.ndarray, begin: np.ndarray) -> np.ndarray:
    """Running sums of `values` that start anew at each of `begin` (num_parts + 1)."""
    total = np.cumsum(values)
    before = np.concatenate([[0], total])[begin[:-1]]
    return total - np.repeat(before, np.diff(begin))
