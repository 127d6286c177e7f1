"""Which phrases a picture is asked in training: some that are there, some that are not, some shown by boxes.

A model that only ever hears phrases that are there learns to answer every phrase, so each picture brings absent ones:
random names, hard ones that sound like what is there, and names that the model wrongly accepted before.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ..files import write_text_whole
from ..processing.rows import VISUAL_PHRASE
from .pictures import Picture

__all__ = [
    "EVERYDAY_PHRASES",
    "AllPhrases",
    "ConceptRow",
    "ConceptSampler",
    "MinedNegatives",
    "Sampler",
    "hard_negatives",
    "noisy_boxes",
]

# What pictures without known absent phrases are asked as if it were absent. Now and then it is there after all; that
# costs little beside a model which, having heard one phrase only, answers every phrase.
EVERYDAY_PHRASES = (
    "person", "dog", "cat", "horse", "bird", "cow", "fish", "tree", "flower", "grass", "car", "bus", "truck",
    "bicycle", "boat", "airplane", "train", "road", "building", "window", "door", "roof", "chair", "table", "bed",
    "lamp", "book", "bottle", "cup", "plate", "spoon", "apple", "banana", "pizza", "cake", "phone", "laptop", "clock",
    "shoe", "hat", "shirt", "bag", "umbrella", "ball", "sign", "bench", "cloud", "mountain", "circle", "square",
    "triangle", "star", "ring", "cross", "heart", "arrow", "red car", "white dog", "blue shirt", "green apple",
    "small bird", "large building", "striped shirt", "yellow flower",
)  # fmt: skip


@dataclass(frozen=True)
class ConceptRow:
    """One question to a picture, with its answer.

    Attributes:
        phrase: what the model reads; "visual" where the boxes alone say what is meant.
        concept: the phrase that is meant.
        objects: numbers of the objects that are right answers; none: the phrase is absent.
        crowd: numbers of the phrase's crowd regions.
        boxes: (num_exemplars, 4) xyxy in pixels.
        box_labels: 1 for an example of the concept, 0 for an example of what it is not.
    """

    phrase: str
    concept: str
    objects: tuple[int, ...]
    crowd: tuple[int, ...] = ()
    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    box_labels: tuple[int, ...] = ()


class Sampler(Protocol):
    """Chooses the rows of a picture; all chance comes from `rng`."""

    def __call__(self, picture: Picture, rng: np.random.Generator) -> list[ConceptRow]: ...


@dataclass
class MinedNegatives:
    """Absent phrases that a model wrongly accepted, by picture; `mine_negatives` fills it.

    With a `path` it is read from that JSON file where there is one, and `save` writes it there. Processes that load
    data see a newer file at their next `refresh`.
    """

    path: str | os.PathLike[str] | None = None
    phrases: dict[str, list[str]] = field(default_factory=dict)
    _read_at: int = field(default=-1, repr=False)

    def __post_init__(self) -> None:
        self.refresh()

    def get(self, image_id: str | int) -> list[str]:
        """Wrongly accepted phrases of a picture, worst first."""
        return self.phrases.get(str(image_id), [])

    def update(self, mined: Mapping[str, Sequence[str]] | Mapping[int, Sequence[str]]) -> None:
        """Replaces what is stored for the given pictures."""
        self.phrases |= {str(image_id): list(phrases) for image_id, phrases in mined.items()}

    def save(self) -> None:
        """Writes the JSON file, whole or not at all."""
        if self.path is None:
            raise ValueError("these mined negatives have no path; make them with MinedNegatives('mined.json').")
        write_text_whole(json.dumps(self.phrases, ensure_ascii=False, indent=0), self.path)

    def refresh(self) -> None:
        """Reads the file again if it is newer than what is stored."""
        if self.path is None or not os.path.exists(self.path):
            return
        changed = os.stat(self.path).st_mtime_ns
        if changed == self._read_at:
            return
        stored = json.loads(Path(self.path).read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or not all(isinstance(phrases, list) for phrases in stored.values()):
            raise ValueError(f"{str(self.path)!r} is not a file of mined negatives: {{image_id: [phrase, ...]}}.")
        self.phrases, self._read_at = stored, changed


@dataclass
class ConceptSampler:
    """Draws the rows of a picture for training.

    Attributes:
        positives: at most so many phrases that are there.
        random_negatives: so many absent phrases drawn at random.
        hard_negatives: so many absent phrases that sound like one that is there (see `hard_negatives`); where there are
            not enough of them, random ones take their place.
        mined_negatives: at most so many absent phrases that the model wrongly accepted, from `mined`.
        mined: store of those.
        siblings: phrase or head noun → names that are easily taken for it.
        assumed_absent: phrases taken as absent from every picture that does not name them; asked where a picture knows
            too few absent phrases itself. None: `EVERYDAY_PHRASES`, for pictures that know no absent phrase at all. A
            set of one phrase needs them: without any negative a model learns to answer every phrase. (): none.
        visual_query: probability that a present phrase is asked by boxes alone.
        added_boxes: probability that boxes are added to a present phrase.
        max_exemplars: at most so many boxes; their number is drawn from 1 to the number of objects.
        box_noise: standard deviation of a box's noise as a part of its side.
        max_box_noise: its limit in pixels.
    """

    positives: int = 4
    random_negatives: int = 1
    hard_negatives: int = 1
    mined_negatives: int = 1
    mined: MinedNegatives | None = None
    siblings: Mapping[str, Sequence[str]] | None = None
    assumed_absent: Sequence[str] | None = None
    visual_query: float = 0.2
    added_boxes: float = 0.2
    max_exemplars: int = 3
    box_noise: float = 0.1
    max_box_noise: float = 20.0

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("positives", "random_negatives", "hard_negatives")}
        counts |= {"mined_negatives": self.mined_negatives, "max_exemplars": self.max_exemplars}
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name} is {count}; expected 0 or more.")
        if min(self.visual_query, self.added_boxes) < 0 or self.visual_query + self.added_boxes > 1:
            raise ValueError(
                f"visual_query is {self.visual_query} and added_boxes {self.added_boxes}; "
                "expected probabilities that sum to at most 1."
            )

    def __call__(self, picture: Picture, rng: np.random.Generator) -> list[ConceptRow]:
        """Rows of the picture: present phrases, then absent ones. Empty where nothing is known about it."""
        known = _countable(picture)
        present = _some(list(known), self.positives, rng)
        rows = [self._positive(picture, phrase, known[phrase], rng) for phrase in present]
        return rows + [ConceptRow(phrase, phrase, ()) for phrase in self._negatives(picture, present, rng)]

    def _negatives(self, picture: Picture, present: Sequence[str], rng: np.random.Generator) -> list[str]:
        absent = dict.fromkeys(picture.absent)  # a set that keeps its order
        chosen: list[str] = []
        if self.mined is not None:
            accepted = [phrase for phrase in self.mined.get(picture.image_id) if phrase in absent]
            chosen += _some(accepted, self.mined_negatives, rng)
        if self.hard_negatives:
            hard = [p for p in hard_negatives(present, list(absent), self.siblings) if p not in chosen]
            chosen += _some(hard, self.hard_negatives, rng)
            wanted = self.hard_negatives - min(len(hard), self.hard_negatives) + self.random_negatives
        else:
            wanted = self.random_negatives
        chosen += _some([phrase for phrase in absent if phrase not in chosen], wanted, rng)
        missing = self.hard_negatives + self.random_negatives - len(chosen)
        if missing > 0:
            chosen += _some(self._assumed(picture), missing, rng)
        return chosen

    def _assumed(self, picture: Picture) -> list[str]:
        """Phrases that are taken as absent from the picture although nobody looked for them."""
        if self.assumed_absent is not None:
            named = {*picture.absent, *picture.concepts}
            return [phrase for phrase in self.assumed_absent if phrase not in named]
        if picture.absent or not picture.concepts:
            return []
        heads = {_head(phrase) for phrase in picture.concepts}  # "tall person" names a person
        return [phrase for phrase in EVERYDAY_PHRASES if _head(phrase) not in heads]

    def _positive(
        self, picture: Picture, phrase: str, objects: tuple[int, ...], rng: np.random.Generator
    ) -> ConceptRow:
        crowd = tuple(i for i in picture.concepts[phrase] if i in picture.crowd)
        kind = rng.random()
        if kind >= self.visual_query + self.added_boxes or not self.max_exemplars:
            return ConceptRow(phrase, phrase, objects, crowd)
        count = int(rng.integers(1, min(len(objects), self.max_exemplars) + 1))
        examples = rng.choice(len(objects), count, replace=False)
        boxes = picture.boxes[[objects[i] for i in examples]]
        boxes = noisy_boxes(boxes, picture.size, rng, self.box_noise, self.max_box_noise)
        text = VISUAL_PHRASE if kind < self.visual_query else phrase
        return ConceptRow(text, phrase, objects, crowd, boxes, (1,) * count)


@dataclass
class AllPhrases:
    """The rows for evaluation: every phrase that is there and absent ones, without noise.

    Attributes:
        negatives: at most so many absent phrases, drawn at random; None: all of them.
        exemplars: so many boxes (fewer where there are fewer objects) go with each present phrase.
        visual: the boxes alone say what is meant.
    """

    negatives: int | None = None
    exemplars: int = 0
    visual: bool = False

    def __call__(self, picture: Picture, rng: np.random.Generator) -> list[ConceptRow]:
        """Rows of the picture: present phrases, then absent ones."""
        absent = list(dict.fromkeys(picture.absent))
        if self.negatives is not None:
            absent = _some(absent, self.negatives, rng)
        rows = []
        for phrase, objects in _countable(picture).items():
            crowd = tuple(i for i in picture.concepts[phrase] if i in picture.crowd)
            # Drawn as one order of the objects, so that three exemplars hold the one that a single one would be.
            order = rng.permutation(len(objects))[: self.exemplars]
            boxes = picture.boxes[[objects[i] for i in order]].reshape(-1, 4)
            text = VISUAL_PHRASE if self.visual and len(order) else phrase
            rows.append(ConceptRow(text, phrase, objects, crowd, boxes, (1,) * len(order)))
        return rows + [ConceptRow(phrase, phrase, ()) for phrase in absent]


def hard_negatives(
    present: Iterable[str], absent: Sequence[str], siblings: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Those of the `absent` phrases that are easily taken for one of the `present` ones.

    They share its head noun ("red car" - "blue car"), are listed as its siblings, or have as head noun a sibling of its
    head noun ("red car" - "red van" where siblings["car"] holds "van").
    """
    heads, names = set(), set()
    for phrase in present:
        head = _head(phrase)
        related = [*(siblings or {}).get(phrase, ()), *(siblings or {}).get(head, ())]
        names.update(related)
        heads |= {head, *map(_head, related)}
    return [phrase for phrase in absent if phrase in names or _head(phrase) in heads]


