"""The numbers that decide which objects of a video are found, kept and shown, and where a configuration has them."""

from dataclasses import dataclass
from typing import Any

__all__ = ["VideoRules"]

_FRACTIONS = (
    "detection_threshold",
    "new_object_threshold",
    "nms_iou",
    "association_iou",
    "track_iou",
    "overlap_iou",
    "recondition_score",
    "recondition_iou",
)
_COUNTS = (
    "hot_start_delay",
    "hot_start_unmatched",
    "hot_start_duplicate",
    "reclaim_from",
    "reclaim_to",
    "recondition_every",
    "max_hole_area",
)
_SWITCHES = ("suppress_only_in_hot_start", "count_empty_as_missed", "recondition_on_tracks")
# Fields of `Sam3Config`, under transformers' names where it has them.
_IN_CONFIG = {
    "detection_threshold": "score_threshold_detection",
    "nms_iou": "det_nms_thresh",
    "association_iou": "assoc_iou_thresh",
    "track_iou": "trk_assoc_iou_thresh",
    "new_object_threshold": "new_det_thresh",
    "hot_start_delay": "hotstart_delay",
    "hot_start_unmatched": "hotstart_unmatch_thresh",
    "hot_start_duplicate": "hotstart_dup_thresh",
    "suppress_only_in_hot_start": "suppress_unmatched_only_within_hotstart",
    "reclaim_from": "reclaim_lost_trk_from",
    "reclaim_to": "reclaim_lost_trk_to",
    "keep_alive_start": "init_trk_keep_alive",
    "keep_alive_max": "max_trk_keep_alive",
    "keep_alive_min": "min_trk_keep_alive",
    "count_empty_as_missed": "decrease_trk_keep_alive_for_empty_masklets",
    "overlap_iou": "suppress_overlapping_based_on_recent_occlusion_threshold",
    "recondition_every": "recondition_every_nth_frame",
    "recondition_on_tracks": "recondition_on_trk_masks",
    "recondition_score": "high_conf_thresh",
    "recondition_iou": "high_iou_thresh",
    "max_hole_area": "fill_hole_area",
}
NO_LIMIT = 10_000  # of objects, in configurations; -1 says so too


