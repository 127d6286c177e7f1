"""Training queries that start from noisy true boxes and must find their way back (Li et al. 2022, DN-DETR)."""

import torch
from torch import Tensor

from .matcher import Match
from .targets import Targets

__all__ = ["noisy_queries"]

# Noise: centres move by up to this part of the box's sides, sides change by up to this factor.
_SHIFT, _STRETCH = 0.4, 1.6
MOST = 100
_LEAST = 0.01  # of a side, so that a box has an inside


@torch.no_grad()
def noisy_queries(targets: Targets, reference: Tensor, copies: int) -> tuple[Tensor, Match]:
    """Starting boxes (num_rows, num_copies, 4) of copies of the first queries, and which belongs to which target.

    Of each row the first `copies`·n queries start from its n targets' boxes with noise, as far as there are queries;
    the rest starts from `reference` and belongs to none. Copies cost as much as queries, so there are twice as many as
    the row with the most targets needs, and no more.

    Args:
        targets: the packed targets.
        reference: (num_queries, 4) cxcywh in 0..1, where queries start from otherwise.
        copies: queries of each target.
    """
    num_queries = min(len(reference), MOST, 2 * copies * max((1, *targets.counts)))
    reference, device = reference[:num_queries], reference.device
    boxes = reference.expand(len(targets.counts), -1, -1).clone()
    counts = torch.tensor(targets.counts, device=device)
    first = (counts.cumsum(0) - counts)[targets.rows]
    place = (torch.arange(len(targets.boxes), device=device) - first) * copies
    queries = (place[:, None] + torch.arange(copies, device=device)).flatten()
    rows, owners = (
        t.repeat_interleave(copies) for t in (targets.rows, torch.arange(len(targets.boxes), device=device))
    )
    fits = queries < num_queries
    match = Match(rows[fits], queries[fits], owners[fits])
    true = targets.boxes[match.targets]
    shift = (2 * torch.rand_like(true[:, :2]) - 1) * _SHIFT * true[:, 2:]
    stretch = _STRETCH ** (2 * torch.rand_like(true[:, 2:]) - 1)
    noisy = torch.cat((true[:, :2] + shift, (true[:, 2:] * stretch).clamp(min=_LEAST)), 1)
    boxes[match.index] = noisy.clamp(1e-3, 1 - 1e-3)
    return boxes, match
