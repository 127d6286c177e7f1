"""The loss of clicks: the masks, their predicted IoU and the object score of objects that were pointed at."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.masks import mask_area
from .terms import dice_loss, focal_loss

__all__ = ["object_loss"]

WEIGHTS = {"loss_mask": 20.0, "loss_dice": 1.0, "loss_iou": 1.0, "loss_object": 1.0}


def object_loss(
    mask_logits: Tensor, iou_scores: Tensor, object_score_logits: Tensor, masks_bool: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss of objects and its weighted terms by name, which sum up to it.

    Of several masks for one object only the best (least focal and dice loss) learns, so that the others may answer
    other readings of an ambiguous click; the predicted IoU of every mask learns (L1). Objects that are not there (an
    empty mask) teach the object score alone. Weights 20 : 1 : 1 : 1 (SAM 3's paper, C.3; SAM 2 trains in the same way).

    Args:
        mask_logits: (num_objects, num_masks, h, w).
        iou_scores: (num_objects, num_masks) predicted IoU in 0..1.
        object_score_logits: (num_objects, 1).
        masks_bool: (num_objects, height, width).
    """
    if len(mask_logits) != len(masks_bool):
        raise ValueError(f"{len(masks_bool)} masks for {len(mask_logits)} objects; give one mask per object")
    num_objects, num_masks = iou_scores.shape
    there = mask_area(masks_bool) > 0
    score = F.binary_cross_entropy_with_logits(object_score_logits[:, 0].float(), there.float())
    logits, wanted = mask_logits[there].float(), masks_bool[there]
    if logits.shape[-2:] != wanted.shape[-2:]:
        logits = F.interpolate(logits, wanted.shape[-2:], mode="bilinear", align_corners=False)
    flat, repeated = logits.flatten(0, 1).flatten(1), wanted.flatten(1).float().repeat_interleave(num_masks, 0)
    focal = focal_loss(flat, repeated, 0.25, 2.0).unflatten(0, (-1, num_masks))
    dice = dice_loss(flat, repeated).unflatten(0, (-1, num_masks))
    best = (WEIGHTS["loss_mask"] * focal + WEIGHTS["loss_dice"] * dice).argmin(1, keepdim=True)
    overlap = _iou(flat.detach() > 0, repeated.bool()).unflatten(0, (-1, num_masks))
    values = {
        "loss_mask": focal.gather(1, best).sum() / num_objects,
        "loss_dice": dice.gather(1, best).sum() / num_objects,
        "loss_iou": (iou_scores[there].float() - overlap).abs().mean(1).sum() / num_objects,
        "loss_object": score,
    }
    weighted = {name: WEIGHTS[name] * value for name, value in values.items()}
    return torch.stack(list(weighted.values())).sum(), {name: value.detach() for name, value in weighted.items()}


def _iou(a_bool: Tensor, b_bool: Tensor) -> Tensor:
    """IoU (N,) of masks (N, pixels), pair by pair."""
    return (a_bool & b_bool).sum(1) / (a_bool | b_bool).sum(1).clamp(min=1)
