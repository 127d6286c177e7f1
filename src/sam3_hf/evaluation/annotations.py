"""Annotation files as picture-phrase pairs: SA-Co (one file, or one for each annotator), COCO and LVIS JSON.

| kind | a pair is | negatives |
|---|---|---|
| "saco" | an entry of `images` with its `text_input` (Gold, Silver) | an entry without annotations |
| "lvis" | a picture and a category that it was searched for | the picture's `neg_category_ids` |
| "coco" | a picture and a category, each with each | every category that the picture has no annotation of |

The names of categories are the phrases.  LVIS's `not_exhaustive_category_ids`, COCO's pairs with a crowd region, and
SA-Co's entries whose `is_instance_exhaustive` is 0 make pairs that concept F1 and counting leave out.
"""

import gc
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..ops.masks import counts_to_string
from ..ops.polygons import polygons_to_runs
from .predictions import ConceptTarget, PairKey, Rle
from .problems import Problems

__all__ = ["AnnotatedPair", "AnnotatedPairs", "load_annotations", "read_json"]

_FRACTION = 1.01  # SA-Co writes boxes as fractions of the picture, rounded; in pixels no file has them all below 1
_NO_DOMAIN = "all"


@dataclass(frozen=True)
class AnnotatedPair:
    """One picture, one phrase, and what each annotator saw.

    Attributes:
        targets: one for each annotator, all of the same key and size.
        file_name: of the picture, as annotated.
        picture: what pairs of the same picture have in common.
        domain: where the pair is from: `domain`, `subset` or `source` of its entry, or the file's description.
        result_id: `image_id` and `category_id` of results for this pair (category None: any).
    """

    targets: tuple[ConceptTarget, ...]
    file_name: str
    picture: str | int
    domain: str
    result_id: tuple[Any, Any]

    @property
    def key(self) -> PairKey:
        """(image_id, phrase)."""
        return self.targets[0].key

    @property
    def is_exhaustive(self) -> bool:
        """Whether every annotator marked all objects."""
        return all(target.is_exhaustive for target in self.targets)

    @property
    def is_positive(self) -> bool:
        """Whether the first annotator saw an object."""
        return self.targets[0].num_objects > 0


@dataclass(frozen=True)
class AnnotatedPairs:
    """All pairs of one or several annotation files.

    Attributes:
        kind: "saco", "coco" or "lvis".
        problems: what was left out or is worth knowing.
        in_fractions: boxes were fractions of the picture's sides (they are pixels here).
        image_ids, category_ids: all that the file has, also where they make no pair.
        frequencies: phrase → LVIS's "r", "c" or "f".
    """

    kind: str
    pairs: Sequence[AnnotatedPair]
    problems: Problems
    in_fractions: bool = False
    image_ids: frozenset[Any] = frozenset()
    category_ids: frozenset[Any] = frozenset()
    frequencies: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[AnnotatedPair]:
        return iter(self.pairs)

    @property
    def num_annotators(self) -> int:
        """How many annotated each pair."""
        return len(self.pairs[0].targets)

    def places(self) -> dict[tuple[Any, Any], int]:
        """Index of the pair by the ids of its results."""
        return {pair.result_id: index for index, pair in enumerate(self.pairs)}


def load_annotations(
    annotations: Mapping[str, Any] | str | os.PathLike[str] | Sequence[Any], lenient: bool = False
) -> AnnotatedPairs:
    """The pairs of an annotation file, or of several files with the same pairs by different annotators.

    Masks may be run lengths, compressed or not, or polygons. Files are paths or what JSON made of them.

    Raises ValueError for files of another format, ids that are used twice, masks that do not suit their picture, and
    annotators who disagree on what was asked; with `lenient`, annotations that cannot be used are left out and counted.
    """
    files = [annotations] if isinstance(annotations, Mapping | str | os.PathLike) else list(annotations)
    if not files:
        raise ValueError("no annotation file given; expected at least one.")
    readers = [_Reader(file, lenient) for file in files]
    first = readers[0]
    if any(reader.kind != "saco" for reader in readers) and len(readers) > 1:
        raise ValueError(
            "several annotation files are several annotators': all must be SA-Co (entries with text_input)."
        )
    columns = [reader.read() for reader in readers]
    for reader in readers:
        reader.problems.settle()
    pairs = _joined(readers, columns) if len(readers) > 1 else columns[0]
    if not pairs:
        raise ValueError(f"{first.problems.source} has no picture-phrase pair; expected entries under 'images'.")
    return AnnotatedPairs(
        kind=first.kind,
        pairs=pairs,
        problems=_merged(readers),
        in_fractions=any(reader.in_fractions for reader in readers),
        image_ids=frozenset(first.images),
        category_ids=frozenset(first.categories),
        frequencies=first.frequencies,
    )


