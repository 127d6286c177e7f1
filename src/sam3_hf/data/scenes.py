"""Concept scenes: pictures of shapes whose masks, names and absent names are known exactly."""

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .backgrounds import NOISES, choose_background, develop, draw_background, draw_light
from .drawing import (
    RGB,
    Sprite,
    chance,
    contrasting_colour,
    draw_sprite,
    is_distinct,
    paint,
    pick,
    second_colour,
    seeded,
    typical_colour,
    uniform,
)
from .examples import ConceptExample
from .vocabulary import (
    COLOURS,
    SHAPES,
    TEXTURES,
    ObjectKind,
    is_unseen,
    parse_phrase,
    phrases_of,
    seen_phrases,
    swapped_phrases,
    unseen_phrases,
)

__all__ = ["SPLITS", "SceneDataset", "concept_scene"]

SPLITS = ("train", "val", "unseen")
MIN_IMAGE_SIZE = 64
MAX_OBJECTS = 64
NUM_NEGATIVES = 16

# Diameter over the picture's side. The gaps make "small" and "large" unambiguous.
DIAMETERS = {"small": (0.065, 0.14), "medium": (0.19, 0.26), "large": (0.34, 0.5)}
MIN_PIXELS = 10.0
MIN_TEXTURED = 0.1  # smaller textures cannot be told
MIN_DETAILED = {"hexagon": 0.125, "star": 0.08, "arrow": 0.08, "heart": 0.08, "crescent": 0.08}

# No object is hidden, or cut by the border, further than this.
MIN_VISIBLE = 0.45
MIN_AREA = 20


@dataclass
class PlacedObject:
    """One object of a scene as it was drawn.

    Attributes:
        visible: pixels of its mask that are still to be seen.
        area: pixels of its mask if nothing hid it.
    """

    kind: ObjectKind
    sprite: Sprite
    colour: RGB
    second: RGB
    visible: int

    @property
    def least(self) -> float:
        """Pixels that must stay visible."""
        return max(MIN_VISIBLE * self.sprite.area, MIN_AREA)


# --- what is in the scene --------------------------------------------------------------------------------------------


def fitting_background(rng: np.random.Generator) -> tuple[str, tuple[RGB, ...], list[str]]:
    """Style and colours of a background, and the names of the colours, five at least, that stand out against it."""
    while True:
        style, background = choose_background(rng)
        names = [name for name in COLOURS if is_distinct(typical_colour(name), background)]
        if len(names) >= 5:
            return style, background, names


def random_kind(rng: np.random.Generator, colours: Sequence[str], sizes: Sequence[float]) -> ObjectKind:
    """A kind of object that training may show; `sizes`: shares of small and medium."""
    while True:
        texture = "plain" if chance(rng, 0.45) else pick(rng, TEXTURES[1:])
        share = uniform(rng, 0, 1)
        size = "small" if share < sizes[0] else "medium" if share < sizes[0] + sizes[1] else "large"
        kind = ObjectKind(pick(rng, SHAPES), pick(rng, colours), texture, size)
        if not is_unseen(kind):
            return kind


def unseen_kind(rng: np.random.Generator, colours: Sequence[str], sizes: Sequence[float]) -> ObjectKind:
    """A kind of object with a composition that training never shows."""
    while True:
        concept = parse_phrase(pick(rng, unseen_phrases()))
        kind = random_kind(rng, colours, sizes)
        kind = replace(
            kind, shape=concept.noun, colour=concept.colour or kind.colour, texture=concept.texture or kind.texture
        )
        if kind.colour in colours:
            return kind


def near_variant(rng: np.random.Generator, kind: ObjectKind, colours: Sequence[str], unseen: bool) -> ObjectKind:
    """The kind with one attribute changed: what makes a scene hard to answer without reading the whole phrase."""
    while True:
        field = pick(rng, ("shape", "shape", "colour", "colour", "texture", "size"))
        words: Sequence[str] = {
            "shape": SHAPES,
            "colour": colours,
            "texture": TEXTURES,
            "size": tuple(DIAMETERS),
        }[field]
        changed = replace(kind, **{field: pick(rng, words)})
        if unseen or not is_unseen(changed):
            return changed


