"""Checks of boxes, points and labels as users give them, shared by concept prompts (`rows`) and clicks (`clicks`).

Lists, tuples, numpy arrays and torch tensors, mixed at will, become plain lists first; every error names the entry,
quotes its values and says the fix.  A label of -10 marks padding, as in transformers: such entries are dropped at the
door.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.boxes import clip_boxes

__all__ = [
    "PADDING",
    "check_boxes",
    "check_labels",
    "check_points",
    "nesting_depth",
    "pad_rows",
    "to_lists",
    "without_padding",
]

PADDING = -10
_CLIP_SLACK_PX = 0.01  # rounding of a box's corner, not worth a warning


def to_lists(data: Any, name: str) -> Any:
    """`data` with tuples, arrays and tensors turned into lists; numbers and None stay.  Raises TypeError for others."""
    if isinstance(data, Tensor | np.ndarray | np.generic):
        return data.tolist()
    if isinstance(data, list | tuple):
        return [to_lists(item, name) for item in data]
    if data is None or isinstance(data, int | float):
        return data
    raise TypeError(
        f"{name} holds {data!r} ({type(data).__name__}); expected numbers in nested lists, arrays or tensors."
    )


def nesting_depth(lists: Any) -> int | None:
    """Levels of lists around the numbers, or None where there is no number at all."""
    if isinstance(lists, list):
        inside = [depth for item in lists if (depth := nesting_depth(item)) is not None]
        return 1 + max(inside) if inside else None
    return None if lists is None else 0


def check_boxes(boxes: list[Any], size: Sequence[int], name: str) -> Tensor:
    """Boxes (n, 4) float32 xyxy in pixels, clipped to the picture of `size` (height, width).

    Raises ValueError for a box that is not four finite numbers, that covers no area or lies outside the picture; warns
    of one that is partly outside.
    """
    for index, box in enumerate(boxes):
        _check_box(box, size, f"{name}, box {index}")
    return clip_boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), (int(size[0]), int(size[1])))


def _check_box(box: Any, size: Sequence[int], name: str) -> None:
    _check_numbers(box, 4, "x0, y0, x1, y1", name)
    x0, y0, x1, y1 = box
    height, width = size
    picture = f"the picture is {width} wide and {height} high"
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"{name}: {box} covers no area; expected x0 < x1 and y0 < y1 in pixels (xyxy, not xywh).")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise ValueError(f"{name}: {box} lies outside the picture; {picture}. Give pixels of the original picture.")
    if min(x0, y0) < -_CLIP_SLACK_PX or x1 > width + _CLIP_SLACK_PX or y1 > height + _CLIP_SLACK_PX:
        warnings.warn(f"{name}: {box} is partly outside and was clipped; {picture}.", stacklevel=2)


def check_points(points: list[Any], size: Sequence[int], name: str) -> Tensor:
    """Points (n, 2) float32 x, y in pixels.

    Raises ValueError for one that is not two finite numbers or is outside the picture of `size` (height, width).
    """
    height, width = size
    for index, point in enumerate(points):
        _check_numbers(point, 2, "x, y", f"{name}, point {index}")
        if not (0 <= point[0] <= width and 0 <= point[1] <= height):
            raise ValueError(
                f"{name}, point {index}: {point} lies outside the picture; "
                f"the picture is {width} wide and {height} high. Give x, y in pixels of the original picture."
            )
    return torch.tensor(points, dtype=torch.float32).reshape(-1, 2)


def _check_numbers(values: Any, count: int, meaning: str, name: str) -> None:
    numeric = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not numeric or len(values) != count:
        raise ValueError(f"{name}: {values!r} is not {count} numbers; expected [{meaning}] in pixels.")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name}: {values} holds NaN or infinity; expected finite pixels [{meaning}].")


def check_labels(labels: Any, count: int, allowed: Sequence[int], name: str) -> list[int]:
    """Labels as ints, all 1 where `labels` is None.  Raises ValueError for a wrong number or a value not allowed."""
    if labels is None:
        return [1] * count
    if not isinstance(labels, list) or len(labels) != count:
        got = len(labels) if isinstance(labels, list) else repr(labels)
        raise ValueError(f"{name}: {got} labels for {count} entries; expected one label for each.")
    for index, label in enumerate(labels):
        if isinstance(label, list) or label not in allowed:
            raise ValueError(f"{name}, label {index}: {label!r} is none of {', '.join(map(str, allowed))}.")
    return [int(label) for label in labels]


def without_padding(entries: list[Any], labels: list[int]) -> tuple[list[Any], list[int]]:
    """Entries and labels without those that are labelled as padding."""
    real = [index for index, label in enumerate(labels) if label != PADDING]
    return [entries[index] for index in real], [labels[index] for index in real]


def pad_rows(rows: Sequence[Tensor]) -> Tensor:
    """Tensors (n_i, ...) stacked to (num_rows, max n_i, ...), filled up with -10."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=PADDING)
