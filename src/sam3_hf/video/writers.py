"""What was found in a video, written down: an annotated video, a journal on disk, YouTube-VIS JSON, MOTS text.

While a video runs, the objects of each frame go to a `ResultJournal`; a killed run goes on with it where it stopped,
and `write_youtube_vis` and `write_mots` make the final files from it without holding all masks in memory.  Final files
are written under a temporary name and renamed when whole, so that none is ever half there.

An object of a frame is a dictionary: `id` int, `label` str, `score` float, `box` [x0, y0, x1, y1] in pixels, `mask` a
COCO run-length code with string `counts` (`ops.masks.rle_encode`).
"""

import json
import operator
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..files import written_whole
from ..ops.masks import checked_runs
from ..visualization import draw_instances
from .video_file import import_av

__all__ = ["ResultJournal", "VideoWriter", "draw_tracks", "write_mots", "write_youtube_vis"]

# The first one that this build of FFmpeg has; libx264 is missing where its licence is not wanted.
_ENCODERS = {"h264": ("libx264", "libopenh264", "mpeg4"), "hevc": ("libx265",), "vp9": ("libvpx-vp9",)}
_BITS_PER_PIXEL = 0.2  # for encoders that aim at a bit rate, not at a quality
_BT709, _STUDIO_RANGE = 1, 1  # AVCOL_SPC_BT709, AVCOL_RANGE_MPEG: written into the file, so that players do not guess
_BYTES_AT_ONCE = 2**28  # of masks held in memory while the final JSON is made
_BYTES_PER_MASK = 500  # of Python objects about one mask, beside its counts

_HEADER, _FRAME = b'{"header": ', b'{"frame": '
_FRAME_LINE = re.compile(rb'\{"frame": (\d+), "objects": \[.*\]\}\n')


# ---- an annotated video ----


