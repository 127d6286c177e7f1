"""Drawing with exact masks: shapes as polygons, two-tone textures, colours that keep their name, noise.

Nothing here depends on the machine: random numbers come from PCG64, outlines are rounded to 1/256 of a sample before
they are filled, and pixels are computed by single IEEE operations and integers.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

__all__ = [
    "SUPERSAMPLING",
    "Sprite",
    "chance",
    "colour_distance",
    "contrasting_colour",
    "direction",
    "draw_sprite",
    "fill",
    "is_distinct",
    "muted_colour",
    "named_colour",
    "paint",
    "pick",
    "random_bytes",
    "second_colour",
    "seeded",
    "typical_colour",
    "uniform",
]

RGB = tuple[float, float, float]
Item = TypeVar("Item")

SUPERSAMPLING = 4
_FULL = SUPERSAMPLING * SUPERSAMPLING
_FRACTION_BITS = 12  # of texture coordinates, which are fixed-point integers

# Hue in degrees, saturation, lightness: the range around each name. Ranges are apart from one another.
_COLOUR_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-7, 5), (0.80, 0.95), (0.40, 0.50)),
    "orange": ((24, 33), (0.92, 1.00), (0.50, 0.55)),
    "yellow": ((51, 58), (0.88, 1.00), (0.50, 0.62)),
    "green": ((105, 140), (0.55, 0.85), (0.28, 0.42)),
    "cyan": ((177, 187), (0.75, 0.95), (0.45, 0.60)),
    "blue": ((215, 233), (0.75, 0.95), (0.38, 0.52)),
    "purple": ((268, 283), (0.60, 0.85), (0.36, 0.48)),
    "pink": ((322, 338), (0.80, 1.00), (0.70, 0.78)),
    "brown": ((20, 29), (0.45, 0.60), (0.21, 0.29)),
    "white": ((0, 360), (0.00, 0.06), (0.94, 1.00)),
    "black": ((0, 360), (0.00, 0.08), (0.02, 0.08)),
}


def seeded(*keys: int) -> np.random.Generator:
    """A generator for these whole numbers: the same numbers give the same stream on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from low to high."""
    return low + (high - low) * float(rng.random())


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with this probability."""
    return float(rng.random()) < probability


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of the items."""
    return items[int(float(rng.random()) * len(items))]


def random_bytes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Uniform uint8 of this shape, from the raw stream of the generator."""
    count = math.prod(shape)
    words = rng.bit_generator.random_raw((count + 7) // 8)
    return np.asarray(words, dtype="<u8").view(np.uint8)[:count].reshape(shape)


def direction(angle: float) -> tuple[float, float]:
    """Cosine and sine of degrees, rounded so that they do not depend on the machine's mathematics library."""
    return round(math.cos(math.radians(angle)), 9), round(math.sin(math.radians(angle)), 9)


# --- colours ---------------------------------------------------------------------------------------------------------


def _hsl(hue: float, saturation: float, lightness: float) -> RGB:
    red, green, blue = colorsys.hls_to_rgb(hue / 360 % 1, lightness, saturation)
    return round(255 * red, 3), round(255 * green, 3), round(255 * blue, 3)


def named_colour(rng: np.random.Generator, name: str) -> RGB:
    """A colour 0..255 that anyone would call by this name."""
    hue, saturation, lightness = (uniform(rng, *bounds) for bounds in _COLOUR_RANGES[name])
    return _hsl(hue, saturation, lightness)


@cache
def typical_colour(name: str) -> RGB:
    """The colour 0..255 in the middle of what the name stands for."""
    return _hsl(*(sum(bounds) / 2 for bounds in _COLOUR_RANGES[name]))


def muted_colour(rng: np.random.Generator) -> RGB:
    """A dull colour 0..255 of any hue: for backgrounds."""
    return _hsl(uniform(rng, 0, 360), uniform(rng, 0.0, 0.4), uniform(rng, 0.12, 0.9))


def colour_distance(first: RGB, second: RGB) -> float:
    """How different two colours look: RGB distance weighted by the mean red, 0 to about 765.

    The "redmean" approximation, https://www.compuphase.com/cmetric.htm: arithmetic alone, so the same everywhere.
    """
    mean = (first[0] + second[0]) / 512
    red, green, blue = first[0] - second[0], first[1] - second[1], first[2] - second[2]
    return math.sqrt((2 + mean) * red * red + 4 * green * green + (3 - mean) * blue * blue)


def is_distinct(colour: RGB, others: Sequence[RGB], distance: float = 150.0) -> bool:
    """Whether a colour stands out against all the others."""
    return all(colour_distance(colour, other) >= distance for other in others)


def contrasting_colour(rng: np.random.Generator, name: str, background: Sequence[RGB]) -> RGB:
    """A colour of this name that stands out against the background; the best of a few if none does."""
    tries = [named_colour(rng, name) for _ in range(4)]
    return max(tries, key=lambda colour: min(colour_distance(colour, other) for other in background))


def second_colour(name: str, colour: RGB, background: Sequence[RGB]) -> RGB:
    """The other tone of a texture: near white or near black, whichever shows best; grey with white and black.

    It is neutral, so that the object is still called by its own colour.
    """
    tones = (84.0, 150.0) if name in ("white", "black") else (18.0, 240.0)
    greys = [(tone, tone, tone) for tone in tones]
    return max(
        greys,
        key=lambda grey: min(colour_distance(grey, colour), 3 * min(colour_distance(grey, b) for b in background)),
    )


# --- outlines --------------------------------------------------------------------------------------------------------


def _arc(radius: float, start: float, stop: float, steps: int, centre: float = 0.0) -> list[tuple[float, float]]:
    angles = [math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)]
    return [(centre + radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * step / 64 for step in range(64)]
    return [
        (
            16 * math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)),
        )
        for a in angles
    ]


