"""`VideoJob`: one user's video: what to look for, following it frame by frame, stopping, and the files at the end."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..video import FrameSource, VideoRules, open_video
from ..video.writers import ResultJournal, VideoWriter, draw_tracks, write_youtube_vis
from .engine import Engine
from .following import CLICKED, FrameObject, Step
from .prompts import Click, ExampleBox, VideoPrompts, box_inside, check_point

__all__ = ["MAX_OBJECTS", "Progress", "VideoJob", "VideoResult"]

MAX_OBJECTS = 64  # at a time: each takes time on every frame, and more can hardly be told apart


@dataclass(frozen=True)
class Progress:
    """How far a job is: frames `done` of `total` (None: unknown), `preview` (H, W, 3) of the last one, `seconds`."""

    done: int
    total: int | None
    preview: np.ndarray
    seconds: float


@dataclass(frozen=True)
class VideoResult:
    """What is left of a job: the annotated `video`, the `tracks` (YouTube-VIS JSON), and a sentence on both."""

    video: Path
    tracks: Path
    message: str


class VideoJob:
    """One video. A run follows it with the prompts that there are; runs can be repeated with others.

    Args:
        engine: the model that follows.
        path: a video file.
        folder: where results go; made if it does not exist.

    Raises:
        ValueError: it is no video, or the model has no tracker.
        OSError: the file cannot be read.
    """

    def __init__(self, engine: Engine, path: str | os.PathLike[str], folder: Path) -> None:
        engine.check_tracker()
        self.engine, self.path, self.folder = engine, Path(path), folder
        folder.mkdir(parents=True, exist_ok=True)
        self.frames: FrameSource = _opened(self.path)
        assert self.frames.size is not None  # files know theirs
        self.size: tuple[int, int] = self.frames.size
        self.prompts = VideoPrompts()
        self.spans: dict[int, dict[int, str]] = {}  # by object: its label, on each frame where it is in view
        self._past: list[VideoPrompts] = []
        self._found: dict[int, list[FrameObject]] = {}
        self._stop_file = folder / f"stop-{id(self)}"
        self._is_running = threading.Lock()
        self._num_results = 0
        self._asked: Any = None  # what the last run looked for
        self.num_forgotten = 0  # corrections of objects, which the last run could not use

    @property
    def num_frames(self) -> int:
        """Frames of the video; 1 where the file does not say."""
        return self.frames.num_frames or 1

    def frame(self, number: int) -> np.ndarray:
        """The frame (H, W, 3) of that number, or the nearest that there is."""
        return self.frames.read(min(max(number, 0), self.num_frames - 1)).image

    def close(self) -> None:
        """Stops following and releases the file."""
        self.cancel()
        self.frames.close()

    # ---- prompts ----

    def set_phrases(self, phrases: Sequence[str]) -> None:
        """Looks for these phrases from the next run on."""
        self.prompts = replace(self.prompts, phrases=tuple(dict.fromkeys(phrases)))

    def add_box(self, frame: int, box: Sequence[float], is_positive: bool = True, phrase: str | None = None) -> None:
        """Adds an example box on a frame, any two corners in pixels, of a phrase or (None) of all.

        Raises:
            ValueError: it covers no pixel of the video.
        """
        boxes = (*self.prompts.boxes.get(frame, ()), ExampleBox(box_inside(box, self.size), is_positive, phrase))
        self._go(replace(self.prompts, boxes={**self.prompts.boxes, frame: boxes}))

    def add_click(self, frame: int, x: float, y: float, is_positive: bool = True, number: int | None = None) -> int:
        """The number of the object that a click is for.

        With the `number` of an object that was clicked before, the click adds to it; of an object that the last run
        found on this frame, it corrects that one; else it points out a new object.

        Raises:
            ValueError: the point is outside the video, or the first click of an object says what it is not.
        """
        check_point(x, y, self.size)
        clicks, corrections = self.prompts.clicks, self.prompts.corrections
        if number is not None and number not in clicks and frame in self.spans.get(number, {}):
            made = dict(corrections.get(number, {}))
            made[frame] = (*made.get(frame, ()), Click(x, y, is_positive))
            self._go(replace(self.prompts, corrections={**corrections, number: made}))
            return number
        if number is None or number not in clicks:
            number = max((*clicks, *self.spans), default=-1) + 1  # those that were found keep their numbers
        mine = dict(clicks.get(number, {}))
        if not is_positive and not mine:
            raise ValueError("The first click on an object has to be on it (+); after it, minus clicks cut off.")
        mine[frame] = (*mine.get(frame, ()), Click(x, y, is_positive))
        self._go(replace(self.prompts, clicks={**clicks, number: mine}))
        return number

    @property
    def can_undo(self) -> bool:
        """Whether there is a box or click to take back."""
        return bool(self._past)

    def undo(self) -> bool:
        """Takes the last box or click back; says whether there was one."""
        if not self._past:
            return False
        self.prompts = replace(self._past.pop(), phrases=self.prompts.phrases)
        return True

    def _go(self, prompts: VideoPrompts) -> None:
        self._past.append(self.prompts)
        self.prompts = prompts

    # ---- following ----

    def cancel(self) -> None:
        """Stops a run after the frame it is at; what was found until then stays."""
        if self._is_running.locked():
            self._stop_file.touch()

    def run(
        self, threshold: float, new_threshold: float | None = None, max_frames: int | None = None
    ) -> Iterator[Progress]:
        """Yields how far it is, frame by frame; after it, `result` writes the files.

        Args:
            threshold: least score of a detection.
            new_threshold: least score of a detection that starts an object; None, or less: `threshold`.
            max_frames: at most that many frames.

        Raises:
            ValueError: nothing to follow, a run that is going on already, a prompt that the video cannot take.
        """
        if not self.prompts:
            raise ValueError("Nothing to follow yet: type a phrase such as “red shape”, or click an object on a frame.")
        if not self._is_running.acquire(blocking=False):
            raise ValueError("This video is being followed already; stop it first.")
        try:
            self._stop_file.unlink(missing_ok=True)
            self._found, self.spans = {}, {}
            self._forget_corrections(threshold, new_threshold)
            rules = VideoRules.from_config(
                self.engine.model.config,
                detection_threshold=threshold,
                new_object_threshold=max(threshold, new_threshold or 0.0),
                max_objects=MAX_OBJECTS,
            )
            total = self.frames.num_frames
            total = max_frames if total is None else min(total, max_frames or total)
            begun = time.monotonic()
            for step in self.engine.follow(self.path, self.prompts, rules, self._stop_file, max_frames):
                self._take(step)
                if step.frame is not None and step.image is not None:
                    preview = _drawn(step.image, step.objects)
                    yield Progress(step.frame + 1, total, preview, time.monotonic() - begun)
        finally:
            self._stop_file.unlink(missing_ok=True)
            self._is_running.release()

    def _forget_corrections(self, *scores: float | None) -> None:
        """Drops corrections where other objects are looked for than in the run that they belong to."""
        asked = (self.prompts.phrases, self.prompts.boxes, scores)
        self.num_forgotten = len(self.prompts.corrections) if asked != self._asked else 0
        if self.num_forgotten:
            self.prompts = replace(self.prompts, corrections={})
        self._asked = asked

    def _take(self, step: Step) -> None:
        if step.frame is not None:
            self._see(step.frame, step.objects)
        for frame, objects in step.settled.items():
            self._found[frame] = objects
            self._see(frame, objects)

    def _see(self, frame: int, objects: Sequence[FrameObject]) -> None:
        for number in list(self.spans):
            self.spans[number].pop(frame, None)
            if not self.spans[number]:
                del self.spans[number]
        for one in objects:
            self.spans.setdefault(one["id"], {})[frame] = one["label"]

    # ---- results ----

    def objects_on(self, frame: int) -> list[FrameObject]:
        """What the last run found on a frame."""
        return self._found.get(frame, [])

    def result(self) -> VideoResult | None:
        """The files of what was followed so far, written whole; None where no frame was done."""
        if not self._found:
            return None
        self._num_results += 1  # a new name each time: a player may still hold the old file
        stem = f"{self.path.stem[:40]}_{self._num_results}"
        video, tracks = self.folder / f"{stem}_annotated.mp4", self.folder / f"{stem}_tracks.json"
        self._write_tracks(tracks)
        with VideoWriter(video, self.frames.fps or 25.0, self.size) as writer:
            for frame in self.frames:
                if frame.index not in self._found:
                    break
                writer.write(_drawn(frame.image, self._found[frame.index]))
        return VideoResult(video, tracks, self._message())

    def _write_tracks(self, path: Path) -> None:
        journal_path = path.with_suffix(".jsonl")
        try:
            with ResultJournal(journal_path) as journal:
                for frame, objects in sorted(self._found.items()):
                    journal.append(frame, objects)
                write_youtube_vis(journal, path, size=self.size, name=self.path.name, categories=self._labels())
        finally:
            journal_path.unlink(missing_ok=True)

    def _labels(self) -> list[str]:
        seen = [one["label"] for objects in self._found.values() for one in objects]
        return list(dict.fromkeys((*self.prompts.phrases, *seen))) or [CLICKED]

    def _message(self) -> str:
        done, total = len(self._found), self.frames.num_frames
        labels = {one["id"]: one["label"] for objects in self._found.values() for one in objects}
        counts = ", ".join(f"{list(labels.values()).count(label)} of “{label}”" for label in self._labels())
        forgotten = ""
        if self.num_forgotten:
            forgotten = " Clicks on objects found before were forgotten, because something else is looked for now."
        if total is not None and done < total:
            return f"Stopped after {done} of {total} frames; what was found until there is kept: {counts}.{forgotten}"
        return f"Done: {done} frames; {counts}.{forgotten}"


def _opened(path: Path) -> FrameSource:
    try:
        return open_video(path)
    except ValueError as error:
        raise ValueError(
            f"The file “{path.name}” cannot be read as a video; expected mp4, webm, mov or another common kind. Try "
            "another file."
        ) from error


def _drawn(image: np.ndarray, objects: Sequence[FrameObject]) -> np.ndarray:
    columns = ([one[key] for one in objects] for key in ("mask", "id", "label", "score"))
    return draw_tracks(image, *columns)
