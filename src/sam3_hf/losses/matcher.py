"""Which query answers for which target: one-to-one (Hungarian) and one-to-many (DAC)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..configuration import Sam3LossConfig
from ..ops.boxes import box_cxcywh_to_xyxy
from .targets import Targets
from .terms import paired_giou, paired_iou

__all__ = ["Match", "match_one_to_many", "match_one_to_one"]


@dataclass(frozen=True)
class Match:
    """Matched pairs of one decoder layer. In a one-to-one match every query and every target occurs at most once.

    Attributes:
        rows: (num_pairs,) row of the pair.
        queries: (num_pairs,) index of the query within its row.
        targets: (num_pairs,) index of the target in packed order.
    """

    rows: Tensor
    queries: Tensor
    targets: Tensor

    @property
    def index(self) -> tuple[Tensor, Tensor]:
        """Index of the matched queries into (num_rows, num_queries, ...)."""
        return self.rows, self.queries

    def to(self, device: torch.device) -> "Match":
        """The same pairs on `device`."""
        return Match(self.rows.to(device), self.queries.to(device), self.targets.to(device))


@torch.no_grad()
def match_one_to_one(logits: Tensor, boxes: Tensor, targets: Targets, config: Sam3LossConfig) -> list[Match]:
    """For each layer the cheapest assignment of queries to targets; ordered by target.

    cost = c_class·(focal(1) - focal(0)) + c_bbox·|b - b*|₁ - c_giou·gIoU (Carion et al. 2020, DETR, in the reference's
    binary focal form, α 0.25, γ 2). With fewer queries than targets the costliest targets stay unmatched.

    Args:
        logits: (num_layers, num_rows, num_queries).
        boxes: (num_layers, num_rows, num_queries, 4) cxcywh in 0..1.
        targets: the packed targets.
        config: matching costs.
    """
    logits, boxes = logits.float(), boxes.float()
    probability = logits.sigmoid()
    cost_class = -0.25 * (1 - probability) ** 2 * F.logsigmoid(logits)
    cost_class = cost_class + 0.75 * probability**2 * F.logsigmoid(-logits)
    per_row = []  # costs (num_layers, num_queries, count), all on the device before the first is fetched
    start = 0
    for row, count in enumerate(targets.counts):
        if count:
            wanted = targets.boxes[start : start + count]
            distance = torch.cdist(boxes[:, row], wanted.expand(len(boxes), -1, -1), p=1)
            overlap = paired_giou(box_cxcywh_to_xyxy(boxes[:, row])[:, :, None], box_cxcywh_to_xyxy(wanted))
            cost = config.cost_bbox * distance + config.cost_class * cost_class[:, row, :, None]
            # A NaN, which the assignment would refuse, costs most: the loss itself is NaN then and says so.
            per_row.append((row, start, (cost + config.cost_giou * -overlap).nan_to_num(nan=1e6).cpu().numpy()))
        start += count
    matches = []
    for layer in range(len(logits)):
        found = [(row, first, *linear_sum_assignment(cost[layer])) for row, first, cost in per_row]
        pairs = [
            (torch.full((len(q),), row), torch.from_numpy(q), torch.from_numpy(t) + first) for row, first, q, t in found
        ]
        rows, queries, wanted = (
            (torch.cat(part) for part in zip(*pairs, strict=True)) if pairs else (torch.zeros(0, dtype=torch.long),) * 3
        )
        order = wanted.argsort()
        matches.append(Match(rows[order], queries[order], wanted[order]).to(logits.device))
    return matches


@torch.no_grad()
def match_one_to_many(logits: Tensor, boxes: Tensor, targets: Targets, config: Sam3LossConfig) -> Match:
    """For each target its `o2m_topk` best queries whose score α·p + (1 - α)·IoU is above `o2m_threshold`.

    Args:
        logits: (num_rows, num_queries) of the copied queries.
        boxes: (num_rows, num_queries, 4) cxcywh in 0..1.
        targets: the packed targets.
        config: alpha, threshold and top-k.
    """
    num_queries = logits.shape[1]
    rows = targets.rows
    predicted = box_cxcywh_to_xyxy(boxes.float())[rows]  # (num_targets, num_queries, 4)
    overlap = paired_iou(predicted, box_cxcywh_to_xyxy(targets.boxes)[:, None])
    score = config.o2m_alpha * logits.float().sigmoid()[rows] + (1 - config.o2m_alpha) * overlap
    if not len(score):
        empty = rows.new_zeros(0)
        return Match(empty, empty, empty)
    least = torch.quantile(score, max(0.0, 1 - config.o2m_topk / num_queries), dim=1, keepdim=True)
    chosen = (score > least) & (score > config.o2m_threshold)
    wanted, queries = chosen.nonzero(as_tuple=True)
    order = torch.argsort(rows[wanted] * num_queries + queries, stable=True)  # row by row, query by query
    return Match(rows[wanted][order], queries[order], wanted[order])
