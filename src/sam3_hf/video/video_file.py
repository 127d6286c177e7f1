"""One video file through PyAV: decoded frames from any time on, and frame numbers as times without decoding.

This is the only place that opens video files.  PyAV is imported when the first one is opened, so that pictures, lists
and arrays need none.  Times are presentation times in ticks of the stream's `time_base`.
"""

from collections.abc import Iterator
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["FrameTimes", "VideoFile", "import_av", "upright_rgb"]

_KEY, _DISCARDED = 1, 2  # AVINDEX_KEYFRAME, AVINDEX_DISCARD_FRAME
_REORDERED = 64  # a frame is shown at most this many packets from where it stands in its file (codecs allow 16)


def import_av() -> Any:
    """The module `av`; ModuleNotFoundError that says how to install it."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'video files need PyAV, which is not installed: pip install "sam3-hf[video]". A folder or a list of '
            "pictures works without it.",
            name="av",
        ) from error
    return av


def upright_rgb(frame: Any) -> np.ndarray:
    """A decoded frame as uint8 (H, W, 3) RGB, with the rotation and mirroring of its display matrix applied."""
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # rows (a, b, _), (c, d, _) in fixed point: the pixel at (x, y) is shown at column ax + cy, row bx + dy
    a, b, c, d = np.frombuffer(bytes(matrix), np.int32)[[0, 1, 3, 4]].tolist()
    if abs(b) > abs(a):
        pixels, down, right = pixels.transpose(1, 0, 2), b, c
    else:
        down, right = d, a
    return np.ascontiguousarray(pixels[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1])


class VideoFile:
    """An open video file, read forward from its start or from a time on.

    Attributes: `path`; `stream`, its first video stream that is no cover picture; `time_base`, seconds per tick;
    `average_rate`, frames per second or None; `error`, what PyAV raises.

    Raises ValueError for a file that is no video.
    """

    def __init__(self, path: Path) -> None:
        av = import_av()
        self.path = path
        self.error: type[Exception] = av.error.FFmpegError
        try:
            self._container = av.open(str(path))
        except (self.error, OSError, ValueError) as error:
            raise ValueError(f"{str(path)!r} cannot be read as a video: {error}") from error
        cover = av.stream.Disposition.attached_pic
        streams = [stream for stream in self._container.streams.video if not stream.disposition & cover]
        if not streams:
            self.close()
            raise ValueError(f"{str(path)!r} has no video stream.")
        self.stream = streams[0]
        self.time_base = self.stream.time_base
        self.average_rate = self.stream.average_rate or self.stream.guessed_rate
        self._sought = False

    def close(self) -> None:
        """Releases the file."""
        self._container.close()

    def packets(self) -> Iterator[Any]:
        """Packets of the frames that are shown, from the current position on, in the order of the file."""
        return (packet for packet in self._container.demux(self.stream) if packet.size and not packet.is_discard)

    def packets_from(self, ticks: int) -> Iterator[Any]:
        """Packets from a key frame about `ticks` (a decoding time) on."""
        self._seek(ticks)
        return self.packets()

    def frames(self) -> Iterator[Any]:
        """Decoded frames from the current position on, as they are shown.

        Where decoding fails, first the good ones that the decoder still holds come out, then `error` is raised.  Before
        the first good one it may fail: a recording can begin in the middle of what belongs together.
        """
        good, begun = False, not self._sought
        failure: Exception | None = None
        try:
            for packet in self._container.demux(self.stream):
                begun = begun or packet.is_keyframe  # what comes before it cannot be decoded
                try:
                    decoded = packet.decode() if begun else []
                except self.error as error:
                    if good:
                        raise
                    decoded, failure = [], error
                if decoded:
                    good, failure = True, None
                yield from decoded
        except self.error as error:
            failure = error
        if failure is not None:
            yield from self._held_back()
            raise failure

    def frames_from(self, ticks: int) -> Iterator[Any]:
        """Decoded frames from the first one at or after `ticks` on."""
        for frame in self._frames_about(ticks):
            if frame.pts is None or frame.pts >= ticks:
                yield frame

    def end_ticks(self) -> int | None:
        """When the last frame ends as the file's header says, None where it does not say."""
        stream = self.stream
        start = stream.start_time or 0
        if self._container.format.name == "avi":  # what FFmpeg calls its duration is what it finds, not the header's
            whole = stream.frames and self.average_rate
            return start + round(stream.frames / self.average_rate / self.time_base) if whole else None
        if stream.duration is not None:
            return int(start + stream.duration)
        if "DURATION" in stream.metadata:  # Matroska, where it is the end: 00:00:02.000000000
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return int((3600 * int(hours) + 60 * int(minutes) + float(seconds)) / self.time_base)
        return None

    def _seek(self, ticks: int) -> None:
        self._container.seek(ticks, stream=self.stream)
        self._sought = True

    def _held_back(self) -> list[Any]:
        try:
            return list(self.stream.decode(None))
        except self.error:
            return []

    def _frames_about(self, ticks: int) -> Iterator[Any]:
        """Decoded frames that begin at or before `ticks`, as near as the file allows.

        Files seek by decoding time, and some only roughly, so that the frame found may be shown after `ticks`: then
        from further back, at last from the start.
        """
        back = 0.0
        while (target := int(ticks - back / self.time_base)) > (self.stream.start_time or 0):
            try:
                self._seek(target)
                frames = self.frames()
                first = next(frames, None)
            except self.error:
                first = None
            if first is not None and first.pts is not None and first.pts <= ticks:
                yield from chain([first], frames)
                return
            back = max(1.0, 2 * back)
        with closing(VideoFile(self.path)) as again:  # not every kind of file can be sought back to its start
            yield from again.frames()


