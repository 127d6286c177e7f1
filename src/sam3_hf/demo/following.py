"""Follows a video for the demo: plain data in, plain data out, so that it may run in another process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..ops.masks import rle_encode
from ..processing import Sam3Processor
from ..video import (
    FrameSource,
    Sam3VideoOutput,
    VideoReadError,
    VideoRules,
    VideoSession,
    flush,
    open_video,
    postprocess_outputs,
    segment_frame,
    track_frame,
)
from ..video.engine import prepare
from ..video.propagation import hold_back
from .prompts import Click, VideoPrompts

__all__ = ["CLICKED", "FrameObject", "Step", "follow_video"]

CLICKED = "clicked object"  # what an object is called that a user pointed out

# As `ResultJournal` takes them: id, label, score, box [x0, y0, x1, y1] in pixels, mask as a COCO run-length code.
FrameObject = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One frame more.

    Attributes:
        frame: its number; None at the end, when the last frames are settled.
        image: (H, W, 3) uint8.
        objects: on it, those on trial among them.
        settled: by frame, final objects; they come late, because objects on trial may prove false.
    """

    frame: int | None
    image: np.ndarray | None = None
    objects: list[FrameObject] = field(default_factory=list)
    settled: dict[int, list[FrameObject]] = field(default_factory=dict)


def follow_video(
    model: Any,
    processor: Sam3Processor,
    device: torch.device,
    path: Path,
    prompts: VideoPrompts,
    rules: VideoRules,
    stop_file: Path,
    max_frames: int | None = None,
) -> Iterator[Step]:
    """Yields a step for each frame, and one more at the end.

    It stops early, with all that was found settled, as soon as there is a file `stop_file` (which another process can
    make, too), after `max_frames`, and where the video is damaged.

    Raises:
        VideoReadError: not even one frame can be read.
        ValueError: a prompt that the video cannot take.
    """
    with open_video(path) as frames:
        session = _session(processor, device, frames, prompts, rules)
        try:
            for frame in frames:
                if stop_file.exists() or (max_frames is not None and frame.index >= max_frames):
                    break
                pixels = prepare(session, frame.image)
                output = track_frame(model, session, frame.index, pixels)
                _correct(model, processor, session, output, pixels, prompts)
                output.prompts = session.prompts
                now = _objects(output, session)
                due = {one.frame_idx: _objects(one, session) for one in hold_back(session, output)}
                yield Step(frame.index, frame.image, now, due)
        except VideoReadError:
            if session.last_frame is None:
                raise
        except (RuntimeError, MemoryError):  # what was found stays, also where memory runs out
            yield _last_step(session)
            raise
        yield _last_step(session)


def _last_step(session: VideoSession) -> Step:
    return Step(None, settled={one.frame_idx: _objects(one, session) for one in flush(session)})


def _session(
    processor: Sam3Processor, device: torch.device, frames: FrameSource, prompts: VideoPrompts, rules: VideoRules
) -> VideoSession:
    session: VideoSession = processor.init_video_session(frames, device, rules=rules)
    if prompts.phrases:
        processor.add_text_prompt(session, list(prompts.phrases))
    for phrase in prompts.phrases or (None,):
        for frame, boxes in prompts.shown(phrase).items():
            processor.add_text_prompt(
                session,
                phrase,
                frame_idx=frame,
                input_boxes=[list(one.box) for one in boxes],
                input_boxes_labels=[int(one.is_positive) for one in boxes],
            )
    for number, by_frame in prompts.clicks.items():
        for frame, clicks in by_frame.items():
            _point_out(processor, session, frame, number, clicks)
    return session


def _point_out(
    processor: Sam3Processor, session: VideoSession, frame: int, number: int, clicks: Sequence[Click]
) -> None:
    points = [[[[one.x, one.y] for one in clicks]]]
    labels = [[[int(one.is_positive) for one in clicks]]]
    processor.add_inputs_to_inference_session(session, frame, number, input_points=points, input_labels=labels)


def _correct(
    model: Any,
    processor: Sam3Processor,
    session: VideoSession,
    output: Sam3VideoOutput,
    pixels: torch.Tensor,
    prompts: VideoPrompts,
) -> None:
    """Corrects, in `output` and for the frames to come, objects that were found and that users clicked on this frame.

    A click changes the mask that is there, so the object has to be followed to its frame first.
    """
    frame = output.frame_idx
    corrections = {number: by_frame[frame] for number, by_frame in prompts.corrections.items() if frame in by_frame}
    known = [number for number in corrections if number in session.objects]
    for number in known:
        _point_out(processor, session, frame, number, corrections[number])
    if known:
        corrected = segment_frame(model, session, frame, pixels)
        for number in known:
            mask, concept = corrected.obj_id_to_mask[number][0], corrected.obj_id_to_concept[number]
            output.add(number, mask, corrected.obj_id_to_score[number], 1.0, concept, by_user=True)


def _objects(output: Sam3VideoOutput, session: VideoSession) -> list[FrameObject]:
    assert session.video_size is not None  # of files it is known
    found = postprocess_outputs(output, session.video_size)
    columns = (found["object_ids"], found["labels"], found["scores"], found["boxes"], rle_encode(found["masks"]))
    return [
        {"id": int(number), "label": label or CLICKED, "score": float(score), "box": box.tolist(), "mask": mask}
        for number, label, score, box, mask in zip(*columns, strict=True)
    ]
