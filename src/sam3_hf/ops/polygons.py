"""COCO's polygons to run lengths, pixel for pixel as `pycocotools` fills them.

COCO draws the outline at five times the picture's size, and a column's run begins or ends where the outline crosses the
middle of that column.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["polygons_to_runs"]

_SCALE = 5


def polygons_to_runs(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Run lengths (int64, zeros first) of the union of polygons [[x0, y0, x1, y1, ...], ...] in a picture of `size`.

    Raises ValueError for a polygon that is not at least three pairs of finite numbers.
    """
    height, width = size
    begins, ends = [], []
    for polygon in polygons:
        crossings = _crossings(_corners(polygon), height, width)
        begins.append(crossings[0::2])
        ends.append(crossings[1::2])
    return _union(np.concatenate(begins), np.concatenate(ends), height * width)


def _corners(polygon: Sequence[float]) -> np.ndarray:
    flat = np.asarray(polygon, dtype=np.float64)
    if flat.ndim != 1 or len(flat) < 6 or len(flat) % 2 or not np.isfinite(flat).all():
        raise ValueError(f"a polygon has {np.size(flat)} numbers; expected x, y of at least three corners, all finite.")
    return flat.reshape(-1, 2)


def _crossings(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sorted places (column * height + row) where the inside of one polygon begins or ends, an even number of them."""
    x, y = _outline((_SCALE * corners + 0.5).astype(np.int64))
    step = np.flatnonzero(x[1:] != x[:-1]) + 1
    # The crossed column, in pixels of the picture; only the one of five that lies in a pixel's middle counts.
    column = (np.where(x[step] < x[step - 1], x[step], x[step] - 1) + 0.5) / _SCALE - 0.5
    counts = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    row = np.ceil(((np.minimum(y[step], y[step - 1]) + 0.5) / _SCALE - 0.5).clip(0, height))
    places = (column * height + row)[counts].astype(np.int64)
    # Two crossings in one place undo each other.
    unique, count = np.unique(places, return_counts=True)
    places = unique[count % 2 == 1]
    return places if len(places) % 2 == 0 else np.append(places, height * width)


def _outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole-numbered points along all edges of the closed polygon, in order."""
    xs, ys = [], []
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        dx, dy = abs(x1 - x0), abs(y1 - y0)
        wide = dx >= dy
        # Each edge is drawn in rising direction of its longer axis, whichever way the polygon runs.
        backwards = x0 > x1 if wide else y0 > y1
        if backwards:
            x0, y0, x1, y1 = x1, y1, x0, y0
        along = np.arange(max(dx, dy) + 1)
        if wide:
            slope = (y1 - y0) / dx if dx else 0.0
            x, y = along + x0, (y0 + slope * along + 0.5).astype(np.int64)
        else:
            x, y = (x0 + (x1 - x0) / dy * along + 0.5).astype(np.int64), along + y0
        xs.append(x[::-1] if backwards else x)
        ys.append(y[::-1] if backwards else y)
    return np.concatenate(xs), np.concatenate(ys)


def _union(begins: np.ndarray, ends: np.ndarray, pixels: int) -> np.ndarray:
    """Run lengths of the union of intervals begins..ends of a row of `pixels`."""
    places, index = np.unique(np.concatenate([begins, ends]), return_inverse=True)
    change = np.zeros(len(places), dtype=np.int64)
    np.add.at(change, index[: len(begins)], 1)
    np.add.at(change, index[len(begins) :], -1)
    inside = np.cumsum(change) > 0
    edges = places[inside != np.concatenate([[False], inside[:-1]])]
    runs = np.diff(np.concatenate([[0], edges, [pixels]]))
    return runs[:-1] if len(runs) % 2 == 1 and runs[-1] == 0 and len(runs) > 1 else runs
