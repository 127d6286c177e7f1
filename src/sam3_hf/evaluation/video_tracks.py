"""`Track`: one object through a video, found or true; and how far tracks overlap, on each frame and as volumes.

Volumes are what video F1 and video AP compare: the sum over frames of the common pixels, over that of all pixels.
HOTA and TETA compare frame by frame.  Masks are exact (integers, then one float64 quotient); boxes are float32, as in
the reference, whose thresholds judge the float32 quotients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .overlap import MaskRuns, mask_intersections
from .predictions import Rle

__all__ = ["FrameOverlap", "Track", "TrackOverlap", "VideoPair", "track_overlap"]

_FRAMES_AT_ONCE = 64
_NUMBERS_AT_ONCE = 2**22  # of boxes compared with boxes


@dataclass(frozen=True)
class Track:
    """One object of one phrase in one video.

    Attributes:
        video_id, category_id: the video and the phrase, by their ids in the annotations.
        masks: for each frame a run-length code, or None where the object is not; None: boxes alone are known.
        boxes: (num_frames, 4) float64 x, y, width, height in pixels; NaN where the object is not. Made from the masks
            where None is given.
        score: 0..1.
        is_crowd: a region of uncountable objects.
        number: id of the annotation, where there is one.
        tags: words that the annotation has for it; None where it has no such list.
        areas: (num_frames,) int64 pixels of the masks, or float64 of the boxes where there are no masks; made here.

    Raises ValueError for a broken code, and where score or boxes are not finite.
    """

    video_id: int
    category_id: int
    masks: Sequence[Rle | None] | None
    boxes: np.ndarray = None  # type: ignore[assignment]
    score: float = 1.0
    is_crowd: bool = False
    number: int | None = None
    tags: tuple[str, ...] | None = None
    areas: np.ndarray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.masks is None and self.boxes is None:
            raise ValueError(f"{self._name} has neither masks nor boxes; give at least one.")
        if not np.isfinite(self.score):
            raise ValueError(f"{self._name} has the score {self.score}; expected a finite number.")
        if self.masks is None:
            boxes = np.asarray(self.boxes, dtype=np.float64)
            areas = np.nan_to_num(boxes[:, 2] * boxes[:, 3])
        else:
            areas, boxes = self._measured(self.masks)
        if self.boxes is not None:
            boxes = np.asarray(self.boxes, dtype=np.float64)
        if boxes.shape != (len(areas), 4):
            raise ValueError(f"{self._name} has {len(areas)} masks and boxes {boxes.shape}; expected a box for each.")
        if (np.isnan(boxes).any(1) != np.isnan(boxes).all(1)).any() or np.isinf(boxes).any():
            raise ValueError(f"{self._name} has a box that is not finite; expected four numbers, or NaN for no object.")
        object.__setattr__(self, "areas", areas)
        object.__setattr__(self, "boxes", boxes)

    def _measured(self, masks: Sequence[Rle | None]) -> tuple[np.ndarray, np.ndarray]:
        """Areas and boxes of masks."""
        areas, boxes = np.zeros(len(masks), dtype=np.int64), np.full((len(masks), 4), np.nan)
        there = [frame for frame, mask in enumerate(masks) if mask is not None]
        if there:
            runs = MaskRuns.from_rles([masks[frame] for frame in there])  # type: ignore[misc]
            areas[there] = runs.areas()
            if self.boxes is None:
                boxes[there] = _boxes_of_runs(runs, [masks[frame]["size"][0] for frame in there])
        return areas, boxes

    @property
    def _name(self) -> str:
        return f"a track of category {self.category_id} in video {self.video_id}"

    @property
    def num_frames(self) -> int:
        """Number of frames of its video."""
        return len(self.areas)

    @property
    def has_mask(self) -> np.ndarray:
        """(num_frames,) bool: whether there is a mask, perhaps an empty one."""
        return np.array([mask is not None for mask in self.masks or [None] * self.num_frames], dtype=bool)

    @property
    def has_box(self) -> np.ndarray:
        """(num_frames,) bool: whether there is a box, perhaps an empty one."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def is_seen(self) -> np.ndarray:
        """(num_frames,) bool: whether there is anything of the object: some area, and a box other than zeros."""
        return (self.areas > 0) & np.nan_to_num(self.boxes).any(1)


@dataclass(frozen=True)
class VideoPair:
    """What was found for one phrase in one video, and what is there; both in the order of their files."""

    video_id: int
    category_id: int
    num_frames: int
    predictions: tuple[Track, ...] = ()
    targets: tuple[Track, ...] = ()

    @property
    def key(self) -> tuple[int, int]:
        """(video_id, category_id)."""
        return self.video_id, self.category_id


@dataclass(frozen=True)
class FrameOverlap:
    """One frame: `rows` (n,) and `columns` (m,) are the tracks that are there, `ious` (n, m) their overlaps."""

    rows: np.ndarray
    columns: np.ndarray
    ious: np.ndarray


@dataclass(frozen=True)
class TrackOverlap:
    """Tracks against tracks: `volume_ious` (N, M) float64 over all frames, and `frames`, one by one.

    Two tracks without a pixel anywhere have a volume IoU of 1, as in the reference.
    """

    volume_ious: np.ndarray
    frames: list[FrameOverlap]


