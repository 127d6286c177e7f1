"""All losses of a detector's answer, weighted and normalised in one place."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..configuration import Sam3LossConfig
from ..ops.boxes import box_cxcywh_to_xyxy
from . import terms
from .matcher import Match, match_one_to_many, match_one_to_one
from .targets import Normalizer, Targets

__all__ = ["QueryAnswers", "detection_loss"]


@dataclass(frozen=True)
class QueryAnswers:
    """What one set of queries says, in every decoder layer.

    Attributes:
        logits: (num_layers, num_rows, num_queries) class logits, float32.
        boxes: (num_layers, num_rows, num_queries, 4) cxcywh in 0..1, float32.
        masks: gives the mask logits (N, h, w) of the last layer's queries (rows, queries), so that masks are made only
            for matched queries.
    """

    logits: Tensor
    boxes: Tensor
    masks: Callable[[Tensor, Tensor], Tensor]


def detection_loss(
    answers: QueryAnswers,
    copies: QueryAnswers | None,
    presence_logits: Tensor,
    semantic_logits: Tensor,
    targets: Targets,
    normalizer: Normalizer,
    config: Sam3LossConfig,
    known: Match | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its weighted terms by name, which sum up to it.

    Box, class and presence losses are taken on every decoder layer (earlier ones as `..._aux`, summed), mask losses on
    the last. `..._o2m` are those of DAC's query copies: matched one-to-many in the last layer, one-to-one before.

    Args:
        answers: the queries, matched one-to-one.
        copies: DAC's copies of the queries, or None.
        presence_logits: (num_layers, num_rows).
        semantic_logits: (num_rows, 1, h, w).
        targets: the packed targets.
        normalizer: totals that the sums are divided by.
        config: weights.
        known: which copy belongs to which target, where that is known beforehand (`noisy_queries`).
    """
    criterion = _Criterion(targets, normalizer, config)
    criterion.add_queries(answers, match_one_to_one(answers.logits, answers.boxes, targets, config))
    if copies is not None:
        if known is not None:
            matches = [known] * len(copies.logits)
        else:
            matches = match_one_to_one(copies.logits[:-1], copies.boxes[:-1], targets, config)
            matches.append(match_one_to_many(copies.logits[-1], copies.boxes[-1], targets, config))
        criterion.add_queries(copies, matches, "_o2m", config.weight_o2m)
    if config.weight_presence:
        for layer, logits in enumerate(presence_logits):
            last = layer == len(presence_logits) - 1
            presence = terms.presence_loss(logits.float(), targets.present) / criterion.num_rows
            criterion.add("loss_presence" + ("" if last else "_aux"), config.weight_presence * presence)
    criterion.add_semantic(semantic_logits)
    scale = normalizer.num_rows**0.5 if config.scale_by_rows else 1.0
    weighted = {name: scale * value for name, value in criterion.values.items()}
    return torch.stack(list(weighted.values())).sum(), {name: value.detach() for name, value in weighted.items()}


class _Criterion:
    """Adds up the weighted terms of one batch."""

    def __init__(self, targets: Targets, normalizer: Normalizer, config: Sam3LossConfig) -> None:
        self.targets, self.config = targets, config
        self.num_boxes, self.num_rows = max(normalizer.num_boxes, 1.0), max(normalizer.num_rows, 1e-6)
        self.num_present = normalizer.num_present + 1e-6
        self.values: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor) -> None:
        self.values[name] = self.values[name] + value if name in self.values else value

    def add_queries(self, answers: QueryAnswers, matches: list[Match], kind: str = "", weight: float = 1.0) -> None:
        """Box and class terms of all layers and the mask terms of the last."""
        for layer, match in enumerate(matches):
            suffix = ("" if layer == len(matches) - 1 else "_aux") + kind
            self._add_layer(answers.logits[layer], answers.boxes[layer], match, suffix, weight)
        self._add_masks(answers, matches[-1], kind, weight)

    def _add_layer(self, logits: Tensor, boxes: Tensor, match: Match, suffix: str, weight: float) -> None:
        config, targets, logits = self.config, self.targets, logits.float()
        predicted, wanted = boxes[match.index], targets.boxes[match.targets]
        predicted_xyxy, wanted_xyxy = box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted)
        distance = (predicted - wanted).abs().sum() / self.num_boxes
        self.add("loss_bbox" + suffix, weight * config.weight_bbox * distance)
        giou = terms.giou_loss(predicted_xyxy, wanted_xyxy) / self.num_boxes
        self.add("loss_giou" + suffix, weight * config.weight_giou * giou)
        classified = terms.class_loss(
            logits,
            match.index,
            terms.paired_iou(predicted_xyxy, wanted_xyxy),
            targets.present if config.weight_presence else torch.ones_like(targets.present),
            targets.is_exhaustive,
            config.class_positive,
            config.class_alpha,
            config.class_gamma,
            config.class_beta,
        )
        count = max(config.class_queries, logits.shape[1]) * self.num_rows
        self.add("loss_ce" + suffix, weight * config.weight_class * classified / count)

    def _add_masks(self, answers: QueryAnswers, match: Match, kind: str, weight: float) -> None:
        config, targets = self.config, self.targets
        known = targets.has_mask[match.targets]
        predicted = answers.masks(match.rows[known], match.queries[known])
        if targets.masks is None:
            wanted = predicted.new_zeros(0, *predicted.shape[1:])
            predicted = predicted[:0]
        else:
            wanted = targets.masks[match.targets[known]]
        focal, dice = terms.mask_losses(predicted, wanted, config.mask_alpha, config.mask_gamma, config.mask_points)
        self.add("loss_mask" + kind, weight * config.weight_mask * focal / self.num_boxes)
        self.add("loss_dice" + kind, weight * config.weight_dice * dice / self.num_boxes)

    def add_semantic(self, logits: Tensor) -> None:
        """Terms of the semantic map, over rows whose phrase is present and has masks."""
        config, targets = self.config, self.targets
        rows = targets.rows_with_masks.nonzero()[:, 0]
        focal = dice = logits.float().sum() * 0.0
        if len(rows) and targets.masks is not None:
            union = torch.zeros(len(logits), *targets.masks.shape[1:], device=logits.device)
            union = union.index_add_(0, targets.rows, targets.masks.float()).clamp_(max=1)
            predicted = F.interpolate(logits[rows].float(), union.shape[-2:], mode="bilinear", align_corners=False)
            predicted, wanted = predicted.flatten(1), union[rows].flatten(1)
            focal = terms.focal_loss(predicted, wanted, config.semantic_alpha, config.mask_gamma).sum()
            dice = terms.dice_loss(predicted, wanted).sum()
        self.add("loss_semantic", config.weight_semantic * focal / self.num_present)
        self.add("loss_semantic_dice", config.weight_semantic_dice * dice / self.num_present)
