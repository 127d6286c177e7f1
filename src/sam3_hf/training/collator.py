"""From examples to the model's batches: `ConceptDataset` (one picture, its rows) and `ConceptCollator` (a batch)."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.examples import ConceptExample
from ..ops.boxes import box_xyxy_to_cxcywh
from ..processing import Sam3Processor
from ..processing.images import normalize_pixels, resize_image
from ..processing.prompts import PADDING
from ..processing.tokenization import tokenize_phrases
from .augment import Augmentation
from .concept_table import ConceptExamples, is_arrow_dataset
from .pictures import MAX_PIXELS, Picture, open_picture
from .sampling import ConceptRow, ConceptSampler, Sampler

__all__ = ["ConceptCollator", "ConceptDataset", "ConceptSample"]

_PATCH = 14  # side of a patch in every SAM 3 model, in pixels
_CACHED_PHRASES = 100_000


@dataclass(frozen=True)
class ConceptSample:
    """A picture and the questions asked about it."""

    picture: Picture
    rows: list[ConceptRow]


class ConceptDataset(torch.utils.data.Dataset[ConceptSample]):
    """Samples for `ConceptCollator`: opened, augmented, with phrases drawn.

    Args:
        examples: `ConceptExample`s, or the `datasets.Dataset` of a loader.
        sampler: draws the rows; default `ConceptSampler()`. For evaluation `AllPhrases()`.
        augment: `Augmentation()`, or None for the pictures as they are.
        seed: together with the epoch and the example's number it decides every draw, whatever the number of workers.
        on_error: "skip": an example that cannot be used is replaced by the next one, with one warning that names it;
            "raise": the error ends the run.
        max_side, max_pixels: see `open_picture`.
    """

    def __init__(
        self,
        examples: Sequence[ConceptExample] | Any,
        sampler: Sampler | None = None,
        augment: Augmentation | None = None,
        *,
        seed: int = 0,
        on_error: str = "skip",
        max_side: int | None = 2048,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if on_error not in ("skip", "raise"):
            raise ValueError(f"on_error is {on_error!r}; expected 'skip' or 'raise'.")
        self.examples = ConceptExamples(examples) if is_arrow_dataset(examples) else examples
        if len(self.examples) == 0:
            raise ValueError("there are no examples; check the paths and the warnings of the loader.")
        self.sampler = ConceptSampler() if sampler is None else sampler
        self.augment = augment
        self.seed = seed
        self.on_error = on_error
        self.max_side = max_side
        self.max_pixels = max_pixels
        # In shared memory, so that workers that live on (persistent_workers) see a new epoch too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._drawn_in = 0
        self._unusable: set[int] = set()

    @property
    def epoch(self) -> int:
        """The epoch whose draws the samples are."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Makes the samples those of another epoch; Trainer and accelerate call it."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ConceptSample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        self._refresh_mined()
        for attempt in range(len(self)):
            number = (index + attempt) % len(self)
            if number in self._unusable:
                continue
            try:
                return self._sample(number)
            except (ValueError, OSError) as error:
                if self.on_error == "raise":
                    raise
                self._unusable.add(number)
                warnings.warn(f"example {number} is skipped: {error}", stacklevel=2)
        raise ValueError(f"none of the {len(self)} examples can be used; the warnings above say why.")

    def _sample(self, number: int) -> ConceptSample:
        rng = np.random.default_rng((self.seed, self.epoch, number))
        picture = open_picture(self.examples[number], self.max_side, self.max_pixels)
        plain = picture
        if self.augment is not None:
            picture = self.augment(picture, rng)
        rows = self.sampler(picture, rng)
        if not rows and picture is not plain:  # the crop left nothing to ask
            picture, rows = plain, self.sampler(plain, rng)
        if not rows:
            raise ValueError(
                f"picture {picture.image_id!r} has no phrase that is known to be there or to be absent; annotate it or "
                "load it with a vocabulary."
            )
        return ConceptSample(picture, rows)

    def _refresh_mined(self) -> None:
        mined = getattr(self.sampler, "mined", None)
        if mined is not None and self._drawn_in != self.epoch:
            mined.refresh()
        self._drawn_in = self.epoch


