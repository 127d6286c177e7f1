"""Annotated pairs and answers as files have them: small rectangles in small pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sam3_hf.ops.masks import rle_encode

SIZE = (24, 30)


def code(box: Sequence[int], size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The run-length code of a filled box xyxy."""
    x0, y0, x1, y1 = box
    mask = torch.zeros(1, *size, dtype=torch.bool)
    mask[0, y0:y1, x0:x1] = True
    return rle_encode(mask)[0]


def entry(image_id: Any, box: Sequence[int], category: int = 1, size: tuple[int, int] = SIZE, **more: Any) -> Any:
    """An annotation, or with `score` a result."""
    x0, y0, x1, y1 = box
    xywh = [float(v) for v in (x0, y0, x1 - x0, y1 - y0)]
    return {"image_id": image_id, "category_id": category, "segmentation": code(box, size), "bbox": xywh, **more}


def saco(pairs: Sequence[tuple[str, str, Sequence[Sequence[int]]]], **more: Any) -> dict[str, Any]:
    """SA-Co JSON of (file name, phrase, boxes of the objects); ids count from 1; `more` is added to every entry."""
    images, annotations = [], []
    for number, (name, phrase, boxes) in enumerate(pairs, start=1):
        size = {"height": SIZE[0], "width": SIZE[1]}
        images.append(
            {"id": number, "file_name": name, "text_input": phrase, "is_instance_exhaustive": 1, **size, **more}
        )
        annotations += [entry(number, box, id=len(annotations) + at) for at, box in enumerate(boxes, start=1)]
    categories = [{"id": 1, "name": "object"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco(pictures: Sequence[str], objects: Sequence[tuple[int, int, Sequence[int]]], **more: Any) -> dict[str, Any]:
    """COCO JSON of pictures with ids from 1, categories "dial" (1), "knob" (2), "bus" (3), and objects (picture,
    category, box)."""
    size = {"height": SIZE[0], "width": SIZE[1]}
    images = [{"id": number, "file_name": name, **size, **more} for number, name in enumerate(pictures, start=1)]
    annotations = [entry(image, box, category, id=at) for at, (image, category, box) in enumerate(objects, start=1)]
    categories = [{"id": number, "name": name} for number, name in enumerate(("dial", "knob", "bus"), start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def save_pictures(folder: Path, names: Sequence[str], size: tuple[int, int] = SIZE) -> Path:
    """Noise, a different one under each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


PAIRS: list[tuple[str, str, list[tuple[int, int, int, int]]]] = [
    ("a.png", "dial", [(0, 0, 10, 10), (15, 0, 25, 10)]),
    ("a.png", "knob", []),
    ("b.png", "dial", [(5, 5, 15, 20)]),
    ("b.png", "bus", []),
]
ANSWERS = [
    entry(1, (0, 0, 10, 10), score=0.9),
    entry(1, (15, 0, 25, 8), score=0.7),
    entry(3, (5, 5, 15, 20), score=0.6),
    entry(4, (0, 0, 5, 5), score=0.8),
]