@dataclass(frozen=True)
class VideoRules:
    """The numbers that decide which objects of a video are found, kept and shown; defaults are the released ones.

    Detections and association
        detection_threshold: a query counts as a detection above this score (`score_threshold_detection`).
        nms_iou: of detections that overlap by more than this mask IoU the best stays; 0 = no suppression
            (`det_nms_thresh`).
        association_iou: from this IoU on a detection belongs to a track, and starts no new one (`assoc_iou_thresh`).
        track_iou: from this IoU on a track counts as confirmed by a detection (`trk_assoc_iou_thresh`).
        new_object_threshold: a detection of this score or more starts a track (`new_det_thresh`); where there are no
            tracks at all, every detection does.
        max_objects: tracks at one time; None = no limit (`max_num_objects`, -1 and 10,000 there).

    Hot start: what is shown lags behind, so that a track that proves false need never have been shown
        hot_start_delay: frames that a new track is on trial, and that output is held back; 0 = off (`hotstart_delay`).
        hot_start_unmatched: a track on trial is removed at this many frames where it is visible and no detection
            confirms it (`hotstart_unmatch_thresh`).
        hot_start_duplicate: a track on trial is removed at this many frames where it shares a detection with one and
            the same older track (`hotstart_dup_thresh`).

    Lost objects, which neither the reference nor transformers knows
        reclaim_from, reclaim_to: a detection that would start a track goes to a lost one instead, if that was
            not confirmed for at least and at most so many frames in a row, see `rules.reclaim`; 0, 0 = off, as
            released (`reclaim_lost_trk_from`, `reclaim_lost_trk_to`).

    Keep-alive: a count per track, +1 where it is matched, -1 where it is visible and not confirmed
        keep_alive_start, keep_alive_max, keep_alive_min: first value and bounds (`init_trk_keep_alive`,
            `max_trk_keep_alive`, `min_trk_keep_alive`).
        suppress_only_in_hot_start: True, as released, shows tracks whatever their count is; False hides them while it
            is not above 0 (`suppress_unmatched_only_within_hotstart`).
        count_empty_as_missed: -1 for an empty mask as well (`decrease_trk_keep_alive_for_empty_masklets`).

    Masks
        overlap_iou: from this IoU on two tracks are one too many, see `rules.suppress_overlaps`; 0 = off
            (`suppress_overlapping_based_on_recent_occlusion_threshold`).
        recondition_every: on each frame whose number this divides, tracks are prompted anew with detections that are
            as good as `recondition_score` and `recondition_iou` say; 0 = off (`recondition_every_nth_frame`).
        recondition_score, recondition_iou: least score of such a detection, and least IoU with its track
            (`HIGH_CONF_THRESH` and `HIGH_IOU_THRESH` in `_associate_det_trk`).
        recondition_on_tracks: True, as released: such a detection gives its track a new pointer, and the mask stays the
            tracker's own; False: the detection's mask is shown and remembered in its place
            (`recondition_on_trk_masks` in transformers).
        max_hole_area: holes and specks of at most this many pixels go, see `fill_holes_and_remove_specks`; 0 = off
            (`fill_hole_area`).

    Scores and IoUs are in 0..1. Raises TypeError and ValueError for what cannot be meant.
    """

    detection_threshold: float = 0.5
    new_object_threshold: float = 0.7
    nms_iou: float = 0.1
    association_iou: float = 0.1
    track_iou: float = 0.5
    hot_start_delay: int = 15
    hot_start_unmatched: int = 8
    hot_start_duplicate: int = 8
    suppress_only_in_hot_start: bool = True
    reclaim_from: int = 0
    reclaim_to: int = 0
    keep_alive_start: int = 30
    keep_alive_max: int = 30
    keep_alive_min: int = -1
    count_empty_as_missed: bool = False
    overlap_iou: float = 0.7
    recondition_every: int = 16
    recondition_score: float = 0.8
    recondition_iou: float = 0.8
    recondition_on_tracks: bool = True
    max_hole_area: int = 16
    max_objects: int | None = None

    def __post_init__(self) -> None:
        """Checks types, then ranges, then what depends on one another."""
        for name in _FRACTIONS:
            if not 0 <= self._number(name, (int, float)) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a number in 0..1.")
        for name in _COUNTS:
            if self._number(name, (int,)) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected an integer of at least 0 (0 = off).")
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}, expected True or False.")
        if self.max_objects is not None and self._number("max_objects", (int,)) < 1:
            raise ValueError(f"max_objects is {self.max_objects}, expected at least 1, or None for no limit.")
        low, start, high = (self._number(f"keep_alive_{end}", (int,)) for end in ("min", "start", "max"))
        if not low <= start <= high:
            raise ValueError(f"keep_alive_start is {start}, expected keep_alive_min..keep_alive_max = {low}..{high}.")
        if self.reclaim_from > self.reclaim_to or (self.reclaim_to and not self.reclaim_from):
            raise ValueError(
                f"reclaim_from is {self.reclaim_from}, expected 1..reclaim_to = 1..{self.reclaim_to}, or 0 for both."
            )
        for name in ("hot_start_unmatched", "hot_start_duplicate"):
            if 0 < self.hot_start_delay < getattr(self, name):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, more than the {self.hot_start_delay} frames of hot_start_delay: "
                    "no track could reach it; lower it or raise the delay."
                )

    def _number(self, name: str, kinds: tuple[type, ...]) -> Any:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kinds):
            expected = "an integer" if kinds == (int,) else "a number"
            raise TypeError(f"{name} is {value!r} of type {type(value).__name__}, expected {expected}.")
        return value

    @classmethod
    def from_config(cls, config: Any, **instead: Any) -> "VideoRules":
        """The rules that a model's `Sam3Config` names; `instead`: fields to set otherwise, unless they are None."""
        rules = {ours: getattr(config, theirs) for ours, theirs in _IN_CONFIG.items()}
        most = config.max_num_objects
        rules["max_objects"] = None if most == -1 or most >= NO_LIMIT else most
        return cls(**rules | {name: value for name, value in instead.items() if value is not None})

    @classmethod
    def without_heuristics(cls) -> "VideoRules":
        """The reference's variant for ablations (`apply_temporal_disambiguation=False`): no trial, no new prompts."""
        return cls(hot_start_delay=0, hot_start_unmatched=0, hot_start_duplicate=0, recondition_every=0)

    def reconditions_on(self, frame: int) -> bool:
        """Whether the candidates of `Association.recondition` are due on this frame."""
        return self.recondition_every > 0 and frame % self.recondition_every == 0
