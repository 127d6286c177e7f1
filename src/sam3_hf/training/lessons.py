"""The detector's stage of training a small model from scratch: its loss, with the names and outlines of what it sees.

All three read one pass of the vision tower. Names (`naming`) keep features telling what things are. Outlines ask the
pixels' embeddings alone: an object's mean embedding must find the object's mask. A query can only draw a mask that its
picture's pixels tell apart, and they learn that long before queries know what to ask of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling import Sam3Detector
from ..modeling.outputs import Sam3VisionEncoderOutput
from .collator import ConceptCollator, ConceptSample
from .interactive import next_exemplars
from .naming import NamingTrainer, name_numbers

__all__ = ["LessonCollator", "Lessons", "outline_loss"]

MOST_NAMED = 20  # objects of a picture


class LessonCollator(ConceptCollator):
    """Batches of `ConceptCollator` and, in them, `object_masks` (num_images, most, S, S) and `object_names`."""

    def __call__(self, samples: Sequence[ConceptSample]) -> dict[str, Any]:
        """The batch of some samples."""
        batch = super().__call__(samples)
        masks = torch.zeros(len(samples), MOST_NAMED, self.mask_size, self.mask_size, dtype=torch.bool)
        for number, sample in enumerate(samples):
            drawn = self._masks(sample.picture, list(range(min(MOST_NAMED, len(sample.picture.regions or ())))))
            if drawn is not None:
                masks[number, : len(drawn)] = drawn[:MOST_NAMED]
        batch["object_masks"] = masks
        batch["object_names"] = torch.stack([name_numbers(sample.picture.concepts, MOST_NAMED) for sample in samples])
        return batch


class Lessons(nn.Module):
    """A detector's loss on phrases, names and outlines, as one module for several processes.

    Args:
        detector: is trained.
        naming: the part that knows the names.
        name_weight, outline_weight: of the two beside the detector's loss; 0: not computed.
    """

    def __init__(
        self, detector: Sam3Detector, naming: NamingTrainer, name_weight: float, outline_weight: float
    ) -> None:
        super().__init__()
        self.detector, self.naming = detector, naming
        self.name_weight, self.outline_weight = name_weight, outline_weight
        self.outline_scale = nn.Parameter(torch.tensor(2.3))
        self.outline_bias = nn.Parameter(torch.tensor(-5.0))

    def forward(
        self, batch: Mapping[str, Any], labels: Sequence[Mapping[str, Any]], corrections: int = 0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses, and their terms, of a batch of `LessonCollator` without its labels.

        With corrections, the batch is first answered that many times, each time with what the answer before lacked or
        got wrong as further exemplars, and the loss is that of the last answer.
        """
        inputs = {
            name: value for name, value in batch.items() if name not in ("pixel_values", "object_masks", "object_names")
        }
        vision = self.detector.get_vision_features(batch["pixel_values"])
        inputs = self._corrected(inputs, vision, labels, corrections)
        pixels: list[Tensor] = []
        hook = self.detector.mask_decoder.pixel_decoder.register_forward_hook(lambda _, __, made: pixels.append(made))
        answer = self.detector(vision_embeds=vision, labels=labels, **inputs)
        hook.remove()
        assert vision.fpn_hidden_states is not None and len(pixels) == 1
        loss, terms = answer.loss, dict(answer.loss_dict)
        if self.name_weight:
            coarse = vision.fpn_hidden_states[-1]
            coverage = F.adaptive_avg_pool2d(batch["object_masks"].float(), coarse.shape[-1]).flatten(2)
            named, of_names = self.naming.told_apart(coarse, coverage, batch["object_names"])
            loss, terms = loss + self.name_weight * named, terms | of_names
        if self.outline_weight:
            outlined = outline_loss(pixels[0], labels, self.outline_scale.exp(), self.outline_bias)
            loss, terms = loss + self.outline_weight * outlined, terms | {"loss_outline": outlined.detach()}
        return loss, terms

    @torch.no_grad()
    def _corrected(
        self,
        inputs: dict[str, Any],
        vision: Sam3VisionEncoderOutput,
        labels: Sequence[Mapping[str, Any]],
        corrections: int,
    ) -> dict[str, Any]:
        """The inputs with the exemplars of some rounds of corrections."""
        for _ in range(corrections):
            answer = self.detector(vision_embeds=vision, **inputs)
            inputs = inputs | next_exemplars(answer, labels, inputs)
        return inputs


def outline_loss(pixels: Tensor, labels: Sequence[Mapping[str, Any]], scale: Tensor, bias: Tensor) -> Tensor:
    """Mean over the rows' objects of dice and binary cross-entropy of the masks that their mean embeddings find.

    mask(object, pixel) = scale * cos(mean embedding of the object, embedding of the pixel) + bias, where from all
    embeddings of a row their mean is taken away.

    Args:
        pixels: (num_rows, channels, S, S).
        labels: of the rows; `masks` (n, h, w) bool, a multiple of S high and wide.
        scale, bias: scalars that are learned too.
    """
    losses = []
    flat = pixels.float().flatten(2)
    unit = F.normalize(flat - flat.mean(2, keepdim=True), dim=1)
    for row, label in zip(unit, labels, strict=True):
        if label.get("masks") is None or not len(label["masks"]):
            continue
        wanted = F.adaptive_avg_pool2d(label["masks"].to(row.device).float(), pixels.shape[-1]).flatten(1)
        wanted = wanted[wanted.any(1)]
        centres = F.normalize(wanted @ row.T, dim=1)
        logits = scale * (centres @ row) + bias
        shown = logits.sigmoid()
        dice = 1 - (2 * (shown * wanted).sum(1) + 1) / (shown.sum(1) + wanted.sum(1) + 1)
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(1)
        losses.append(dice + 5 * entropy)
    return torch.cat(losses).mean() if losses else 0 * (scale + bias + unit.sum())
