"""Training queries that start from noisy true boxes and must find their way back (Li et al. 2022, DN-DETR)."""

import torch
from torch import Tensor

from .matcher import Match
from .targets import Targets

__all__ = ["noisy_queries"]

# Noise: centres move by up to this part of the box's sides, sides change by up to this factor.
_SHIFT, _STRETCH = 0.4, 1.6
_LEAST = 0.01  # of a side, so that a box has an inside
_MOST = 100  # copies of a row, which cost as much as queries


@torch.no_grad()
def noisy_queries(targets: Targets, reference: Tensor, copies: int) -> tuple[Tensor, Match]:
    """Starting boxes (num_rows, num_copies, 4) of copies of the first queries, and which belongs to which target.

    Of each row the first `copies`·n start from its n targets' boxes with noise, as far as there are copies; the rest
    starts from `reference` and belongs to none. There are twice as many as the row with the most targets needs, but no
    more than queries, and no more than 100.

    Args:
        targets: the packed targets.
        reference: (num_queries, 4) cxcywh in 0..1, where queries start from otherwise.
        copies: queries of each target.
    """
    num_copies = min(len(reference), _MOST, 2 * copies * max((1, *targets.counts)))
    reference, device = reference[:num_copies], reference.device
    boxes = reference.expand(len(targets.counts), -1, -1).clone()
    counts = torch.tensor(targets.counts, device=device)
    first = (counts.cumsum(0) - counts)[targets.rows]
    place = (torch.arange(len(targets.boxes), device=device) - first) * copies
    queries = (place[:, None] + torch.arange(copies, device=device)).flatten()
    rows, owners = (
        t.repeat_interleave(copies) for t in (targets.rows, torch.arange(len(targets.boxes), device=device))
    )
    fits = queries < num_copies
    match = Match(rows[fits], queries[fits], owners[fits])
    true = targets.boxes[match.targets]
    shift = (2 * torch.rand_like(true[:, :2]) - 1) * _SHIFT * true[:, 2:]
    stretch = _STRETCH ** (2 * torch.rand_like(true[:, 2:]) - 1)
    noisy = torch.cat((true[:, :2] + shift, (true[:, 2:] * stretch).clamp(min=_LEAST)), 1)
    boxes[match.index] = noisy.clamp(1e-3, 1 - 1e-3)
    return boxes, match
