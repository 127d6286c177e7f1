"""Records to and from COCO JSON, in the way of SA-Co: each picture-phrase pair is an `images` entry of its own.

    images:      {"id": 7, "text_input": "dial", "width": ..., "height": ..., "is_instance_exhaustive": true, ...}
    annotations: {"id": 1, "image_id": 7, "category_id": 1, "segmentation": code, "bbox": [x, y, w, h], "iscrowd": 0}
    results:     [{"image_id": 7, "category_id": 1, "segmentation": code, "bbox": [x, y, w, h], "score": 0.9}, ...]

So the key of a pair that was read is (id of the entry, phrase).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_text_whole
from ..ops.masks import rle_decode
from .predictions import ConceptPrediction, ConceptTarget, PairKey

__all__ = [
    "load_predictions",
    "load_targets",
    "pair_ids",
    "predictions_to_coco",
    "save_json",
    "targets_to_coco",
]

_CATEGORY = 1


def pair_ids(targets: Sequence[ConceptTarget]) -> dict[PairKey, int]:
    """A number for each pair, from 1, in the order of `targets`."""
    keys = list(dict.fromkeys(target.key for target in targets))
    return {key: number for number, key in enumerate(keys, start=1)}


def targets_to_coco(targets: Sequence[ConceptTarget], ids: Mapping[PairKey, int] | None = None) -> dict[str, Any]:
    """The dataset (dict) with one `images` entry for each target; `source_id` there keeps the picture's own id."""
    ids = pair_ids(targets) if ids is None else ids
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for target in targets:
        height, width = target.size
        images.append(
            {
                "id": ids[target.key],
                "source_id": target.image_id,
                "text_input": target.phrase,
                "height": height,
                "width": width,
                "is_instance_exhaustive": target.is_exhaustive,
            }
        )
        for index, crowd in enumerate(target.is_crowd):
            annotation = _object(target, index, ids[target.key])
            annotations.append(
                {"id": len(annotations) + 1, **annotation, "area": _area(annotation), "iscrowd": int(crowd)}
            )
    categories = [{"id": _CATEGORY, "name": "object"}]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def predictions_to_coco(
    predictions: Sequence[ConceptPrediction], ids: Mapping[PairKey, int] | None = None
) -> list[dict[str, Any]]:
    """COCO results of all objects; `ids` numbers the pairs, by default each `image_id` is taken as it is."""
    return [
        _object(one, index, one.image_id if ids is None else ids[one.key]) | {"score": float(score)}
        for one in predictions
        for index, score in enumerate(one.scores)
    ]


def load_targets(annotations: Mapping[str, Any] | str | os.PathLike[str]) -> list[ConceptTarget]:
    """The targets of a dataset whose `images` are picture-phrase pairs, a dict or a path, in the order of `images`.

    `image_id` of a target is the entry's `id`. Codes may be compressed or lists of run lengths.
    """
    data = annotations if isinstance(annotations, Mapping) else _load(annotations)
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in data.get("annotations", []):
        objects.setdefault(annotation["image_id"], []).append(annotation)
    return [_target(entry, objects.get(entry["id"], [])) for entry in data["images"]]


def load_predictions(
    results: Sequence[Mapping[str, Any]] | str | os.PathLike[str], targets: Sequence[ConceptTarget]
) -> dict[PairKey, ConceptPrediction]:
    """The predictions of COCO results, given as list or path, for the pairs of `targets` (from `load_targets`).

    A pair without results has a prediction of no objects. Raises ValueError for results of a pair that does not exist.
    """
    entries = results if isinstance(results, Sequence) and not isinstance(results, str) else _load(results)
    by_id: dict[Any, list[Mapping[str, Any]]] = {target.image_id: [] for target in targets}
    for index, entry in enumerate(entries):
        if entry["image_id"] not in by_id:
            raise ValueError(
                f"result {index} is of image_id {entry['image_id']!r}, which the annotations do not have; expected the "
                "id of an entry of their `images` (one for each picture-phrase pair)."
            )
        by_id[entry["image_id"]].append(entry)
    return {target.key: _prediction(target, by_id[target.image_id]) for target in targets}


def save_json(data: Any, path: str | os.PathLike[str]) -> None:
    """Writes `data` to `path`, whole or not at all."""
    write_text_whole(json.dumps(data), path)


def _load(path: Any) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _object(record: ConceptPrediction | ConceptTarget, index: int, image_id: Any) -> dict[str, Any]:
    x0, y0, x1, y1 = record.boxes[index].tolist()
    entry: dict[str, Any] = {"image_id": image_id, "category_id": _CATEGORY, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    return entry if record.masks is None else entry | {"segmentation": record.masks[index]}


def _area(annotation: Mapping[str, Any]) -> float:
    if "segmentation" in annotation:
        return float(rle_decode(annotation["segmentation"]).sum())
    return float(annotation["bbox"][2] * annotation["bbox"][3])


def _target(entry: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> ConceptTarget:
    boxes, masks = _shapes(objects)
    return ConceptTarget(
        image_id=entry["id"],
        phrase=entry.get("text_input", ""),
        size=(entry["height"], entry["width"]),
        boxes=boxes,  # type: ignore[arg-type]
        masks=masks,
        is_crowd=np.array([bool(one.get("iscrowd", 0)) for one in objects], dtype=bool),
        is_exhaustive=bool(entry.get("is_instance_exhaustive", True)),
    )


def _prediction(target: ConceptTarget, objects: Sequence[Mapping[str, Any]]) -> ConceptPrediction:
    boxes, masks = _shapes(objects)
    scores = np.array([one["score"] for one in objects], dtype=np.float64)
    return ConceptPrediction(target.image_id, target.phrase, target.size, scores, boxes, masks)  # type: ignore[arg-type]


def _shapes(objects: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray | None, list[Any] | None]:
    """Boxes xyxy and masks, each None where some object lacks them."""
    has_boxes = all(one.get("bbox") is not None for one in objects)
    has_masks = all(one.get("segmentation") is not None for one in objects)
    boxes = np.array([one["bbox"] for one in objects] if has_boxes else [], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes if has_boxes else None, [one["segmentation"] for one in objects] if has_masks else None
