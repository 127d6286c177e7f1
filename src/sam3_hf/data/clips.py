"""Concept clips: moving shapes whose masks and identities are known in every frame, also while they cannot be seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .backgrounds import NOISES, develop, draw_background, draw_light
from .drawing import (
    RGB,
    Sprite,
    chance,
    contrasting_colour,
    direction,
    draw_sprite,
    paint,
    pick,
    second_colour,
    seeded,
    uniform,
)
from .scenes import (
    MIN_AREA,
    MIN_IMAGE_SIZE,
    MIN_VISIBLE,
    angle_of,
    diameter_of,
    fitting_background,
    mask_boxes,
    name_objects,
    near_variant,
    random_kind,
    split_number,
    unseen_kind,
    vocabulary_of,
    whole_number,
)
from .vocabulary import ObjectKind, is_unseen

__all__ = ["ConceptClip", "concept_clip"]

MAX_OBJECTS = 12
MIN_FRAMES_OF_EVENTS = 8  # in shorter clips objects only drift
_CLIP_STREAM = 1_000  # a clip draws other numbers than the scene of its seed

# Shapes without holes or bays, wide enough to hide a small object completely.
_SOLID = ("circle", "square", "hexagon")
_SIZES = (0.3, 0.5)

Point = tuple[float, float]


@dataclass(frozen=True)
class ConceptClip:
    """One clip. An object keeps its number, its place along `masks`, from its first frame to the last.

    Attributes:
        clip_id: unique for its arguments.
        frames: (num_frames, height, width, 3) uint8 RGB.
        masks: (num_frames, num_objects, height, width) bool, what is visible of each object; disjoint within a frame.
            All False where it is hidden or out of the picture.
        concepts: phrase → numbers of its objects; an empty tuple says that nothing in the clip is called so.
        vocabulary: phrases that were all looked for: one that `concepts` lacks is absent.
    """

    clip_id: str
    frames: np.ndarray
    masks: np.ndarray
    concepts: Mapping[str, tuple[int, ...]]
    vocabulary: Sequence[str] = field(default=(), repr=False)

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    @property
    def num_objects(self) -> int:
        """Number of identities in the whole clip."""
        return self.masks.shape[1]

    @property
    def visible(self) -> np.ndarray:
        """(num_frames, num_objects) bool: whether any of the object is to be seen."""
        return np.asarray(self.masks.any(axis=(2, 3)))

    @property
    def boxes(self) -> np.ndarray:
        """(num_frames, num_objects, 4) float32 xyxy in pixels; zeros where the object is not to be seen."""
        return np.stack([mask_boxes(list(masks)) for masks in self.masks])


@dataclass
class Mover:
    """One object and its way: from start to stop in equal steps, bent to one side; points in picture sides."""

    kind: ObjectKind
    start: Point
    stop: Point
    bend: Point = (0.0, 0.0)
    hides: bool = False
    is_hidden: bool = False

    def at(self, time: float) -> Point:
        """Where it is at a time from 0 to 1."""
        arch = 4 * time * (1 - time)
        x, y = (a + (b - a) * time + c * arch for a, b, c in zip(self.start, self.stop, self.bend, strict=True))
        return x, y


def _inside(rng: np.random.Generator) -> Point:
    return uniform(rng, 0.15, 0.85), uniform(rng, 0.15, 0.85)


def _outside(rng: np.random.Generator) -> Point:
    """A point so far out that nothing up to half the picture's side can be seen there."""
    along, beyond = uniform(rng, 0.1, 0.9), pick(rng, (-0.4, 1.4))
    return (along, beyond) if chance(rng, 0.5) else (beyond, along)


def _through(rng: np.random.Generator, centre: Point, reach: float) -> tuple[Point, Point]:
    """The two ends of a straight way that is at `centre` at half time."""
    x, y = direction(uniform(rng, 0, 360))
    return (centre[0] - reach * x, centre[1] - reach * y), (centre[0] + reach * x, centre[1] + reach * y)


def _hiding_pair(rng: np.random.Generator, hidden: ObjectKind, hider: ObjectKind) -> list[Mover]:
    """A small object that passes behind a large one, is completely hidden half way, and comes out again."""
    centre = uniform(rng, 0.44, 0.56), uniform(rng, 0.44, 0.56)
    slow, fast = _through(rng, centre, uniform(rng, 0.0, 0.08)), _through(rng, centre, 0.42)
    return [Mover(hidden, *fast, is_hidden=True), Mover(hider, *slow, hides=True)]


