"""Greedy non-maximum suppression on an overlap matrix, for boxes and for masks.

Pure torch: nothing optional that could be missing, so the result never depends on what is installed.
"""

import torch
from torch import Tensor

from .boxes import box_iou
from .masks import mask_iou

__all__ = ["box_nms", "greedy_nms", "mask_nms"]


def greedy_nms(overlap: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices (K,) int64 of what is kept, best first: each one drops all later ones that overlap it by more than
    `threshold`.

    `overlap` (N, N) is symmetric, `scores` (N,); equal scores keep their order.
    """
    order = scores.argsort(descending=True, stable=True)
    suppresses = (overlap > threshold)[order][:, order].cpu()
    dropped = torch.zeros(len(order), dtype=torch.bool)
    for rank in range(len(order)):
        if not dropped[rank]:
            dropped[rank + 1 :] |= suppresses[rank, rank + 1 :]
    return order[(~dropped).to(order.device)]


def box_nms(boxes_xyxy: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices (K,) of the boxes (N, 4) kept, best first, suppressing at box IoU > `threshold`."""
    return greedy_nms(box_iou(boxes_xyxy, boxes_xyxy), scores, threshold)


def mask_nms(masks_bool: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Indices (K,) of the masks (N, H, W) kept, best first, suppressing at mask IoU > `threshold`."""
    return greedy_nms(mask_iou(masks_bool, masks_bool), scores, threshold)
