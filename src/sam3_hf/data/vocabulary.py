"""What concept scenes are made of, and the phrases that name it: shapes, colours, textures, sizes, compositions.

A phrase is a noun with up to two modifiers, in English order: "circle", "red circle", "large red circle",
"red striped star", "plain red circle". The noun is one of `SHAPES`, or "shape" for any object.

Some attribute-noun compositions are **unseen**: no training or validation scene holds such an object, and no phrase of
theirs names one, not even as a negative. Every colour, texture and noun is seen, in other compositions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

__all__ = [
    "ANY_SHAPE",
    "COLOURS",
    "SHAPES",
    "SIZES",
    "TEXTURES",
    "UNSEEN_COLOURS",
    "UNSEEN_TEXTURES",
    "Concept",
    "ObjectKind",
    "is_unseen",
    "parse_phrase",
    "phrases_of",
    "seen_phrases",
    "swapped_phrases",
    "unseen_phrases",
]

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "ring",
    "cross",
    "heart",
    "hexagon",
    "crescent",
    "arrow",
    "diamond",
    "ellipse",
)
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "black")
TEXTURES = ("plain", "striped", "dotted", "checkered")
# Objects between small and large ("medium") have no word for their size, so both words stay unambiguous.
SIZES = ("small", "large")
ANY_SHAPE = "shape"

# 20 of 132 colour-shape pairs and 6 of 48 texture-shape pairs (of 36 without "plain"): 15 % of what can be composed.
UNSEEN_COLOURS: dict[str, tuple[str, ...]] = {
    "circle": ("purple", "orange"),
    "square": ("yellow", "pink"),
    "triangle": ("blue", "white"),
    "star": ("red", "cyan"),
    "ring": ("green", "black"),
    "cross": ("brown", "yellow"),
    "heart": ("blue", "orange"),
    "hexagon": ("white", "red"),
    "crescent": ("purple",),
    "arrow": ("green",),
    "diamond": ("pink",),
    "ellipse": ("cyan",),
}
UNSEEN_TEXTURES: dict[str, tuple[str, ...]] = {
    "circle": ("striped",),
    "star": ("dotted",),
    "cross": ("checkered",),
    "heart": ("striped",),
    "diamond": ("dotted",),
    "arrow": ("checkered",),
}


@dataclass(frozen=True)
class ObjectKind:
    """What one object looks like, in words; `size` is "small", "medium" or "large"."""

    shape: str
    colour: str
    texture: str
    size: str


@dataclass(frozen=True)
class Concept:
    """What a phrase asks for; an attribute that is None may be anything."""

    noun: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    @property
    def phrase(self) -> str:
        """The words, in English order: "large red circle", "red striped star", "plain red circle"."""
        manner, pattern = (self.texture, None) if self.texture == "plain" else (None, self.texture)
        return " ".join(word for word in (self.size, manner, self.colour, pattern, self.noun) if word)

    def matches(self, kind: ObjectKind) -> bool:
        """Whether an object of this kind is what the phrase asks for."""
        return (
            self.noun in (ANY_SHAPE, kind.shape)
            and self.colour in (None, kind.colour)
            and self.texture in (None, kind.texture)
            and self.size in (None, kind.size)
        )


def _all_concepts() -> Iterator[Concept]:
    """Every noun with none, one or two modifiers."""
    for noun in (*SHAPES, ANY_SHAPE):
        for colour in (None, *COLOURS):
            for texture in (None, *TEXTURES):
                for size in (None, *SIZES):
                    if sum(word is not None for word in (colour, texture, size)) <= 2:
                        yield Concept(noun, colour, texture, size)


_CONCEPTS = {concept.phrase: concept for concept in _all_concepts()}


def is_unseen(item: ObjectKind | Concept) -> bool:
    """Whether the object or concept holds a composition that training never shows."""
    shape = item.shape if isinstance(item, ObjectKind) else item.noun
    return item.colour in UNSEEN_COLOURS.get(shape, ()) or item.texture in UNSEEN_TEXTURES.get(shape, ())


def parse_phrase(phrase: str) -> Concept:
    """The concept that a phrase of concept scenes asks for.

    Raises:
        ValueError: the phrase is none of theirs.
    """
    if phrase not in _CONCEPTS:
        raise ValueError(
            f"{phrase!r} is not a phrase of concept scenes: expected one of {SHAPES} or {ANY_SHAPE!r} with at most two "
            f"of a size {SIZES}, a colour {COLOURS} and a texture {TEXTURES}, such as 'large red circle'"
        )
    return _CONCEPTS[phrase]


@cache
def phrases_of(kind: ObjectKind) -> tuple[str, ...]:
    """Every phrase that names an object of this kind, shortest first."""
    size = kind.size if kind.size in SIZES else None
    concepts = [
        Concept(noun, colour, texture, length)
        for noun in (kind.shape, ANY_SHAPE)
        for colour in (None, kind.colour)
        for texture in (None, kind.texture)
        for length in dict.fromkeys((None, size))
    ]
    named = [concept.phrase for concept in concepts if concept.phrase in _CONCEPTS]
    return tuple(sorted(named, key=lambda phrase: phrase.count(" ")))


@cache
def swapped_phrases(phrase: str) -> tuple[str, ...]:
    """Every phrase that differs from this one in exactly one word: an attribute, or the shape, of the same kind."""
    concept = parse_phrase(phrase)
    swaps = []
    for field, words in (("size", SIZES), ("colour", COLOURS), ("texture", TEXTURES), ("noun", SHAPES)):
        own = getattr(concept, field)
        if own in words:
            swaps += [replace(concept, **{field: word}).phrase for word in words if word != own]
    return tuple(swaps)


@cache
def seen_phrases() -> tuple[str, ...]:
    """Every phrase that training may use."""
    return tuple(phrase for phrase, concept in _CONCEPTS.items() if not is_unseen(concept))


@cache
def unseen_phrases() -> tuple[str, ...]:
    """Every phrase that holds a composition which training never shows."""
    return tuple(phrase for phrase, concept in _CONCEPTS.items() if is_unseen(concept))
