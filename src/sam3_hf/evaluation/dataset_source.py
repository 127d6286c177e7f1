"""A Hugging Face `datasets` data set as picture-phrase pairs: its rows are pictures with phrases, objects and masks.

The columns are those that `sam3_hf.training.to_dataset` and the loaders there make; `push_to_hub` and `save_to_disk`
keep them.  Pictures stay in the data set until they are asked about.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .annotations import AnnotatedPairs, load_annotations

__all__ = ["DatasetPictures", "load_dataset_pairs"]

_COLUMNS = ("image_id", "image", "height", "width", "boxes", "masks", "is_crowd", "phrases", "objects", "vocabulary")


class DatasetPictures(Mapping[str, Path | bytes]):
    """The picture files of a data set by `image_id`: a path, or the bytes of a file."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._rows = {str(image_id): row for row, image_id in enumerate(dataset["image_id"])}

    def __getitem__(self, image_id: str) -> Path | bytes:
        stored = self._dataset[self._rows[image_id]]["image"]
        return Path(stored["path"]) if stored.get("bytes") is None else bytes(stored["bytes"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def load_dataset_pairs(
    name: str | os.PathLike[str], split: str | None = None, lenient: bool = False
) -> tuple[AnnotatedPairs, DatasetPictures]:
    """The pairs of a data set, a folder of `save_to_disk` or a repository on the hub, and its pictures.

    A phrase of `phrases` without objects, and one of `vocabulary` that `phrases` lacks, is absent. A pair with a crowd
    region is not exhaustive.

    Raises ValueError for other columns, an unknown split or ids used twice, ImportError without the package.
    """
    dataset = _opened(str(name), split)
    missing = [column for column in _COLUMNS if column not in dataset.column_names]
    if missing:
        raise ValueError(
            f"the data set {str(name)!r} lacks the columns {missing}; make it with sam3_hf.training.to_dataset."
        )
    pictures = DatasetPictures(dataset)
    if len(pictures) != len(dataset):
        raise ValueError(f"the data set {str(name)!r} has {len(dataset)} rows and {len(pictures)} image_ids.")
    content: dict[str, Any] = {"info": {"description": str(name)}, "images": [], "annotations": []}
    for row in dataset.remove_columns("image"):
        absent = [phrase for phrase in row["vocabulary"] if phrase not in row["phrases"]]
        for phrase, objects in [*zip(row["phrases"], row["objects"], strict=True), *((one, []) for one in absent)]:
            _add_pair(content, row, phrase, objects)
    return load_annotations(content, lenient), pictures


def _opened(name: str, split: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("a data set needs the package datasets: pip install 'sam3-hf[evaluate]'") from error
    found = datasets.load_from_disk(name) if os.path.isdir(name) else datasets.load_dataset(name)
    if isinstance(found, datasets.Dataset):
        found = {"": found}
    if split is None and len(found) == 1:
        [split] = found
    if split not in found:
        raise ValueError(f"the data set {name!r} has the splits {sorted(found)}; name one of them with --split.")
    return found[split].with_format(None)


def _add_pair(content: dict[str, Any], row: Mapping[str, Any], phrase: str, objects: list[int]) -> None:
    """Adds an SA-Co entry and its annotations."""
    number, size = len(content["images"]) + 1, [row["height"], row["width"]]
    is_crowd = [row["is_crowd"][index] for index in objects]
    content["images"].append(
        {
            "id": number,
            "file_name": str(row["image_id"]),
            "text_input": phrase,
            "height": size[0],
            "width": size[1],
            "is_instance_exhaustive": not any(is_crowd),
        }
    )
    for index, crowd in zip(objects, is_crowd, strict=True):
        x0, y0, x1, y1 = row["boxes"][index]
        shape: dict[str, Any] = {"bbox": [x0, y0, x1 - x0, y1 - y0]}
        if row["masks"] is not None:
            shape["segmentation"] = {"size": size, "counts": row["masks"][index]}
        identity = len(content["annotations"]) + 1
        content["annotations"].append({"id": identity, "image_id": number, "iscrowd": int(crowd), **shape})
