"""Tracks from JSON: annotations of SA-Co/VEval and YouTube-VIS, results of any model, files of `write_youtube_vis`.

    annotations: {"videos": [{"id": 1, "file_names": [...], "length": 20, "height": ..., "width": ...}, ...],
                  "categories": [{"id": 7, "name": "dog"}, ...],
                  "annotations": [{"id": 1, "video_id": 1, "category_id": 7, "segmentations": [code or null, ...],
                                   "bboxes": [[x, y, w, h] or null, ...], "iscrowd": 0}, ...],
                  "video_np_pairs": [{"video_id": 1, "category_id": 7}, ...]}
    results:     [{"video_id": 1, "category_id": 7, "score": 0.9, "segmentations": [...], "bboxes": [...]}, ...]

`video_np_pairs` lists what was asked, phrases that are absent among them; YouTube-VIS has no such list.  Of
`segmentations` and `bboxes` one is enough; boxes are made from masks where they are missing.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..ops.masks import rle_encode
from .video_tracks import Track, VideoPair

__all__ = [
    "VideoInfo",
    "VideoTargets",
    "load_video_predictions",
    "load_video_targets",
    "video_pairs",
    "video_results",
]

Data = Mapping[str, Any] | str | os.PathLike[str]


@dataclass(frozen=True)
class VideoInfo:
    """One video: its `name`, its `size` (height, width) in pixels and its number of frames."""

    name: str
    size: tuple[int, int]
    num_frames: int


@dataclass(frozen=True)
class VideoTargets:
    """Annotated videos.

    Attributes:
        videos: by id.
        categories: phrases by id, in the order of the file.
        tracks: all objects, in the order of the file.
        asked: (video_id, category_id) of the pairs that were asked; None where the file does not say.
    """

    videos: dict[int, VideoInfo]
    categories: dict[int, str]
    tracks: list[Track] = field(repr=False)
    asked: list[tuple[int, int]] | None = field(default=None, repr=False)


def load_video_targets(annotations: Data) -> VideoTargets:
    """The annotated videos of a dict or a JSON file.

    Raises ValueError for an id that comes twice or is not listed, lists that are not as long as the video, and masks
    that are not of its size.
    """
    data = annotations if isinstance(annotations, Mapping) else _load(annotations)
    missing = [key for key in ("videos", "categories", "annotations") if key not in data]
    if missing:
        raise ValueError(f"the annotations have no {', '.join(missing)}; expected the layout of YouTube-VIS JSON.")
    videos = {_id(one, "video", "id"): _info(one) for one in data["videos"]}
    categories = {_id(one, "category", "id"): str(one["name"]) for one in data["categories"]}
    for kind, table in (("videos", videos), ("categories", categories)):
        if len(table) != len(data[kind]):
            raise ValueError(f"{len(data[kind])} {kind} have {len(table)} different ids; expected one each.")
    tracks = [_track(one, f"annotation {one.get('id')}", videos, categories) for one in data["annotations"]]
    numbers = [track.number for track in tracks if track.number is not None]
    if twice := _repeated(numbers):
        raise ValueError(f"{len(twice)} annotation ids come more than once, such as {twice[0]}; expected each once.")
    asked = data.get("video_np_pairs")
    pairs = None if asked is None else [_place(one, "a video_np_pair", videos, categories) for one in asked]
    if pairs is not None and (twice := _repeated(pairs)):
        raise ValueError(f"{len(twice)} video_np_pairs come more than once, such as {twice[0]}; expected each once.")
    return VideoTargets(videos, categories, tracks, pairs)


def load_video_predictions(
    predictions: Sequence[Mapping[str, Any]] | Data, targets: VideoTargets, threshold: float = 0.5
) -> list[Track]:
    """The tracks that were found, from a list of results, a JSON file of them, or what `write_youtube_vis` wrote.

    A file of `write_youtube_vis` (a dict with `videos`, `categories` and `annotations`) has ids of its own: its videos
    are found by their names, and its phrases by theirs; a list of such dicts is taken one after the other.

    Raises ValueError, naming the entry, for unknown ids or names, a score or box that is not finite, lists that are not
    as long as the video, masks that are not of its size, and ids that come twice. Warns, with their number, of entries
    that say the same as another one, and of entries at or above `threshold` for phrases of which the video was not
    asked (the reference counts both as they are, and so do the metrics here).
    """
    given = predictions if not isinstance(predictions, str | os.PathLike) else _load(predictions)
    files = [given] if isinstance(given, Mapping) else list(given)
    for index, one in enumerate(files):
        if not isinstance(one, Mapping):
            raise TypeError(f"prediction {index} is {type(one).__name__}; expected a dict with video_id, score, ....")
    if files and all("annotations" in one for one in files):
        files = [entry for one in files for entry in _renumbered(one, targets)]
    tracks = []
    for index, entry in enumerate(files):
        name = f"prediction {index}"
        if "score" not in entry:
            raise ValueError(f"{name} has no score; it has {', '.join(entry)}.")
        tracks.append(_track(entry, name, targets.videos, targets.categories))
    if twice := _repeated([track.number for track in tracks if track.number is not None]):
        raise ValueError(
            f"{len(twice)} ids of predictions come more than once, such as {twice[0]}; expected each once."
        )
    _warn(tracks, targets, threshold)
    return tracks


def video_pairs(predictions: Iterable[Track], targets: VideoTargets) -> Iterator[VideoPair]:
    """All video-phrase pairs in the order of their ids: those asked, those annotated, those with a prediction."""
    found: dict[tuple[int, int], list[Track]] = {}
    there: dict[tuple[int, int], list[Track]] = {}
    for table, tracks in ((found, predictions), (there, targets.tracks)):
        for track in tracks:
            table.setdefault((track.video_id, track.category_id), []).append(track)
    for video, category in sorted({*found, *there, *(targets.asked or ())}):
        key = (video, category)
        num_frames = targets.videos[video].num_frames
        yield VideoPair(video, category, num_frames, tuple(found.get(key, ())), tuple(there.get(key, ())))


def video_results(
    found: Iterable[tuple[int, Mapping[str, Any]]], video_id: int, categories: Mapping[str, int], num_frames: int
) -> list[dict[str, Any]]:
    """Results of one video, as `load_video_predictions` takes them, from what a session found frame by frame.

    Args:
        found: (frame number, what `processor.postprocess_outputs` gave for it), in any order, consumed one by one.
        video_id: its id in the annotations.
        categories: phrase → category id. Objects without a phrase, and of other phrases, are an error.
        num_frames: length of the video.

    The score of a track is the mean over its frames, as in `write_youtube_vis`.
    """
    tracks: dict[int, dict[str, Any]] = {}
    for frame, objects in found:
        if not 0 <= frame < num_frames:
            raise ValueError(f"objects of frame {frame} in a video of {num_frames} frames.")
        columns = (objects["object_ids"], objects["labels"], objects["scores"], rle_encode(objects["masks"]))
        for number, label, score, mask in zip(*columns, strict=True):
            if label not in categories:
                raise ValueError(f"object {int(number)} is called {label!r}; expected one of {list(categories)}.")
            track = tracks.setdefault(
                int(number),
                {
                    "video_id": video_id,
                    "category_id": categories[label],
                    "segmentations": [None] * num_frames,
                    "sum": 0.0,
                },
            )
            track["segmentations"][frame] = mask
            track["sum"] += float(score)
    for track in tracks.values():
        track["score"] = track.pop("sum") / sum(mask is not None for mask in track["segmentations"])
    return list(tracks.values())


def _load(path: Any) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _id(entry: Mapping[str, Any], name: str, key: str) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} has {key} {value!r}; expected a whole number.")
    return int(value)


def _info(entry: Mapping[str, Any]) -> VideoInfo:
    files = entry.get("file_names") or []
    missing = [key for key in ("height", "width", *(() if files else ("length",))) if key not in entry]
    if missing:
        raise ValueError(f"video {entry.get('id')} has no {', '.join(missing)}; it has {', '.join(entry)}.")
    name = entry.get("video_name") or entry.get("name") or (os.path.dirname(files[0]) if files else "")
    return VideoInfo(str(name), (int(entry["height"]), int(entry["width"])), len(files) or int(entry["length"]))


def _place(
    entry: Mapping[str, Any], name: str, videos: Mapping[int, Any], categories: Mapping[int, Any]
) -> tuple[int, int]:
    video, category = _id(entry, name, "video_id"), _id(entry, name, "category_id")
    for kind, value, known in (("video", video, videos), ("category", category, categories)):
        if value not in known:
            raise ValueError(
                f"{name} has {kind}_id {value}, which the annotations do not list; they have {len(known)}."
            )
    return video, category


def _track(
    entry: Mapping[str, Any], name: str, videos: Mapping[int, VideoInfo], categories: Mapping[int, str]
) -> Track:
    video, category = _place(entry, name, videos, categories)
    info = videos[video]
    masks, boxes = entry.get("segmentations"), entry.get("bboxes")
    for key, values in (("segmentations", masks), ("bboxes", boxes)):
        if values is not None and len(values) != info.num_frames:
            raise ValueError(
                f"{name} has {len(values)} {key}; expected {info.num_frames}, the frames of video {video}."
            )
    for frame, mask in enumerate(masks or ()):
        if mask is not None and not (isinstance(mask, Mapping) and {"size", "counts"} <= mask.keys()):
            raise ValueError(f"{name}, frame {frame}: the mask is no run-length code with size and counts.")
        if mask is not None and tuple(mask["size"]) != info.size:
            raise ValueError(
                f"{name}, frame {frame}: the mask is of size {list(mask['size'])}; expected {list(info.size)} (height, "
                "width), the video's."
            )
    tags = entry.get("tags")
    try:
        return Track(
            video,
            category,
            masks,
            None if boxes is None else _box_array(boxes),  # type: ignore[arg-type]
            float(entry.get("score", 1.0)),
            bool(entry.get("iscrowd", 0)),
            _id(entry, name, "id") if "id" in entry else None,
            None if tags is None else tuple(tags),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _box_array(boxes: Sequence[Any]) -> np.ndarray:
    """Boxes (num_frames, 4) with NaN for None; a NaN that was given becomes an infinity, which `Track` refuses."""
    nothing = [np.nan] * 4
    given = [nothing if box is None else [np.inf if value != value else value for value in box] for box in boxes]
    if any(len(box) != 4 for box in given):
        raise ValueError("a box has other than four numbers; expected x, y, width, height.")
    return np.array(given, dtype=np.float64).reshape(-1, 4)


def _renumbered(data: Mapping[str, Any], targets: VideoTargets) -> Iterator[dict[str, Any]]:
    """Annotations of a file with ids of its own, as results for `targets`."""
    videos = {
        one["id"]: _by_name(_info(one).name, {n: v.name for n, v in targets.videos.items()}, "video")
        for one in data["videos"]
    }
    phrases = {one["id"]: _by_name(one["name"], targets.categories, "category") for one in data["categories"]}
    for entry in data["annotations"]:
        kept = {key: value for key, value in entry.items() if key not in ("id", "iscrowd")}
        yield {**kept, "video_id": videos[entry["video_id"]], "category_id": phrases[entry["category_id"]]}


def _by_name(name: str, known: Mapping[int, str], kind: str) -> int:
    numbers = [number for number, other in known.items() if other == name]
    if len(numbers) != 1:
        have = "has none" if not numbers else f"has {len(numbers)}"
        raise ValueError(f"{kind} {name!r} of the predictions: the annotations {have} of this name; expected one.")
    return numbers[0]


def _repeated(values: Sequence[Any]) -> list[Any]:
    seen: set[Any] = set()
    return list(dict.fromkeys(value for value in values if value in seen or seen.add(value)))  # type: ignore[func-returns-value]


def _warn(tracks: Sequence[Track], targets: VideoTargets, threshold: float) -> None:
    """Says what is odd about predictions that are counted all the same."""
    contents = [(one.video_id, one.category_id, one.score, _content(one)) for one in tracks if one.is_seen.any()]
    if twice := _repeated(contents):
        video, category, score, _ = twice[0]
        warnings.warn(
            f"{len(twice)} predictions come more than once with the same score and shapes, such as one of category "
            f"{category} in video {video} (score {score}); each counts.",
            stacklevel=3,
        )
    if targets.asked is not None:
        asked = {*targets.asked, *((one.video_id, one.category_id) for one in targets.tracks)}
        surplus = {(one.video_id, one.category_id) for one in tracks if one.score >= threshold} - asked
        if surplus:
            warnings.warn(
                f"predictions for {len(surplus)} video-phrase pairs that are not among video_np_pairs, such as "
                f"{min(surplus)}; they count as false, as in the reference.",
                stacklevel=3,
            )


def _content(track: Track) -> int:
    masks = track.masks or ()
    return hash((track.boxes.tobytes(), tuple(str(mask and mask["counts"]) for mask in masks)))
