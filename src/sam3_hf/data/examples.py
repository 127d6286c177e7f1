"""`ConceptExample`: one picture, its objects, and what phrases mean in it. What every data source gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ConceptExample"]

Mask = np.ndarray | Mapping[str, Any]


@dataclass(frozen=True)
class ConceptExample:
    """One annotated picture. Objects are stored once; a phrase names some of them.

    Attributes:
        image_id: unique within its data source.
        image: (height, width, 3) uint8 RGB, or the path of a picture file.
        size: (height, width) in pixels.
        boxes: (num_objects, 4) float32 xyxy in pixels.
        masks: for each object a bool array (height, width) or a COCO run-length code; None: only boxes are known.
        concepts: phrase → indices of its objects; an empty tuple says that the phrase is known to be absent.
        is_crowd: indices of objects that are regions of uncountable objects: neither right nor wrong as an answer.
        vocabulary: phrases that were all looked for: one that `concepts` lacks is absent.
    """

    image_id: str | int
    image: np.ndarray | Path
    size: tuple[int, int]
    boxes: np.ndarray
    masks: Sequence[Mask] | None
    concepts: Mapping[str, tuple[int, ...]]
    is_crowd: frozenset[int] = frozenset()
    vocabulary: Sequence[str] = field(default=(), repr=False)

    @property
    def num_objects(self) -> int:
        """Number of objects, crowd regions among them."""
        return len(self.boxes)

    def present(self) -> list[str]:
        """Phrases with at least one object, in stored order."""
        return [phrase for phrase, objects in self.concepts.items() if objects]

    def absent(self) -> list[str]:
        """Phrases known to have no object here: first those that are named, then the rest of the vocabulary."""
        named = [phrase for phrase, objects in self.concepts.items() if not objects]
        return named + [phrase for phrase in self.vocabulary if phrase not in self.concepts]
