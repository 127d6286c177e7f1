"""What the loaders share: a picture's record while its file is read, and what could not be used."""

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from ..ops.polygons import polygons_to_runs
from .concept_table import dataset_of_rows
from .regions import mask_runs, runs_to_box, runs_to_rle

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["Record", "Skipped", "checked_file", "finished"]


@dataclass
class Skipped:
    """What a loader could not use, to be told once."""

    source: str
    on_bad: str
    found: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    pictures: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.on_bad not in ("skip", "raise"):
            raise ValueError(f"on_bad is {self.on_bad!r}; expected 'skip' or 'raise'.")

    def add(self, reason: str, what: str) -> None:
        if self.on_bad == "raise":
            raise ValueError(f"{self.source}: {what}: {reason}. Mend it, or leave on_bad at 'skip'.")
        self.found[reason].append(what)

    def add_picture(self, reason: str, image_id: Any, what: str) -> None:
        self.pictures.add(image_id)
        self.add(reason, what)

    def tell(self) -> None:
        if self.found:
            lines = [f"{reason}: {_listed(names)}" for reason, names in self.found.items()]
            total = sum(map(len, self.found.values()))
            warnings.warn(f"{self.source} skipped {total}: " + "; ".join(lines) + ".", stacklevel=4)


@dataclass
class Record:
    """One picture while its file is read."""

    image_id: str
    path: Path
    size: tuple[int, int]
    boxes: list[Sequence[float]] = field(default_factory=list)
    masks: list[str | None] = field(default_factory=list)
    is_crowd: list[bool] = field(default_factory=list)
    concepts: dict[str, list[int]] = field(default_factory=dict)
    vocabulary: list[str] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)  # phrases with an annotation that could not be used

    def add(
        self, annotation: Mapping[str, Any], phrases: Sequence[str], what: str, bad: Skipped, normalized: bool = False
    ) -> None:
        """Takes up an object, or notes why it cannot."""
        try:
            box, counts = _object(annotation, self.size, normalized)
        except ValueError as error:
            self.doubtful.update(phrases)
            bad.add(str(error), what)
            return
        for phrase in dict.fromkeys(phrases):
            self.concepts.setdefault(phrase, []).append(len(self.boxes))
        self.boxes.append(box)
        self.masks.append(counts)
        self.is_crowd.append(bool(annotation.get("iscrowd", 0)))

    def set_vocabulary(self, image: Mapping[str, Any], names: Mapping[Any, str], exhaustive: bool) -> None:
        if "neg_category_ids" in image:  # LVIS: only these were looked for and not found
            self.vocabulary = [names[i] for i in image["neg_category_ids"] if i in names]
        elif exhaustive:
            self.vocabulary = list(dict.fromkeys(names.values()))
        for i in image.get("not_exhaustive_category_ids", ()):
            self.doubtful.add(names.get(i, ""))
            self.concepts.pop(names.get(i, ""), None)

    def row(self) -> dict[str, Any]:
        """The dataset's row. A phrase whose only annotations could not be used is neither there nor absent."""
        whole = all(counts is not None for counts in self.masks)
        return {
            "image_id": self.image_id,
            "image": str(self.path),
            "height": self.size[0],
            "width": self.size[1],
            "boxes": self.boxes,
            "masks": list(self.masks) if whole else None,
            "is_crowd": self.is_crowd,
            "phrases": list(self.concepts),
            "objects": list(self.concepts.values()),
            "vocabulary": [phrase for phrase in self.vocabulary if phrase not in self.doubtful],
        }


def checked_file(path: Path, image: Mapping[str, Any], max_pixels: int) -> tuple[int, int] | str:
    """(height, width) of a picture file, as stated or else as stored, or the reason why it cannot be used."""
    if not path.is_file():
        return f"their file is missing in {str(path.parent)!r}"
    try:
        size = int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError):
        try:
            with PIL.Image.open(path) as stored:
                size = stored.height, stored.width
        except Exception:
            return "their file cannot be read as a picture"
    if min(size) < 1:
        return "their size is stated as 0 or less"
    return size if size[0] * size[1] <= max_pixels else f"they have more than {max_pixels} pixels"


def finished(records: Any, bad: Skipped) -> "Dataset":
    """The dataset of all pictures about which anything is known."""
    rows = []
    boxes_only = []
    for record in records:
        row = record.row()
        if not row["phrases"] and not row["vocabulary"]:
            bad.add("no phrase is known to be there or absent", f"picture {record.image_id} ({record.path.name})")
            continue
        if row["masks"] is None and any(record.masks):
            boxes_only.append(f"picture {record.image_id}")
        rows.append(row)
    if not any(row["phrases"] for row in rows):
        reasons = "; ".join(f"{reason}: {_listed(names)}" for reason, names in bad.found.items())
        raise ValueError(f"{bad.source}: no annotation that can be used. {reasons}".rstrip())
    bad.tell()
    if boxes_only:
        warnings.warn(
            f"{bad.source}: some objects have a box and no mask; the masks of their pictures are not used: "
            f"{_listed(boxes_only)}.",
            stacklevel=3,
        )
    return dataset_of_rows(rows)


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _object(
    annotation: Mapping[str, Any], size: tuple[int, int], normalized: bool
) -> tuple[Sequence[float], str | None]:
    """The box, xyxy in pixels, and the compressed run lengths (None: box alone); ValueError with the reason if bad."""
    segmentation = annotation.get("segmentation")
    if segmentation:
        runs = _runs(segmentation, size)
        box = runs_to_box(runs, size)
        if box is None:
            raise ValueError("their mask is empty")
        return box, runs_to_rle(runs, size)["counts"]
    return _checked_box(annotation.get("bbox"), size, normalized), None


def _runs(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    try:
        if isinstance(segmentation, Mapping):
            return mask_runs(segmentation, size)
        return polygons_to_runs(segmentation, size)
    except (ValueError, TypeError, KeyError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"their mask cannot be read ({reason})") from error


def _checked_box(bbox: Any, size: tuple[int, int], normalized: bool) -> Sequence[float]:
    height, width = size
    if not isinstance(bbox, Sequence) or len(bbox) != 4 or not all(isinstance(v, int | float) for v in bbox):
        raise ValueError("they have neither a mask nor a box [left, top, width, height]")
    x, y, w, h = (v * s for v, s in zip(bbox, (width, height, width, height), strict=True)) if normalized else bbox
    if not all(map(math.isfinite, (x, y, w, h))):
        raise ValueError("their box holds NaN or infinity")
    box = [min(max(x, 0), width), min(max(y, 0), height), min(max(x + w, 0), width), min(max(y + h, 0), height)]
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("their box covers no area of the picture")
    return box
