"""The loss terms, each as a sum: whoever calls divides by the `Normalizer`, in one place.

Sums rather than means make the gradient independent of how a batch is cut into pieces.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "class_loss",
    "dice_loss",
    "focal_loss",
    "giou_loss",
    "mask_losses",
    "paired_giou",
    "paired_iou",
    "presence_loss",
    "sample_uncertain_points",
]


def paired_iou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """IoU (...) of boxes (..., 4), pair by pair; the two broadcast."""
    shared, union, _ = _overlap(a_xyxy, b_xyxy)
    return shared / union


def paired_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU (...) in -1..1 of boxes (..., 4): IoU - (hull - union) / hull (Rezatofighi 2019)."""
    shared, union, hull = _overlap(a_xyxy, b_xyxy)
    return shared / union - (hull - union) / hull


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas of intersection, union and hull; the latter two above 0."""
    area = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    shared = (a[..., 2:].minimum(b[..., 2:]) - a[..., :2].maximum(b[..., :2])).clamp(min=0).prod(-1)
    hull = (a[..., 2:].maximum(b[..., 2:]) - a[..., :2].minimum(b[..., :2])).clamp(min=0).prod(-1)
    return shared, (area - shared).clamp(min=1e-12), hull.clamp(min=1e-12)


def giou_loss(predicted_xyxy: Tensor, wanted_xyxy: Tensor) -> Tensor:
    """Sum over pairs of 1 - gIoU."""
    return (1 - paired_giou(predicted_xyxy, wanted_xyxy)).sum()


def class_loss(
    logits: Tensor,
    matched: tuple[Tensor, Tensor],
    overlap: Tensor,
    counted: Tensor,
    exhaustive: Tensor,
    positive: float = 10.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
    beta: float | None = None,
) -> Tensor:
    """Sum over queries of the IoU-aware class loss ("Align loss", Cai et al. 2023).

    A matched query: w₊·BCE(p, t) with t = max(p^α·IoU^β, 0.01), detached; any other: p^γ·BCE(p, 0). What is surely an
    object thus comes to score IoU^(β / (1-α)), the IoU itself with β = 1-α.

    Args:
        logits: (num_rows, num_queries).
        matched: rows and queries of the matches.
        overlap: (num_pairs,) IoU of each matched query's box with its target's.
        counted: (num_rows,) 1 where the row counts (its phrase is present), else 0.
        exhaustive: (num_rows,) False where unmatched queries must not be punished.
        positive: w₊.
        alpha: exponent of p in t.
        gamma: exponent on unmatched queries.
        beta: exponent of the IoU in t; None: 1-α.
    """
    beta = 1 - alpha if beta is None else beta
    probability = logits.sigmoid()
    aim = torch.zeros_like(logits)
    aim[matched] = (probability[matched].detach() ** alpha * overlap.detach() ** beta).clamp(min=0.01)
    is_positive = torch.zeros_like(logits)
    is_positive[matched] = 1.0
    bce = F.binary_cross_entropy_with_logits(logits, aim, reduction="none")
    weight = positive * is_positive + (1 - is_positive) * probability**gamma * exhaustive[:, None]
    return (bce * weight * counted[:, None]).sum()


def presence_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Sum over rows of half the BCE (focal form with α 0.5, γ 0) of presence logits (num_rows,) in float32."""
    return 0.5 * F.binary_cross_entropy_with_logits(logits, present, reduction="sum")


def focal_loss(logits: Tensor, wanted: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss (N,) of N masks (N, pixels), averaged over pixels (Lin et al. 2017)."""
    bce = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    probability = logits.sigmoid()
    miss = probability + wanted - 2 * probability * wanted  # 1 - p of what is right
    balance = 1 - alpha + (2 * alpha - 1) * wanted
    return (balance * bce * miss**gamma).mean(1)


def dice_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Dice loss (N,) of N masks (N, pixels): 1 - (2·Σpy + 1) / (Σp + Σy + 1) (Milletari et al. 2016)."""
    probability = logits.sigmoid()
    shared = 2 * (probability * wanted).sum(1)
    return 1 - (shared + 1) / (probability.sum(1) + wanted.sum(1) + 1)


def mask_losses(
    logits: Tensor, wanted: Tensor, alpha: float, gamma: float, num_points: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sums over masks of focal and dice loss.

    Args:
        logits: (N, h, w), resized to the size of `wanted` (or sampled at points).
        wanted: (N, height, width) bool.
        alpha: see `focal_loss`.
        gamma: see `focal_loss`.
        num_points: points sampled per mask, three quarters of them where the answer is most in doubt; None: all pixels.
    """
    if not len(logits):
        nothing = logits.sum() * 0.0
        return nothing, nothing
    logits, wanted = logits.float()[:, None], wanted.float()[:, None]
    if num_points is not None:
        points = sample_uncertain_points(logits, num_points)
        logits, wanted = _at(logits, points), _at(wanted, points)
    else:
        if logits.shape[-2:] != wanted.shape[-2:]:
            logits = F.interpolate(logits, wanted.shape[-2:], mode="bilinear", align_corners=False)
        logits, wanted = logits.flatten(1), wanted.flatten(1)
    return focal_loss(logits, wanted, alpha, gamma).sum(), dice_loss(logits, wanted).sum()


@torch.no_grad()
def sample_uncertain_points(
    logits: Tensor, num_points: int, oversample: float = 3.0, uncertain_share: float = 0.75
) -> Tensor:
    """Points (N, num_points, 2) xy in 0..1 of masks (N, 1, h, w): mostly where |logit| is smallest.

    Of `oversample`·num_points random points the least certain are kept, the rest is random again (PointRend).
    """
    random = torch.rand(len(logits), int(num_points * oversample), 2, device=logits.device)
    num_uncertain = int(uncertain_share * num_points)
    least = _at(logits, random).abs().topk(num_uncertain, dim=1, largest=False).indices
    chosen = random.gather(1, least[..., None].expand(-1, -1, 2))
    return torch.cat((chosen, torch.rand(len(logits), num_points - num_uncertain, 2, device=logits.device)), 1)


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Values (N, P) of maps (N, 1, h, w) at points (N, P, 2) in 0..1, bilinear."""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[:, 0, :, 0]
