"""Whole videos: frames in order, results when the hot start has settled what is shown."""

import math
from collections.abc import Iterator

import numpy as np
from tqdm.auto import tqdm

from ..modeling import Sam3Model, Sam3VideoTracker
from .engine import prepare, track_frame
from .frames import VideoReadError
from .outputs import Sam3VideoOutput
from .session import VideoSession

__all__ = ["flush", "hold_back", "propagate"]


def propagate(
    model: Sam3Model | Sam3VideoTracker,
    session: VideoSession,
    start_frame_idx: int | None = None,
    max_frame_num_to_track: int | None = None,
    reverse: bool = False,
    show_progress_bar: bool = False,
    immediate: bool = False,
) -> Iterator[Sam3VideoOutput]:
    """Follows everything through the video, frame by frame.

    Results come `hot_start_delay` frames late (the last ones together at the end), so that objects which prove false
    are never shown. From a frame that was tracked before, the session is rewound and the video followed anew.

    Args:
        model: the model.
        session: with a video.
        start_frame_idx: first frame; None: the first one with a prompt, or 0 where there are phrases; backwards, the
            frame before the last one that was tracked, or the last prompted one.
        max_frame_num_to_track: at most that many frames after the first; None: to the end.
        reverse: backwards.
        show_progress_bar: tqdm on stderr.
        immediate: every frame at once. An object that the hot start will remove shows until then.

    Raises:
        ValueError: no video, nothing to follow, or no such frame.
        VideoReadError: the video is damaged; the results of all frames before that come first.
    """
    session.settle_rules(model.config)
    if session.frames is None:
        raise ValueError("the session has no video; give frames one by one: model(inference_session, frame=...).")
    if not session.concepts and not session.objects:
        raise ValueError(
            "nothing to follow; add a phrase (processor.add_text_prompt) or point at an object "
            "(processor.add_inputs_to_inference_session) first."
        )
    start = _first_frame(session, reverse) if start_frame_idx is None else start_frame_idx
    session.check_frame(start)
    if not reverse and session.last_frame is not None and start <= session.last_frame:
        session.rewind()
    images = _images(session, start, max_frame_num_to_track, reverse)
    total = session.num_frames
    if total is not None:
        total = start + 1 if reverse else total - start
        total = total if max_frame_num_to_track is None else min(total, max_frame_num_to_track + 1)
    bar = tqdm(images, total=total, desc="tracking", unit="frame", disable=not show_progress_bar)
    try:
        for frame, image in bar:
            output = track_frame(model, session, frame, prepare(session, image), reverse)
            if immediate or not session.concepts:
                yield _settled(session, output)
            else:
                yield from hold_back(session, output)
    except VideoReadError:
        yield from flush(session)  # what was read is not lost
        raise
    yield from flush(session)


def hold_back(session: VideoSession, output: Sam3VideoOutput) -> list[Sam3VideoOutput]:
    """The results that are due now that `output` is there: none, or the oldest of those held back."""
    delay = session.rules.hot_start_delay
    if not delay:
        return [_settled(session, output)]
    session.waiting.append(output)
    if len(session.waiting) < delay:
        return []
    return [_settled(session, session.waiting.pop(0))]


def flush(session: VideoSession) -> list[Sam3VideoOutput]:
    """The results that the hot start holds back, at the end of a video."""
    rest, session.waiting = session.waiting, []
    settled = [_settled(session, output) for output in rest]
    session.removed = set()
    return settled


def _settled(session: VideoSession, output: Sam3VideoOutput) -> Sam3VideoOutput:
    """The result without objects that have been removed by now."""
    output.removed_obj_ids = output.removed_obj_ids | (session.removed & output.obj_id_to_mask.keys())
    known = {number for waiting in session.waiting for number in waiting.obj_id_to_mask}
    session.removed &= known | set(output.obj_id_to_mask)
    output.prompts = session.prompts
    return output


def _first_frame(session: VideoSession, reverse: bool) -> int:
    prompted = [frame for found in session.objects.values() for frame in found.prompts]
    prompted += [frame for concept in session.concepts for frame in concept.exemplars]
    if reverse:
        if session.last_frame is not None:
            return max(session.last_frame - 1, 0) if session.reverse else session.last_frame
        if prompted:
            return max(prompted)
        if session.num_frames is None:
            raise ValueError("the video's length is not known; say where to start (start_frame_idx).")
        return session.num_frames - 1
    return 0 if session.concepts or not prompted else min(prompted)


def _images(session: VideoSession, start: int, most: int | None, reverse: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Frames in the order in which they are followed."""
    assert session.frames is not None
    longest = math.inf if most is None else most
    if reverse:
        for number in range(start, int(max(start - longest, 0)) - 1, -1):
            yield number, session.frames.read(number).image
        return
    for frame in session.frames.frames_from(start):
        if frame.index > start + longest:
            return
        yield frame.index, frame.image