@lru_cache(maxsize=100_000)
def _head(phrase: str) -> str:
    """The head noun of an English noun phrase: its last word, or the one before "of", "with", "in", "on" or "to"."""
    words = phrase.lower().split()
    for index, word in enumerate(words):
        if index and word in ("of", "with", "in", "on", "to", "at", "from", "for"):
            return words[index - 1]
    return words[-1] if words else ""


def noisy_boxes(
    boxes: np.ndarray, size: tuple[int, int], rng: np.random.Generator, std: float = 0.1, limit: float = 20.0
) -> np.ndarray:
    """Boxes (n, 4) xyxy in pixels as a person might draw them: each side moved by normal noise, inside the picture.

    The noise has a standard deviation of `std` times the box's width or height and is at most `limit` pixels. A box
    that would lose its area stays as it was.
    """
    height, width = size
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = (rng.standard_normal(boxes.shape) * std * sides).clip(-limit, limit)
    moved = (boxes + noise).clip(0, [width, height, width, height]).astype(np.float32)
    solid = ((moved[:, 2:] - moved[:, :2]) >= 1).all(axis=1, keepdims=True)
    return np.where(solid, moved, boxes.astype(np.float32))


def _countable(picture: Picture) -> dict[str, tuple[int, ...]]:
    """Present phrases with their objects, without crowd regions; a phrase of crowd regions alone cannot be asked."""
    known = {p: tuple(i for i in objects if i not in picture.crowd) for p, objects in picture.concepts.items()}
    return {phrase: objects for phrase, objects in known.items() if objects}


def _some(phrases: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """At most `count` of them, at random, without repetition."""
    return [phrases[i] for i in rng.permutation(len(phrases))[:count]]
