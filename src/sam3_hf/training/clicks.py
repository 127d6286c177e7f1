"""Clicks in training: a first prompt for each object, then clicks where the answer is wrong."""

from typing import Any

import torch
from torch import Tensor

from ..losses import object_loss
from ..modeling import Sam3Model
from ..modeling.outputs import Sam3VisionEncoderOutput
from ..ops.masks import masks_to_boxes
from ..ops.points import correction_clicks, random_points

__all__ = ["click_loss"]


def click_loss(
    model: Sam3Model, vision: Sam3VisionEncoderOutput, masks_bool: Tensor, rounds: int = 2, box: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss over rounds of clicking on objects, and its terms.

    Args:
        model: its tracker's neck and heads learn.
        vision: features of the pictures.
        masks_bool: (num_images, num_objects, h, w).
        rounds: the first prompt, and one more click on a wrong part in each further round.
        box: the first prompt is the object's box rather than a point on it.
    """
    side = model.config.image_size
    embeddings = model.get_image_embeddings(vision_embeds=vision)
    points = random_points(masks_bool)[:, :, None] * side
    labels = torch.where(masks_bool.flatten(2).any(2), 1, 0)[..., None]
    prompts: dict[str, Any] = {"input_points": points, "input_labels": labels}
    if box:
        prompts = {"input_boxes": _boxes(masks_bool) * side}
    losses: list[Tensor] = []
    terms: dict[str, Tensor] = {}
    for round_ in range(rounds):
        ambiguous = round_ == 0 and not box
        answer = model.segment_objects(image_embeddings=embeddings, multimask_output=ambiguous, **prompts)
        assert answer.pred_masks is not None and answer.iou_scores is not None
        assert answer.object_score_logits is not None
        loss, terms = object_loss(
            *(t.flatten(0, 1) for t in (answer.pred_masks, answer.iou_scores, answer.object_score_logits, masks_bool))
        )
        losses.append(loss)
        if round_ + 1 == rounds:
            break
        best = answer.iou_scores.argmax(2)[:, :, None, None, None].expand(-1, -1, 1, *answer.pred_masks.shape[-2:])
        logits = answer.pred_masks.gather(2, best)[:, :, 0].detach()
        shown = torch.nn.functional.interpolate(logits.float(), masks_bool.shape[-2:], mode="bilinear") > 0
        new, kind = correction_clicks(shown, masks_bool)
        new = new[:, :, None] * side
        points = new if box and round_ == 0 else torch.cat((points, new), 2)
        labels = kind[..., None] if box and round_ == 0 else torch.cat((labels, kind[..., None]), 2)
        prompts |= {"input_points": points, "input_labels": labels, "input_masks": logits}
    return torch.stack(losses).mean(), terms


def _boxes(masks_bool: Tensor) -> Tensor:
    """Boxes (num_images, num_objects, 4) xyxy in 0..1; a dot in the middle where the mask is empty."""
    height, width = masks_bool.shape[-2:]
    boxes = masks_to_boxes(masks_bool.flatten(0, 1)) / torch.tensor([width, height] * 2, device=masks_bool.device)
    empty = ~masks_bool.flatten(0, 1).flatten(1).any(1)
    boxes[empty] = torch.tensor([0.49, 0.49, 0.51, 0.51], device=boxes.device)
    return boxes.unflatten(0, masks_bool.shape[:2])
