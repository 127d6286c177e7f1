"""Click prompts: points and boxes that each mark one object, in transformers' `Sam3TrackerProcessor` conventions.

`input_points` [picture][object][point][x, y] with `input_labels` [picture][object][point], 1 on the object, 0 off it,
and `input_boxes` [picture][object][x0, y0, x1, y1], all in pixels of the original picture.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .prompts import PADDING, check_boxes, check_labels, check_points, nesting_depth, to_lists, without_padding

__all__ = ["click_inputs"]

_LABELS = (1, 0, -1, PADDING)  # -1: "not a point", which the prompt encoder knows by itself


def click_inputs(
    sizes: Sequence[Sequence[int]],
    image_size: int,
    input_points: Any = None,
    input_labels: Any = None,
    input_boxes: Any = None,
) -> dict[str, Tensor]:
    """`input_points`, `input_labels` and `input_boxes` as tensors, those that were given.

    Points (num_images, num_objects, num_points, 2) and boxes (num_images, num_objects, 4) are float32 in pixels of the
    model's `image_size`, labels (num_images, num_objects, num_points) int64; short ones are padded with -10.

    `sizes` are the (height, width) of the pictures.  Raises ValueError naming the picture, object and point.
    """
    points = _nested(input_points, "input_points", 4, "[picture][object][point][x, y]", len(sizes))
    labels = _nested(input_labels, "input_labels", 3, "[picture][object][point]", len(sizes))
    boxes = _nested(input_boxes, "input_boxes", 3, "[picture][object][x0, y0, x1, y1]", len(sizes))
    if labels is not None and points is None:
        raise ValueError("input_labels without input_points; pass both.")
    inputs: dict[str, Tensor] = {}
    if points is not None:
        inputs |= _points(points, labels, sizes, image_size)
    if boxes is not None:
        inputs["input_boxes"] = _boxes(boxes, sizes, image_size)
    num_objects = {name: tensor.shape[1] for name, tensor in inputs.items() if name != "input_labels"}
    if len(set(num_objects.values())) > 1:
        raise ValueError(f"different numbers of objects: {num_objects}; expected points and one box for each object.")
    return inputs


def _nested(data: Any, name: str, levels: int, form: str, num_images: int) -> list[Any] | None:
    if data is None:
        return None
    lists = to_lists(data, name)
    if nesting_depth(lists) != levels:
        raise ValueError(
            f"{name} has {nesting_depth(lists) or 0} levels of nesting: {lists}; expected {levels}: {form}."
        )
    if len(lists) != num_images:
        raise ValueError(f"{name} is for {len(lists)} pictures, but there are {num_images}; expected {form}.")
    return [[] if entry is None else entry for entry in lists]


def _scale(size: Sequence[int], image_size: int) -> Tensor:
    height, width = size
    return torch.tensor([image_size / width, image_size / height], dtype=torch.float32)


def _points(
    points: list[Any], labels: list[Any] | None, sizes: Sequence[Sequence[int]], image_size: int
) -> dict[str, Tensor]:
    num_objects = max(len(objects) for objects in points)
    num_points = max((len(clicks or []) for objects in points for clicks in objects), default=0)
    coordinates = torch.full((len(points), num_objects, num_points, 2), float(PADDING))
    kinds = torch.full((len(points), num_objects, num_points), PADDING)
    for image, (objects, size) in enumerate(zip(points, sizes, strict=True)):
        image_labels = _image_labels(labels, image, len(objects))
        for index, (clicks, given) in enumerate(zip(objects, image_labels, strict=True)):
            where = f"picture {image}, object {index}"
            clicks = clicks or []
            checked = check_labels(given, len(clicks), _LABELS, f"input_labels, {where}")
            clicks, checked = without_padding(clicks, checked)
            real = check_points(clicks, size, f"input_points, {where}") * _scale(size, image_size)
            coordinates[image, index, : len(clicks)] = real
            kinds[image, index, : len(clicks)] = torch.tensor(checked, dtype=torch.int64)
    return {"input_points": coordinates, "input_labels": kinds}


def _image_labels(labels: list[Any] | None, image: int, num_objects: int) -> list[Any]:
    if labels is None:
        return [None] * num_objects
    if len(labels[image]) != num_objects:
        raise ValueError(
            f"input_labels, picture {image}: {len(labels[image])} objects; input_points have {num_objects}."
        )
    return labels[image]


def _boxes(boxes: list[Any], sizes: Sequence[Sequence[int]], image_size: int) -> Tensor:
    counts = [len(objects) for objects in boxes]
    if len(set(counts)) > 1:
        raise ValueError(
            f"input_boxes has {counts} boxes for the pictures; clicked boxes cannot be padded, "
            "give each picture the same number or call the processor picture by picture."
        )
    rows = []
    for image, (objects, size) in enumerate(zip(boxes, sizes, strict=True)):
        rows.append(check_boxes(objects, size, f"input_boxes, picture {image}") * _scale(size, image_size).repeat(2))
    return torch.stack(rows)
