"""Following what another detector finds: its boxes in place of the phrases' own detections, all else as ever."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..modeling import Sam3Model, Sam3VideoTracker
from .engine import masks_of_boxes, prepare, track_frame
from .outputs import Sam3VideoOutput
from .propagation import flush, hold_back
from .session import VideoSession

__all__ = ["Detector", "follow_detections"]

Detector = Callable[[np.ndarray], Sequence[tuple[Tensor, Tensor]]]
"""From a frame (height, width, 3) uint8, for each phrase of the session scores (n,) 0..1 and boxes (n, 4) xyxy, px."""


def follow_detections(
    model: Sam3Model | Sam3VideoTracker, session: VideoSession, detect: Detector
) -> Iterator[Sam3VideoOutput]:
    """Everything on each frame of the session's video, as `propagate` gives it, from the boxes of another detector.

    A box becomes a mask by a click prompt, masks become objects by the rules of the session, so any detector gets the
    same association, births and removals as the phrases of SAM 3.

    Args:
        model: only its tracker is used.
        session: with a video, and with the phrases that the detector is asked for.
        detect: the detector.

    Raises:
        ValueError: no video, no phrase, or answers for another number of phrases.
    """
    if session.frames is None or not session.concepts:
        raise ValueError("the session has no video or no phrase; give both before its objects are followed.")
    for frame in session.frames:
        found = detect(frame.image)
        if len(found) != len(session.concepts):
            raise ValueError(f"the detector answered {len(found)} phrases; the session has {len(session.concepts)}.")
        pixels = prepare(session, frame.image)
        boxes = torch.cat([some.float().cpu() for _, some in found])
        masks = masks_of_boxes(model, session, frame.index, pixels, boxes)
        counts = [len(some) for _, some in found]
        detections = [(own, scores.to(own)) for own, (scores, _) in zip(masks.split(counts), found, strict=True)]
        yield from hold_back(session, track_frame(model, session, frame.index, pixels, detections=detections))
    yield from flush(session)
