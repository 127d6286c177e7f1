"""A mask as its smallest window of pixels: what training crops, flips and shrinks without touching the rest.

A picture with 100 objects of 50x50 pixels holds 0.25 million mask pixels this way, 26 million as full masks at 512 px.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..ops.masks import checked_runs, counts_to_string

__all__ = ["Region", "mask_runs", "runs_to_box", "runs_to_rle"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Region:
    """The pixels of one object.

    Attributes:
        x0, y0: left and top of the window in its picture.
        bits: (height, width) bool, touching all four sides of the window; (0, 0) for an object without pixels.
    """

    x0: int
    y0: int
    bits: np.ndarray

    @classmethod
    def from_mask(cls, mask: np.ndarray | Mapping[str, Any], size: Size) -> "Region":
        """The region of a bool mask (height, width) or a COCO run-length code; ValueError where `size` differs."""
        if isinstance(mask, Mapping):
            return cls._from_runs(mask_runs(mask, size), size)
        bits = np.asarray(mask)
        if bits.shape != tuple(size):
            raise ValueError(f"the mask is {bits.shape}, its picture {tuple(size)} (height, width); they must agree.")
        return cls(0, 0, bits.astype(bool, copy=False)).tight()

    @classmethod
    def _from_runs(cls, runs: np.ndarray, size: Size) -> "Region":
        height, _ = size
        starts, ends = _ones(runs)
        if len(starts) == 0:
            return cls(0, 0, np.zeros((0, 0), dtype=bool))
        # Only the columns that the object reaches are unrolled.
        first, last = int(starts[0] // height), int((ends[-1] - 1) // height)
        offset = first * height
        lengths = np.empty(2 * len(starts) + 1, dtype=np.int64)
        lengths[0] = starts[0] - offset
        lengths[1::2] = ends - starts
        lengths[2:-1:2] = starts[1:] - ends[:-1]
        lengths[-1] = (last + 1) * height - ends[-1]
        columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(last + 1 - first, height)
        x0, y0, _, y1 = _box(starts, ends, height)
        return cls(x0, y0, np.ascontiguousarray(columns[:, y0:y1].T))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """xyxy in pixels, with an exclusive end."""
        return self.x0, self.y0, self.x0 + self.bits.shape[1], self.y0 + self.bits.shape[0]

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.bits))

    def tight(self) -> "Region":
        """The same pixels in the smallest window."""
        rows, columns = np.flatnonzero(self.bits.any(axis=1)), np.flatnonzero(self.bits.any(axis=0))
        if len(rows) == 0:
            return Region(0, 0, np.zeros((0, 0), dtype=bool))
        top, left = int(rows[0]), int(columns[0])
        return Region(self.x0 + left, self.y0 + top, self.bits[top : rows[-1] + 1, left : columns[-1] + 1])

    def flipped(self, width: int) -> "Region":
        """Mirrored left to right in a picture of this width."""
        return Region(width - self.box[2], self.y0, self.bits[:, ::-1])

    def cropped(self, window: tuple[int, int, int, int]) -> "Region":
        """What is seen of it through `window` (xyxy in pixels, perhaps larger than the picture), in its coordinates."""
        left, top, right, bottom = window
        x0, y0 = self.x0, self.y0
        seen = Region(
            max(x0, left) - left,
            max(y0, top) - top,
            self.bits[max(top - y0, 0) : max(bottom - y0, 0), max(left - x0, 0) : max(right - x0, 0)],
        )
        return seen if seen.bits.shape == self.bits.shape else seen.tight()

    def scaled(self, source: Size, target: Size) -> "Region":
        """The region in a picture resized from `source` to `target` (height, width).

        A pixel belongs to it when more than half of its area does; an object that fills no pixel by half keeps the one
        that it fills most, so that no target is ever lost.
        """
        if source == target or self.bits.size == 0:
            return self
        x0, y0, x1, y1 = self.box
        top, bottom = _touched(y0, y1, source[0], target[0])
        left, right = _touched(x0, x1, source[1], target[1])
        rows = _coverage(source[0], target[0])[top:bottom, y0:y1]
        columns = _coverage(source[1], target[1])[left:right, x0:x1]
        covered = rows @ self.bits.astype(np.float32) @ columns.T
        bits = covered > 0.5
        if not bits.any():
            bits.flat[covered.argmax()] = True
        return Region(left, top, bits)

    def paint(self, canvas: np.ndarray) -> None:
        """Sets its pixels in a bool array (height, width) of the whole picture."""
        x0, y0, x1, y1 = self.box
        canvas[y0:y1, x0:x1] |= self.bits


def mask_runs(rle: Mapping[str, Any], size: Size) -> np.ndarray:
    """Run lengths (int64) of a COCO code, zeros first; ValueError where they do not fill a picture of `size`."""
    height, width = size
    stated = tuple(int(side) for side in rle.get("size", size))
    if stated != (height, width):
        raise ValueError(f"the run-length code is for {stated}, its picture is {(height, width)} (height, width).")
    return checked_runs(rle["counts"], (height, width))


def runs_to_rle(runs: np.ndarray, size: Size) -> dict[str, Any]:
    """The compressed COCO code `{"size", "counts"}` of run lengths."""
    return {"size": [int(size[0]), int(size[1])], "counts": counts_to_string(runs)}


def runs_to_box(runs: np.ndarray, size: Size) -> tuple[int, int, int, int] | None:
    """The smallest box around run lengths, xyxy in pixels with an exclusive end; None where there is no pixel."""
    starts, ends = _ones(runs)
    return _box(starts, ends, size[0]) if len(starts) else None


def _ones(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends of the runs of ones, along the columns."""
    edges = np.cumsum(runs)
    starts, ends = edges[0:-1:2], edges[1::2]
    real = ends > starts
    return starts[real], ends[real]


def _box(starts: np.ndarray, ends: np.ndarray, height: int) -> tuple[int, int, int, int]:
    first, last = starts // height, (ends - 1) // height
    x0, x1 = int(first[0]), int(last[-1]) + 1
    if (first != last).any():  # a run that goes on in the next column touches bottom and top
        return x0, 0, x1, height
    return x0, int((starts % height).min()), x1, int(((ends - 1) % height).max()) + 1


def _touched(start: int, end: int, source: int, target: int) -> tuple[int, int]:
    """First and one past the last of `target` cells that pixels start..end of `source` reach into."""
    return start * target // source, -(-end * target // source)


@lru_cache(maxsize=32)
def _coverage(source: int, target: int) -> np.ndarray:
    """(target, source) float32: the share of each target cell that each source pixel covers, along one axis."""
    edges = np.arange(target + 1) * (source / target)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(min=0) * (target / source)).astype(np.float32)
