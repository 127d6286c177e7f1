"""Masks as SVG paths: exact outlines along the edges of pixels."""

from collections.abc import Sequence

import numpy as np

__all__ = ["mask_to_path"]


def mask_to_path(mask: np.ndarray, scale: float = 1.0, cut: float = 0.0) -> str:
    """The outline of a mask as the `d` of an SVG path, to be filled by the even-odd rule; empty for an empty mask.

    Args:
        mask: (height, width) bool.
        scale: units of the drawing for each pixel.
        cut: how many pixels are cut off either side of every corner, half an edge at most: 0 follows the edges of
            pixels exactly, 1 turns their stairs into slopes that look like the outline of a thing.
    """
    parts = []
    for outline in _outlines(mask):
        points = _blunted(outline, cut) if cut else outline
        corners = [(_short(x * scale), _short(y * scale)) for x, y in points]
        parts.append("M" + "L".join(f"{x} {y}" for x, y in corners) + "Z")
    return "".join(parts)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _blunted(corners: Sequence[tuple[float, float]], cut: float) -> list[tuple[float, float]]:
    """The closed line with two points for each corner, one on either edge."""
    points = []
    for before, (x, y), after in zip((corners[-1], *corners[:-1]), corners, (*corners[1:], corners[0]), strict=True):
        for other_x, other_y in (before, after):
            length = abs(other_x - x) + abs(other_y - y)  # edges are upright or level
            share = min(0.5, cut / length)
            points.append((x + share * (other_x - x), y + share * (other_y - y)))
    return points


def _outlines(mask: np.ndarray) -> list[list[tuple[float, float]]]:
    """Closed lines of corners (x, y), the mask on their right; holes are lines of their own."""
    follows = _edges(mask)
    outlines = []
    while follows:
        start = next(iter(follows))
        corners: list[tuple[float, float]] = []
        at, heading = start, (0, 0)
        while True:
            ends = follows[at]
            to = ends.pop()
            if not ends:
                del follows[at]
            step = (np.sign(to[0] - at[0]), np.sign(to[1] - at[1]))
            if step != heading:
                corners.append(at)
            at, heading = to, step
            if at == start:
                break
        outlines.append(corners)
    return outlines


def _edges(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """From a corner to the next ones along the mask's edge; straight edges are joined.

    Where two pixels touch at a corner only, it has two ways on; whichever is taken, the filled area is the same.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    follows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # going down one row the mask begins (+1, the edge runs to the right) or ends (-1, to the left)
    for line, row in enumerate(np.diff(padded, axis=0)):
        for start, end, kind in _runs(row):
            ends = ((start - 1, line), (end - 1, line))
            begin, stop = ends if kind > 0 else ends[::-1]
            follows.setdefault(begin, []).append(stop)
    # going right one column it begins (+1, upwards) or ends (-1, downwards)
    for line, column in enumerate(np.diff(padded, axis=1).T):
        for start, end, kind in _runs(column):
            ends = ((line, start - 1), (line, end - 1))
            begin, stop = ends[::-1] if kind > 0 else ends
            follows.setdefault(begin, []).append(stop)
    return follows


def _runs(values: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, end, value) of the runs of equal values that are not 0."""
    borders = np.flatnonzero(np.diff(values, prepend=0, append=0))
    runs = []
    for start, end in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        if values[start]:
            runs.append((start, end, int(values[start])))
    return runs
