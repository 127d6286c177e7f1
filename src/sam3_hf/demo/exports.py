"""What users take away from a picture: COCO JSON, masks and cut-outs as zip files, the annotated picture."""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..files import written_whole
from ..ops.masks import rle_encode
from ..version import __version__
from ..visualization import draw_instances
from .image_session import FoundObject

__all__ = ["annotated", "coco", "write_coco", "write_cutouts", "write_masks"]


def coco(objects: Sequence[FoundObject], size: tuple[int, int], file_name: str = "picture.png") -> dict[str, Any]:
    """The objects of a picture of `size` (height, width) as a COCO dataset: masks as run-length codes, with scores."""
    phrases = list(dict.fromkeys(one.label for one in objects))
    annotations = [
        {
            "id": index + 1,
            "image_id": 1,
            "category_id": phrases.index(one.label) + 1,
            "segmentation": rle_encode(torch.from_numpy(one.mask)[None])[0],
            "bbox": [round(value, 2) for value in (*one.box[:2], one.box[2] - one.box[0], one.box[3] - one.box[1])],
            "area": one.area,
            "score": round(one.score, 6),
            "iscrowd": 0,
        }
        for index, one in enumerate(objects)
    ]
    return {
        "info": {"description": f"sam3-hf {__version__}"},
        "images": [{"id": 1, "file_name": file_name, "width": size[1], "height": size[0]}],
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": phrase} for index, phrase in enumerate(phrases)],
    }


def write_coco(path: Path, objects: Sequence[FoundObject], size: tuple[int, int]) -> Path:
    """The path of the COCO file, written whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(coco(objects, size)), encoding="utf-8")
    return path


def write_masks(path: Path, objects: Sequence[FoundObject]) -> Path:
    """The path of a zip file with a black and white PNG of the picture's size for each object.

    Raises:
        ValueError: there is no object.
    """
    return _write_zip(path, objects, [Image.fromarray(one.mask.astype(np.uint8) * 255) for one in _some(objects)])


def write_cutouts(path: Path, objects: Sequence[FoundObject], image: Image.Image) -> Path:
    """The path of a zip file with a PNG for each object: its part of the picture, transparent around it.

    Raises:
        ValueError: there is no object.
    """
    return _write_zip(path, objects, [_cutout(image, one.mask) for one in _some(objects)])


def annotated(image: Image.Image, objects: Sequence[FoundObject]) -> Image.Image:
    """A new picture with the objects drawn on it, in the same colours as on the page."""
    drawn = [{"mask": one.mask, "box": one.box, "label": one.label, "score": one.score} for one in objects]
    return draw_instances(image, drawn, colors=[one.number for one in objects])


def _some(objects: Sequence[FoundObject]) -> Sequence[FoundObject]:
    if not objects:
        raise ValueError(
            "There is nothing to download yet: no object is shown. Find something, or lower the threshold."
        )
    return objects


def _cutout(image: Image.Image, mask: np.ndarray) -> Image.Image:
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(mask.astype(np.uint8) * 255))
    bounds = rgba.getchannel("A").getbbox()
    return rgba if bounds is None else rgba.crop(bounds)  # an empty mask gives a wholly transparent picture


def _write_zip(path: Path, objects: Sequence[FoundObject], pictures: Sequence[Image.Image]) -> Path:
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for one, picture in zip(objects, pictures, strict=True):
            data = io.BytesIO()
            picture.save(data, format="PNG")
            archive.writestr(f"{one.number:03d}_{_file_name(one.label)}.png", data.getvalue())
    return path


def _file_name(label: str) -> str:
    return re.sub(r"\W+", "_", label).strip("_")[:40] or "object"