class FrameTimes:
    """From frame numbers to times and back by reading packets, without decoding; numbers count frames as shown.

    Number 0 is the frame at `origin`, the first that can be decoded: a file cut out of another may begin with packets
    that cannot.

    Where the header lists all packets (mp4, mov, avi: `is_indexed`) only those about the frame are read; in other
    files packets are read from the start on, as far as it takes.

    Attributes: `is_known`, whether the frames have times at all; `count`, the number of frames if the header tells.
    """

    def __init__(self, file: VideoFile, origin: int) -> None:
        self._file = file
        index = getattr(file.stream, "index_entries", ())  # older PyAV has none: all files are read like Matroska
        entries = np.array([(entry.timestamp, entry.flags) for entry in index], np.int64).reshape(-1, 2)
        self._decoding = entries[:, 0].copy()  # decoding times, ascending
        self._keys = np.flatnonzero(entries[:, 1] & _KEY)
        num_discarded = np.count_nonzero(entries[:, 1] & _DISCARDED)
        self.is_indexed = 0 < len(entries) == file.stream.frames and len(self._keys) > 0 and num_discarded == 0
        self.count: int | None = file.stream.frames or None
        if self.count is not None and len(entries) > 1:
            self.count = min(self.count, len(entries) - num_discarded)
        self._shown: np.ndarray = np.zeros(0, np.int64)
        self._all_read = False
        self.is_known = self._read_packets(0)
        self._skipped = int(np.searchsorted(self._shown, origin))
        if self.count is not None:
            self.count -= self._skipped

    def ticks_of(self, number: int) -> int:
        """The time of frame `number`; IndexError where it is not there."""
        number += self._skipped
        if self.is_indexed:
            if number >= len(self._decoding):
                raise IndexError(number)
            first, times = self._about(number)
            if first <= number < first + len(times):
                return int(times[number - first])
        self._read_packets(number)
        return int(self._shown[number])

    def number_at(self, ticks: int) -> int:
        """The number of the first frame at or after `ticks`, one past the last where there is none."""
        if self.is_indexed:
            first, times = self._about(max(int(np.searchsorted(self._decoding, ticks, "right")) - 1, 0))
            place = int(np.searchsorted(times, ticks))
            if (place > 0 or first == 0) and (place < len(times) or first + place == len(self._decoding)):
                return max(first + place - self._skipped, 0)
        self._read_packets(None)
        return max(int(np.searchsorted(self._shown, ticks)) - self._skipped, 0)

    def _about(self, place: int) -> tuple[int, np.ndarray]:
        """Number of the first frame and sorted times of the frames about the packet at `place` of the index.

        They reach from the key frame before last to the second key frame after: what is shown before a key frame that
        it follows in the file is shown after all that stands before that key frame.  No times where the file is not as
        its index says.
        """
        nearest = int(np.searchsorted(self._keys, place, "right")) - 1
        end = int(self._keys[nearest + 2]) if nearest + 2 < len(self._keys) else len(self._decoding)
        ahead = self._file.packets_from(int(self._decoding[self._keys[max(nearest - 1, 0)]]))
        key = next(ahead, None)  # that key frame or one before: FFmpeg may take what it seeks for a time of showing
        if key is None or key.dts not in self._decoding:
            return 0, np.zeros(0, np.int64)
        first = int(np.searchsorted(self._decoding, key.dts))
        packets = [key, *islice(ahead, max(end - first - 1, 0))]
        if first > place or len(packets) != end - first or any(packet.pts is None for packet in packets):
            return 0, np.zeros(0, np.int64)
        times = np.array([packet.pts for packet in packets], np.int64)
        earlier = (times < times[0]) & (first > 0)
        return first + int(earlier.sum()), np.sort(times[~earlier])

    def _read_packets(self, number: int | None) -> bool:
        """Reads times at least up to frame `number`, or all for None; False where packets have none."""
        if self._all_read or (number is not None and number + _REORDERED < len(self._shown)):
            return True
        wanted = None if number is None else 2 * (number + _REORDERED)
        with closing(VideoFile(self._file.path)) as file:
            times = [packet.pts for packet in _until_error(file.packets(), file.error, wanted)]
        if None in times:
            return False
        self._all_read = wanted is None or len(times) < wanted
        self._shown = np.sort(np.array(times, np.int64))
        return True


def _until_error(packets: Iterator[Any], error: type[Exception], limit: int | None) -> Iterator[Any]:
    """At most `limit` packets; where the file is cut off, those before."""
    try:
        yield from islice(packets, limit)
    except error:
        return
