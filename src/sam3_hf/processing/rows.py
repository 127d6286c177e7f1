"""Concept prompts as rows: one row is one picture-phrase pair, with the exemplar boxes and points that belong to it.

Phrases may be one for all pictures, one for each, several for a single picture, or nested [picture][phrase]; boxes and
points follow the rows, or the same nesting.  A row with exemplars and no phrase gets the phrase "visual", as in the
reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.boxes import box_xyxy_to_cxcywh
from .prompts import (
    PADDING,
    check_boxes,
    check_labels,
    check_points,
    nesting_depth,
    pad_rows,
    to_lists,
    without_padding,
)
from .tokenization import clean_phrase

__all__ = ["VISUAL_PHRASE", "ConceptRows", "concept_rows"]

VISUAL_PHRASE = "visual"
_LABELS = (1, 0, PADDING)


@dataclass(frozen=True)
class ConceptRows:
    """Phrase and picture of each row (`image_ids` is None without pictures), and the exemplar tensors by input name."""

    phrases: list[str]
    image_ids: list[int] | None
    exemplars: dict[str, Tensor]


@dataclass(frozen=True)
class _Kind:
    """What sets boxes and points apart: their names, how their rows are written, and how deep these are nested."""

    name: str
    form: str
    check: Any


_BOXES = _Kind("input_boxes", "[row][box][x0, y0, x1, y1]", check_boxes)
_POINTS = _Kind("input_points", "[row][point][x, y]", check_points)


def concept_rows(
    text: Any,
    sizes: Sequence[Sequence[int]] | None,
    input_boxes: Any = None,
    input_boxes_labels: Any = None,
    input_points: Any = None,
    input_points_labels: Any = None,
) -> ConceptRows:
    """The rows of one call; `sizes` are the (height, width) of the pictures, None if there are none.

    Boxes come back as `input_boxes` (num_rows, max_boxes, 4) cxcywh in 0..1 with `input_boxes_labels`, points as
    `input_points` (num_rows, max_points, 2) in 0..1 with `input_points_labels`; short rows are padded with label -10.
    Raises ValueError or TypeError naming the row for every prompt that cannot be meant.
    """
    given = {
        name: to_lists(data, name)
        for name, data in {
            "input_boxes": input_boxes,
            "input_boxes_labels": input_boxes_labels,
            "input_points": input_points,
            "input_points_labels": input_points_labels,
        }.items()
        if data is not None
    }
    for kind in (_BOXES, _POINTS):
        _check_nesting(given, kind)
    counts = _rows_per_image(text, given)
    text = _flat_text(text)
    flat = {name: _flat_rows(data, counts, name) for name, data in given.items()}
    num_rows = _num_rows(text, flat, None if sizes is None else len(sizes))
    image_ids = _image_ids(num_rows, counts, None if sizes is None else len(sizes))
    if sizes is None and flat:
        raise ValueError(
            f"{', '.join(flat)} need the picture's size; pass images, or original_sizes [(height, width), ...]."
        )
    row_sizes = [(sizes or [])[index] for index in image_ids or []]
    exemplars: dict[str, Tensor] = {}
    for kind in (_BOXES, _POINTS):
        exemplars |= _exemplars(flat, kind, row_sizes)
    phrases = text if isinstance(text, list) else [text] * num_rows
    return ConceptRows([_phrase(phrases, row, exemplars) for row in range(num_rows)], image_ids, exemplars)


def _check_nesting(given: dict[str, Any], kind: _Kind) -> None:
    labels_name = f"{kind.name}_labels"
    if labels_name in given and kind.name not in given:
        raise ValueError(f"{labels_name} without {kind.name}; pass both.")
    for name, levels, form in ((kind.name, 3, kind.form), (labels_name, 2, "[row][label]")):
        depth = nesting_depth(given.get(name))
        if depth is not None and depth not in (levels, levels + 1):
            raise ValueError(
                f"{name} has {depth} levels of nesting: {given[name]}; expected {levels}: {form}, "
                f"with None for a row without, or {levels + 1} with the pictures outside."
            )
        if name in given and not isinstance(given[name], list):
            raise ValueError(f"{name} is {given[name]}; expected {form}.")


def _is_nested(text: Any) -> bool:
    return isinstance(text, list | tuple) and any(isinstance(entry, list | tuple) for entry in text)


def _rows_per_image(text: Any, given: dict[str, Any]) -> list[int] | None:
    """Number of rows of each picture where some argument is nested by picture, else None."""
    nested = [text] if _is_nested(text) else []
    nested += [
        given[name]
        for name, depth in (("input_boxes", 4), ("input_points", 4))
        if nesting_depth(given.get(name)) == depth
    ]
    if not nested:
        return None
    counts = [len(entry) if isinstance(entry, list | tuple) else 1 for entry in nested[0]]
    if 0 in counts:
        raise ValueError(
            f"picture {counts.index(0)} has an empty list of phrases; give it a phrase, box or point, or leave it out."
        )
    return counts


def _flat_text(text: Any) -> str | list[Any] | None:
    if text is None or isinstance(text, str):
        return text
    if not isinstance(text, list | tuple):
        raise TypeError(
            f"text is {text!r} ({type(text).__name__}); expected a phrase, a list of phrases or a nested list."
        )
    if len(text) == 0:
        raise ValueError("text is an empty list; expected at least one phrase.")
    if not _is_nested(text):
        return list(text)
    return [phrase for entry in text for phrase in (entry if isinstance(entry, list | tuple) else [entry])]


def _flat_rows(data: list[Any], counts: list[int] | None, name: str) -> list[Any]:
    """One entry for each row: `data` as it is, or without its level of pictures."""
    levels = 3 if name.endswith("_labels") else 4
    if counts is None or nesting_depth(data) != levels:
        return data
    got = [count if entry is None else len(entry) for entry, count in zip(data, counts, strict=False)]
    if len(data) != len(counts) or got != counts:
        raise ValueError(f"{name} has {[len(entry or []) for entry in data]} rows for the pictures; expected {counts}.")
    return [row for entry, count in zip(data, counts, strict=True) for row in (entry or [None] * count)]


def _num_rows(text: str | list[Any] | None, flat: dict[str, list[Any]], num_images: int | None) -> int:
    lengths = {name: len(rows) for name, rows in flat.items()}
    if isinstance(text, list):
        lengths = {"text": len(text), **lengths}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"the prompts have different numbers of rows: {lengths}; "
            "give each argument one entry for each row, None where it has none."
        )
    return next(iter(lengths.values()), num_images or 1)


def _image_ids(num_rows: int, counts: list[int] | None, num_images: int | None) -> list[int] | None:
    if counts is not None:
        if num_images not in (None, len(counts)):
            raise ValueError(f"the nested prompts are for {len(counts)} pictures, but there are {num_images}.")
        if num_rows != sum(counts):
            raise ValueError(
                f"the pictures have {counts} rows, together {sum(counts)}, but other prompts have {num_rows} rows."
            )
        return [image for image, count in enumerate(counts) for _ in range(count)]
    if num_images is None:
        return None
    if num_rows == num_images:
        return list(range(num_images))
    if num_images == 1:
        return [0] * num_rows
    raise ValueError(
        f"{num_rows} prompts for {num_images} pictures; give one for each picture, a single phrase for all, "
        "or nest them by picture: text=[['cat', 'dog'], ['car']]."
    )


def _exemplars(flat: dict[str, list[Any]], kind: _Kind, row_sizes: list[Any]) -> dict[str, Tensor]:
    """Padded coordinates in 0..1 and labels of one kind; nothing where no row has any."""
    labels_name = f"{kind.name}_labels"
    coordinates, labels = [], []
    for row, (entry, size) in enumerate(zip(flat.get(kind.name, []), row_sizes, strict=False)):
        row_labels = flat[labels_name][row] if labels_name in flat else None
        entry = [] if entry is None else entry
        checked = (
            check_labels(row_labels, len(entry), _LABELS, f"{labels_name}, row {row}") if row_labels or entry else []
        )
        entry, checked = without_padding(entry, checked)
        height, width = size
        scale = torch.tensor([width, height] * (2 if kind is _BOXES else 1), dtype=torch.float32)
        norm = kind.check(entry, size, f"{kind.name}, row {row}") / scale
        coordinates.append(box_xyxy_to_cxcywh(norm) if kind is _BOXES else norm)
        labels.append(torch.tensor(checked, dtype=torch.int64))
    if not any(map(len, labels)):
        return {}
    return {kind.name: pad_rows(coordinates), labels_name: pad_rows(labels)}


def _phrase(phrases: list[Any], row: int, exemplars: dict[str, Tensor]) -> str:
    phrase = phrases[row]
    where = f"text, row {row}"
    if phrase is None:
        if any((labels[row] != PADDING).any() for name, labels in exemplars.items() if name.endswith("_labels")):
            return VISUAL_PHRASE
        raise ValueError(f"{where}: no prompt; give it a phrase, a box or a point.")
    if not isinstance(phrase, str):
        raise TypeError(f"{where}: {phrase!r} is {type(phrase).__name__}; expected a phrase (str) or None.")
    if not clean_phrase(phrase):
        raise ValueError(
            f"{where}: the phrase {phrase!r} is empty; give it a noun phrase, or None with a box or point."
        )
    return phrase
