"""The first stage of training a small detector from scratch: every object's shape, colour, texture, size by name.

A phrase beside a picture teaches one bit of each cell of the grid. Here each cell that an object covers is told apart
from all shapes, all colours, all textures and both sizes at once, by the likeness of the neck's coarsest map to the
words' features, for the price of the vision tower alone. Which is what matching a phrase with a picture starts from.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import ConceptExample, SceneDataset
from ..data.vocabulary import ANY_SHAPE, COLOURS, SHAPES, SIZES, TEXTURES
from ..modeling import Sam3Detector
from ..processing.images import normalize_pixels
from ..processing.tokenization import tokenize_phrases

__all__ = ["GROUPS", "NAMES", "NamedScenes", "NamingTrainer", "name_numbers", "named_objects"]

GROUPS = ("shape", "colour", "texture", "size")
# An object has one name of each group; objects of medium size have none for their size.
NAMES: tuple[tuple[str, ...], ...] = (
    SHAPES,
    *(tuple(f"{word} {ANY_SHAPE}" for word in words) for words in (COLOURS, TEXTURES, SIZES)),
)
_NAMELESS = -100  # what torch's cross-entropy leaves out
_COVERED = 0.25
_HALF = (0.5, 0.5, 0.5)


def named_objects(scene: ConceptExample, side: int, most: int) -> tuple[Tensor, Tensor]:
    """Coverage (most, side²) of the grid's cells by each object, 0..1, and the numbers (most, groups) of its names.

    Names that an object does not have, and those of the places beyond the last object, are -100.
    """
    coverage = torch.zeros(most, side * side)
    if scene.masks:
        masks = torch.stack([torch.as_tensor(mask) for mask in scene.masks]).float()
        coverage[: len(masks)] = F.adaptive_avg_pool2d(masks, side).flatten(1)
    return coverage, name_numbers(scene.concepts, most)


def name_numbers(concepts: Mapping[str, Sequence[int]], most: int) -> Tensor:
    """The numbers (most, groups) of the first objects' names; -100 for a name that an object does not have."""
    names = torch.full((most, len(NAMES)), _NAMELESS)
    for group, words in enumerate(NAMES):
        for number, name in enumerate(words):
            names[[index for index in concepts.get(name, ()) if index < most], group] = number
    return names


class NamedScenes(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Pixels (3, S, S) of scenes and their `named_objects`."""

    def __init__(self, scenes: SceneDataset, side: int, seed: int = 0) -> None:
        self.scenes, self.side, self.seed = scenes, side, seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        scene = self.scenes[int(np.random.default_rng((self.seed, index)).integers(len(self.scenes)))]
        pixels = torch.from_numpy(np.asarray(scene.image)).permute(2, 0, 1)
        coverage, names = named_objects(scene, self.side, self.scenes.max_objects)
        return normalize_pixels(pixels, _HALF, _HALF), coverage, names


class NamingTrainer(nn.Module):
    """The towers of a detector, and a temperature that is thrown away afterwards."""

    input_ids: Tensor
    is_word: Tensor

    def __init__(self, detector: Sam3Detector, tokenizer: Any) -> None:
        super().__init__()
        self.detector = detector
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        tokens = tokenize_phrases([name for names in NAMES for name in names], tokenizer)
        self.register_buffer("input_ids", tokens["input_ids"], persistent=False)
        self.register_buffer("is_word", tokens["attention_mask"].bool(), persistent=False)

    def forward(self, pixel_values: Tensor, coverage: Tensor, names: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms, group by group: cross-entropy of the names of cells, and of objects.

        A cell belongs to the object that covers most of it, if that is a quarter at least. An object's feature is the
        mean over its cells: the sum of many outlines tells a shape long before a cell in its middle can.

        Args:
            pixel_values: (num_images, 3, S, S).
            coverage: (num_images, objects, side²), see `named_objects`.
            names: (num_images, objects, groups).
        """
        tower = self.detector.vision_encoder
        coarse = tower.neck.fpn_layers[2](tower.backbone(pixel_values).permute(0, 3, 1, 2))  # the finer maps can wait
        return self.told_apart(coarse, coverage, names)

    def told_apart(self, coarse: Tensor, coverage: Tensor, names: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """`forward` of the neck's coarsest map (num_images, channels, side, side)."""
        cells = coarse.flatten(2).transpose(1, 2).float()
        objects = coverage @ cells / coverage.sum(-1, keepdim=True).clamp(min=1e-6)
        share, owner = coverage.max(1)
        owned = names.gather(1, owner[..., None].expand(-1, -1, names.shape[-1]))
        owned = owned.masked_fill((share < _COVERED)[..., None], _NAMELESS)
        words = self._words()
        losses, terms = [], {}
        for features, wanted, suffix in ((cells, owned, ""), (objects, names, "_object")):
            likeness = F.normalize(features, dim=-1) @ words.T * self.log_scale.exp()
            for group, logits in enumerate(likeness.split([len(group) for group in NAMES], -1)):
                losses.append(_cross_entropy(logits.flatten(0, 1), wanted[..., group].flatten()))
                terms[f"loss_{GROUPS[group]}{suffix}"] = losses[-1].detach()
        return torch.stack(losses).sum(), terms

    def _words(self) -> Tensor:
        """(names, channels): the mean of each name's token features, of length 1."""
        text = self.detector.get_text_features(self.input_ids).pooler_output
        assert text is not None
        is_word = self.is_word[..., None]
        return F.normalize((text.float() * is_word).sum(1) / is_word.sum(1), dim=1)


def _cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Mean over what has a name; 0 where nothing has."""
    total = F.cross_entropy(logits, wanted, ignore_index=_NAMELESS, reduction="sum")
    return total / (wanted != _NAMELESS).sum().clamp(min=1)
