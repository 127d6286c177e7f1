"""TETA: localisation, association and classification of tracks, each judged for itself.

    TETA = (LocA + AssocA + ClsA) / 3

(Li et al., https://arxiv.org/abs/2207.12978), in the variant of the reference for exhaustively annotated phrases.
Tracks and objects of all phrases of a video are matched with one another:

- LocA: on each frame tracks and objects are matched as in HOTA, at alpha = 0, 0.05, ..., 0.95. Only tracks that
  overlap an object of the phrase by 0.5 somewhere take part; one that does so here, and is not matched, is false.
- AssocA: as HOTA's AssA, over those tracks.
- ClsA: of the matches at alpha >= 0.5, the share whose phrase is right; a track that is named after a phrase and lies
  on none of its objects is a false answer of that phrase.

Each is the mean over the phrases that have objects.  Three habits of the reference, kept so that its numbers come out:
frames without any object are not looked at; at alpha = 0 an assigned pair counts though it does not overlap; where no
track overlaps a phrase in a video, the false answers which other phrases have given to it are forgotten.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from .video_tracks import Track, track_overlap

__all__ = ["TETA_NAMES", "teta"]

TETA_NAMES = ("TETA", "LocA", "AssocA", "ClsA", "LocRe", "LocPr", "AssocRe", "AssocPr", "ClsRe", "ClsPr")

_ALPHAS = np.arange(0.0, 0.99, 0.05)
_FIRST_NAMED = 10  # of `_ALPHAS` that ClsA looks at: 0.5
_NEAR = 0.5
_EPS = np.finfo(float).eps

Video = tuple[Sequence[Track], Sequence[Track], int]


@dataclass
class _Frame:
    """The overlaps of one frame (objects, tracks), and which objects and tracks they are."""

    ious: np.ndarray
    objects: np.ndarray
    tracks: np.ndarray


@dataclass
class _Counts:
    """What is known of one phrase, over all videos."""

    found: np.ndarray = field(default_factory=lambda: np.zeros(len(_ALPHAS)))
    missed: np.ndarray = field(default_factory=lambda: np.zeros(len(_ALPHAS)))
    false: np.ndarray = field(default_factory=lambda: np.zeros(len(_ALPHAS)))
    together: np.ndarray = field(default_factory=lambda: np.zeros((3, len(_ALPHAS))))  # AssocA, AssocRe, AssocPr
    named: np.ndarray = field(default_factory=lambda: np.zeros(len(_ALPHAS) - _FIRST_NAMED))
    misnamed: np.ndarray = field(default_factory=lambda: np.zeros(len(_ALPHAS) - _FIRST_NAMED))
    false_names: np.ndarray = field(default_factory=lambda: np.zeros(len(_ALPHAS) - _FIRST_NAMED))

    def figures(self) -> dict[str, np.ndarray]:
        """The figures of this phrase, over alpha where they depend on it."""
        found, named = self.found, self.named
        figures = {
            "LocA": found / np.maximum(1, found + self.missed + self.false),
            "LocRe": found / np.maximum(1, found + self.missed),
            "LocPr": found / np.maximum(1, found + self.false),
            "ClsA": np.mean(named / np.maximum(1, named + self.misnamed + self.false_names)),
            "ClsRe": np.mean(named / np.maximum(1, named + self.misnamed)),
            "ClsPr": np.mean(named / np.maximum(1, named + self.false_names)),
        }
        figures |= dict(zip(("AssocA", "AssocRe", "AssocPr"), self.together / np.maximum(1, found), strict=True))
        return figures | {"TETA": (figures["LocA"] + figures["AssocA"] + figures["ClsA"]) / 3}


def teta(
    videos: Iterable[Video], categories: Sequence[int], threshold: float = 0.5, iou_type: str = "segm"
) -> dict[str, float]:
    """`TETA_NAMES` over all videos, each in 0..1; 0 where there is no object at all.

    Args:
        videos: of each the tracks that were found, the objects, both of all phrases, and the number of frames.
        categories: ids of the phrases in the order of the annotations; those without objects do not count.
        threshold: tracks that score at least this count.
        iou_type: "segm" (masks) or "bbox" (boxes).
    """
    known = list(videos)
    there = {target.category_id for _, targets, _ in known for target in targets if target.has_box.any()}
    counts = {category: _Counts() for category in categories if category in there}
    for predictions, targets, num_frames in known:
        kept = [track for track in predictions if track.score >= threshold]
        _add_video(counts, kept, targets, _frames(kept, targets, num_frames, iou_type))
    figures = [one.figures() for one in counts.values()]
    if not figures:
        return dict.fromkeys(TETA_NAMES, 0.0)
    return {name: float(np.mean(np.mean([one[name] for one in figures], axis=0))) for name in TETA_NAMES}


def _frames(tracks: Sequence[Track], targets: Sequence[Track], num_frames: int, iou_type: str) -> list[_Frame]:
    """The frames that have objects. An object is there where it has a box, a track where its box is not zeros."""
    has_track = [np.nan_to_num(track.boxes).any(1) for track in tracks]
    has_object = [target.has_box for target in targets]
    frames = []
    for number, one in enumerate(track_overlap(tracks, targets, num_frames, iou_type).frames):
        rows = np.array([has_track[track][number] for track in one.rows], dtype=bool)
        columns = np.array([has_object[target][number] for target in one.columns], dtype=bool)
        if columns.any():
            frames.append(_Frame(one.ious[rows][:, columns].T, one.columns[columns], one.rows[rows]))
    return frames


def _add_video(
    counts: dict[int, _Counts], tracks: Sequence[Track], targets: Sequence[Track], frames: Sequence[_Frame]
) -> None:
    """Adds one video to all phrases."""
    track_category = np.array([track.category_id for track in tracks], dtype=np.int64)
    object_category = np.array([target.category_id for target in targets], dtype=np.int64)
    assigned = _assign_all(frames)
    false_names = {category: np.zeros(len(_ALPHAS) - _FIRST_NAMED) for category in counts}
    for category, count in counts.items():
        own = [object_category[frame.objects] == category for frame in frames]
        near = [_near_tracks(*parts, object_category, category) for parts in zip(frames, own, assigned, strict=True)]
        # tracks that are named after the phrase, or lie on its objects
        concerned = [
            len(set(frame.tracks[track_category[frame.tracks] == category]) | tracks_near)
            for frame, tracks_near in zip(frames, near, strict=True)
        ]
        if not any(near):
            count.missed += sum(int(mine.sum()) for mine in own)
            false_names[category][:] = sum(concerned)
            continue
        kept = np.array(sorted(set().union(*near)))
        objects = np.unique(np.concatenate([frame.objects[mine] for frame, mine in zip(frames, own, strict=True)]))
        parts = [_part(frame, mine, objects, kept) for frame, mine in zip(frames, own, strict=True)]
        is_near = [np.isin(kept, list(tracks_near)) for tracks_near in near]
        for track, wrong in _add_phrase(count, parts, is_near, track_category[kept] == category):
            other = int(track_category[kept[track]])
            if other in false_names:
                false_names[other] += wrong
        for mine, tracks_near, number in zip(own, near, concerned, strict=True):
            false_names[category] += number - (len(tracks_near) if mine.any() else 0)
    for category, count in counts.items():
        count.false_names += false_names[category]


def _near_tracks(
    frame: _Frame, own: np.ndarray, assigned: dict[int, int], object_category: np.ndarray, category: int
) -> set[int]:
    """Tracks that overlap an object of the phrase on this frame, and are not assigned to one of another phrase."""
    near = frame.tracks[(frame.ious[own] >= _NEAR).any(0)]
    return set(near.tolist()) - {track for one, track in assigned.items() if object_category[one] != category}


def _part(frame: _Frame, own: np.ndarray, objects: np.ndarray, kept: np.ndarray) -> _Frame:
    """A frame with its `own` objects and the tracks that are `kept`, known by their places in `objects` and `kept`."""
    tracks = np.isin(frame.tracks, kept)
    places = np.searchsorted(objects, frame.objects[own]), np.searchsorted(kept, frame.tracks[tracks])
    return _Frame(frame.ious[own][:, tracks], *places)


def _assign_all(frames: Sequence[_Frame]) -> list[dict[int, int]]:
    """On each frame, object → track, whatever their phrases are."""
    near = [frame.tracks[(frame.ious >= _NEAR).any(0)] for frame in frames]
    if not any(map(len, near)):
        return [{} for _ in frames]
    kept, objects = np.unique(np.concatenate(near)), np.unique(np.concatenate([one.objects for one in frames]))
    parts = [_part(frame, np.ones(len(frame.objects), dtype=bool), objects, kept) for frame in frames]
    alignment, _, _ = _align(parts)
    assigned = []
    for part in parts:
        rows, columns = _match(part, alignment)
        good = part.ious[rows, columns] >= _NEAR - _EPS
        pairs = objects[part.objects[rows[good]]].tolist(), kept[part.tracks[columns[good]]].tolist()
        assigned.append(dict(zip(*pairs, strict=True)))
    return assigned


def _align(parts: Sequence[_Frame]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How well objects and tracks go together over the video (num_objects, num_tracks), and how often each is there."""
    num_objects, num_tracks = (
        1 + max(int(numbers.max(initial=-1)) for numbers in side)
        for side in ([part.objects for part in parts], [part.tracks for part in parts])
    )
    common = np.zeros((num_objects, num_tracks))
    object_frames, track_frames = np.zeros((num_objects, 1)), np.zeros((1, num_tracks))
    for part in parts:
        either = part.ious.sum(0, keepdims=True) + part.ious.sum(1, keepdims=True) - part.ious
        share = np.divide(part.ious, either, out=np.zeros_like(part.ious), where=either > _EPS)
        common[np.ix_(part.objects, part.tracks)] += share
        object_frames[part.objects] += 1
        track_frames[0, part.tracks] += 1
    either = object_frames + track_frames - common
    return np.divide(common, either, out=np.zeros_like(common), where=either > 0), object_frames, track_frames