class VideoWriter:
    """A video file in the making; a context manager, which renames the finished file to `path` when the block ends.

    Where the block fails, nothing is left, or with `keep_partial` a whole file of the frames written so far.

    Attributes: `codec`, the encoder in use: where libx264 is missing, "h264" falls back to libopenh264, then mpeg4;
    `num_frames` written; `path`.

    Raises ValueError for a suffix or codec that this FFmpeg cannot write, ModuleNotFoundError without PyAV.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        size: tuple[int, int] | None = None,
        codec: str = "h264",
        *,
        keep_partial: bool = False,
    ) -> None:
        """`fps` frames per second; `size` (height, width), by default the first frame's; `codec` "h264", "hevc", "vp9"
        or the name of an encoder."""
        if not 0 < fps < float("inf"):
            raise ValueError(f"fps is {fps!r}; expected frames per second above 0.")
        self.path = Path(path)
        self.num_frames = 0
        self.codec = self._available(codec)
        self._fps = Fraction(fps).limit_denominator(65535)  # mpeg4 has 16 bits for it
        self._size = size
        self._keep_partial = keep_partial
        self._temporary = self.path.with_name(f".{self.path.stem}.part{self.path.suffix}")
        self._container: Any = None
        self._stream: Any = None
        self._closed = False

    @staticmethod
    def _available(codec: str) -> str:
        av = import_av()
        wanted = _ENCODERS.get(codec, (codec,))
        for name in wanted:
            with suppress(av.error.FFmpegError, ValueError):
                av.codec.Codec(name, "w")
                return name
        raise ValueError(f"codec {codec!r}: this build of FFmpeg has no encoder {' or '.join(wanted)}.")

    def write(self, image: np.ndarray) -> None:
        """Appends a frame, uint8 (H, W, 3) RGB; sides that are odd are padded by one row or column in the file.

        Raises ValueError for another kind or size of picture, OSError where the disk is full.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed; open a new VideoWriter.")
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            given = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"a frame is {given}; expected a uint8 array (height, width, 3).")
        height, width = image.shape[:2]
        self._size = self._size or (height, width)
        if (height, width) != self._size:
            raise ValueError(f"frame {self.num_frames} is {(height, width)}, expected (height, width) {self._size}.")
        if self._container is None:
            self._open(height + height % 2, width + width % 2)
        av = import_av()
        padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(padded, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=_BT709, dst_color_range=_STUDIO_RANGE
        )
        frame.pts = self.num_frames
        frame.time_base = 1 / self._fps
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def close(self) -> None:
        """Finishes the file and gives it its name; ValueError where no frame was written."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._container is None:
                raise ValueError(f"no frame was written to {self.path}, so there is no video.")
            self._container.mux(self._stream.encode(None))
            self._container.close()
            os.replace(self._temporary, self.path)
        finally:
            self._discard()

    def _open(self, height: int, width: int) -> None:
        av = import_av()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._container = av.open(str(self._temporary), "w")
        except ValueError as error:
            raise ValueError(f"{self.path.name}: no video format ends in {self.path.suffix!r}; use .mp4.") from error
        self._stream = self._container.add_stream(self.codec, rate=self._fps)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        context = self._stream.codec_context
        context.colorspace, context.color_range = _BT709, _STUDIO_RANGE
        if self.codec in ("libopenh264", "mpeg4"):
            context.bit_rate = max(200_000, int(height * width * self._fps * _BITS_PER_PIXEL))

    def _discard(self) -> None:
        if self._container is not None:
            with suppress(import_av().error.FFmpegError, OSError, ValueError):
                self._container.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._keep_partial and self._container is not None:
            with suppress(import_av().error.FFmpegError, OSError):  # the error of the block is the one to tell
                self.close()
        else:
            self._closed = True
            self._discard()


def draw_tracks(
    image: Image.Image | np.ndarray,
    masks: Iterable[Any],
    ids: Sequence[int],
    labels: Sequence[str] | None = None,
    scores: Sequence[float] | None = None,
    *,
    alpha: float = 0.45,
) -> np.ndarray:
    """The frame as a new uint8 array (H, W, 3) with its objects drawn on it, each id in its own colour all along.

    `masks` are (H, W) arrays or tensors, pictures or COCO run-length codes of the frame's size; beside each stand its
    id, and its label and score where they are given. Raises ValueError for lists of different lengths or a bad id.
    """
    masks = list(masks)
    numbers = [operator.index(number) for number in ids]
    for name, values in (("masks", masks), ("labels", labels), ("scores", scores)):
        if values is not None and len(values) != len(numbers):
            raise ValueError(f"{len(values)} {name} for {len(numbers)} ids; expected as many.")
    if len(set(numbers)) != len(numbers) or any(number < 0 for number in numbers):
        raise ValueError(f"ids are {numbers}; expected different numbers from 0 on.")
    # Scores stand in the text and are not given as such, or labels would change places whenever two scores do.
    drawn: list[dict[str, Any]] = []
    for index, number in enumerate(numbers):
        text = [str(number)] + ([labels[index]] if labels else []) + ([f"{scores[index]:.2f}"] if scores else [])
        drawn.append({"mask": masks[index], "label": " ".join(text)})
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    font_size = max(6, min(round((height * width) ** 0.5 / 32), 40, min(height, width) // 3))
    return np.asarray(draw_instances(image, drawn, alpha=alpha, font_size=font_size, colors=numbers))


# ---- the journal ----


class ResultJournal:
    """The objects of each frame in a JSON-lines file that outlives a kill; a context manager.

    The first line holds `header`, what the run was started with; then each frame is one line, handed to the operating
    system as soon as it is appended. An existing file is gone on with: a last line that a kill has torn is dropped with
    a warning.

    Raises ValueError where an existing file is no journal, has a broken line, or another `header`.
    """

    def __init__(self, path: str | os.PathLike[str], header: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.header: dict[str, Any] = json.loads(json.dumps(dict(header or {})))
        self._offsets: dict[int, int] = {}  # where the line of a frame begins
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._end = self._reopen(header is not None) if self.path.exists() else 0
        self._file = open(self.path, "r+b" if self.path.exists() else "xb", buffering=0)  # noqa: SIM115 - kept open
        try:
            self._file.truncate(self._end)
            if self._end == 0:
                self._append_line(_HEADER + _json(self.header) + b"}\n")
        except BaseException:
            self._file.close()
            raise

    def append(self, frame_index: int, objects: Iterable[Mapping[str, Any]]) -> None:
        """Writes the objects of frame `frame_index`, in whatever order frames come.

        Raises ValueError for a frame that is there already, an id twice or an object without one of its keys, OSError
        where the disk is full: the line is then taken back, and the journal stays whole.
        """
        frame_index = operator.index(frame_index)
        if frame_index < 0 or frame_index in self._offsets:
            there = "is there already" if frame_index in self._offsets else "is negative"
            raise ValueError(f"frame {frame_index} {there}; expected a frame that is not in {self.path} yet.")
        entries = [_checked_object(found, frame_index) for found in objects]
        ids = [entry["id"] for entry in entries]
        if len(set(ids)) != len(ids):
            raise ValueError(f"frame {frame_index} has ids {ids}; expected each once.")
        begin = self._end
        self._append_line(b'{"frame": %d, "objects": %b}\n' % (frame_index, _json(entries)))
        self._offsets[frame_index] = begin

    def frames_done(self) -> set[int]:
        """The frames that are in the journal."""
        return set(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """Yields (frame index, objects) in the order of frames, one line in memory at a time."""
        with open(self.path, "rb") as file:
            for frame_index, offset in sorted(self._offsets.items()):
                file.seek(offset)
                yield frame_index, json.loads(file.readline())["objects"]

    def close(self) -> None:
        """Closes the file; what is in it can still be iterated."""
        self._file.close()

    def __enter__(self) -> "ResultJournal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _append_line(self, line: bytes) -> None:
        self._file.seek(self._end)
        try:
            rest = memoryview(line)
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) or 0 :]
        except BaseException:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise
        self._end += len(line)

    def _reopen(self, compare: bool) -> int:
        """Reads the header and where lines begin; returns where the next one goes."""
        end = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                found = _FRAME_LINE.fullmatch(line)
                if number == 1 and line.startswith(_HEADER) and line.endswith(b"}\n"):
                    self._take_header(json.loads(line)["header"], compare)
                elif number > 1 and found and int(found[1]) not in self._offsets:
                    self._offsets[int(found[1])] = end
                elif not line.endswith(b"\n") and _is_torn(line, _HEADER if number == 1 else _FRAME):
                    warnings.warn(f"{self.path}: line {number} was cut off by a kill; it is dropped.", stacklevel=3)
                    break
                else:
                    kind = "the header of a journal" if number == 1 else "a frame"
                    raise ValueError(f"{self.path}: line {number} is not {kind}; give another path or remove the file.")
                end += len(line)
        return end

    def _take_header(self, stored: dict[str, Any], compare: bool) -> None:
        keys = stored.keys() | self.header.keys()
        other = sorted(key for key in keys if stored.get(key) != self.header.get(key))
        if compare and other:
            listed = ", ".join(f"{key} was {stored.get(key)!r}, now {self.header.get(key)!r}" for key in other)
            raise ValueError(f"{self.path} is from another run: {listed}. Give another path, or remove the file.")
        self.header = stored


def _is_torn(line: bytes, begin: bytes) -> bool:
    """Whether `line` without its end may be the first part of a line that begins with `begin`."""
    written = line.rstrip(b"\0")  # a power cut leaves zeros
    return written.startswith(begin) or begin.startswith(written)


def _json(data: Any) -> bytes:
    return json.dumps(data, allow_nan=False).encode()


def _checked_object(found: Mapping[str, Any], frame_index: int) -> dict[str, Any]:
    missing = [key for key in ("id", "label", "score", "box", "mask") if key not in found]
    if missing:
        raise ValueError(f"an object of frame {frame_index} has no {', '.join(missing)}; it has {', '.join(found)}.")
    counts, size = found["mask"]["counts"], found["mask"]["size"]
    return {
        "id": operator.index(found["id"]),
        "label": str(found["label"]),
        "score": float(found["score"]),
        "box": [float(value) for value in found["box"]],
        "mask": {
            "size": [int(side) for side in size],
            "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts,
        },
    }


# ---- files for evaluation ----


@dataclass
class _Track:
    """What all frames together say of one object."""

    label: str
    num_masks: int = 0
    score_sum: float = 0.0
    bytes: int = 0


def write_youtube_vis(
    journal: ResultJournal,
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int],
    num_frames: int | None = None,
    name: str = "",
    file_names: Sequence[str] = (),
    categories: Sequence[str] | None = None,
) -> None:
    """Writes a journal as YouTube-VIS JSON (SA-Co/VEval's layout too) to `path`, whole or not at all.

    `videos` has one entry of `size` (height, width) with `num_frames` frames (by default up to the last one in the
    journal). `categories` are phrases, numbered from 1 (by default the labels in the order they appear). Each object is
    an annotation: `segmentations` (COCO run-length codes), `bboxes` (x, y, width, height) and `areas`, one for each
    frame and None where the object is not; `score`, the mean over its frames; `noun_phrase`, its first label;
    `track_id`, its id in the journal, while `id` counts from 1.

    Raises ValueError for a mask of another size, a frame past `num_frames` or a label that is no category.
    """
    last = max(journal.frames_done(), default=-1)
    length = last + 1 if num_frames is None else num_frames
    if last >= length:
        raise ValueError(f"the journal has frame {last}, but num_frames is {length}.")
    tracks = _tracks(journal)
    phrases = _category_ids(categories, [track.label for track in tracks.values()])
    height, width = size
    video = {
        "id": 1,
        "video_name": name,
        "file_names": list(file_names),
        "height": height,
        "width": width,
        "length": length,
    }
    listed = [{"id": number, "name": phrase} for phrase, number in phrases.items()]
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"videos": {json.dumps([video])}, "categories": {json.dumps(listed)}, "annotations": [')
        number = 0
        for group in _groups(tracks):
            for track_id, columns in _gather(journal, group, length, size).items():
                track = tracks[track_id]
                number += 1
                annotation = {
                    "id": number,
                    "track_id": track_id,
                    "video_id": 1,
                    "category_id": phrases[track.label],
                    "noun_phrase": track.label,
                    "score": track.score_sum / track.num_masks,
                    "iscrowd": 0,
                    "height": height,
                    "width": width,
                    **columns,
                }
                file.write((", " if number > 1 else "") + json.dumps(annotation))
        file.write("]}\n")


def write_mots(
    journal: ResultJournal, path: str | os.PathLike[str], *, categories: Sequence[str] | None = None
) -> None:
    """Writes a journal as MOTS text to `path`, whole or not at all: `frame id class_id height width counts` a line.

    Classes are numbered as categories in `write_youtube_vis`. Empty masks are left out, as MOTS has none. Masks that
    overlap are written as they are; MOTS' own evaluation refuses them.
    """
    tracks = _tracks(journal)
    phrases = _category_ids(categories, [track.label for track in tracks.values()])
    with written_whole(path) as temporary, open(temporary, "w", encoding="ascii") as file:
        for frame_index, objects in journal:
            for entry in objects:
                height, width = entry["mask"]["size"]
                if _area(entry["mask"]):
                    class_id = phrases[tracks[entry["id"]].label]
                    file.write(f"{frame_index} {entry['id']} {class_id} {height} {width} {entry['mask']['counts']}\n")


def _tracks(journal: ResultJournal) -> dict[int, _Track]:
    """Each object by its id, in the order they appear."""
    tracks: dict[int, _Track] = {}
    for _, objects in journal:
        for entry in objects:
            track = tracks.setdefault(entry["id"], _Track(entry["label"]))
            track.num_masks += 1
            track.score_sum += entry["score"]
            track.bytes += len(entry["mask"]["counts"]) + _BYTES_PER_MASK
    return tracks


def _groups(tracks: Mapping[int, _Track]) -> Iterator[list[int]]:
    """Ids in groups whose masks together fit the memory that is granted; a larger object is a group of its own."""
    group: list[int] = []
    used = 0
    for track_id, track in tracks.items():
        if group and used + track.bytes > _BYTES_AT_ONCE:
            yield group
            group, used = [], 0
        group.append(track_id)
        used += track.bytes
    if group:
        yield group


def _gather(
    journal: ResultJournal, ids: Sequence[int], length: int, size: tuple[int, int]
) -> dict[int, dict[str, list[Any]]]:
    """`segmentations`, `bboxes` and `areas` of some objects, each with one entry per frame."""
    columns: dict[int, dict[str, list[Any]]] = {
        number: {key: [None] * length for key in ("segmentations", "bboxes", "areas")} for number in ids
    }
    for frame_index, objects in journal:
        for entry in objects:
            if entry["id"] not in columns:
                continue
            if tuple(entry["mask"]["size"]) != tuple(size):
                raise ValueError(
                    f"frame {frame_index}: the mask of object {entry['id']} is {entry['mask']['size']}, expected "
                    f"(height, width) {tuple(size)}."
                )
            x0, y0, x1, y1 = entry["box"]
            column = columns[entry["id"]]
            column["segmentations"][frame_index] = entry["mask"]
            column["bboxes"][frame_index] = [x0, y0, x1 - x0, y1 - y0]
            column["areas"][frame_index] = _area(entry["mask"])
    return columns


def _area(rle: Mapping[str, Any]) -> int:
    return int(checked_runs(rle["counts"], tuple(rle["size"]))[1::2].sum())


def _category_ids(categories: Sequence[str] | None, labels: Sequence[str]) -> dict[str, int]:
    """Phrases and their numbers from 1, those given or else the labels in the order they appear."""
    phrases = {phrase: number for number, phrase in enumerate(dict.fromkeys(categories or labels), 1)}
    if unknown := set(labels) - phrases.keys():
        raise ValueError(f"objects have the labels {sorted(unknown)}, which are not among categories {list(phrases)}.")
    return phrases
