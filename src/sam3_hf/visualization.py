"""Draws segmented objects on their picture: translucent masks with outlines, boxes, labels and scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .ops.masks import rle_decode

__all__ = ["draw_instances", "instance_color"]

Color: TypeAlias = tuple[int, int, int]
Rectangle: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom exclusive

# Successive hues turn by the golden angle, which leaves any number of first colours far apart; the lightness cycles so
# that hues that come round again differ in lightness. All lie in the middle of the scale: visible on black and white.
GOLDEN_ANGLE = 180.0 * (3.0 - math.sqrt(5.0))
FIRST_HUE = 250.0
LIGHTNESS_CYCLE = (0.66, 0.62, 0.78, 0.60, 0.82)
CHROMA = 0.20

DARK: Color = (16, 16, 16)
LIGHT: Color = (255, 255, 255)
MIN_FONT_SIZE = 6
# Labels of a crowd would bury what they name: together they may cover this share of the picture, and in a crowd only
# those that find a free place are drawn. The best scores come first; everything else is told by its colour.
MAX_LABEL_COVER = 0.3
CROWD = 40


@dataclass(frozen=True)
class _Instance:
    """One object: `mask` (H, W) bool or None, `box` xyxy in pixels or None, the text of its label and its score."""

    mask: np.ndarray | None
    box: tuple[float, float, float, float] | None
    label: str | None
    score: float | None
    color: int | None = None  # index of its colour; None: its place in the list

    def drawn_in(self, index: int) -> Color:
        """The colour of the object at this place of the list."""
        return instance_color(index if self.color is None else self.color)


def draw_instances(
    image: Image.Image | np.ndarray,
    result: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    *,
    alpha: float = 0.45,
    masks: bool = True,
    boxes: bool = True,
    labels: bool = True,
    scores: bool = True,
    font_size: int | None = None,
    line_width: int | None = None,
    colors: Sequence[int] | None = None,
) -> Image.Image:
    """Returns a new RGB picture of the same size with the objects drawn on it.

    Args:
        image: picture (any mode; its EXIF rotation is applied, as the processor does) or an (H, W, 3) uint8 array.
        result: objects of this picture: what the pipeline returns for it (a list of `{"score", "label", "mask",
            "box"}`), or one dictionary of `Sam3Processor.post_process_instance_segmentation` (`scores`, `boxes` xyxy in
            pixels, `masks`, `labels`). Masks are booleans, PIL pictures, or COCO RLE, of the picture's size.
        alpha: opacity of the fill, 0 (outline only) to 1.
        masks, boxes, labels, scores: what to draw.
        font_size, line_width: in pixels; by default they grow with the picture.
        colors: for each object the index of its colour (an object's number in a video); default: its place.

    Object `i` has the colour `instance_color(i)`, or `instance_color(colors[i])`. Larger objects are painted first, so
    that small ones stay in sight; labels are placed best score first, inside the picture, where they overlap no other
    label if there is room. In a crowd (over 40 objects, or labels that would cover a third of the picture) the lower
    scores get no label.

    Raises:
        ValueError: `alpha` is outside 0..1, or a mask is not of the picture's size.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha must lie between 0 (outline only) and 1 (opaque), got {alpha}.")
    picture = _as_rgb(image)
    width, height = picture.size
    instances = _collect_instances(result, (height, width))
    if colors is not None:
        if len(colors) != len(instances):
            raise ValueError(f"{len(colors)} colors for {len(instances)} objects; expected one for each.")
        instances = [replace(one, color=index) for one, index in zip(instances, colors, strict=True)]
    line = line_width if line_width is not None else max(1, round(math.sqrt(height * width) / 220))

    if masks:
        _paint_masks(picture, instances, alpha, line)
    if boxes:
        _paint_boxes(picture, instances, line)
    if labels or scores:
        size = font_size if font_size is not None else _default_font_size(width, height, len(instances))
        texts = [_label_text(instance, labels, scores) for instance in instances]
        _paint_labels(picture, instances, texts, size)
    return picture


@cache
def instance_color(index: int) -> Color:
    """Returns the RGB colour (0..255) of the object at `index`: always the same, and far from its neighbours'."""
    hue = math.radians((FIRST_HUE + GOLDEN_ANGLE * index) % 360.0)
    lightness = LIGHTNESS_CYCLE[index % len(LIGHTNESS_CYCLE)]
    chroma = CHROMA
    linear = _oklab_to_linear_rgb(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
    while min(linear) < 0.0 or max(linear) > 1.0:  # not every hue is that vivid in sRGB: fade until it fits
        chroma *= 0.96
        linear = _oklab_to_linear_rgb(lightness, chroma * math.cos(hue), chroma * math.sin(hue))
    red, green, blue = (round(255 * _encode_srgb(channel)) for channel in linear)
    return red, green, blue


def _oklab_to_linear_rgb(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """OKLab to linear sRGB (Ottosson 2020, https://bottosson.github.io/posts/oklab/)."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _encode_srgb(channel: float) -> float:
    return 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055


def _decode_srgb(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


def _text_color(background: Color) -> Color:
    """Black or white, whichever contrasts more with the plate (relative luminance of WCAG 2)."""
    red, green, blue = (_decode_srgb(channel / 255) for channel in background)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    contrast_with_black, contrast_with_white = (luminance + 0.05) / 0.05, 1.05 / (luminance + 0.05)
    return (0, 0, 0) if contrast_with_black >= contrast_with_white else LIGHT


# ---- what is to be drawn ----


def _as_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"An array picture must be (height, width, 3) uint8, got {image.shape} {image.dtype}; pass a PIL "
                "picture for any other kind."
            )
        return Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"image must be a PIL picture or a uint8 array, got {type(image).__name__}.")
    return ImageOps.exif_transpose(image).convert("RGB")


def _collect_instances(
    result: Mapping[str, Any] | Sequence[Mapping[str, Any]], image_size: tuple[int, int]
) -> list[_Instance]:
    """Both forms of results as one list; masks are checked against `image_size` (height, width)."""
    if isinstance(result, Mapping):
        known = {key: result[key] for key in ("masks", "boxes", "labels", "scores") if result.get(key) is not None}
        count = len(next(iter(known.values()))) if known else 0
        empty = [None] * count
        columns = (known.get(key, empty) for key in ("masks", "boxes", "labels", "scores"))
        entries: Iterable[tuple[Any, Any, Any, Any]] = zip(*columns, strict=True)
    else:
        entries = [(item.get("mask"), item.get("box"), item.get("label"), item.get("score")) for item in result]
    return [
        _Instance(
            mask=None if mask is None else _mask_array(mask, image_size),
            box=None if box is None else _box_tuple(box),
            label=None if label is None else str(label),
            score=None if score is None else float(score),
        )
        for mask, box, label, score in entries
    ]


def _mask_array(mask: Any, image_size: tuple[int, int]) -> np.ndarray:
    array: np.ndarray
    if isinstance(mask, Mapping):
        array = rle_decode(dict(mask)).numpy()
    elif isinstance(mask, Image.Image):
        array = np.asarray(mask.convert("L")) > 127
    else:
        array = np.asarray(mask.detach().cpu() if hasattr(mask, "detach") else mask) > 0
    if array.shape != image_size:
        raise ValueError(
            f"A mask is {array.shape} but the picture is {image_size} (height, width): "
            "pass the picture that was segmented, or target_sizes=[(height, width)] when post-processing."
        )
    return array


def _box_tuple(box: Any) -> tuple[float, float, float, float]:
    if isinstance(box, Mapping):
        box = [box[key] for key in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = (float(value) for value in box)
    return left, top, right, bottom


def _label_text(instance: _Instance, labels: bool, scores: bool) -> str:
    parts = [instance.label] if labels and instance.label else []
    if scores and instance.score is not None:
        parts.append(f"{instance.score:.2f}")
    return " ".join(parts)


# ---- masks ----


def _paint_masks(picture: Image.Image, instances: Sequence[_Instance], alpha: float, line: int) -> None:
    """Blends fills into `picture`, large objects first, then all outlines, so that no fill hides an outline."""
    crops: list[tuple[int, int, Rectangle, np.ndarray]] = []
    for index, instance in enumerate(instances):
        bounds = None if instance.mask is None else _mask_bounds(instance.mask)
        if bounds is not None and instance.mask is not None:
            left, top, right, bottom = bounds
            crop = instance.mask[top:bottom, left:right]
            crops.append((int(crop.sum()), index, bounds, crop))
    crops.sort(key=lambda entry: (-entry[0], entry[1]))
    for _, index, bounds, crop in crops:
        _blend(picture, bounds[:2], crop, instances[index].drawn_in(index), alpha)
    for _, index, bounds, crop in crops:
        _paint_outline(picture, bounds[:2], crop, instances[index].drawn_in(index), line)


def _mask_bounds(mask: np.ndarray) -> Rectangle | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _blend(picture: Image.Image, corner: tuple[int, int], mask: np.ndarray, color: Color, alpha: float) -> None:
    picture.paste(color, corner, Image.fromarray(mask.astype(np.uint8) * round(255 * alpha)))


def _paint_outline(picture: Image.Image, corner: tuple[int, int], mask: np.ndarray, color: Color, line: int) -> None:
    """A line of the object's colour just inside its edge and a dark one just outside: one of them always shows."""
    padded = np.pad(mask, line)
    outside = (corner[0] - line, corner[1] - line)
    _blend(picture, outside, _grow(padded, max(1, line // 2)) & ~padded, DARK, 0.7)
    _blend(picture, outside, padded & _grow(~padded, line), color, 1.0)


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    """`mask` grown by about `radius` pixels inside its array."""
    for step in range(radius):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        # a square every other step, a cross between: together an octagon, nearer to a circle than either
        source = grown.copy() if step % 2 else mask
        grown[:, 1:] |= source[:, :-1]
        grown[:, :-1] |= source[:, 1:]
        mask = grown
    return mask


# ---- boxes and labels ----


def _pixel_box(instance: _Instance, width: int, height: int) -> Rectangle | None:
    """The object's box (or its mask's bounds) in whole pixels inside the picture; None where nothing is left."""
    if instance.box is None:
        return None if instance.mask is None else _mask_bounds(instance.mask)
    if not all(math.isfinite(value) for value in instance.box):
        return None
    left, right = sorted(min(max(round(value), 0), width) for value in instance.box[::2])
    top, bottom = sorted(min(max(round(value), 0), height) for value in instance.box[1::2])
    left, top = min(left, width - 1), min(top, height - 1)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _paint_boxes(picture: Image.Image, instances: Sequence[_Instance], line: int) -> None:
    draw = ImageDraw.Draw(picture)
    for index, instance in reversed(list(enumerate(instances))):  # the best are drawn last, on top
        box = _pixel_box(instance, *picture.size) if instance.box is not None else None
        if box is None:
            continue
        left, top, right, bottom = box[0], box[1], box[2] - 1, box[3] - 1
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=DARK, width=1)
        draw.rectangle((left, top, right, bottom), outline=instance.drawn_in(index), width=line)


def _default_font_size(width: int, height: int, count: int) -> int:
    crowding = min(1.0, (16 / max(count, 1)) ** 0.25)
    size = max(round(math.sqrt(width * height) / 32 * crowding), 9)
    # in a long thin picture the mean of the sides says little: a label may take a third of the short one
    return max(MIN_FONT_SIZE, min(size, 120, min(width, height) // 3))


def _paint_labels(picture: Image.Image, instances: Sequence[_Instance], texts: Sequence[str], font_size: int) -> None:
    draw = ImageDraw.Draw(picture)
    for index, plate, fitted in reversed(_place_labels(picture.size, instances, texts, font_size)):
        # reversed: where plates must overlap, the better score is on top
        color = instances[index].drawn_in(index)
        left, top, right, bottom = plate
        draw.rectangle((left, top, right - 1, bottom - 1), fill=color, outline=DARK)
        corner = (left + fitted.padding, top + fitted.padding)
        draw.text(corner, fitted.text, fill=_text_color(color), font=fitted.font, anchor="la")


def _place_labels(
    picture_size: tuple[int, int], instances: Sequence[_Instance], texts: Sequence[str], font_size: int
) -> list[tuple[int, Rectangle, _FittedText]]:
    """Index, plate and text of each label that is to be drawn, best score first."""
    placed: list[tuple[int, Rectangle, _FittedText]] = []
    room = MAX_LABEL_COVER * picture_size[0] * picture_size[1]
    for index in sorted(range(len(instances)), key=lambda index: -(instances[index].score or 0.0)):
        box = _pixel_box(instances[index], *picture_size)
        fitted = None if box is None or not texts[index] else _fit_text(texts[index], font_size, picture_size)
        if box is None or fitted is None:
            continue
        plate, overlap = _place_plate(box, fitted.size, picture_size, [other for _, other, _ in placed])
        area = fitted.size[0] * fitted.size[1]
        if placed and (area > room or (overlap > 0 and len(instances) > CROWD)):
            continue
        room -= area
        placed.append((index, plate, fitted))
    return placed


@dataclass(frozen=True)
class _FittedText:
    text: str
    font: Any
    padding: int
    size: tuple[int, int]  # of the plate: width, height


def _fit_text(text: str, font_size: int, picture_size: tuple[int, int]) -> _FittedText | None:
    """The text at `font_size` or smaller, shortened where it must be; None where not even that fits the picture."""
    for size in range(font_size, MIN_FONT_SIZE - 1, -1):
        fitted = _measure(text, size)
        if fitted.size[0] <= picture_size[0] and fitted.size[1] <= picture_size[1]:
            return fitted
    for length in range(len(text) - 1, 0, -1):
        fitted = _measure(text[:length].rstrip() + "…", MIN_FONT_SIZE)
        if fitted.size[0] <= picture_size[0] and fitted.size[1] <= picture_size[1]:
            return fitted
    return None


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _measure(text: str, size: int) -> _FittedText:
    font = _font(size)
    padding = max(2, round(size * 0.25))
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (size, 0)
    return _FittedText(
        text, font, padding, (math.ceil(font.getlength(text)) + 2 * padding, ascent + descent + 2 * padding)
    )


def _place_plate(
    box: Rectangle, size: tuple[int, int], picture_size: tuple[int, int], placed: Sequence[Rectangle]
) -> tuple[Rectangle, float]:
    """The first position about `box` that overlaps no plate in `placed`, or else the one that overlaps least, and the
    overlap in pixels."""
    best, least = None, math.inf
    for left, top in _plate_positions(box, size):
        left = min(max(left, 0), picture_size[0] - size[0])
        top = min(max(top, 0), picture_size[1] - size[1])
        plate = (left, top, left + size[0], top + size[1])
        overlap = sum(_overlap(plate, other) for other in placed)
        if overlap < least:
            best, least = plate, overlap
        if overlap == 0:
            break
    assert best is not None
    return best, least


def _plate_positions(box: Rectangle, size: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """Top-left corners to try, best first: above the box, inside at its top, below, then ever further down inside."""
    left, top, right, bottom = box
    width, height = size
    left, right = left - 1, right + 1  # flush with the dark line around the box
    for y in (top - height, top, bottom, bottom - height):
        yield left, y
        yield right - width, y
    for y in range(top + height, bottom - height, height):
        yield left, y
        yield right - width, y
    yield (left + right - width) // 2, (top + bottom - height) // 2
    yield right, top
    yield left - width, top


def _overlap(first: Rectangle, second: Rectangle) -> int:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0) * max(height, 0)