def _other_mover(rng: np.random.Generator, kind: ObjectKind, event: str) -> Mover:
    """An object that drifts, enters, leaves, or passes through the picture."""
    start = _outside(rng) if event in ("enter", "pass") else _inside(rng)
    stop = _outside(rng) if event == "leave" else _inside(rng)
    if event == "pass":
        through = _inside(rng)
        stop = 2 * through[0] - start[0], 2 * through[1] - start[1]
    bend = (uniform(rng, -0.15, 0.15), uniform(rng, -0.15, 0.15)) if event == "drift" else (0.0, 0.0)
    return Mover(kind, start, stop, bend)


def _crossing_pair(rng: np.random.Generator, first: ObjectKind, second: ObjectKind) -> list[Mover]:
    """Two objects that are at the same place half way."""
    meeting = uniform(rng, 0.35, 0.65), uniform(rng, 0.35, 0.65)
    return [Mover(kind, *_through(rng, meeting, uniform(rng, 0.2, 0.35))) for kind in (first, second)]


def _hider_kind(rng: np.random.Generator, kind: ObjectKind, colours: Sequence[str]) -> ObjectKind:
    while True:
        hider = replace(random_kind(rng, colours, _SIZES), shape=pick(rng, _SOLID), size="large")
        if not is_unseen(hider) and hider.colour != kind.colour:
            return hider


def _plan(
    rng: np.random.Generator, split: str, num_objects: int, has_events: bool, colours: Sequence[str]
) -> list[Mover]:
    """Objects with their ways, rearmost first."""
    unseen = split == "unseen"
    anchor = (unseen_kind if unseen else random_kind)(rng, colours, _SIZES)

    def next_kind() -> ObjectKind:
        return near_variant(rng, anchor, colours, unseen) if chance(rng, 0.5) else random_kind(rng, colours, _SIZES)

    if not has_events:
        return [_other_mover(rng, kind, "drift") for kind in [anchor, *(next_kind() for _ in range(num_objects - 1))]]
    if num_objects == 1:
        return [_other_mover(rng, anchor, pick(rng, ("drift", "enter", "leave", "pass")))]
    hidden = replace(anchor, size="small")
    movers = _hiding_pair(rng, hidden, _hider_kind(rng, hidden, colours))
    while len(movers) < num_objects:
        event = pick(rng, ("drift", "enter", "leave", "pass", "cross"))
        if event == "cross" and len(movers) + 2 <= num_objects:
            movers += _crossing_pair(rng, next_kind(), next_kind())
        elif event != "cross":
            movers.append(_other_mover(rng, next_kind(), event))
    return _in_depth(rng, movers)


def _in_depth(rng: np.random.Generator, movers: list[Mover]) -> list[Mover]:
    """The objects in a random order in which what hides another is in front of it."""
    keys = {id(mover): uniform(rng, 0, 1) for mover in movers}
    order = sorted(movers, key=lambda mover: keys[id(mover)])
    hidden = next(index for index, mover in enumerate(order) if mover.is_hidden)
    hider = next(index for index, mover in enumerate(order) if mover.hides)
    if hidden > hider:
        order[hidden], order[hider] = order[hider], order[hidden]
    return order


def _animate(rng: np.random.Generator, mover: Mover, num_frames: int, image_size: int) -> list[Sprite]:
    """The object in each frame, turning slowly on its way."""
    diameter = diameter_of(rng, mover.kind, image_size)
    if mover.hides:
        diameter = uniform(rng, 0.36, 0.42) * image_size
    stretch = 1.0 if mover.hides else uniform(rng, 0.92, 1.08)
    angle = angle_of(rng, mover.kind.shape)
    spin = 0.0 if mover.kind.shape == "square" else uniform(rng, -4, 4)
    sprites = []
    for frame in range(num_frames):
        x, y = mover.at(frame / max(num_frames - 1, 1))
        centre = (x * image_size, y * image_size)
        sprites.append(
            draw_sprite(mover.kind.shape, mover.kind.texture, diameter, angle + spin * frame, centre, stretch)
        )
    return sprites


def _visible_masks(animated: Sequence[Sequence[Sprite]], image_size: int) -> np.ndarray:
    """(num_frames, num_objects, image_size, image_size) bool: each object less what is in front of it."""
    num_frames = len(animated[0])
    owners = np.full((num_frames, image_size, image_size), -1, dtype=np.int8)
    for index, sprites in enumerate(animated):
        for frame, sprite in enumerate(sprites):
            outer, inner = sprite.window(image_size)
            owners[frame][outer][sprite.mask[inner]] = index
    return owners[:, None] == np.arange(len(animated), dtype=np.int8)[None, :, None, None]