def read_json(path: Any, what: str) -> Any:
    """What a JSON file holds; ValueError or FileNotFoundError that names it where it cannot be read."""
    collects = gc.isenabled()
    gc.disable()  # a million new objects and no garbage: looking for some takes half of the time
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no {what} {str(path)!r}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the {what} {str(path)!r} is not JSON: {error}") from error
    finally:
        if collects:
            gc.enable()


class _Reader:
    """One file on its way to pairs."""

    def __init__(self, source: Any, lenient: bool) -> None:
        name = "the annotations" if isinstance(source, Mapping) else str(source)
        data = source if isinstance(source, Mapping) else read_json(source, "annotation file")
        if not isinstance(data, Mapping) or not isinstance(data.get("images"), list):
            raise ValueError(f"{name} has no list 'images'; expected SA-Co, COCO or LVIS JSON.")
        self.problems = Problems(name, lenient)
        self.data = data
        self.images: dict[Any, Mapping[str, Any]] = {}
        for image in data["images"]:
            if "id" not in image or image["id"] in self.images:
                raise ValueError(
                    f"{name}: the id {image.get('id')!r} in 'images' is missing or used twice; give each its own."
                )
            self.images[image["id"]] = image
        self.categories = {one["id"]: " ".join(str(one["name"]).split()) for one in data.get("categories") or []}
        self.kind = _kind(data["images"])
        self.frequencies = {
            self.categories[one["id"]]: one["frequency"] for one in data.get("categories") or [] if "frequency" in one
        }
        boxes = [one["bbox"] for one in data.get("annotations") or [] if one.get("bbox")]
        self.in_fractions = bool(boxes) and all(isinstance(v, int | float) and v <= _FRACTION for b in boxes for v in b)
        self.domain = str((data.get("info") or {}).get("description") or _NO_DOMAIN)

    def read(self) -> list[AnnotatedPair]:
        """The pairs in the order of the file."""
        objects: dict[tuple[Any, Any], list[Mapping[str, Any]]] = {}
        for annotation in self.data.get("annotations") or []:
            place = annotation.get("image_id"), None if self.kind == "saco" else annotation.get("category_id")
            if place[0] not in self.images:
                self.problems.fault("annotations of a picture that is not in the file", _name(annotation))
            elif self.kind != "saco" and place[1] not in self.categories:
                self.problems.fault("annotations of a category that is not in the file", _name(annotation))
            else:
                objects.setdefault(place, []).append(annotation)
        return [self._pair(place, objects.get(place, [])) for place in self._places(objects)]

    def _places(self, objects: Mapping[tuple[Any, Any], Any]) -> Iterator[tuple[Any, Any]]:
        for image_id, image in self.images.items():
            if self.kind == "saco":
                yield image_id, None
            elif self.kind == "coco":
                yield from ((image_id, category) for category in self.categories)
            else:
                known = {*image["neg_category_ids"], *image.get("not_exhaustive_category_ids", ())}
                there = {category for category in self.categories if (image_id, category) in objects}
                yield from ((image_id, category) for category in self.categories if category in known | there)

    def _pair(self, place: tuple[Any, Any], objects: Sequence[Mapping[str, Any]]) -> AnnotatedPair:
        image_id, category = place
        image = self.images[image_id]
        size = int(image["height"]), int(image["width"])
        shapes = [shape for one in objects if (shape := self._shape(one, size)) is not None]
        crowd = np.array([shape[2] for shape in shapes], dtype=bool)
        masks = [shape[1] for shape in shapes]
        target = ConceptTarget(
            image_id=image_id,
            phrase=self._phrase(image, category),
            size=size,
            boxes=np.array([shape[0] for shape in shapes], dtype=np.float64).reshape(-1, 4),
            masks=None if any(mask is None for mask in masks) else masks,  # type: ignore[arg-type]
            is_crowd=crowd,
            is_exhaustive=self._is_exhaustive(image, category, crowd),
        )
        file_name = str(image.get("file_name") or "")
        domain = next((str(image[key]) for key in ("domain", "subset", "source") if image.get(key)), self.domain)
        return AnnotatedPair((target,), file_name, file_name or image_id, domain, place)

    def _phrase(self, image: Mapping[str, Any], category: Any) -> str:
        if self.kind != "saco":
            return self.categories[category]
        phrase = " ".join(str(image.get("text_input") or "").split())
        if not phrase:
            self.problems.remark("entries without text_input", f"entry {image['id']}")
        return phrase

    def _is_exhaustive(self, image: Mapping[str, Any], category: Any, is_crowd: np.ndarray) -> bool:
        if self.kind == "saco":
            return bool(image.get("is_instance_exhaustive", True))
        return category not in image.get("not_exhaustive_category_ids", ()) and not is_crowd.any()

    def _shape(
        self, annotation: Mapping[str, Any], size: tuple[int, int]
    ) -> tuple[Sequence[float], Rle | None, bool] | None:
        """Box xyxy in pixels, code and crowd flag of an annotation; None where it cannot be used."""
        try:
            rle = _rle(annotation.get("segmentation"), size)
            box = _xyxy(annotation.get("bbox"), size if self.in_fractions else (1, 1))
        except (ValueError, TypeError, KeyError) as error:
            self.problems.fault("annotations that cannot be read", f"{_name(annotation)}: {error}")
            return None
        if box is None and rle is None:
            self.problems.fault("annotations with neither mask nor box", _name(annotation))
            return None
        if box is None:
            box = ConceptTarget("", "", size, masks=[rle]).boxes[0].tolist()  # type: ignore[list-item]
        return box, rle, bool(annotation.get("iscrowd", 0))


