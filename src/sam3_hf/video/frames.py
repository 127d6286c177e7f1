"""Frames of anything that moves, one at a time: files, folders, lists, arrays, generators, a camera.

`open_video` gives a `FrameSource`; iterating it decodes a frame, hands it out and forgets it, so that a video of any
length needs the memory of one frame.  What can be read again (all but generators and cameras) gives any frame by its
number with `read`, to the bit the same as iterating gives.

Video files are read with PyAV.  Frame numbers count frames as they are shown; a frame's time is its own presentation
time, not its number over the rate, so variable frame rates keep their pace.
"""

import math
import operator
import re
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from ..processing.images import ImageInput, load_image
from .video_file import FrameTimes, VideoFile, import_av, upright_rgb

__all__ = ["PICTURE_SUFFIXES", "Frame", "FrameSource", "VideoInput", "VideoReadError", "open_video"]

PICTURE_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

VideoInput: TypeAlias = str | Path | int | np.ndarray | Tensor | Sequence[ImageInput] | Iterable[ImageInput]
_Picture: TypeAlias = tuple[np.ndarray, float | None]  # uint8 (H, W, 3), time in seconds

_ROUNDING_TICKS = 1e-6  # 0.1 s must find the frame at 0.1 s although neither number is exact


class VideoReadError(ValueError):
    """Reading stopped in the middle: a truncated or damaged file, a picture of another size.

    `source` is the video's name, `num_read` how many good frames came before: they stay valid.
    """

    def __init__(self, source: str, num_read: int, cause: str) -> None:
        super().__init__(f"{source}: reading stopped after {num_read} good frames: {cause}")
        self.source = source
        self.num_read = num_read


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: `index` among the frames kept, `image` uint8 (H, W, 3) RGB upright, `time` in seconds from the start
    of the video, or None where the source has no times."""

    index: int
    image: np.ndarray
    time: float | None


class FrameSource(ABC):
    """A lazy sequence of frames, from `open_video`; iterate it, or read single frames; a context manager.

    Attributes:
        name: what errors call it: the file's or folder's path, or the kind of source.
        num_frames: how many frames are kept, None where only reading everything would tell.
        fps: kept frames per second on average, None where the source has no times.
        size: (height, width) of the upright frames, None until a generator's or camera's first frame was read.
        is_seekable: whether `read` works.
    """

    is_seekable = True

    def __init__(self, name: str, num_frames: int | None, fps: float | None, size: tuple[int, int] | None) -> None:
        self.name = name
        self.num_frames = num_frames
        self.fps = fps
        self.size = size
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        """Yields the kept frames from the first one on; see `frames_from`."""
        return self.frames_from(0)

    def frames_from(self, first: int) -> Iterator[Frame]:
        """Yields the kept frames from number `first` on; those before are not read where the source can go there.

        Raises VideoReadError, after all good frames, where the rest cannot be read or has another size.
        """
        self._check_open()
        if first < 0:
            raise self._not_there(first)
        for index, (image, time) in enumerate(self._kept(first), first):
            self._check_size(image, index)
            yield Frame(index, image, time)

    def read(self, index: int) -> Frame:
        """The kept frame number `index`, the same pixels as iterating gives; it does not disturb iterators.

        Raises ValueError for a number that is not there and for sources that cannot go back.
        """
        self._check_open()
        index = operator.index(index)
        if not self.is_seekable:
            raise ValueError(
                f"{self.name} cannot be read again: frame {index} is gone, or is still to come. Prompt a frame while "
                "it is the current one, or pass a video file, a folder or a list."
            )
        if index < 0 or (self.num_frames is not None and index >= self.num_frames):
            raise self._not_there(index)
        image, time = self._at(index)
        self._check_size(image, index)
        return Frame(index, image, time)

    def close(self) -> None:
        """Releases files and devices; iterating or reading afterwards raises ValueError."""
        self._closed = True

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _kept(self, first: int = 0) -> Iterator[_Picture]:
        """The frames left by start, end and stride, in order, from number `first` of them on."""

    @abstractmethod
    def _at(self, index: int) -> _Picture:
        """The kept frame `index`, which is not negative and below `num_frames` where that is known."""

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"{self.name} is closed; open it again with open_video.")

    def _check_size(self, image: np.ndarray, index: int) -> None:
        height, width = image.shape[:2]
        if self.size is None:
            self.size = (height, width)
        if self.size != (height, width):
            raise VideoReadError(
                self.name,
                index,
                f"frame {index} is {height} x {width} (height x width), the frames before are "
                f"{self.size[0]} x {self.size[1]}; resize them to one size, or open the parts one by one.",
            )

    def _not_there(self, index: int) -> ValueError:
        count = self.num_frames
        there = "fewer frames" if count is None else f"{count} frames, 0 to {count - 1}"
        return ValueError(f"frame {index} is not there: {self.name} has {there}.")


def open_video(
    source: VideoInput, *, stride: int = 1, start: int | float | None = None, end: int | float | None = None
) -> FrameSource:
    """The frames of `source` as a lazy sequence, see `FrameSource`.

    Args:
        source: path of a video file or of a folder of pictures (in natural order: 2.jpg before 10.jpg); a list of
            pictures as `load_image` takes them; a uint8 array or tensor (T, H, W, 3) or (T, 3, H, W); an iterator of
            pictures; the number of a camera.
        stride: every how many-th frame is kept, 1 for all.
        start, end: where to begin and to stop (exclusive): an int is a frame number, a float is seconds from the first
            frame, which only files and cameras have.

    Raises FileNotFoundError for a path that does not exist, ValueError for what is no video, is empty, or has no frame
    from `start` on, TypeError for other types, ModuleNotFoundError where a file needs PyAV and it is not installed.
    """
    _check_range(stride, start, end)
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"video {str(source)!r} does not exist.")
        if path.is_dir():
            return _open_folder(path, stride, start, end)
        if path.suffix.lower() in PICTURE_SUFFIXES and path.suffix.lower() != ".gif":
            return _open_list(str(path), [path], stride, start, end)
        return _FileFrames(path, stride, start, end)
    if isinstance(source, np.ndarray | Tensor):
        return _open_array(source, stride, start, end)
    if isinstance(source, int) and not isinstance(source, bool):
        return _open_camera(source, stride, start, end)
    if isinstance(source, Sequence) and not isinstance(source, bytes | bytearray):
        return _open_list("the list of pictures", source, stride, start, end)
    if isinstance(source, Iterable) and not isinstance(source, bytes | bytearray):
        pictures = ((picture, None) for picture in source)
        return _StreamedFrames("the generator", pictures, None, stride, start, end)
    raise TypeError(
        f"video is {type(source).__name__}; expected a path (video file or folder), a list of pictures, an array "
        "(T, H, W, 3), an iterator of pictures or the number of a camera."
    )


def _check_range(stride: int, start: int | float | None, end: int | float | None) -> None:
    if isinstance(stride, bool) or not isinstance(stride, int) or stride < 1:
        raise ValueError(f"stride is {stride!r}; expected a whole number from 1 (every frame) on.")
    for name, value in (("start", start), ("end", end)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}; expected an int (frame number), a float (seconds) or None.")
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; expected a number from 0 on.")
    if end is not None and (not start or type(start) is type(end)) and (start or 0) >= end:
        raise _nothing_between(start or 0, end)


def _nothing_between(start: int | float, end: int | float) -> ValueError:
    return ValueError(f"start={start!r} is not before end={end!r}, so no frame is left; end is exclusive.")


def _beyond(name: str, start: int | float | None, last: str) -> ValueError:
    return ValueError(f"start={start!r} lies beyond the end of {name}{last}.")


def _without_seconds(name: str, start: int | float | None, end: int | float | None) -> tuple[int, int | None]:
    for key, value in (("start", start), ("end", end)):
        if isinstance(value, float):
            raise ValueError(f"{key}={value!r} is in seconds, but {name} has no times; give a frame number (an int).")
    return int(start or 0), None if end is None else int(end)


def _rgb(picture: ImageInput, name: str) -> np.ndarray:
    """The picture as uint8 (H, W, 3) RGB, upright."""
    return np.ascontiguousarray(load_image(picture, name).permute(1, 2, 0).numpy())


# ---- pictures that lie ready: folders, lists, arrays ----


class _PictureFrames(FrameSource):
    """`num_pictures` pictures without times, each made by `load` when it is asked for."""

    def __init__(
        self,
        name: str,
        load: Callable[[int], np.ndarray],
        num_pictures: int,
        stride: int,
        start: int | float | None,
        end: int | float | None,
    ) -> None:
        first, last = _without_seconds(name, start, end)
        if first >= num_pictures:
            raise _beyond(name, start, f", which has {num_pictures} frames")
        self._load = load
        self._numbers = range(num_pictures)[first:last:stride]
        height, width = load(first).shape[:2]
        super().__init__(name, len(self._numbers), None, (height, width))

    def _kept(self, first: int = 0) -> Iterator[_Picture]:
        for index, number in enumerate(self._numbers[first:], first):
            try:
                image = self._load(number)
            except (ValueError, OSError) as error:
                raise VideoReadError(self.name, index, str(error)) from error
            yield image, None

    def _at(self, index: int) -> _Picture:
        return self._load(self._numbers[index]), None


def _open_folder(folder: Path, stride: int, start: int | float | None, end: int | float | None) -> FrameSource:
    pictures = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
    if not pictures:
        raise ValueError(f"no pictures in the folder {str(folder)!r}; known endings: {', '.join(PICTURE_SUFFIXES)}")
    pictures.sort(key=_natural)
    return _open_list(str(folder), pictures, stride, start, end)


def _natural(path: Path) -> tuple[list[str | int], str]:
    """A sort key that compares runs of digits as numbers."""
    parts = re.split("([0-9]+)", path.name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _open_list(
    name: str, pictures: Sequence[ImageInput], stride: int, start: int | float | None, end: int | float | None
) -> FrameSource:
    if len(pictures) == 0:
        raise ValueError(f"{name} is empty; expected at least one picture.")
    return _PictureFrames(
        name, lambda number: _rgb(pictures[number], f"frame {number}"), len(pictures), stride, start, end
    )


def _open_array(
    video: np.ndarray | Tensor, stride: int, start: int | float | None, end: int | float | None
) -> FrameSource:
    name = f"the {'tensor' if isinstance(video, Tensor) else 'array'} {tuple(video.shape)}"
    if str(video.dtype).removeprefix("torch.") != "uint8":
        raise ValueError(f"{name} is {video.dtype}; expected uint8. Convert it: values 0..255.")
    first, last = (video.ndim == 4 and video.shape[axis] == 3 for axis in (1, 3))
    if not (first or last):
        raise ValueError(f"{name} is no video; expected (frames, height, width, 3) or (frames, 3, height, width).")
    if 0 in video.shape:
        raise ValueError(f"{name} is empty; expected at least one frame with pixels.")
    # where both readings are possible arrays are channel-last and tensors channel-first, as in load_image
    channels_first = first and (isinstance(video, Tensor) or not last)

    def load(number: int) -> np.ndarray:
        frame = video[number]
        pixels = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else frame
        return np.array(pixels.transpose(1, 2, 0) if channels_first else pixels, order="C")

    return _PictureFrames(name, load, len(video), stride, start, end)


# ---- pictures that come and go: generators, cameras ----


class _StreamedFrames(FrameSource):
    """Pictures of an iterator of (image, time), which can be walked through once."""

    is_seekable = False

    def __init__(
        self,
        name: str,
        pictures: Iterator[tuple[ImageInput, float | None]],
        fps: float | None,
        stride: int,
        start: int | float | None,
        end: int | float | None,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        if fps is None:
            _without_seconds(name, start, end)
        super().__init__(name, None, None if fps is None else fps / stride, None)
        self._pictures = pictures
        self._release = release
        self._stride, self._start, self._end = stride, start, end
        self._started = False

    def _kept(self, first: int = 0) -> Iterator[_Picture]:
        return islice(self._all_kept(), first, None)

    def _all_kept(self) -> Iterator[_Picture]:
        if self._started:
            raise ValueError(f"{self.name} can be iterated only once; keep its iterator, or pass a file or a list.")
        self._started = True
        num_pictures = num_inside = 0
        for picture, time in islice(self._pictures, self._end if isinstance(self._end, int) else None):
            num_pictures += 1
            if self._start is not None and not _reached(self._start, num_pictures - 1, time):
                continue
            if isinstance(self._end, float) and _reached(self._end, num_pictures - 1, time):
                break
            num_inside += 1
            if (num_inside - 1) % self._stride == 0:
                yield self._load(picture, num_pictures - 1, num_inside), time
        if num_pictures == 0:
            raise ValueError(f"{self.name} is empty; expected at least one picture.")
        if num_inside == 0:
            raise _beyond(self.name, self._start, f", which had {num_pictures} frames")

    def _load(self, picture: ImageInput, number: int, num_inside: int) -> np.ndarray:
        try:
            return _rgb(picture, f"frame {number}")
        except (ValueError, OSError) as error:
            raise VideoReadError(self.name, (num_inside - 1) // self._stride, str(error)) from error

    def _at(self, index: int) -> _Picture:
        raise AssertionError(f"read() refuses {index} first")

    def close(self) -> None:
        super().close()
        self._release()


def _reached(limit: int | float, number: int, time: float | None) -> bool:
    return number >= limit if isinstance(limit, int) else time is not None and time >= limit


def _open_camera(index: int, stride: int, start: int | float | None, end: int | float | None) -> FrameSource:
    av = import_av()
    device, kind = {
        "linux": (f"/dev/video{index}", "v4l2"),
        "darwin": (f"{index}:none", "avfoundation"),
    }.get(sys.platform, (f"video={index}", "dshow"))
    try:
        container = av.open(device, format=kind)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ValueError(f"camera {index} ({device}) cannot be opened: {error}") from error
    stream = container.streams.video[0]

    def pictures() -> Iterator[tuple[ImageInput, float | None]]:
        origin = None
        for frame in container.decode(stream):
            origin = frame.time if origin is None else origin
            yield upright_rgb(frame), frame.time - origin

    rate = float(stream.average_rate or 30)
    return _StreamedFrames(f"camera {index}", pictures(), rate, stride, start, end, container.close)


# ---- video files ----


class _FileFrames(FrameSource):
    """The frames of a video file; each iterator opens the file for itself, so that `read` can go elsewhere.

    Where frames have times, borders are times in ticks; otherwise (a bare H.264 stream) they are frame numbers.
    """

    def __init__(self, path: Path, stride: int, start: int | float | None, end: int | float | None) -> None:
        self._path = path
        self._stride = stride
        self._file = VideoFile(path)
        try:
            first = self._first_frame()
            self._origin: int = first.pts or 0
            self._times = FrameTimes(self._file, self._origin)
            self._timed = self._times.is_known and first.pts is not None
            self._rate = self._file.average_rate
            self._told_end = self._file.end_ticks()
            self._start_number = start if isinstance(start, int) else None if start else 0
            self._end_number = end if isinstance(end, int) else None
            self._start, self._end = self._border(start), self._border(end)
            if start is not None or end is not None:
                first = self._first_kept(start, end)
            height, width = upright_rgb(first).shape[:2]
            num_frames = self._count()
        except BaseException:
            self._file.close()
            raise
        super().__init__(str(path), num_frames, None if not self._rate else float(self._rate) / stride, (height, width))
        self._seen = array("q")  # times of the kept frames that an iterator has met
        self._findable = self._timed

    def close(self) -> None:
        super().close()
        self._file.close()

    def _first_frame(self) -> Any:
        try:
            first = next(self._file.frames(), None)
        except self._file.error as error:
            raise VideoReadError(str(self._path), 0, str(error)) from error
        if first is None:
            raise ValueError(f"the video {str(self._path)!r} is empty: it has no frames.")
        return first

    def _border(self, value: int | float | None) -> int | None:
        """A frame number (int) or seconds (float) as ticks, or as a frame number in files without times; None for no
        border, or where frame `value` is not there."""
        if isinstance(value, float):
            if self._timed:
                return self._origin + math.ceil(value / self._file.time_base - _ROUNDING_TICKS)
            if not self._rate:
                raise ValueError(f"{str(self._path)!r} has no times; give frame numbers (int), not seconds.")
            return math.ceil(value * self._rate - _ROUNDING_TICKS)
        if not value or not self._timed:
            return value or None
        try:
            return self._times.ticks_of(value)
        except IndexError:
            return None

    def _first_kept(self, start: int | float | None, end: int | float | None) -> Any:
        if self._start is not None and self._end is not None and self._start >= self._end:
            raise _nothing_between(start or 0, end or 0)
        there = not start or self._start is not None
        try:
            first = next(self._decoded(), None) if there else None
        except self._file.error as error:
            raise VideoReadError(str(self._path), 0, str(error)) from error
        if first is None:
            count = self._times.count
            raise _beyond(str(self._path), start, "" if count is None else f", which has {count} frames")
        if self._is_past(first):
            raise ValueError(f"{str(self._path)!r} has no frame from start={start!r} to end={end!r} (exclusive).")
        return first

    def _count(self) -> int | None:
        """How many frames are kept, if that can be told from the header."""
        first, last = self._start_number, self._end_number
        if not self._timed:
            first, last = self._start or 0, self._end
        elif self._times.is_indexed:
            first = self._times.number_at(self._start) if self._start is not None else 0
            last = self._times.number_at(self._end) if self._end is not None else None
        elif self._end is not None and last is None:
            return None
        count = self._times.count
        if first is None or count is None:
            return None
        return len(range(first, count if last is None else min(last, count), self._stride))

    def _decoded(self, ticks: int | None = None) -> Iterator[Any]:
        """Decoded frames from `ticks` (default: the start border) to the file's end; in files without times, from the
        start border to the end border."""
        begin = self._start if ticks is None else ticks
        with closing(VideoFile(self._path)) as file:
            if not self._timed:
                yield from islice(file.frames(), self._start or 0, self._end)
            else:
                yield from file.frames() if begin is None else file.frames_from(begin)

    def _is_past(self, frame: Any) -> bool:
        return self._timed and self._end is not None and frame.pts is not None and frame.pts >= self._end

    def _kept(self, first: int = 0) -> Iterator[_Picture]:
        ticks = self._reachable(first) if first else None
        if first and ticks is None:
            yield from islice(self._kept(), first, None)
            return
        num_read, longest = first, 0
        last: int | None = None
        try:
            for offset, frame in enumerate(self._decoded(ticks)):
                if self._is_past(frame):
                    return
                if offset % self._stride == 0:
                    self._remember(num_read, frame.pts)
                    yield upright_rgb(frame), self._seconds(frame, offset)
                    num_read += 1
                if frame.pts is not None:
                    longest = longest if last is None else max(longest, frame.pts - last)
                    last = frame.pts
        except self._file.error as error:
            raise VideoReadError(self.name, num_read, str(error)) from error
        if (cause := self._cut_off(last, longest)) is not None:
            raise VideoReadError(self.name, num_read, cause)

    def _cut_off(self, last: int | None, longest: int) -> str | None:
        """What to say where the file ended after a frame at `last` long before its header says; None if it did not."""
        if last is None or self._told_end is None or not self._timed:
            return None
        told = self._told_end if self._end is None else min(self._told_end, self._end)
        usual = int(1 / self._rate / self._file.time_base) if self._rate else 0
        if last + 2 * max(longest, usual) + 1 >= told:  # the last frame may stay twice as long as any before it
            return None
        seconds = [float((ticks - self._origin) * self._file.time_base) for ticks in (told, last)]
        return "the file is cut off: it should last {:.2f} s, its last frame is at {:.2f} s.".format(*seconds)

    def _remember(self, index: int, ticks: int | None) -> None:
        if index == len(self._seen):
            # times that stand still or go back (files glued together) find no frame again
            self._findable = self._findable and ticks is not None and (index == 0 or ticks > self._seen[-1])
            self._seen.append(ticks or 0)

    def _seconds(self, frame: Any, offset: int) -> float | None:
        if frame.pts is not None:
            return float((frame.pts - self._origin) * self._file.time_base)
        return None if not self._rate else float(((self._start or 0) + offset) / self._rate)

    def _at(self, index: int) -> _Picture:
        ticks = self._ticks_at(index) if self._findable else None
        frame = None if ticks is None else self._found(ticks)
        if frame is not None:
            return upright_rgb(frame), self._seconds(frame, 0)
        picture = next(islice(self._kept(), index, None), None)
        if picture is None:
            raise self._not_there(index)
        return picture

    def _ticks_at(self, index: int) -> int:
        if index < len(self._seen):
            return self._seen[index]
        if self._start_number is None:
            self._start_number = self._times.number_at(self._start or 0)
        try:
            ticks = self._times.ticks_of(self._start_number + index * self._stride)
        except IndexError:
            raise self._not_there(index) from None
        if self._end is not None and ticks >= self._end:
            raise self._not_there(index)
        return ticks

    def _reachable(self, index: int) -> int | None:
        """The time of frame `index`; None where only reading from the start finds it, if it is there at all."""
        try:
            ticks = self._ticks_at(index) if self._findable else None
        except ValueError:
            return None
        return None if ticks is None or self._found(ticks) is None else ticks

    def _found(self, ticks: int) -> Any:
        """The frame at `ticks`; None where seeking does not find it, and only reading from the start can."""
        try:
            frame = next(self._file.frames_from(ticks), None)
        except self._file.error:
            return None
        return frame if frame is not None and frame.pts == ticks else None