def _is_told(movers: Sequence[Mover], animated: Sequence[Sequence[Sprite]], masks: np.ndarray) -> bool:
    """Whether each object is well seen in a quarter of the frames, and the hidden one before and after it is hidden."""
    areas = np.array([[sprite.area for sprite in sprites] for sprites in animated]).T
    counts = masks.sum(axis=(2, 3))
    seen = counts >= np.maximum(MIN_VISIBLE * areas, MIN_AREA)
    if (seen.sum(axis=0) < len(masks) / 4).any():
        return False
    for index, mover in enumerate(movers):
        if mover.is_hidden:
            gone = np.flatnonzero(counts[:, index] == 0)
            if not len(gone) or not seen[: gone[0], index].any() or not seen[gone[-1] :, index].any():
                return False
    return True


def _draw_frames(
    rng: np.random.Generator,
    canvas: np.ndarray,
    animated: Sequence[Sequence[Sprite]],
    tones: Sequence[tuple[RGB, RGB]],
    rim: bool,
) -> np.ndarray:
    """(num_frames, size, size, 3) uint8: one background and light for the whole clip, new noise in each frame."""
    light, noise = draw_light(rng, canvas.shape[1]), pick(rng, NOISES)
    frames = []
    for sprites in zip(*animated, strict=True):
        picture = canvas.copy()
        for sprite, (colour, second) in zip(sprites, tones, strict=True):
            paint(picture, sprite, colour, second, rim)
        frames.append(develop(rng, picture, light, noise))
    return np.stack(frames)


def _frame_numbers(shown: Sequence[int], num_frames: int) -> list[int]:
    if not len(shown):
        raise ValueError("shown names no frame; give the numbers of the frames to draw, or None for all.")
    return [whole_number(frame, "each of shown", 0, num_frames - 1) for frame in shown]


def concept_clip(
    seed: int,
    num_frames: int = 24,
    image_size: int = 224,
    split: str = "train",
    max_objects: int = 6,
    shown: Sequence[int] | Callable[[np.ndarray], Sequence[int]] | None = None,
) -> ConceptClip:
    """A clip of moving shapes: exact masks, lasting identities, true phrases, and absent ones one word away from true.

    Objects drift, cross, enter, leave and pass through. In every clip of at least 8 frames and 2 objects, one object
    goes completely behind another and comes out again. The same arguments give the same bytes on any machine.

    Args:
        seed: at least 0.
        num_frames: 1 to 1000.
        image_size: height and width in pixels, at least 64.
        split: "train", "val" or "unseen", as for `concept_scene`.
        max_objects: 1 to 12; a clip holds from 2 up to this many objects.
        shown: numbers of the frames to draw, in the order in which they are wanted, or what chooses them by the masks
            of all frames; the others are left out, and cost next to nothing; noise and absent phrases are drawn anew.
            None: all.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    number = split_number(split)
    seed = whole_number(seed, "seed", 0)
    num_frames = whole_number(num_frames, "num_frames", 1, 1000)
    image_size = whole_number(image_size, "image_size", MIN_IMAGE_SIZE)
    max_objects = whole_number(max_objects, "max_objects", 1, MAX_OBJECTS)
    rng = seeded(seed, _CLIP_STREAM + number)
    style, background, colours = fitting_background(rng)
    num_objects = pick(rng, range(min(2, max_objects), max_objects + 1))
    while True:
        movers = _plan(rng, split, num_objects, num_frames >= MIN_FRAMES_OF_EVENTS, colours)
        animated = [_animate(rng, mover, num_frames, image_size) for mover in movers]
        masks = _visible_masks(animated, image_size)
        if _is_told(movers, animated, masks):
            break
    if shown is not None:
        shown = _frame_numbers(shown(masks) if callable(shown) else shown, num_frames)
    kinds = [mover.kind for mover in movers]
    own = [contrasting_colour(rng, kind.colour, background) for kind in kinds]
    tones = [(tone, second_colour(kind.colour, tone, background)) for kind, tone in zip(kinds, own, strict=True)]
    # Objects of one colour could not be told apart where they overlap, but for their outlines.
    rim = len({kind.colour for kind in kinds}) < len(kinds) or chance(rng, 0.4)
    canvas = draw_background(rng, image_size, style, background)
    clip_id = f"clip-{split}-{image_size}x{num_frames}-{seed}"
    if shown is not None:
        animated, masks = [[sprites[frame] for frame in shown] for sprites in animated], masks[shown]
        clip_id += "-" + ".".join(map(str, shown))
    return ConceptClip(
        clip_id=clip_id,
        frames=_draw_frames(rng, canvas, animated, tones, rim),
        masks=masks,
        concepts=name_objects(rng, kinds, split),
        vocabulary=vocabulary_of(split),
    )