def plan_kinds(rng: np.random.Generator, split: str, max_objects: int, colours: Sequence[str]) -> list[ObjectKind]:
    """The kinds of the objects to draw: few objects mostly, sometimes a crowd of one kind, sometimes none."""
    unseen = split == "unseen"
    share = uniform(rng, 0, 1)
    most = max(max_objects, 20)
    low, high = (1, 3) if share < 0.45 else (4, 7) if share < 0.75 else (8, 13) if share < 0.9 else (14, most)
    count = pick(rng, range(low, high + 1))
    crowd = chance(rng, 0.15)
    if crowd:
        count = max(count, pick(rng, range(5, 21)))
    if not unseen and chance(rng, 0.06):
        count = 0
    count = min(count, max_objects)
    sizes = (0.3, 0.35) if count <= 4 else (0.4, 0.42) if count <= 8 else (0.68, 0.29)
    anchor = (unseen_kind if unseen else random_kind)(rng, colours, sizes)
    kinds = [anchor]
    for _ in range(count - 1):
        if chance(rng, 0.85 if crowd else 0.2):
            kinds.append(anchor)
        elif chance(rng, 0.6):
            kinds.append(near_variant(rng, pick(rng, kinds), colours, unseen))
        else:
            kinds.append(random_kind(rng, colours, sizes))
    return kinds[:count]


# --- where it goes ---------------------------------------------------------------------------------------------------


def diameter_of(rng: np.random.Generator, kind: ObjectKind, image_size: int) -> float:
    """A diameter in pixels that the word for its size is true of."""
    low, high = DIAMETERS[kind.size]
    low = max(low, MIN_DETAILED.get(kind.shape, 0.0), MIN_TEXTURED if kind.texture != "plain" else 0.0)
    return max(uniform(rng, low, high) * image_size, MIN_PIXELS)


def angle_of(rng: np.random.Generator, shape: str) -> float:
    """Degrees to turn a shape by; a square stays upright enough not to be a diamond."""
    return uniform(rng, -20, 20) if shape == "square" else uniform(rng, 0, 360)


def place(
    rng: np.random.Generator, owners: np.ndarray, sprite: Sprite, colour: str, placed: list[PlacedObject], rim: bool
) -> int | None:
    """Moves a sprite to a place where nothing gets too hidden and takes its pixels in `owners`; None: no place found.

    Args:
        owners: (size, size) int8, which object each pixel shows: 0 is the background, object i is i + 1; changed.
        rim: outlines are drawn, so objects of one colour may overlap.

    Returns:
        Number of the sprite's pixels in the picture.
    """
    size = len(owners)
    height, width = sprite.mask.shape
    spill = 0.25 if chance(rng, 0.2) else 0.0
    for _ in range(10):
        sprite.left = round(uniform(rng, -spill * width, size - width + spill * width))
        sprite.top = round(uniform(rng, -spill * height, size - height + spill * height))
        outer, inner = sprite.window(size)
        mask = sprite.mask[inner]
        visible = int(np.count_nonzero(mask))
        if visible < max(0.6 * sprite.area, MIN_AREA):
            continue
        region = owners[outer]
        hidden = np.bincount(region[mask], minlength=len(placed) + 1)[1:].tolist()
        if all(
            not lost or (other.visible - lost >= other.least and (rim or other.kind.colour != colour))
            for other, lost in zip(placed, hidden, strict=True)
        ):
            for other, lost in zip(placed, hidden, strict=True):
                other.visible -= lost
            region[mask] = len(placed) + 1
            return visible
    return None


def compose(
    rng: np.random.Generator, kinds: Sequence[ObjectKind], image_size: int, background: Sequence[RGB], rim: bool
) -> tuple[list[PlacedObject], np.ndarray]:
    """The objects that found a place, rearmost first, and (size, size) int8: which one, from 1, a pixel shows."""
    owners = np.zeros((image_size, image_size), dtype=np.int8)
    placed: list[PlacedObject] = []
    for kind in kinds:
        diameter = diameter_of(rng, kind, image_size)
        centre = (uniform(rng, 0, 1), uniform(rng, 0, 1))
        stretch = uniform(rng, 0.92, 1.08)
        sprite = draw_sprite(kind.shape, kind.texture, diameter, angle_of(rng, kind.shape), centre, stretch)
        colour = contrasting_colour(rng, kind.colour, background)
        visible = place(rng, owners, sprite, kind.colour, placed, rim)
        if visible is not None:
            placed.append(PlacedObject(kind, sprite, colour, second_colour(kind.colour, colour, background), visible))
    return placed, owners


# --- what it is called -----------------------------------------------------------------------------------------------


def name_objects(
    rng: np.random.Generator, kinds: Sequence[ObjectKind], split: str, num_negatives: int = NUM_NEGATIVES
) -> dict[str, tuple[int, ...]]:
    """Phrase → indices of its objects: all that are true, then absent ones that differ from a true one in one word.

    "unseen" names only what holds a composition that training never shows; its absent phrases may be of either sort.
    """
    true: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds):
        for phrase in phrases_of(kind):
            true.setdefault(phrase, []).append(index)
    asked = {
        phrase: objects for phrase, objects in true.items() if is_unseen(parse_phrase(phrase)) == (split == "unseen")
    }
    concepts: dict[str, tuple[int, ...]] = {phrase: tuple(objects) for phrase, objects in asked.items()}
    positives = list(asked)
    for _ in range(3 * num_negatives):
        if len(concepts) >= len(positives) + num_negatives:
            break
        swaps = swapped_phrases(pick(rng, positives)) if positives else seen_phrases()
        phrase = pick(rng, swaps) if swaps else ""
        if phrase and phrase not in true and (split == "unseen" or not is_unseen(parse_phrase(phrase))):
            concepts[phrase] = ()
    return concepts


