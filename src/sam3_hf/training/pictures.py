"""`Picture`: an opened `ConceptExample`, its masks as regions, ready to be augmented and packed."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from ..data.examples import ConceptExample
from ..processing.images import load_image
from .regions import Region

__all__ = ["MAX_PIXELS", "Picture", "open_picture"]

# 134 million pixels, 400 MB as RGB: beyond that one file can take down a training run.
MAX_PIXELS = 2**27


@dataclass(frozen=True)
class Picture:
    """One picture in memory with its objects. All coordinates are pixels of `pixels`.

    Attributes:
        image_id: of the example.
        pixels: (3, height, width) uint8 RGB.
        boxes: (num_objects, 4) float32 xyxy; where there are regions, their smallest boxes.
        regions: one for each object, or None where only boxes are known.
        concepts: phrase → its objects; only phrases with objects.
        absent: phrases known to have no object here.
        crowd: objects that are neither right nor wrong.
        original_size: (height, width) of the example's picture.
    """

    image_id: str | int
    pixels: Tensor
    boxes: np.ndarray
    regions: tuple[Region, ...] | None
    concepts: Mapping[str, tuple[int, ...]]
    absent: tuple[str, ...]
    crowd: frozenset[int]
    original_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def keeping(self, kept: Collection[int], gone: Collection[int] = ()) -> "Picture":
        """The picture with the objects `kept` alone, renumbered in order.

        Of the others, those `gone` are not to be seen at all. A phrase that loses all its objects is absent when all
        of them are gone; else nobody knows, and it is in neither list.
        """
        order = sorted(kept)
        number = {old: new for new, old in enumerate(order)}
        left = {phrase: tuple(number[i] for i in objects if i in number) for phrase, objects in self.concepts.items()}
        lost = [p for p, objects in self.concepts.items() if not left[p] and all(i in gone for i in objects)]
        return replace(
            self,
            boxes=self.boxes[order],
            regions=None if self.regions is None else tuple(self.regions[i] for i in order),
            concepts={phrase: objects for phrase, objects in left.items() if objects},
            absent=(*self.absent, *lost),
            crowd=frozenset(number[i] for i in self.crowd if i in number),
        )


def open_picture(example: ConceptExample, max_side: int | None = 2048, max_pixels: int = MAX_PIXELS) -> Picture:
    """The example with its picture read and its masks as regions.

    A picture with a longer side than `max_side` is shrunk at once, with its boxes and regions, so that memory stays
    bounded. Objects with an empty mask, or a box outside the picture, are left out with a warning.

    Raises ValueError for a picture that cannot be read, has more than `max_pixels`, or another size than the example
    says, and for masks of another size; FileNotFoundError for a missing file.
    """
    pixels = _read(example, max_pixels)
    regions = _regions(example)
    height, width = example.size
    boxes = np.asarray(example.boxes, dtype=np.float32).reshape(-1, 4)
    if regions is not None:
        boxes = np.array([region.box for region in regions], dtype=np.float32).reshape(-1, 4)
    boxes = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
    picture = Picture(
        example.image_id, pixels, boxes, regions, {p: tuple(o) for p, o in example.concepts.items() if o},
        tuple(example.absent()), frozenset(example.is_crowd), (height, width),
    )  # fmt: skip
    solid = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).tolist()
    if len(solid) < len(boxes):
        bad = sorted(set(range(len(boxes))) - set(solid))
        warnings.warn(
            f"picture {example.image_id!r}: objects {bad} have an empty mask or a box outside the picture; left out.",
            stacklevel=2,
        )
        picture = picture.keeping(solid)
    return picture if max_side is None else _shrunk(picture, max_side)


def _regions(example: ConceptExample) -> tuple[Region, ...] | None:
    if example.masks is None:
        return None
    if len(example.masks) != len(example.boxes):
        raise ValueError(
            f"picture {example.image_id!r} has {len(example.masks)} masks and {len(example.boxes)} boxes; "
            "expected one of each for every object."
        )
    regions = []
    for index, mask in enumerate(example.masks):
        try:
            regions.append(Region.from_mask(mask, example.size))
        except ValueError as error:
            raise ValueError(f"picture {example.image_id!r}, object {index}: {error}") from error
    return tuple(regions)


def _read(example: ConceptExample, max_pixels: int) -> Tensor:
    """(3, height, width) uint8 of the size that the example states."""
    name = f"picture {example.image_id!r}"
    height, width = example.size
    if height * width > max_pixels:
        raise ValueError(
            f"{name} is {width} wide and {height} high: {height * width} pixels, the limit is {max_pixels}. "
            "Downscale the file and its annotations, or raise max_pixels."
        )
    if not isinstance(example.image, str | Path):
        pixels = load_image(example.image, name)
    else:
        pixels = _read_file(Path(example.image), name, (height, width))
    _check_size(tuple(pixels.shape[1:]), (height, width), name)
    return pixels


def _check_size(found: tuple[int, ...], stated: tuple[int, int], name: str) -> None:
    if found != stated:
        raise ValueError(
            f"{name} is {found[1]} wide and {found[0]} high, but its annotations say {stated[1]} wide and "
            f"{stated[0]} high."
        )


def _read_file(path: Path, name: str, size: tuple[int, int]) -> Tensor:
    found = _size_in_header(path)
    if found not in (None, size[::-1]):
        _check_size(found, size, name)  # before anything large is decoded
    pixels = load_image(path, name)
    if pixels.shape[1:] != size and pixels.shape[1:] == size[::-1]:
        # Annotated as stored, not as its EXIF orientation says.
        with PIL.Image.open(path) as stored:
            return torch.from_numpy(np.array(stored.convert("RGB"))).permute(2, 0, 1)
    return pixels


def _size_in_header(path: Path) -> tuple[int, int] | None:
    """(height, width) as stored; None where it cannot be read: decoding then says why."""
    try:
        with PIL.Image.open(path) as stored:
            return stored.height, stored.width
    except Exception:
        return None


def _shrunk(picture: Picture, max_side: int) -> Picture:
    height, width = picture.size
    if max(height, width) <= max_side:
        return picture
    factor = max_side / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    pixels = torch.nn.functional.interpolate(picture.pixels[None], size, mode="bilinear", antialias=True)[0]
    scale = np.array([size[1] / width, size[0] / height] * 2, dtype=np.float32)
    regions = picture.regions
    if regions is not None:
        regions = tuple(region.scaled((height, width), size).tight() for region in regions)
    return replace(picture, pixels=pixels, boxes=picture.boxes * scale, regions=regions)
