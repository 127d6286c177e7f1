"""First weights that spare a small detector the longest part of training from scratch: finding out where to look.

A DETR learns slowly because its queries attend everywhere until they have learned to attend near their boxes (Meng et
al. 2021, Conditional DETR). Here the box-relative attention bias is fitted to a local pattern before training begins,
and the table of positions starts from sines, so that features say where they are. Everything is trained on from there.
"""

import torch
from torch import Tensor, nn

from ..modeling import Sam3Detector
from ..modeling.layers import sine_grid

__all__ = ["prime_detector"]

_FAR = -6.0  # least bias: e⁻⁶ of the attention that the best place gets
_SINE_SIZE = 1.75  # of the sines that are added to the table of positions


def prime_detector(detector: Sam3Detector, steps: int = 800) -> float:
    """The mean squared error that is left of the pattern; makes the decoder's attention local and positions known."""
    decoder = detector.detr_decoder
    with torch.no_grad():
        embeddings = detector.vision_encoder.backbone.embeddings
        side = embeddings.table_side
        table = sine_grid(side, side, embeddings.position_embeddings.shape[-1], embeddings.position_embeddings.device)
        embeddings.position_embeddings.add_(_SINE_SIZE * table.flatten(0, 1)[None])
    return max(_fit(embed, steps) for embed in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y))


def _pattern(low: Tensor, high: Tensor, num_heads: int) -> Tensor:
    """Bias (..., num_heads) at signed distances to a box's two edges: inside, near one edge, near the other, around."""
    length = (low - high).clamp(min=1e-3)
    outside = torch.relu(-low) + torch.relu(high)
    patterns = (
        -2 * outside / (0.5 * length + 0.02),
        -low.abs() / (0.25 * length + 0.03),
        -high.abs() / (0.25 * length + 0.03),
        -(low + high).abs() / (2 * length + 0.2),
    )
    return torch.stack([patterns[head % len(patterns)] for head in range(num_heads)], -1).clamp(min=_FAR)


def _fit(embed: nn.Module, steps: int) -> float:
    """Fits one axis's network, which reads signed log distances as `Decoder._axis_bias` makes them."""
    generator = torch.Generator().manual_seed(0)
    device = next(embed.parameters()).device
    optimizer = torch.optim.Adam(embed.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    error = torch.zeros(())
    for _ in range(steps):
        cells, centres, sizes = torch.rand(3, 4096, generator=generator)
        lengths = 0.03 * 20**sizes  # 3 to 60 % of the picture
        low, high = cells - centres + lengths / 2, cells - centres - lengths / 2
        delta = 8 * torch.stack((low, high), -1)
        delta = delta.sign() * torch.log2(delta.abs() + 1) / 3
        with torch.enable_grad():
            predicted = embed(delta.to(device))
            error = (predicted - _pattern(low, high, predicted.shape[-1]).to(device)).square().mean()
            error.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return float(error.detach())