def _kind(images: Sequence[Mapping[str, Any]]) -> str:
    if any("text_input" in image or "is_instance_exhaustive" in image for image in images):
        return "saco"
    return "lvis" if any("neg_category_ids" in image for image in images) else "coco"


def _rle(segmentation: Any, size: tuple[int, int]) -> Rle | None:
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        if [int(side) for side in segmentation["size"]] != list(size):
            raise ValueError(f"a mask of size {segmentation['size']} in a picture of {list(size)}")
        return dict(segmentation)
    return {"size": list(size), "counts": counts_to_string(polygons_to_runs(segmentation, size))}


def _xyxy(bbox: Any, sides: tuple[int, int]) -> list[float] | None:
    if bbox is None or len(bbox) == 0:
        return None
    x, y, w, h = (float(value) for value in bbox)
    height, width = sides
    box = [x * width, y * height, (x + w) * width, (y + h) * height]
    if not all(map(math.isfinite, box)):
        raise ValueError(f"the box {list(bbox)} is not finite")
    return box


def _joined(readers: Sequence[_Reader], columns: Sequence[list[AnnotatedPair]]) -> list[AnnotatedPair]:
    """One pair for each of the first file, with the targets of all; they must have the same pairs."""
    others = [{pair.result_id: pair for pair in column} for column in columns[1:]]
    joined = []
    for pair in columns[0]:
        same = [pair]
        for reader, other in zip(readers[1:], others, strict=True):
            found = other.get(pair.result_id)
            if found is None or found.key != pair.key or found.targets[0].size != pair.targets[0].size:
                what = "lacks it" if found is None else f"has it as {found.key[1]!r}, {found.targets[0].size}"
                raise ValueError(
                    f"annotators were not asked the same: {readers[0].problems.source} has entry {pair.result_id[0]!r} "
                    f"as {pair.key[1]!r}, {pair.targets[0].size}; {reader.problems.source} {what}."
                )
            same.append(found)
        targets = tuple(one.targets[0] for one in same)
        joined.append(AnnotatedPair(targets, pair.file_name, pair.picture, pair.domain, pair.result_id))
    return joined


def _merged(readers: Sequence[_Reader]) -> Problems:
    merged = Problems(", ".join(reader.problems.source for reader in readers), readers[0].problems.lenient)
    for reader in readers:
        for kind, what in reader.problems.faults.items():
            merged.faults[kind] += what
        for kind, what in reader.problems.remarks.items():
            merged.remarks[kind] += what
    return merged


def _name(annotation: Mapping[str, Any]) -> str:
    return f"annotation {annotation.get('id')}"