def _star() -> list[tuple[float, float]]:
    corners = [(0.5 if point % 2 == 0 else 0.205, math.radians(36 * point - 90)) for point in range(10)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in corners]


def _crescent() -> list[tuple[float, float]]:
    """A disc of radius 0.5 less a disc of radius 0.42 whose centre is 0.24 to the right."""
    big, small, shift = 0.5, 0.42, 0.24
    x = (big**2 - small**2 + shift**2) / (2 * shift)  # where the two circles meet
    outer, inner = math.degrees(math.acos(x / big)), math.degrees(math.acos((x - shift) / small))
    return _arc(big, outer, 360 - outer, 48) + _arc(small, 360 - inner, inner, 40, shift)


_OUTLINES: dict[str, list[list[tuple[float, float]]]] = {
    "circle": [_arc(0.5, 0, 360, 64)[:-1]],
    "square": [[(-1, -1), (1, -1), (1, 1), (-1, 1)]],
    "triangle": [_arc(1, -90, 270, 3)[:-1]],
    "star": [_star()],
    "ring": [_arc(0.5, 0, 360, 64)[:-1], _arc(0.27, 0, 360, 48)[:-1]],
    "cross": [
        [(-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1), (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1)]
    ],
    "heart": [_heart()],
    "hexagon": [_arc(1, 0, 360, 6)[:-1]],
    "crescent": [_crescent()],
    "arrow": [[(-5, -1.4), (0.5, -1.4), (0.5, -4), (5, 0), (0.5, 4), (0.5, 1.4), (-5, 1.4)]],
    "diamond": [[(0, -1), (0.6, 0), (0, 1), (-0.6, 0)]],
    "ellipse": [[(x, 0.5 * y) for x, y in _arc(0.5, 0, 360, 64)[:-1]]],
}


@cache
def _outline(shape: str) -> tuple[np.ndarray, np.ndarray]:
    """Corners (num_corners, 2), centred, in a box whose longer side is 1; and for each the index of the next one."""
    contours = [np.array(contour, dtype=np.float64) for contour in _OUTLINES[shape]]
    points = np.concatenate(contours)
    low, high = points.min(axis=0), points.max(axis=0)
    firsts = np.cumsum([0, *map(len, contours)])[:-1]
    following = [first + np.roll(np.arange(len(contour)), -1) for first, contour in zip(firsts, contours, strict=True)]
    return np.round((points - (low + high) / 2) / (high - low).max(), 9), np.concatenate(following)