class ConceptCollator:
    """Packs samples into one batch: every picture is encoded once, its phrases are rows that point at it.

    The batch holds `pixel_values` (num_images, 3, S, S), `input_ids` and `attention_mask` (num_rows, 32), `image_ids`
    (num_rows,), `input_boxes` (num_rows, k, 4) cxcywh in 0..1 with `input_boxes_labels` (1, 0, or -10 for padding), and
    `labels`, a dictionary for each row:
        `boxes` (n, 4) float32 cxcywh in 0..1 and, where the example has masks, `masks` (n, mask_size, mask_size) bool;
        `is_exhaustive` False where the phrase has crowd regions: what else is found may be right;
        `image_id`, `phrase`, `size` (height, width) of the original picture, and `crowd` masks where there are any.

    Args:
        processor: gives the model's square, the normalisation and the tokenizer.
        mask_size: side of the masks; default: that of the model's `pred_masks`, four for each patch of 14 pixels.
        pad_boxes: a batch without any exemplar still gets one padded box for each row, so that the box embeddings take
            part in every step, as distributed training wants; the model's answers are the same.
    """

    def __init__(self, processor: Sam3Processor, mask_size: int | None = None, *, pad_boxes: bool = True) -> None:
        self.processor = processor
        self.mask_size = processor.image_size // _PATCH * 4 if mask_size is None else mask_size
        self.pad_boxes = pad_boxes
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, samples: Sequence[ConceptSample]) -> dict[str, Any]:
        """The batch of some samples of a `ConceptDataset`."""
        rows = [(image, sample.picture, row) for image, sample in enumerate(samples) for row in sample.rows]
        tokens = [self._tokenized(row.phrase) for _, _, row in rows]
        batch: dict[str, Any] = {
            "pixel_values": torch.stack([self._pixels(sample.picture.pixels) for sample in samples]),
            "input_ids": torch.stack([ids for ids, _ in tokens]),
            "attention_mask": torch.stack([mask for _, mask in tokens]),
            "image_ids": torch.tensor([image for image, _, _ in rows]),
        }
        batch |= _padded_boxes([(picture, row) for _, picture, row in rows], self.pad_boxes)
        batch["labels"] = [label for sample in samples for label in self._labels(sample)]
        return batch

    def _pixels(self, pixels: Tensor) -> Tensor:
        resized = resize_image(pixels, self.processor.size)
        return normalize_pixels(resized, self.processor.image_mean, self.processor.image_std)

    def _tokenized(self, phrase: str) -> tuple[Tensor, Tensor]:
        """Ids and mask of one phrase; kept, so that a phrase that is cut is warned of once."""
        if phrase not in self._tokens:
            if len(self._tokens) >= _CACHED_PHRASES:
                self._tokens.clear()
            encoded = tokenize_phrases([phrase], self.processor.tokenizer)
            self._tokens[phrase] = encoded["input_ids"][0], encoded["attention_mask"][0]
        return self._tokens[phrase]

    def _labels(self, sample: ConceptSample) -> list[dict[str, Any]]:
        picture = sample.picture
        height, width = picture.size
        boxes = torch.from_numpy(picture.boxes / np.array([width, height, width, height], dtype=np.float32))
        boxes = box_xyxy_to_cxcywh(boxes.float())
        masks = self._masks(picture, sorted({i for row in sample.rows for i in (*row.objects, *row.crowd)}))
        labels = []
        for row in sample.rows:
            objects, crowd = list(row.objects), list(row.crowd)
            label: dict[str, Any] = {
                "boxes": boxes[objects],
                "is_exhaustive": not crowd,
                "image_id": picture.image_id,
                "phrase": row.concept,
                "size": picture.original_size,
            }
            if masks is not None:
                label["masks"] = masks[objects]
                if crowd:
                    label["crowd"] = masks[crowd]
            labels.append(label)
        return labels

    def _masks(self, picture: Picture, wanted: list[int]) -> Tensor | None:
        """(num_objects, mask_size, mask_size) bool, drawn for the wanted objects; None where only boxes are known."""
        if picture.regions is None:
            return None
        target = (self.mask_size, self.mask_size)
        masks = np.zeros((len(picture.regions), *target), dtype=bool)
        for i in wanted:
            picture.regions[i].scaled(picture.size, target).paint(masks[i])
        return torch.from_numpy(masks)


def _padded_boxes(rows: Sequence[tuple[Picture, ConceptRow]], always: bool) -> dict[str, Tensor]:
    """`input_boxes` and their labels; nothing where no row has a box, unless `always`."""
    most = max((len(row.box_labels) for _, row in rows), default=0)
    if not most and not always:
        return {}
    boxes = torch.full((len(rows), max(most, 1), 4), float(PADDING))
    labels = torch.full((len(rows), max(most, 1)), PADDING, dtype=torch.int64)
    for number, (picture, row) in enumerate(rows):
        count = len(row.box_labels)
        if count:
            height, width = picture.size
            norm = torch.from_numpy(np.asarray(row.boxes, dtype=np.float32)) / torch.tensor([width, height] * 2)
            boxes[number, :count] = box_xyxy_to_cxcywh(norm)
            labels[number, :count] = torch.tensor(row.box_labels)
    return {"input_boxes": boxes, "input_boxes_labels": labels}
