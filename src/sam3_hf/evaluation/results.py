"""COCO results for annotated pairs: checked entry by entry, then given out pair by pair as `ConceptPrediction`s.

What cannot be scored is a fault (unknown ids, masks of a wrong size or broken, numbers that are not finite): an error,
or left out and counted.  What the reference's evaluator takes silently is taken too, but told: pairs without an entry
(nothing was found), entries that come twice (each counts as an answer; lenient: the repetitions are left out), and, for
LVIS, answers for pairs that nobody verified (ignored).
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .annotations import AnnotatedPair, AnnotatedPairs, read_json
from .predictions import ConceptPrediction
from .problems import Problems
from .runs import MaskRuns

__all__ = ["Results", "load_results"]

_MASKS_AT_ONCE = 4096
_FRACTION = 1.01

Entry = Mapping[str, Any]


class Results:
    """Checked entries by pair.

    Attributes:
        problems: what was left out or is worth knowing.
        has_masks: every entry has a mask (also where there is no entry at all).
    """

    def __init__(self, annotated: AnnotatedPairs, entries: Sequence[list[Entry]], problems: Problems) -> None:
        self.annotated, self.problems = annotated, problems
        self._entries = entries
        some = [one for found in entries for one in found]
        self.has_masks = all(one.get("segmentation") for one in some)
        self._in_fractions = annotated.in_fractions and all(
            value <= _FRACTION for one in some for value in one.get("bbox") or ()
        )

    def prediction(self, index: int) -> ConceptPrediction:
        """What was found for pair `index`; no objects where there is no entry."""
        target = self.annotated.pairs[index].targets[0]
        found = self._entries[index]
        scores = np.array([one["score"] for one in found], dtype=np.float64)
        masks = [one["segmentation"] for one in found] if self.has_masks else None
        boxes = _boxes(found, target.size if self._in_fractions else (1, 1))
        return ConceptPrediction(target.image_id, target.phrase, target.size, scores, boxes, masks)  # type: ignore[arg-type]

    def num_found(self, index: int) -> int:
        """Number of entries of pair `index`."""
        return len(self._entries[index])


def load_results(
    results: Sequence[Entry] | str | os.PathLike[str], annotated: AnnotatedPairs, lenient: bool = False
) -> Results:
    """The entries of COCO results (a list, or the path of a JSON file), checked against the annotations.

    Raises ValueError with all faults, each kind with its first few entries; `lenient` leaves these out.
    """
    is_path = isinstance(results, str | os.PathLike)
    name = str(results) if is_path else "the predictions"
    entries = read_json(results, "prediction file") if is_path else results
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(f"{name} is {type(entries).__name__}; expected COCO results: a list of objects with image_id.")
    problems = Problems(name, lenient)
    by_pair: list[list[tuple[int, Entry]]] = [[] for _ in annotated.pairs]
    places = annotated.places()
    for number, entry in enumerate(entries):
        place = _place(number, entry, annotated, places, problems)
        if place is not None and _is_sound(number, entry, annotated.pairs[place], problems):
            by_pair[place].append((number, entry))
    _leave_out_broken_masks(by_pair, problems)
    _agree_on_masks(by_pair, problems)
    _note_repetitions(by_pair, problems)
    for pair, found in zip(annotated.pairs, by_pair, strict=True):
        if not found:
            problems.remark("pairs without an entry, taken as nothing found", f"{pair.key[0]!r} {pair.key[1]!r}")
    problems.settle()
    return Results(annotated, [[entry for _, entry in found] for found in by_pair], problems)


def _place(
    number: int, entry: Any, annotated: AnnotatedPairs, places: Mapping[tuple[Any, Any], int], problems: Problems
) -> int | None:
    """Index of the pair that an entry is of."""
    if not isinstance(entry, Mapping) or "image_id" not in entry:
        problems.fault("entries without image_id", f"entry {number}")
        return None
    image_id, category = entry["image_id"], None if annotated.kind == "saco" else entry.get("category_id")
    if not isinstance(image_id, str | int) or image_id not in annotated.image_ids:
        problems.fault("entries with an unknown image_id", f"entry {number}: {image_id!r}")
    elif annotated.kind != "saco" and (not isinstance(category, str | int) or category not in annotated.category_ids):
        problems.fault("entries with an unknown category_id", f"entry {number}: {category!r}")
    elif (image_id, category) not in places:  # LVIS: nobody looked whether the category is there
        problems.remark("entries of pairs that nobody verified, ignored", f"entry {number}")
    else:
        return places[image_id, category]
    return None


def _is_sound(number: int, entry: Entry, pair: AnnotatedPair, problems: Problems) -> bool:
    score, box, mask = entry.get("score"), entry.get("bbox"), entry.get("segmentation")
    if not _is_finite(score):
        problems.fault("entries whose score is missing or not finite", f"entry {number}: {score!r}")
    elif not mask and not box:
        problems.fault("entries with neither segmentation nor bbox", f"entry {number}")
    elif box and (len(box) != 4 or not all(map(_is_finite, box))):
        problems.fault("entries whose bbox is not four finite numbers", f"entry {number}: {box!r}")
    elif mask and (not isinstance(mask, Mapping) or "counts" not in mask or "size" not in mask):
        problems.fault("entries whose segmentation is not a run-length code", f"entry {number}")
    elif mask and list(mask["size"]) != list(pair.targets[0].size):
        size = list(pair.targets[0].size)
        problems.fault("entries with a mask of a wrong size", f"entry {number}: {mask['size']}, expected {size}")
    else:
        return True
    return False


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _leave_out_broken_masks(by_pair: list[list[tuple[int, Entry]]], problems: Problems) -> None:
    """Finds codes that do not fill their picture: many at a time, one by one only where some are broken."""
    masked = [one for found in by_pair for one in found if one[1].get("segmentation")]
    broken: set[int] = set()
    for start in range(0, len(masked), _MASKS_AT_ONCE):
        part = masked[start : start + _MASKS_AT_ONCE]
        if _broken([entry for _, entry in part]) is not None:
            for number, entry in part:
                reason = _broken([entry])
                if reason is not None:
                    broken.add(number)
                    problems.fault("entries whose run lengths are broken", f"entry {number}: {reason}")
    if broken:
        for found in by_pair:
            found[:] = [one for one in found if one[0] not in broken]


def _broken(entries: Sequence[Entry]) -> str | None:
    """What is wrong with the codes of `entries`; None where nothing is."""
    try:
        MaskRuns.from_rles([entry["segmentation"] for entry in entries])
    except (ValueError, TypeError, AttributeError, UnicodeEncodeError) as error:
        return str(error)
    return None


def _agree_on_masks(by_pair: list[list[tuple[int, Entry]]], problems: Problems) -> None:
    """Entries without a mask, where others have one, cannot be compared by masks."""
    if not any(entry.get("segmentation") for found in by_pair for _, entry in found):
        return
    for found in by_pair:
        for number, entry in found:
            if not entry.get("segmentation"):
                problems.fault("entries without a segmentation, which others have", f"entry {number}")
        found[:] = [one for one in found if one[1].get("segmentation")]


def _note_repetitions(by_pair: list[list[tuple[int, Entry]]], problems: Problems) -> None:
    for found in by_pair:
        if len(found) < 2:
            continue
        seen: set[tuple[Any, ...]] = set()
        repeated: set[int] = set()
        for number, entry in found:
            mask = entry.get("segmentation") or {}
            what = (entry["score"], tuple(entry.get("bbox") or ()), str(mask.get("counts")))
            if what in seen:
                repeated.add(number)
            seen.add(what)
        kind = "entries that come twice" + (", left out" if problems.lenient else ", each counted as an answer")
        for number in sorted(repeated):
            problems.remark(kind, f"entry {number}")
        if problems.lenient:
            found[:] = [one for one in found if one[0] not in repeated]


def _boxes(found: Sequence[Entry], sides: tuple[int, int]) -> np.ndarray | None:
    """Boxes xyxy in pixels; None where some entry has only its mask."""
    if not all(one.get("bbox") for one in found):
        return None
    height, width = sides
    boxes = np.array([one["bbox"] for one in found], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes * [width, height, width, height]
