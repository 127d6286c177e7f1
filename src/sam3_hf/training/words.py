"""The first stage of training a small detector from scratch: what words mean, cell by cell.

Left to itself, a detector learns first to segment everything, whatever the phrase, and stays there for long: picture
and phrase must be understood before matching them pays. This stage has nothing else to learn. Vision tower, text tower
and fusion encoder say of each cell of the grid whether the phrase is there; decoder and mask heads, which cost most of
the time, wait.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import ConceptExample, SceneDataset
from ..modeling import Sam3Detector
from ..modeling.layers import key_padding_bias, sine_grid

__all__ = ["TellingScenes", "WordTrainer", "cell_coverage"]


class TellingScenes(torch.utils.data.Dataset[ConceptExample]):
    """Scenes of two objects and more, with phrases that tell some of them from the others.

    Args:
        scenes: the scenes to choose from.
        simple: share of the scenes of which only phrases of one property are asked ("circle", "red shape").
    """

    def __init__(self, scenes: SceneDataset, simple: float = 0.5) -> None:
        self.scenes, self.simple = scenes, simple

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> ConceptExample:
        is_simple = np.random.default_rng(index).random() < self.simple
        while True:
            scene = self.scenes[index]
            telling = {p: found for p, found in scene.concepts.items() if len(found) < len(scene.masks or [])}
            kept = [phrase for phrase in scene.vocabulary if not is_simple or _is_simple(phrase)]
            telling = {phrase: found for phrase, found in telling.items() if not is_simple or _is_simple(phrase)}
            if any(len(found) for found in telling.values()):
                known = set(scene.concepts) - set(telling)
                return replace(scene, concepts=telling, vocabulary=tuple(p for p in kept if p not in known))
            index = (index + 1) % len(self.scenes)


def _is_simple(phrase: str) -> bool:
    words = phrase.split()
    return len(words) == 1 or (len(words) == 2 and words[1] == "shape")


def cell_coverage(labels: Sequence[Mapping[str, Any]], side: int) -> Tensor:
    """(num_rows, side²) in 0..1: how much of each cell of the grid is covered by the row's objects."""
    rows = []
    for label in labels:
        masks = torch.as_tensor(label["masks"]) if label.get("masks") is not None else torch.zeros(0, side, side)
        union = masks.any(0).float() if len(masks) else torch.zeros(side, side)
        rows.append(F.adaptive_avg_pool2d(union[None], side).flatten())
    return torch.stack(rows)


class WordTrainer(nn.Module):
    """The parts of a detector that this stage trains, and a head that is thrown away afterwards."""

    def __init__(self, detector: Sam3Detector) -> None:
        super().__init__()
        self.detector = detector
        self.head = nn.Linear(detector.config.detr_encoder_config.hidden_size, 1)

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, image_ids: Tensor, wanted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms: binary cross-entropy and dice of the cells that the phrase covers."""
        detector = self.detector
        vision = detector.get_vision_features(pixel_values)
        assert vision.fpn_hidden_states is not None
        coarse = vision.fpn_hidden_states[-1]
        channels, height, width = coarse.shape[1:]
        position = sine_grid(height, width, channels, coarse.device).flatten(0, 1)
        begun = detector.detr_encoder.begin(coarse.flatten(2).transpose(1, 2), position)
        text = detector.get_text_features(input_ids).pooler_output
        assert text is not None
        bias = key_padding_bias(attention_mask.bool(), text.dtype)
        fused = detector.detr_encoder(begun[image_ids], position, text, bias)
        logits = self.head(fused.float())[..., 0]
        cross_entropy = F.binary_cross_entropy_with_logits(logits, wanted)
        shown, present = logits.sigmoid(), wanted.amax(1) > 0.3
        dice = 1 - (2 * (shown * wanted).sum(1) + 1) / (shown.sum(1) + wanted.sum(1) + 1)
        dice = (dice * present).sum() / present.sum().clamp(min=1)
        return 5 * cross_entropy + dice, {"loss_cells": cross_entropy.detach(), "loss_dice": dice.detach()}