def _match(part: _Frame, alignment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of `part.ious` that are matched one to one."""
    rows, columns = linear_sum_assignment(-(alignment[np.ix_(part.objects, part.tracks)] * part.ious))
    return rows, columns


def _add_phrase(
    count: _Counts, parts: Sequence[_Frame], near: Sequence[np.ndarray], has_name: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Adds one video to one phrase; gives (track, at which alphas) of the matched tracks that have another name.

    Of each track, `near` says whether it is near on each frame, and `has_name` whether it is named after the phrase.
    """
    alignment, object_frames, track_frames = _align(parts)
    matches = np.zeros((len(_ALPHAS), *alignment.shape))
    num_found = np.zeros(len(_ALPHAS))
    wrong: list[tuple[int, np.ndarray]] = []
    for part, is_near in zip(parts, near, strict=True):
        if not len(part.objects):
            continue
        rows, columns = _match(part, alignment)
        good = part.ious[rows, columns][None] >= _ALPHAS[:, None] - _EPS  # (alphas, matches)
        objects, tracks = part.objects[rows], part.tracks[columns]
        is_right = has_name[tracks]
        num_found += good.sum(1)
        count.missed += len(part.objects) - good.sum(1)
        count.false += is_near.sum() - (good & is_near[tracks]).sum(1)
        count.named += (good & is_right)[_FIRST_NAMED:].sum(1)
        count.misnamed += (good & ~is_right)[_FIRST_NAMED:].sum(1)
        matches[:, objects, tracks] += good
        wrong += [(int(tracks[index]), good[_FIRST_NAMED:, index]) for index in np.flatnonzero(~is_right)]
    count.found += num_found
    both = np.maximum(1, object_frames + track_frames - matches)
    for row, whole in enumerate((both, np.maximum(1, object_frames), np.maximum(1, track_frames))):
        shares = (matches * (matches / whole)).sum((1, 2))
        # The detour of the reference, whose last bits decide about the last of five digits.
        count.together[row] += shares / np.maximum(1, num_found) * num_found
    return wrong
