"""Backgrounds of concept scenes: plain, gradient, noise, stripes, blotches, low-contrast clutter; light and noise."""

from collections.abc import Callable

import numpy as np

from .drawing import RGB, chance, fill, muted_colour, pick, random_bytes, uniform

__all__ = ["BACKGROUNDS", "NOISES", "choose_background", "develop", "draw_background", "draw_light"]

Field = Callable[[np.random.Generator, int], np.ndarray]


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) float32 that rises linearly from about 0 to 1 in a random direction."""
    across, down = uniform(rng, -1, 1), uniform(rng, -1, 1)
    reach = max(abs(across) + abs(down), 1e-3)
    steps = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return steps[None, :] * np.float32(across / reach) + steps[:, None] * np.float32(down / reach) + np.float32(0.5)


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """(size, size) float32 in 0..1: random values on a grid, interpolated bilinearly."""
    grid = random_bytes(rng, cells + 1, cells + 1).astype(np.float32) * np.float32(1 / 255)
    places = (np.arange(size) * cells) / np.float64(size)
    low = places.astype(np.intp)
    part = (places - low).astype(np.float32)
    rows = grid[low] + (grid[low + 1] - grid[low]) * part[:, None]
    left = np.ascontiguousarray(rows[:, low])
    return left + (rows[:, low + 1] - left) * part[None, :]


def _plain(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.zeros((size, size), dtype=np.float32)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return _smooth_noise(rng, size, pick(rng, (size // 8, size // 5, size // 3)))


def _stripes(rng: np.random.Generator, size: int) -> np.ndarray:
    bands = uniform(rng, 5, 16)
    wave = _ramp(rng, size) * np.float32(bands)
    wave -= np.floor(wave)
    return np.clip(np.abs(wave * 2 - 1) * 6 - np.float32(2.5), 0, 1)


def _blotches(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.clip((_smooth_noise(rng, size, pick(rng, (4, 6, 9))) - np.float32(0.5)) * 5 + np.float32(0.5), 0, 1)


def _clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Thin strokes over each other: nothing that has a name."""
    field = np.zeros((size, size), dtype=np.float32)
    for _ in range(pick(rng, (10, 16, 24))):
        x, y = uniform(rng, 0, size), uniform(rng, 0, size)
        across, down = uniform(rng, -0.3, 0.3) * size, uniform(rng, -0.3, 0.3) * size
        length = max((across * across + down * down) ** 0.5, 1.0)
        half = uniform(rng, 0.6, 1.6)
        side = np.array([-down, across]) / length * half
        start, stop = np.array([x, y]), np.array([x + across, y + down])
        corners = np.rint(np.stack([start - side, start + side, stop + side, stop - side]) * 256) / 256
        low = np.clip(np.floor(corners.min(axis=0)), 0, size).astype(int)
        high = np.clip(np.ceil(corners.max(axis=0)), 0, size).astype(int)
        if (high > low).all():
            inside = fill(corners - low, np.roll(corners, -1, axis=0) - low, high[1] - low[1], high[0] - low[0])
            field[low[1] : high[1], low[0] : high[0]][inside == 1] = np.float32(uniform(rng, 0.3, 1.0))
    return field


BACKGROUNDS: dict[str, Field] = {
    "plain": _plain,
    "gradient": _ramp,
    "noise": _noise,
    "stripes": _stripes,
    "blotches": _blotches,
    "clutter": _clutter,
}


# Strengths of sensor noise, in grey levels.
NOISES = (0, 2, 4, 8)


def _neighbour(rng: np.random.Generator, colour: RGB) -> RGB:
    """A colour that differs a little from this one."""
    shift = uniform(rng, 14, 42) * (1 if sum(colour) < 384 else -1)
    red, green, blue = (min(max(value + shift + uniform(rng, -14, 14), 0.0), 255.0) for value in colour)
    return red, green, blue


def choose_background(rng: np.random.Generator) -> tuple[str, tuple[RGB, ...]]:
    """The style of a background, and the colours between which all of its pixels will lie."""
    style = pick(rng, tuple(BACKGROUNDS))
    colour = muted_colour(rng)
    return style, (colour,) if style == "plain" else (colour, _neighbour(rng, colour))


def draw_background(rng: np.random.Generator, size: int, style: str, colours: tuple[RGB, ...]) -> np.ndarray:
    """A (3, size, size) float32 canvas 0..255 in this style and these colours."""
    first, last = _spread(colours[0]), _spread(colours[-1])
    return first + (last - first) * BACKGROUNDS[style](rng, size)


def _spread(colour: RGB) -> np.ndarray:
    """(3, 1, 1) float32."""
    return np.array(colour, dtype=np.float32)[:, None, None]


def draw_light(rng: np.random.Generator, size: int) -> np.ndarray | None:
    """(size, size) float32 by which the canvas is multiplied: brighter on one side; None: even light."""
    if not chance(rng, 0.6):
        return None
    return _ramp(rng, size) * np.float32(uniform(rng, 0.05, 0.25)) + np.float32(uniform(rng, 0.85, 0.97))


def develop(rng: np.random.Generator, canvas: np.ndarray, light: np.ndarray | None, noise: int) -> np.ndarray:
    """(size, size, 3) uint8: the canvas under this light, with uniform noise of at most `noise` grey levels."""
    picture = canvas * light if light is not None else canvas.copy()
    if noise:
        picture += random_bytes(rng, *canvas.shape) * np.float32(2 * noise / 255)
        picture -= np.float32(noise)
    np.rint(picture, out=picture)
    np.clip(picture, 0, 255, out=picture)
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0))
