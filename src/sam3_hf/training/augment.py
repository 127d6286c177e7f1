"""Random changes of a picture together with its objects: mirroring, zooming, colours. Plain torch and numpy."""

import math
import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .pictures import Picture

__all__ = ["Augmentation", "crop", "flip", "recolour"]

_SIDED = re.compile(r"\b(left|right|left-hand|right-hand)\b", re.IGNORECASE)
_GREY = 127  # what zooming out shows beyond the picture: about 0 after normalisation
# Luma weights of ITU-R BT.601, as common for saturation.
_LUMA = torch.tensor([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Augmentation:
    """A random change of a `Picture`, with its masks and boxes.

    Attributes:
        flip: probability of mirroring left to right; pictures whose phrases say left or right are never mirrored.
        zoom: (least, most) magnification. Above 1 a window of the picture fills it, below 1 the picture lies in grey.
        zoom_probability: how often a picture is zoomed at all.
        stretch: height and width are zoomed apart by at most this factor.
        min_visible: an object of which a smaller part is left after cropping is dropped. Its phrase becomes absent only
            when nothing of its objects can be seen.
        brightness, contrast, saturation: factors are drawn from 1 - value to 1 + value.
        hue: rotation of colours, at most this part of the circle. 0: phrases name colours.
    """

    flip: float = 0.5
    zoom: tuple[float, float] = (0.7, 1.8)
    zoom_probability: float = 0.8
    stretch: float = 1.15
    min_visible: float = 0.1
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.zoom[0] <= self.zoom[1] or self.stretch < 1:
            raise ValueError(
                f"zoom is {self.zoom} and stretch {self.stretch}; expected 0 < least <= most, and at least 1."
            )
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more and less than 1.")

    def __call__(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """The changed picture; every draw comes from `rng`, the same number of them each time."""
        flip_draw, zoom_draw = rng.random(2)
        if flip_draw < self.flip and not _says_side(picture):
            picture = flip(picture)
        window = self._window(picture.size, rng)
        if zoom_draw < self.zoom_probability:
            picture = crop(picture, window, self.min_visible)
        limits = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        brightness, contrast, saturation, hue = ([1, 1, 1, 0] + limits * rng.uniform(-1, 1, 4)).tolist()
        return replace(picture, pixels=recolour(picture.pixels, brightness, contrast, saturation, hue))

    def _window(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        height, width = size
        scale = math.exp(rng.uniform(*np.log(self.zoom)))
        stretch = math.exp(rng.uniform(-1, 1) * math.log(self.stretch) / 2)
        tall, wide = max(1, round(height / scale * stretch)), max(1, round(width / scale / stretch))
        # Smaller than the picture: somewhere in it. Larger: the picture somewhere in it.
        top, left = (math.floor(rng.random() * (side + 1)) for side in (abs(height - tall), abs(width - wide)))
        top, left = (-top if tall > height else top), (-left if wide > width else left)
        return left, top, left + wide, top + tall


def flip(picture: Picture) -> Picture:
    """The picture mirrored left to right."""
    width = picture.size[1]
    boxes = picture.boxes.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    regions = None if picture.regions is None else tuple(region.flipped(width) for region in picture.regions)
    return replace(picture, pixels=picture.pixels.flip(2), boxes=boxes, regions=regions)


def crop(picture: Picture, window: tuple[int, int, int, int], min_visible: float = 0.1) -> Picture:
    """What is seen through `window` (xyxy in pixels); where it goes beyond the picture it is grey.

    Boxes are those of the cropped regions, or cropped themselves where there are no regions. Objects of which less than
    `min_visible` is left are dropped; a phrase whose objects cannot be seen at all becomes absent.
    """
    left, top, right, bottom = window
    frame = np.array([left, top, left, top], dtype=np.float32)
    boxes = (picture.boxes - frame).clip(0, [right - left, bottom - top] * 2).astype(np.float32)
    if picture.regions is None:
        regions = None
        before, after = _areas(picture.boxes), _areas(boxes)
    else:
        regions = tuple(region.cropped(window) for region in picture.regions)
        before = np.array([region.area for region in picture.regions], dtype=np.float64)
        after = np.array([region.area for region in regions], dtype=np.float64)
        boxes = np.array([region.box for region in regions], dtype=np.float32).reshape(-1, 4)
    seen = replace(picture, pixels=_cropped_pixels(picture.pixels, window), boxes=boxes, regions=regions)
    enough = (after > 0) & (after >= min_visible * before)
    return seen.keeping(np.flatnonzero(enough).tolist(), gone=np.flatnonzero(after == 0).tolist())


def recolour(
    pixels: Tensor, brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0
) -> Tensor:
    """The uint8 picture (3, height, width) with other colours: one matrix for all four changes.

    Brightness multiplies, contrast spreads around the picture's mean grey, saturation around each pixel's grey, `hue`
    turns colours around the grey axis by this part of the circle.
    """
    if (brightness, contrast, saturation, hue) == (1.0, 1.0, 1.0, 0.0):
        return pixels
    to_grey = _LUMA.expand(3, 3)
    matrix = brightness * contrast * (saturation * torch.eye(3) + (1 - saturation) * to_grey) @ _turn(hue)
    flat = pixels.reshape(3, -1)
    mean_grey = float(_LUMA @ flat[:, ::7].float().mean(1)) * brightness
    offset = torch.full((3, 1), (1 - contrast) * mean_grey + 0.5)
    return torch.addmm(offset, matrix, flat.float()).clamp_(0, 255).to(torch.uint8).reshape(pixels.shape)


def _turn(part: float) -> Tensor:
    """Rotation (3, 3) around the grey axis by a part of the circle."""
    angle = torch.tensor(2 * math.pi * part)
    side = (1 - angle.cos()) / 3
    cross = angle.sin() / math.sqrt(3)
    around = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    return angle.cos() * torch.eye(3) + side + cross * around


def _cropped_pixels(pixels: Tensor, window: tuple[int, int, int, int]) -> Tensor:
    left, top, right, bottom = window
    height, width = pixels.shape[1:]
    inside = pixels[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if left >= 0 and top >= 0 and right <= width and bottom <= height:
        return inside
    canvas = pixels.new_full((3, bottom - top, right - left), _GREY)
    y, x = max(-top, 0), max(-left, 0)
    canvas[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
    return canvas


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(axis=1)


def _says_side(picture: Picture) -> bool:
    return any(_SIDED.search(phrase) for phrase in (*picture.concepts, *picture.absent))