def fill(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width) uint8, 1 where the centre of a sample is inside the outline by the even-odd rule.

    Args:
        starts, ends: (num_edges, 2) x, y of the edges, in samples from the top left corner.
    """
    centres = np.arange(height) + 0.5
    (x0, y0), (x1, y1) = starts.T, ends.T
    crossed = (np.minimum(y0, y1)[:, None] <= centres) & (centres < np.maximum(y0, y1)[:, None])
    edges, rows = np.nonzero(crossed)
    slopes = (x1 - x0)[edges] / (y1 - y0)[edges]
    columns = np.ceil(x0[edges] + (centres[rows] - y0[edges]) * slopes - 0.5)
    toggles = np.zeros((height, width + 1), dtype=np.uint8)
    np.add.at(toggles, (rows, np.clip(columns, 0, width).astype(np.intp)), 1)
    return np.cumsum(toggles[:, :width], axis=1, dtype=np.uint8) & 1


def _pool(samples: np.ndarray) -> np.ndarray:
    """Sums of uint8 samples over each pixel: 0 to 16."""
    rows = samples[0::4] + samples[1::4] + samples[2::4] + samples[3::4]
    return rows[:, 0::4] + rows[:, 1::4] + rows[:, 2::4] + rows[:, 3::4]


# --- textures --------------------------------------------------------------------------------------------------------


def _pattern(texture: str, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Bool samples of a texture's second colour; coordinates are fixed-point numbers of periods."""
    one = 1 << _FRACTION_BITS
    if texture == "striped":
        return (across & (one - 1)) < (one * 45) // 100
    if texture == "checkered":
        return ((across ^ along) & (one >> 1)) != 0
    half = one >> 1
    across, along = (across & (one - 1)) - half, (along & (one - 1)) - half
    return across * across + along * along < ((one * 31) // 100) ** 2


# Periods per diameter, and the shortest period in pixels that can still be told.
_PERIODS = {"striped": (0.26, 5.0), "dotted": (0.27, 6.0), "checkered": (0.36, 7.0)}


def _texture(
    texture: str, diameter: float, turn: tuple[float, float], origin: tuple[float, float], shape: tuple
) -> np.ndarray:
    """(height, width) bool samples of the texture's second colour, turned with the object."""
    share, least = _PERIODS[texture]
    period = max(share * diameter, least) * SUPERSAMPLING
    unit = (1 << _FRACTION_BITS) / period
    x = np.arange(shape[1]) + (0.5 - origin[0])
    y = np.arange(shape[0]) + (0.5 - origin[1])
    cosine, sine = turn
    # A quarter of a period off the centre, so that no stripe edge or dot sits on the very middle of a small object.
    shift = 0.27 * period

    def axis(ax: float, ay: float) -> np.ndarray:
        columns = np.rint((ax * x + shift) * unit).astype(np.int32)
        rows = np.rint(ay * y * unit).astype(np.int32)
        return columns[None, :] + rows[:, None]

    return _pattern(texture, axis(cosine, sine), axis(-sine, cosine))


# --- sprites ---------------------------------------------------------------------------------------------------------


@dataclass
class Sprite:
    """One drawn object before it is put into a picture.

    Attributes:
        top, left: where its first pixel goes, in pixels; may be outside the picture.
        coverage: (height, width) uint8, how many of a pixel's 16 samples the object covers.
        second: (height, width) uint8, how many of them have the texture's second colour; None for plain.
        mask: (height, width) bool, at least half covered.
    """

    top: int
    left: int
    coverage: np.ndarray
    second: np.ndarray | None
    mask: np.ndarray
    area: int

    def window(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices (rows, columns) into a size x size picture, and into the sprite, of the part inside the picture."""
        height, width = self.mask.shape
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = max(min(self.top + height, size), top), max(min(self.left + width, size), left)
        inside = slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)
        return (slice(top, bottom), slice(left, right)), inside


def draw_sprite(
    shape: str, texture: str, diameter: float, angle: float, centre: tuple[float, float], stretch: float = 1.0
) -> Sprite:
    """The object, drawn within its own bounding box.

    Args:
        shape, texture: words of the vocabulary.
        diameter: longer side of the unturned shape, in pixels.
        angle: degrees.
        centre: x, y in pixels.
        stretch: height over width, relative to the shape's own.
    """
    cosine, sine = direction(angle)
    width_scale = diameter * SUPERSAMPLING / max(1.0, stretch)
    height_scale = width_scale * stretch
    outline, following = _outline(shape)
    x, y = outline[:, 0] * width_scale, outline[:, 1] * height_scale
    corners = np.stack([cosine * x - sine * y, sine * x + cosine * y], axis=1)
    low, high = corners.min(axis=0), corners.max(axis=0)
    left = math.floor(centre[0] + low[0] / SUPERSAMPLING)
    top = math.floor(centre[1] + low[1] / SUPERSAMPLING)
    width = math.ceil(centre[0] + high[0] / SUPERSAMPLING) - left
    height = math.ceil(centre[1] + high[1] / SUPERSAMPLING) - top
    origin = ((centre[0] - left) * SUPERSAMPLING, (centre[1] - top) * SUPERSAMPLING)
    corners = np.rint((corners + origin) * 256) / 256
    samples = fill(corners, corners[following], height * SUPERSAMPLING, width * SUPERSAMPLING)
    coverage = _pool(samples)
    second = None
    if texture != "plain":
        second = _pool(samples & _texture(texture, diameter, (cosine, sine), origin, samples.shape))
    mask = coverage >= _FULL // 2
    return Sprite(top, left, coverage, second, mask, int(np.count_nonzero(mask)))


def _rim(coverage: np.ndarray) -> np.ndarray:
    """How many samples of each pixel lie within about a pixel of the outline."""
    inner = np.pad(coverage, 1)
    eroded = np.minimum(np.minimum(inner[:-2, 1:-1], inner[2:, 1:-1]), np.minimum(inner[1:-1, :-2], inner[1:-1, 2:]))
    return coverage - np.minimum(coverage, eroded)


def paint(canvas: np.ndarray, sprite: Sprite, colour: RGB, second: RGB, rim: bool = False) -> None:
    """Blends a sprite into a (3, size, size) float32 canvas, in place; `rim` darkens its outline."""
    (rows, columns), inner = sprite.window(canvas.shape[1])
    target = canvas[:, rows, columns]
    own, other = (np.array(tone, dtype=np.float32)[:, None, None] for tone in (colour, second))
    weight = sprite.coverage[inner] * np.float32(1 / _FULL)
    target -= target * weight
    if sprite.second is None:
        target += own * weight
    else:
        share = sprite.second[inner] * np.float32(1 / _FULL)
        target += own * (weight - share)
        target += other * share
    if rim:
        edge = _rim(sprite.coverage)[inner] * np.float32(1 / _FULL)
        dark = np.float32(0.4) * own if sum(colour) > 150 else np.float32(0.5) * own + np.float32(95)
        target += (dark - target) * edge
