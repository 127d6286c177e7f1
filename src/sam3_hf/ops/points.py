"""Clicks drawn from masks: on an object, or where an answer for it is wrong."""

import torch
from torch import Tensor

__all__ = ["correction_clicks", "random_points"]


def random_points(masks_bool: Tensor) -> Tensor:
    """A point (..., 2), xy in 0..1, drawn from each mask (..., h, w); from anywhere where the mask is empty."""
    height, width = masks_bool.shape[-2:]
    weight = masks_bool.flatten(-2).float()
    weight = torch.where(weight.sum(-1, keepdim=True) > 0, weight, torch.ones_like(weight))
    cell = torch.multinomial(weight.flatten(0, -2), 1)[:, 0].view(masks_bool.shape[:-2])
    return torch.stack(((cell % width + 0.5) / width, (cell // width + 0.5) / height), -1)


def correction_clicks(predicted_bool: Tensor, masks_bool: Tensor) -> tuple[Tensor, Tensor]:
    """Where the answer is wrong: a point (..., 2) in 0..1 and its label (...), 1 on a missed part, 0 on a false one."""
    wrong = predicted_bool ^ masks_bool
    points = random_points(wrong)
    height, width = masks_bool.shape[-2:]
    x, y = (points * torch.tensor([width, height], device=points.device)).long().unbind(-1)
    cell = (y * width + x)[..., None]
    return points, masks_bool.flatten(-2).gather(-1, cell)[..., 0].long()
