"""`ConceptPrediction` and `ConceptTarget`: what a model found for a phrase in a picture, and what is there.

Masks are kept as COCO run-length codes, so that thousands of pictures fit into memory.  Boxes are float64: a box read
from JSON stays what it was.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.examples import ConceptExample
from ..ops.masks import masks_to_boxes, rle_decode, rle_encode
from .runs import MaskRuns

__all__ = ["ConceptPrediction", "ConceptTarget", "PairKey", "Rle", "as_rles", "target_of_example", "target_of_label"]

Rle = dict[str, Any]
PairKey = tuple[str | int, str]


@dataclass(frozen=True)
class ConceptPrediction:
    """The objects that were found for one phrase in one picture.

    Attributes:
        image_id, phrase: together the name of this picture-phrase pair.
        size: (height, width) in pixels, of the masks and of the picture that the boxes are measured in.
        scores: (num_objects,) float64 in 0..1.
        boxes: (num_objects, 4) float64 xyxy in pixels; made from the masks where None is given.
        masks: run-length codes; given may also be bool masks (num_objects, height, width). None: boxes alone.
        count: number of objects by the counting recipe (see `counting`), where it is known.

    Raises ValueError where the lengths or sizes do not agree, or a score or box is not finite.
    """

    image_id: str | int
    phrase: str
    size: tuple[int, int]
    scores: np.ndarray
    boxes: np.ndarray = None  # type: ignore[assignment]
    masks: list[Rle] | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        _settle(self)
        scores = np.asarray(_numpy(self.scores), dtype=np.float64).reshape(-1)
        if len(scores) != len(self.boxes) or not np.isfinite(scores).all():
            raise ValueError(f"{_name(self)}: scores {scores} for {len(self.boxes)} objects; expected a finite each.")
        object.__setattr__(self, "scores", scores)

    @property
    def key(self) -> PairKey:
        """(image_id, phrase)."""
        return self.image_id, self.phrase

    def __len__(self) -> int:
        return len(self.scores)

    def kept(self, threshold: float) -> np.ndarray:
        """Indices of the objects that score at least `threshold`."""
        return np.flatnonzero(self.scores >= threshold)


@dataclass(frozen=True)
class ConceptTarget:
    """The objects of one phrase in one picture; none says that the phrase is absent.

    Attributes:
        image_id, phrase, size, boxes, masks: as in `ConceptPrediction`.
        is_crowd: (num_objects,) bool: regions of uncountable objects, neither right nor wrong as an answer.
        is_exhaustive: whether all objects are there. Where not, a surplus answer may be right, so concept F1 and
            counting leave the pair out.
    """

    image_id: str | int
    phrase: str
    size: tuple[int, int]
    boxes: np.ndarray = None  # type: ignore[assignment]
    masks: list[Rle] | None = None
    is_crowd: np.ndarray = None  # type: ignore[assignment]
    is_exhaustive: bool = True

    def __post_init__(self) -> None:
        _settle(self)
        given = np.zeros(len(self.boxes)) if self.is_crowd is None else _numpy(self.is_crowd)
        crowd = np.asarray(given, dtype=bool)
        if crowd.shape != (len(self.boxes),):
            raise ValueError(f"{_name(self)}: is_crowd has shape {crowd.shape} for {len(self.boxes)} objects.")
        object.__setattr__(self, "is_crowd", crowd)

    @property
    def key(self) -> PairKey:
        """(image_id, phrase)."""
        return self.image_id, self.phrase

    @property
    def num_objects(self) -> int:
        """Number of objects that count, crowd regions left out."""
        return int((~self.is_crowd).sum())


def as_rles(masks: Any, size: Sequence[int], name: str = "masks") -> list[Rle]:
    """Compressed run-length codes of masks given as such codes, as lists of run lengths or as bool arrays.

    Raises ValueError for a mask that is not of `size` (height, width).
    """
    if isinstance(masks, Tensor | np.ndarray):
        codes = rle_encode(torch.as_tensor(masks).bool()) if len(masks) else []
    else:
        codes = [code for mask in masks for code in _one_rle(mask)]
    for index, code in enumerate(codes):
        if tuple(code["size"]) != tuple(size):
            raise ValueError(f"{name}: mask {index} is of size {code['size']}; expected {list(size)} (height, width).")
    return codes


def target_of_example(example: ConceptExample, phrase: str) -> ConceptTarget:
    """What `phrase` names in `example`; no object where the phrase is known to be absent.

    A pair with a crowd region is not exhaustive. Raises KeyError for a phrase of which the example knows nothing.
    """
    if phrase not in example.concepts and phrase not in example.vocabulary:
        raise KeyError(f"nobody looked for {phrase!r} in picture {example.image_id!r}: it is neither named nor absent.")
    chosen = list(example.concepts.get(phrase, ()))
    is_crowd = np.array([index in example.is_crowd for index in chosen], dtype=bool)
    return ConceptTarget(
        image_id=example.image_id,
        phrase=phrase,
        size=example.size,
        boxes=np.asarray(example.boxes, dtype=np.float64).reshape(-1, 4)[chosen],
        masks=None if example.masks is None else [example.masks[index] for index in chosen],  # type: ignore[misc]
        is_crowd=is_crowd,
        is_exhaustive=not is_crowd.any(),
    )


def target_of_label(
    label: Mapping[str, Any], image_id: str | int, phrase: str, fallback_size: tuple[int, int]
) -> ConceptTarget:
    """The target of one row's label, at the resolution of the label's masks.

    `label` holds `boxes` (n, 4) cxcywh in 0..1, `masks` (n, h, w) bool, or both, and optionally `crowd` (k, h, w) masks
    (the pair is then not exhaustive), `size` and `is_exhaustive`. Without masks, boxes are measured in a picture of
    `size`, or else of `fallback_size`.
    """
    masks, boxes, crowd = (_numpy(label.get(key)) for key in ("masks", "boxes", "crowd"))
    if masks is None and boxes is None:
        raise ValueError(f"the label of {phrase!r} has neither boxes nor masks; give it one (of length 0 if absent).")
    height, width = (int(side) for side in (label.get("size", fallback_size) if masks is None else masks.shape[-2:]))
    number = len(boxes) if masks is None else len(masks)
    num_crowd = 0 if crowd is None else len(crowd)
    if boxes is not None:
        centre, side = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[:, at : at + 2] for at in (0, 2))
        boxes = np.concatenate([centre - side / 2, centre + side / 2], axis=1) * [width, height, width, height]
    codes = None if masks is None and number else as_rles([] if masks is None else masks, (height, width))
    if num_crowd and crowd is not None:
        at_size = torch.nn.functional.interpolate(torch.as_tensor(crowd)[None].float(), (height, width))[0] > 0.5
        boxes = None if boxes is None else np.concatenate([boxes, masks_to_boxes(at_size).double().numpy()])
        codes = None if codes is None else codes + rle_encode(at_size)
    return ConceptTarget(
        image_id=image_id,
        phrase=phrase,
        size=(height, width),
        boxes=boxes,
        masks=codes,
        is_crowd=np.arange(number + num_crowd) >= number,
        is_exhaustive=bool(label.get("is_exhaustive", True)) and num_crowd == 0,
    )


def _settle(record: ConceptPrediction | ConceptTarget) -> None:
    """Brings size, masks and boxes of a record into their one form."""
    height, width = (int(side) for side in record.size)
    object.__setattr__(record, "size", (height, width))
    if record.masks is not None:
        object.__setattr__(record, "masks", as_rles(record.masks, (height, width), _name(record)))
    if record.boxes is None and record.masks is None:
        raise ValueError(f"{_name(record)} has neither masks nor boxes; give at least one.")
    given = _boxes_of(record.masks or []) if record.boxes is None else _numpy(record.boxes)
    boxes = np.asarray(given, dtype=np.float64).reshape(-1, 4)
    if record.masks is not None and len(record.masks) != len(boxes):
        raise ValueError(f"{_name(record)} has {len(record.masks)} masks and {len(boxes)} boxes; expected as many.")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{_name(record)} has boxes that are not finite: {boxes[~np.isfinite(boxes).all(1)]}.")
    object.__setattr__(record, "boxes", boxes)


def _boxes_of(rles: Iterable[Rle]) -> np.ndarray:
    codes = list(rles)
    return MaskRuns.from_rles(codes).boxes(codes[0]["size"][0]) if codes else np.zeros((0, 4))


def _one_rle(mask: Any) -> list[Rle]:
    if not isinstance(mask, Mapping):
        return rle_encode(torch.as_tensor(np.asarray(mask))[None].bool())
    counts = mask["counts"]
    if isinstance(counts, str | bytes):
        text = counts if isinstance(counts, str) else counts.decode("ascii")
        return [{"size": [int(side) for side in mask["size"]], "counts": text}]
    return rle_encode(rle_decode(dict(mask))[None])


def _numpy(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _name(record: ConceptPrediction | ConceptTarget) -> str:
    return f"{type(record).__name__} of {record.phrase!r} in picture {record.image_id!r}"
