"""Does an object that was hidden come back under its old number?

A case is an object that is to be seen, then on no pixel for 1 to k frames, then to be seen again, by the annotations.
Its number before is that of the track that covers it best (IoU of at least 0.5) on the last frame where any does, its
number after that of the first frame where any does, each within the frames that it is seen in a row.  It has survived
where both are the same.  A case where no track covers the object before has no number to keep, and is counted apart.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from .video_tracks import FrameOverlap, VideoPair, track_overlap

__all__ = ["identity_survival"]

_COVERS = 0.5


def identity_survival(
    pairs: Iterable[VideoPair],
    max_hidden: Sequence[int] = (5, 10, 15),
    threshold: float = 0.5,
    iou_type: str = "segm",
) -> dict[str, float]:
    """`survival@k` for each k of `max_hidden`: the share of cases of 1 to k hidden frames that keep their number.

    Beside it `num_hidden@k`, all cases, and `num_followed@k`, those that had a number before, of which `survival@k` is
    a share (-1 where there are none). Tracks that score at least `threshold` count; crowd targets are left out.
    """
    cases = [case for pair in pairs for case in _cases(pair, threshold, iou_type)]
    figures = {}
    for most in max_hidden:
        chosen = [(before, after) for length, before, after in cases if length <= most]
        followed = [before == after for before, after in chosen if before is not None]
        figures[f"survival@{most}"] = sum(followed) / len(followed) if followed else -1.0
        figures[f"num_hidden@{most}"] = float(len(chosen))
        figures[f"num_followed@{most}"] = float(len(followed))
    return figures


def _cases(pair: VideoPair, threshold: float, iou_type: str) -> Iterator[tuple[int, int | None, int | None]]:
    """Of each time that an object was hidden: for how many frames, and its numbers before and after."""
    tracks = [track for track in pair.predictions if track.score >= threshold]
    targets = [target for target in pair.targets if not target.is_crowd]
    frames = track_overlap(tracks, targets, pair.num_frames, iou_type).frames
    for index, target in enumerate(targets):
        covered = [_cover(frame, index) for frame in frames]
        runs = _runs(target.areas > 0)
        for (start, end), (next_start, next_end) in pairwise(runs):
            before = next((one for one in covered[start:end][::-1] if one is not None), None)
            after = next((one for one in covered[next_start:next_end] if one is not None), None)
            yield next_start - end, before, after


def _cover(frame: FrameOverlap, target: int) -> int | None:
    """The track that covers an object best on a frame, if one does well enough."""
    [column] = np.nonzero(frame.columns == target)
    if not len(column) or not len(frame.rows):
        return None
    ious = frame.ious[:, column[0]]
    return int(frame.rows[ious.argmax()]) if ious.max() >= _COVERS else None


def _runs(seen: np.ndarray) -> list[tuple[int, int]]:
    """First and one past the last frame of each unbroken stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], seen.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
