"""Boxes as tensors (..., 4). `xyxy` = left, top, right, bottom; `cxcywh` = centre and size; `xywh` = left, top and
size.

Every function works at any scale: pixels, or 0..1 of the picture.
"""

from torch import Tensor, cat, stack, tensor

__all__ = [
    "box_area",
    "box_cxcywh_to_xyxy",
    "box_iou",
    "box_xywh_to_xyxy",
    "box_xyxy_to_cxcywh",
    "box_xyxy_to_xywh",
    "clip_boxes",
    "clip_boxes_to_pixels",
    "scale_boxes",
]


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as xyxy, from centre and size."""
    cx, cy, w, h = boxes.unbind(-1)
    return stack([cx - 0.5 * w, cy - 0.5 * h, cx + 0.5 * w, cy + 0.5 * h], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as centre and size, from xyxy."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dim=-1)


def box_xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as left, top, width, height (COCO's format), from xyxy."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return stack([x0, y0, x1 - x0, y1 - y0], dim=-1)


def box_xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as xyxy, from left, top, width, height."""
    x, y, w, h = boxes.unbind(-1)
    return stack([x, y, x + w, y + h], dim=-1)


def box_area(boxes_xyxy: Tensor) -> Tensor:
    """Areas (...) of xyxy boxes (..., 4); 0 for reversed ones."""
    x0, y0, x1, y1 = boxes_xyxy.unbind(-1)
    return (x1 - x0).clamp(min=0) * (y1 - y0).clamp(min=0)


def box_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union (N, M) of boxes (N, 4) and (M, 4) in 0..1; 0 where both are empty."""
    top_left = a_xyxy[:, None, :2].maximum(b_xyxy[None, :, :2])
    bottom_right = a_xyxy[:, None, 2:].minimum(b_xyxy[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(dim=-1)
    union = box_area(a_xyxy)[:, None] + box_area(b_xyxy)[None, :] - intersection
    return intersection / union.clamp(min=1e-12)


def clip_boxes(boxes_xyxy_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) in pixels with every corner moved into the picture of `size` (height, width)."""
    height, width = size
    limit = tensor([width, height, width, height], dtype=boxes_xyxy_px.dtype, device=boxes_xyxy_px.device)
    return boxes_xyxy_px.clamp(min=0).minimum(limit)


def clip_boxes_to_pixels(boxes_xyxy_px: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) in a picture of `size` (height, width), at least a pixel each way: outside ones at its border."""
    clipped = clip_boxes(boxes_xyxy_px, size)
    last = tensor([size[1] - 1, size[0] - 1], dtype=clipped.dtype, device=clipped.device)
    low = clipped[..., :2].minimum(last)
    return cat((low, clipped[..., 2:].maximum(low + 1)), dim=-1)


def scale_boxes(boxes_xyxy_norm: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) in pixels of a picture of `size` (height, width), from 0..1."""
    height, width = size
    factor = tensor([width, height, width, height], dtype=boxes_xyxy_norm.dtype, device=boxes_xyxy_norm.device)
    return boxes_xyxy_norm * factor
