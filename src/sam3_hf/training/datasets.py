"""Loaders of annotated pictures: COCO JSON, SA-Co JSON, and a folder of masks, each to a `datasets.Dataset`.

Its columns are those of `concept_table`; `ConceptExamples(dataset)[i]` gives a row as a `ConceptExample`.

What cannot be used is never dropped silently: loaders warn once, with the reasons and the names of what was skipped
(`on_bad="raise"` makes the first such case an error).
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from .concept_table import ConceptExamples, concept_features, mask_counts, require_datasets, to_dataset
from .pictures import MAX_PIXELS
from .records import Record, Skipped, checked_file, finished

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["ConceptExamples", "concept_features", "load_coco", "load_mask_folder", "load_saco", "to_dataset"]

_PICTURE_FILES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def load_coco(
    json_path: str | os.PathLike[str],
    image_dir: str | os.PathLike[str] | None = None,
    *,
    exhaustive: bool = True,
    category_phrases: bool = True,
    phrase_key: str = "noun_phrase",
    rename: Mapping[str, str] | None = None,
    on_bad: str = "skip",
    max_pixels: int = MAX_PIXELS,
) -> "Dataset":
    """The pictures of a COCO JSON file as a dataset (see the module's table).

    An annotation's phrases are its category's name and what it holds itself under `phrase_key` (a string or a list of
    strings). Segmentations may be polygons or run lengths, compressed or not; `iscrowd` regions are kept as such. An
    annotation with a box alone is used too, but then its picture's masks are not.

    Args:
        json_path: the file.
        image_dir: where its `file_name`s are; default: the folder of the JSON file, or `images` in it.
        exhaustive: every category was looked for in every picture, so one that is not annotated is absent. Where
            pictures have LVIS's `neg_category_ids` these are the absent ones, and phrases of their
            `not_exhaustive_category_ids` are left out.
        category_phrases: categories' names are phrases; False: only the annotations' own.
        phrase_key: name of the annotations' own phrases.
        rename: category name → phrase to use instead.
        on_bad: "skip" leaves out pictures and annotations that cannot be used, with one warning that lists them;
            "raise" makes the first one an error.
        max_pixels: larger pictures cannot be used.

    Raises ValueError for a file that is not COCO JSON or holds nothing that can be used, FileNotFoundError where it is
    missing.
    """
    require_datasets()
    path = Path(json_path)
    content = _read_json(path, ("images", "annotations"))
    bad = Skipped(f"load_coco({str(path)!r})", on_bad)
    names = _category_names(content, rename or {}) if category_phrases else {}
    records = _records(content["images"], path, image_dir, bad, max_pixels)
    for annotation in _distinct(content["annotations"], bad):
        record = records.get(annotation.get("image_id"))
        what = f"annotation {annotation.get('id')}"
        if record is None:
            if annotation.get("image_id") not in bad.pictures:
                bad.add("their picture is not in the file", what)
            continue
        if category_phrases and annotation.get("category_id") not in names:
            bad.add("their category is not in the file", what)
            continue
        phrases = [names[annotation["category_id"]]] if category_phrases else []
        phrases += _own_phrases(annotation.get(phrase_key))
        if not phrases:
            bad.add("without a phrase", what)
            continue
        record.add(annotation, phrases, what, bad)
    for image in content["images"]:
        record = records.get(image.get("id"))
        if record is not None and category_phrases:
            record.set_vocabulary(image, names, exhaustive)
    return finished(records.values(), bad)


def load_saco(
    json_path: str | os.PathLike[str],
    image_dir: str | os.PathLike[str],
    *,
    on_bad: str = "skip",
    max_pixels: int = MAX_PIXELS,
) -> "Dataset":
    """The pictures of a SA-Co file (Gold, Silver, or made likewise) as a dataset (see the module's table).

    There an entry of "images" is a pair of a picture and a phrase (`text_input`); one without annotations says that the
    phrase is absent. Entries of one file are joined to one row, whose `image_id` is the `file_name`. Entries with
    `is_instance_exhaustive` 0 are left out, as their missing objects are unknown.

    Args:
        json_path: the file.
        image_dir: the folder that its `file_name`s are relative to.
        on_bad: as in `load_coco`.
        max_pixels: larger pictures cannot be used.

    Raises ValueError for a file of another format or without anything that can be used, FileNotFoundError where it or
    the folder is missing.
    """
    require_datasets()
    path = Path(json_path)
    content = _read_json(path, ("images", "annotations"))
    if not any("text_input" in pair for pair in content["images"]):
        raise ValueError(f"{str(path)!r} has no 'text_input' in its images; it is not SA-Co. For COCO use load_coco.")
    bad = Skipped(f"load_saco({str(path)!r})", on_bad)
    records, asked = _pairs(content["images"], path, image_dir, bad, max_pixels)
    for annotation in _distinct(content["annotations"], bad):
        what = f"annotation {annotation.get('id')}"
        if annotation.get("image_id") not in asked:
            if annotation.get("image_id") not in bad.pictures:
                bad.add("their picture is not in the file", what)
            continue
        record, phrase = asked[annotation["image_id"]]
        bbox = annotation.get("bbox") or []
        # SA-Co writes boxes as fractions of the picture; others have pixels, never all of them below 1.
        normalized = all(isinstance(value, int | float) and value <= 1.01 for value in bbox)
        record.add(annotation, [phrase], what, bad, normalized)
    for record, phrase in asked.values():
        if phrase not in record.doubtful:
            record.concepts.setdefault(phrase, [])
    return finished(records.values(), bad)


def load_mask_folder(
    folder: str | os.PathLike[str],
    *,
    exhaustive: bool = True,
    on_bad: str = "skip",
    max_pixels: int = MAX_PIXELS,
) -> "Dataset":
    """The pictures of a folder with a mask file for each object, as a dataset (see the module's table).

        folder/images/street.jpg                      a picture
        folder/masks/street/traffic sign/0.png        an object: all pixels that are not 0, at the picture's size
        folder/masks/street/traffic sign/1.png        another one of the same phrase
        folder/masks/street/bus/                      an empty folder: there is no bus

    Args:
        folder: the folder.
        exhaustive: every phrase of the folder was looked for in every picture, so one without a mask is absent.
        on_bad: as in `load_coco`.
        max_pixels: larger pictures cannot be used.

    Raises FileNotFoundError where `images` or `masks` is missing, ValueError where nothing can be used.
    """
    require_datasets()
    root = Path(folder)
    for part in (root / "images", root / "masks"):
        if not part.is_dir():
            raise FileNotFoundError(
                f"{str(part)!r} is not a folder; expected images/<name>.jpg and masks/<name>/<phrase>/<number>.png."
            )
    bad = Skipped(f"load_mask_folder({str(root)!r})", on_bad)
    records: dict[str, Record] = {}
    for path in sorted(p for p in (root / "images").iterdir() if p.suffix.lower() in _PICTURE_FILES):
        if path.stem in records:
            raise ValueError(f"{path.name!r} and {records[path.stem].path.name!r} would share masks; rename one.")
        size = checked_file(path, {}, max_pixels)
        if isinstance(size, str):
            bad.add(size, f"picture {path.name}")
        else:
            records[path.stem] = Record(path.stem, path, size)
    for stem in sorted(p.name for p in (root / "masks").iterdir() if p.is_dir()):
        if stem in records:
            _read_masks(root / "masks" / stem, records[stem], bad)
        else:
            bad.add("masks without a picture", f"masks/{stem}")
    if exhaustive:
        vocabulary = list(dict.fromkeys(phrase for record in records.values() for phrase in record.concepts))
        for record in records.values():
            record.vocabulary = vocabulary
    return finished(records.values(), bad)


def _records(
    images: Sequence[Mapping[str, Any]],
    json_path: Path,
    image_dir: str | os.PathLike[str] | None,
    bad: Skipped,
    max_pixels: int,
) -> dict[Any, Record]:
    """The usable pictures by their id in the file."""
    folder = _image_folder(json_path, image_dir, images)
    records: dict[Any, Record] = {}
    for image in images:
        what = f"picture {image.get('id')} ({image.get('file_name')})"
        if "id" not in image or not image.get("file_name"):
            bad.add("without id or file_name", what)
            continue
        path = folder / str(image["file_name"])
        if image["id"] in records:
            if records[image["id"]].path != path:
                raise ValueError(
                    f"{str(json_path)!r} uses the picture id {image['id']} twice: for "
                    f"{records[image['id']].path.name!r} and {path.name!r}; annotations would be mixed up. "
                    "Give each picture an id of its own."
                )
            bad.add("listed twice", what)
            continue
        size = checked_file(path, image, max_pixels)
        if isinstance(size, str):
            bad.add_picture(size, image["id"], what)
            continue
        records[image["id"]] = Record(str(image["id"]), path, size)
    return records


def _pairs(
    pairs: Sequence[Mapping[str, Any]],
    json_path: Path,
    image_dir: str | os.PathLike[str],
    bad: Skipped,
    max_pixels: int,
) -> tuple[dict[str, Record], dict[Any, tuple[Record, str]]]:
    """The usable pictures by file name, and record and phrase of each picture-phrase pair by its id."""
    folder = _image_folder(json_path, image_dir, pairs)
    records: dict[str, Record] = {}
    asked: dict[Any, tuple[Record, str]] = {}
    for pair in pairs:
        identity, name = pair.get("id"), str(pair.get("file_name"))
        phrase = " ".join(str(pair.get("text_input") or "").split())
        what = f"pair {identity} ({name}, {phrase!r})"
        if identity in asked:
            raise ValueError(f"{str(json_path)!r} uses the id {identity} twice; give each pair an id of its own.")
        reason = None
        if not phrase:
            reason = "without text_input"
        elif not pair.get("is_instance_exhaustive", 1):
            reason = "not annotated exhaustively"
        elif name not in records:
            size = checked_file(folder / name, pair, max_pixels)
            if isinstance(size, str):
                reason = size
            else:
                records[name] = Record(name, folder / name, size)
        if reason is not None:
            bad.add_picture(reason, identity, what)
        else:
            asked[identity] = records[name], phrase
    return records, asked


def _read_masks(folder: Path, record: Record, bad: Skipped) -> None:
    for phrase_folder in sorted(p for p in folder.iterdir() if p.is_dir()):
        phrase = " ".join(phrase_folder.name.split())
        for path in sorted(p for p in phrase_folder.iterdir() if p.suffix.lower() in _PICTURE_FILES):
            what = f"masks/{folder.name}/{phrase_folder.name}/{path.name}"
            try:
                with PIL.Image.open(path) as stored:
                    if stored.mode not in ("1", "L", "P", "I", "I;16"):
                        raise ValueError(f"mode {stored.mode}; expected a picture with one channel")
                    mask = np.array(stored) != 0
            except Exception as error:
                record.doubtful.add(phrase)
                bad.add(f"cannot be read as a mask ({type(error).__name__}: {error})", what)
                continue
            code = {"size": mask.shape, "counts": mask_counts(mask, record.size)}
            record.add({"segmentation": code}, [phrase], what, bad)
        if phrase not in record.doubtful:
            record.concepts.setdefault(phrase, [])


def _image_folder(
    json_path: Path, image_dir: str | os.PathLike[str] | None, images: Sequence[Mapping[str, Any]]
) -> Path:
    if image_dir is not None:
        if not Path(image_dir).is_dir():
            raise FileNotFoundError(f"image_dir {str(image_dir)!r} is not a folder.")
        return Path(image_dir)
    names = [str(image.get("file_name")) for image in images[:20]]
    folders = [json_path.parent / "images", json_path.parent]
    return max(folders, key=lambda folder: sum((folder / name).is_file() for name in names))


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    for key in keys:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{str(path)!r} has no list {key!r}; expected COCO JSON with {', '.join(keys)}.")
    return content


def _category_names(content: Mapping[str, Any], rename: Mapping[str, str]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for category in content.get("categories", []):
        name = " ".join(str(category["name"]).split())
        name = rename.get(name, name)
        if not name or names.get(category["id"], name) != name:
            raise ValueError(f"category {category['id']} has the names {names.get(category['id'])!r} and {name!r}.")
        names[category["id"]] = name
    unknown = sorted(set(rename) - {" ".join(str(c["name"]).split()) for c in content.get("categories", [])})
    if unknown:
        raise ValueError(f"rename holds {unknown}, which are not categories of the file.")
    return names


def _own_phrases(given: Any) -> list[str]:
    given = [given] if isinstance(given, str) else given or []
    phrases = [" ".join(str(phrase).split()) for phrase in given]
    return [phrase for phrase in phrases if phrase]


def _distinct(annotations: Sequence[Mapping[str, Any]], bad: Skipped) -> Iterator[Mapping[str, Any]]:
    """The annotations without those that repeat an earlier one, id and all."""
    seen: dict[Any, Mapping[str, Any]] = {}
    for annotation in annotations:
        identity = annotation.get("id")
        if identity is not None:
            if seen.get(identity) == annotation:
                bad.add("listed twice", f"annotation {identity}")
                continue
            seen.setdefault(identity, annotation)
        yield annotation
