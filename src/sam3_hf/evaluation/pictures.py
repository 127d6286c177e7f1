"""Annotated pairs as pictures to be asked: each picture once, with all its phrases."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from ..data.examples import ConceptExample
from ..processing.images import load_image
from .annotations import AnnotatedPairs
from .problems import Problems

__all__ = ["AskedPicture", "PictureSource", "asked_pictures", "open_picture", "read_picture"]

PictureSource = Path | Mapping[str, Path | bytes]
"""A folder that file names are relative to, or by file name the path of a file or its bytes."""


@dataclass(frozen=True)
class AskedPicture:
    """One picture and the pairs about it.

    Attributes:
        number: its place among all pictures.
        name: of its file.
        pairs: phrase → index of the pair.
    """

    number: int
    name: str
    pairs: dict[str, int]


def asked_pictures(annotated: AnnotatedPairs, source: PictureSource, problems: Problems) -> list[AskedPicture]:
    """The pictures in the order of the annotations; those whose file is missing are faults of `problems`.

    A phrase that a picture is annotated with twice makes a second picture of the same file. Raises ValueError for a
    pair without a phrase or a file name, FileNotFoundError where the folder is missing.
    """
    if isinstance(source, Path) and not source.is_dir():
        raise FileNotFoundError(f"there is no folder of pictures {str(source)!r}.")
    groups: dict[str | int, list[dict[str, int]]] = {}
    for index, pair in enumerate(annotated):
        if not pair.key[1] or not pair.file_name:
            lacking = "phrase (text_input)" if not pair.key[1] else "file_name"
            raise ValueError(
                f"entry {pair.result_id[0]!r} of the annotations has no {lacking}; a model cannot be asked."
            )
        some = groups.setdefault(pair.picture, [{}])
        free = next((pairs for pairs in some if pair.key[1] not in pairs), None)
        if free is None:
            some.append(free := {})
        free[pair.key[1]] = index
    pictures = []
    for some in groups.values():
        name = annotated.pairs[next(iter(some[0].values()))].file_name
        if isinstance(source, Path) and not (source / name).is_file():
            problems.fault("pictures without a file", str(source / name))
        pictures += [(name, pairs) for pairs in some]
    return [AskedPicture(number, name, pairs) for number, (name, pairs) in enumerate(pictures)]


def read_picture(source: PictureSource, name: str) -> torch.Tensor:
    """The picture (3, height, width) uint8, upright; errors are those of `load_image`, which name it."""
    file = source / name if isinstance(source, Path) else source[name]
    if isinstance(file, Path):
        return load_image(file, "picture")
    try:
        with PIL.Image.open(io.BytesIO(file)) as picture:
            return load_image(picture, f"picture {name!r}")
    except OSError as error:
        raise ValueError(f"picture {name!r} cannot be read: {error}.") from error


def open_picture(picture: AskedPicture, annotated: AnnotatedPairs, source: PictureSource) -> ConceptExample:
    """The picture, upright, with the first annotator's objects; its `image_id` is its number.

    Raises ValueError or OSError where the file cannot be read or is of another size than annotated.
    """
    targets = {phrase: annotated.pairs[index].targets[0] for phrase, index in picture.pairs.items()}
    size = next(iter(targets.values())).size
    pixels = read_picture(source, picture.name).permute(1, 2, 0).contiguous().numpy()
    if pixels.shape[:2] != size:
        raise ValueError(
            f"{picture.name} is {pixels.shape[0]} x {pixels.shape[1]} (height x width) and annotated as {size[0]} x "
            f"{size[1]}; annotate the upright picture."
        )
    concepts, number = {}, 0
    for phrase, target in targets.items():
        concepts[phrase] = tuple(range(number, number + len(target.boxes)))
        number += len(target.boxes)
    has_masks = all(target.masks is not None for target in targets.values())
    crowd = np.concatenate([target.is_crowd for target in targets.values()])
    return ConceptExample(
        image_id=picture.number,
        image=pixels,
        size=size,
        boxes=np.concatenate([target.boxes for target in targets.values()]).astype(np.float32),
        masks=_all_masks([target.masks or [] for target in targets.values()]) if has_masks else None,
        concepts=concepts,
        is_crowd=frozenset(np.flatnonzero(crowd).tolist()),
    )


def _all_masks(some: Sequence[Sequence[dict[str, object]]]) -> list[dict[str, object]]:
    return [mask for masks in some for mask in masks]