def track_overlap(rows: Sequence[Track], columns: Sequence[Track], num_frames: int, iou_type: str) -> TrackOverlap:
    """The overlaps of tracks of one video, of their masks ("segm") or boxes ("bbox").

    Raises ValueError where masks are wanted and a track has none.
    """
    if iou_type == "bbox":
        return _box_overlap(rows, columns, num_frames)
    if iou_type != "segm":
        raise ValueError(f"iou_type is {iou_type!r}; expected 'segm' (masks) or 'bbox' (boxes).")
    for track in (*rows, *columns):
        if track.masks is None:
            raise ValueError(f"{track._name} has no masks; compare boxes instead: iou_type='bbox'.")
    return _mask_overlap(rows, columns, num_frames)


def _mask_overlap(rows: Sequence[Track], columns: Sequence[Track], num_frames: int) -> TrackOverlap:
    there_a, there_b = _table([one.has_mask for one in rows]), _table([one.has_mask for one in columns])
    area_a, area_b = _table([one.areas for one in rows]), _table([one.areas for one in columns])
    common = np.zeros((len(rows), len(columns)), dtype=np.int64)
    frames = []
    for start in range(0, num_frames, _FRAMES_AT_ONCE):
        piece = range(start, min(start + _FRAMES_AT_ONCE, num_frames))
        chosen = [(_at(there_a, frame), _at(there_b, frame)) for frame in piece]
        runs_a = MaskRuns.from_rles([rows[i].masks[t] for t, (a, _) in zip(piece, chosen, strict=True) for i in a])
        runs_b = MaskRuns.from_rles([columns[j].masks[t] for t, (_, b) in zip(piece, chosen, strict=True) for j in b])
        shared = mask_intersections(runs_a, runs_b, [(len(a), len(b)) for a, b in chosen])
        for frame, (a, b), pixels in zip(piece, chosen, shared, strict=True):
            common[np.ix_(a, b)] += pixels
            union = _column(area_a, a, frame)[:, None] + _column(area_b, b, frame)[None] - pixels
            frames.append(FrameOverlap(a, b, pixels / np.maximum(union, 1)))
    union = area_a.sum(-1)[:, None] + area_b.sum(-1)[None] - common
    return TrackOverlap(np.where(union > 0, common / np.maximum(union, 1), 1.0), frames)


def _box_overlap(rows: Sequence[Track], columns: Sequence[Track], num_frames: int) -> TrackOverlap:
    boxes_a, boxes_b = (
        np.stack([one.boxes for one in side]).astype(np.float32) if side else np.zeros((0, num_frames, 4), np.float32)
        for side in (rows, columns)
    )
    frames = []
    for frame in range(num_frames):
        a, b = (np.flatnonzero(~np.isnan(boxes[:, frame, 0])) for boxes in (boxes_a, boxes_b))
        common, union = _box_areas(boxes_a[a, None, frame], boxes_b[None, b, frame])
        ious = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
        frames.append(FrameOverlap(a, b, ious))
    ious = np.zeros((len(rows), len(columns)))
    step = max(1, _NUMBERS_AT_ONCE // max(1, 4 * num_frames * len(columns)))
    boxes_a, boxes_b = np.nan_to_num(boxes_a), np.nan_to_num(boxes_b)
    for start in range(0, len(rows), step):
        # torch adds float32 numbers as the reference does; numpy's sum may differ in the last bit.
        pairs = _box_areas(boxes_a[start : start + step, None], boxes_b[None])
        common_sum, union_sum = (torch.from_numpy(np.ascontiguousarray(one)).sum(-1).numpy() for one in pairs)
        whole = np.divide(common_sum, union_sum, out=np.ones_like(common_sum), where=union_sum > 0)
        ious[start : start + step] = whole
    return TrackOverlap(ious, frames)


def _box_areas(a_xywh: np.ndarray, b_xywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Common and united area of boxes (..., 4), in their own precision."""
    a_end, b_end = a_xywh[..., :2] + a_xywh[..., 2:], b_xywh[..., :2] + b_xywh[..., 2:]
    sides = np.minimum(a_end, b_end) - np.maximum(a_xywh[..., :2], b_xywh[..., :2])
    common = np.maximum(sides, 0).prod(-1)
    area_a, area_b = (a_end - a_xywh[..., :2]).prod(-1), (b_end - b_xywh[..., :2]).prod(-1)
    return common, area_a + area_b - common


def _boxes_of_runs(runs: MaskRuns, heights: Sequence[int]) -> np.ndarray:
    """Smallest boxes (num_masks, 4) around masks, x, y, width, height; zeros around empty ones."""
    boxes = np.zeros((len(runs), 4))
    for index, height in enumerate(heights):
        ends = runs.ends[runs.first[index] : runs.first[index + 1]]
        if len(ends):
            first, last = ends[0::2], ends[1::2] - 1  # pixels counted column by column
            x0, x1 = first[0] // height, last[-1] // height
            crosses = (first // height < last // height).any()  # a run into the next column touches both borders
            y0, y1 = (0, height - 1) if crosses else ((first % height).min(), (last % height).max())
            boxes[index] = x0, y0, x1 - x0 + 1, y1 - y0 + 1
    return boxes


def _table(rows: Sequence[Any]) -> np.ndarray:
    return np.stack(rows) if rows else np.zeros((0, 0), dtype=np.int64)


def _at(there: np.ndarray, frame: int) -> np.ndarray:
    return np.flatnonzero(there[:, frame]) if len(there) else np.zeros(0, dtype=np.int64)


def _column(areas: np.ndarray, chosen: np.ndarray, frame: int) -> np.ndarray:
    return areas[chosen, frame] if len(areas) else np.zeros(0, dtype=np.int64)
