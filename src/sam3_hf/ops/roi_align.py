"""RoIAlign as two small matrix products per box, in plain torch."""

import torch
from torch import Tensor

__all__ = ["roi_align"]


def roi_align(features: Tensor, boxes: Tensor, output_size: int) -> Tensor:
    """Features pooled inside boxes: (num_images, num_boxes, channels, output_size, output_size), dtype of `features`.

    Equals `torchvision.ops.roi_align(..., spatial_scale=1, sampling_ratio=-1, aligned=False)`: a box is split into
    output_size² bins, and each bin averages ceil(side / output_size) bilinear samples along each axis. Sampling is
    separable, so a box's pooled map is Wy · F · Wxᵀ, with one interpolation matrix per axis.

    Args:
        features: (num_images, channels, height, width).
        boxes: (num_images, num_boxes, 4) xyxy in feature cells; computed in float32.
        output_size: side of the pooled grid.
    """
    height, width = features.shape[-2:]
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    rows = _axis_weights(y0, y1, height, output_size)
    columns = _axis_weights(x0, x1, width, output_size)
    pooled = torch.einsum("bnph,bchw->bncpw", rows, features.float())
    return torch.einsum("bncpw,bnqw->bncpq", pooled, columns).to(features.dtype)


def _axis_weights(start: Tensor, end: Tensor, size: int, bins: int) -> Tensor:
    """(..., bins, size) weights with which the cells of one axis enter each bin's average."""
    length = (end - start).clamp(min=1.0)  # torchvision: a box is at least one cell wide
    samples = torch.ceil(length / bins)
    most = (
        -(-size // bins) + 1 if torch.compiler.is_compiling() else int(samples.max().item()) if samples.numel() else 1
    )
    index = torch.arange(most, device=start.device, dtype=torch.float32)
    step = length / bins / samples
    offset = torch.arange(bins, device=start.device, dtype=torch.float32)[:, None] * (length / bins)[..., None, None]
    position = start[..., None, None] + offset + (index + 0.5) * step[..., None, None]  # (..., bins, most)
    counted = (index < samples[..., None, None]) & (position >= -1) & (position <= size)
    position = position.clamp(0, size - 1)
    cells = torch.arange(size, device=start.device, dtype=torch.float32)
    bilinear = (1 - (position[..., None] - cells).abs()).clamp(min=0)
    return (bilinear * counted[..., None]).sum(-2) / samples[..., None, None]
