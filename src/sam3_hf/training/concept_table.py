"""Annotated pictures as Hugging Face `datasets`: the columns, and the view that gives `ConceptExample`s.

A row is a picture:

| column | type | what |
|---|---|---|
| `image_id` | string | unique in its source |
| `image` | path or bytes of a picture file | `datasets.Image(decode=False)` |
| `height`, `width` | int | of the picture, in pixels |
| `boxes` | list of 4 floats | xyxy in pixels, one for each object |
| `masks` | list of strings, or None | COCO run-length codes (compressed `counts`), one for each object |
| `is_crowd` | list of bools | the object is a region of uncountable objects |
| `phrases`, `objects` | lists | a phrase and the numbers of its objects; none: the phrase is known to be absent |
| `vocabulary` | list of strings | all were looked for: those that `phrases` lacks are absent too |

`ConceptExamples(dataset)[i]` gives such a row as a `ConceptExample`. Saving, sharing, filtering and joining are
those of `datasets` (`save_to_disk`, `push_to_hub`, `filter`, `concatenate_datasets`).
"""

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import PIL.Image
import torch

from ..data.examples import ConceptExample
from ..ops.masks import rle_encode
from .regions import mask_runs, runs_to_rle

if TYPE_CHECKING:
    from datasets import Dataset, Features

__all__ = [
    "ConceptExamples",
    "concept_features",
    "dataset_of_rows",
    "is_arrow_dataset",
    "mask_counts",
    "require_datasets",
    "to_dataset",
]


def concept_features() -> "Features":
    """The columns of a dataset of concept examples (see the module's table)."""
    hf = require_datasets()
    text, number = hf.Value("string"), hf.Value("int32")
    return hf.Features(
        {
            "image_id": text,
            "image": hf.Image(decode=False),
            "height": number,
            "width": number,
            "boxes": hf.Sequence(hf.Sequence(hf.Value("float32"), length=4)),
            "masks": hf.Sequence(text),
            "is_crowd": hf.Sequence(hf.Value("bool")),
            "phrases": hf.Sequence(text),
            "objects": hf.Sequence(hf.Sequence(number)),
            "vocabulary": hf.Sequence(text),
        }
    )


class ConceptExamples(Sequence[ConceptExample]):
    """The rows of a dataset with the columns of `concept_features` as `ConceptExample`s."""

    def __init__(self, dataset: "Dataset") -> None:
        missing = sorted(set(concept_features()) - set(dataset.column_names))
        if missing:
            raise ValueError(
                f"the dataset lacks the columns {missing}; it has {sorted(dataset.column_names)}. "
                "Make it with load_coco, load_saco, load_mask_folder or to_dataset."
            )
        self.dataset = dataset.with_format(None)

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> ConceptExample: ...
    @overload
    def __getitem__(self, index: slice) -> "ConceptExamples": ...
    def __getitem__(self, index: int | slice) -> "ConceptExample | ConceptExamples":
        if isinstance(index, slice):
            return ConceptExamples(self.dataset.select(range(len(self))[index]))
        row = self.dataset[int(index)]
        size = (row["height"], row["width"])
        masks = row["masks"]
        return ConceptExample(
            image_id=row["image_id"],
            image=_stored_image(row["image"]),
            size=size,
            boxes=np.array(row["boxes"], dtype=np.float32).reshape(-1, 4),
            masks=None if masks is None else [{"size": size, "counts": counts} for counts in masks],
            concepts={p: tuple(objects) for p, objects in zip(row["phrases"], row["objects"], strict=True)},
            is_crowd=frozenset(i for i, crowd in enumerate(row["is_crowd"]) if crowd),
            vocabulary=tuple(row["vocabulary"]),
        )


def _stored_image(stored: Any) -> Any:
    """A path, or the picture itself where the dataset holds its bytes."""
    if isinstance(stored, PIL.Image.Image):  # someone cast the column to a decoding one
        return np.array(stored.convert("RGB"))
    if stored.get("bytes") is None:
        return Path(stored["path"])
    with PIL.Image.open(io.BytesIO(stored["bytes"])) as image:
        return np.array(image.convert("RGB"))


def to_dataset(examples: Sequence[ConceptExample]) -> "Dataset":
    """The `datasets.Dataset` of some examples, whatever made them; pictures that are arrays are stored as PNG."""
    return dataset_of_rows([_row(example) for example in examples])


def is_arrow_dataset(data: Any) -> bool:
    """Whether `data` is a `datasets.Dataset`, found out without importing that package."""
    module = sys.modules.get("datasets")
    return module is not None and isinstance(data, module.Dataset)


def _row(example: ConceptExample) -> dict[str, Any]:
    masks = None
    if example.masks is not None:
        masks = [mask_counts(mask, example.size) for mask in example.masks]
    image: Any = example.image
    if isinstance(image, np.ndarray):
        buffer = io.BytesIO()
        PIL.Image.fromarray(image).save(buffer, "PNG")
        image = {"path": None, "bytes": buffer.getvalue()}
    return {
        "image_id": str(example.image_id),
        "image": str(image) if isinstance(image, Path) else image,
        "height": example.size[0],
        "width": example.size[1],
        "boxes": np.asarray(example.boxes, dtype=np.float32).reshape(-1, 4).tolist(),
        "masks": masks,
        "is_crowd": [i in example.is_crowd for i in range(example.num_objects)],
        "phrases": list(example.concepts),
        "objects": [list(objects) for objects in example.concepts.values()],
        "vocabulary": list(example.vocabulary),
    }


def mask_counts(mask: Any, size: tuple[int, int]) -> str:
    if isinstance(mask, Mapping):
        return runs_to_rle(mask_runs(mask, size), size)["counts"]
    return rle_encode(torch.from_numpy(np.ascontiguousarray(mask))[None])[0]["counts"]


def dataset_of_rows(rows: list[dict[str, Any]]) -> "Dataset":
    features = concept_features()
    return require_datasets().Dataset.from_dict(
        {name: [row[name] for row in rows] for name in features}, features=features
    )


def require_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ImportError("loading annotated pictures needs `datasets`: pip install 'sam3-hf[train]'.") from error
    return datasets