def vocabulary_of(split: str) -> tuple[str, ...]:
    """The phrases of a split: of those, a scene names every one that is true of it."""
    return unseen_phrases() if split == "unseen" else seen_phrases()


# --- the scene -------------------------------------------------------------------------------------------------------


def whole_number(value: object, name: str, low: int, high: int | None = None) -> int:
    """The value as an int.

    Raises:
        TypeError: it is no whole number. ValueError: it is out of range.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r} of type {type(value).__name__}") from None
    if number < low or (high is not None and number > high):
        raise ValueError(
            f"{name} must be {f'from {low} to {high}' if high is not None else f'at least {low}'}, got {value!r}"
        )
    return number


def split_number(split: str) -> int:
    """The place of a split in `SPLITS`: each split has random numbers of its own.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
    return SPLITS.index(split)


def mask_boxes(masks: Sequence[np.ndarray]) -> np.ndarray:
    """(num_masks, 4) float32 xyxy in pixels around bool masks; right, bottom are exclusive; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), dtype=np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def concept_scene(seed: int, split: str = "train", image_size: int = 224, max_objects: int = 20) -> ConceptExample:
    """A picture of shapes with exact masks, every true phrase of its split, and absent phrases one word away from true.

    The same arguments give the same bytes on any machine. Masks are bool and disjoint: what is visible of each object,
    at least 45 % of it. `vocabulary` holds every phrase of the split; those that `concepts` lacks are absent too.

    Args:
        seed: at least 0.
        split: "train"; "val": the same kinds of objects, other pictures; "unseen": asks only for compositions of
            attribute and noun that the other two never show nor name, and always holds one of them.
        image_size: height and width in pixels, at least 64; at 224 all shapes and textures can be told by eye.
        max_objects: from 0 (from 1 for "unseen") to 64; no more objects than this.

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    number = split_number(split)
    seed = whole_number(seed, "seed", 0)
    image_size = whole_number(image_size, "image_size", MIN_IMAGE_SIZE)
    max_objects = whole_number(max_objects, "max_objects", 1 if split == "unseen" else 0, MAX_OBJECTS)
    rng = seeded(seed, number)
    style, background, colours = fitting_background(rng)
    canvas = draw_background(rng, image_size, style, background)
    rim = chance(rng, 0.4)
    while True:
        placed, owners = compose(rng, plan_kinds(rng, split, max_objects, colours), image_size, background, rim)
        if split != "unseen" or any(is_unseen(item.kind) for item in placed):  # something can be asked for
            break
    for item in placed:
        paint(canvas, item.sprite, item.colour, item.second, rim)
    masks = [owners == index + 1 for index in range(len(placed))]
    return ConceptExample(
        image_id=f"scene-{split}-{image_size}-{seed}",
        image=develop(rng, canvas, draw_light(rng, image_size), pick(rng, NOISES)),
        size=(image_size, image_size),
        boxes=mask_boxes(masks),
        masks=masks,
        concepts=name_objects(rng, [item.kind for item in placed], split),
        vocabulary=vocabulary_of(split),
    )


class SceneDataset:
    """Concept scenes as a map-style dataset: `len(...)`, `[index]`, also in the workers of a `DataLoader`.

    Scenes are drawn when asked for and nothing is stored, so `num_scenes` may be as large as training is long.

    Args:
        num_scenes: at least 0.
        split, image_size, max_objects: as for `concept_scene`.
        seed: 0 to 2^32 - 1; datasets of different seeds share no scene.
    """

    def __init__(
        self, num_scenes: int, split: str = "train", seed: int = 0, image_size: int = 224, max_objects: int = 20
    ) -> None:
        split_number(split)
        self.num_scenes = whole_number(num_scenes, "num_scenes", 0, 2**32)
        self.split = split
        self.seed = whole_number(seed, "seed", 0, 2**32 - 1)
        self.image_size = whole_number(image_size, "image_size", MIN_IMAGE_SIZE)
        self.max_objects = whole_number(max_objects, "max_objects", 1 if split == "unseen" else 0, MAX_OBJECTS)

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, index: int) -> ConceptExample:
        position = operator.index(index)
        if not -self.num_scenes <= position < self.num_scenes:
            raise IndexError(f"scene {index} of {self.num_scenes}")
        return concept_scene(
            (self.seed << 32) + position % self.num_scenes, self.split, self.image_size, self.max_objects
        )

    def __iter__(self) -> Iterator[ConceptExample]:
        return (self[index] for index in range(self.num_scenes))
