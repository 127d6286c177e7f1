"""The rules that reconcile detector and tracker on a frame: pure functions from state to state, without weights.

They equal those of facebookresearch/sam3, and a session applies them on each frame in this order:

1. `keep_detections`: which queries count as detections;
2. `associate`: detections against tracks, then `reclaim`, which is not of the reference and off unless a model's
   configuration says otherwise, and `limit_new` where the number of objects is limited;
3. `advance`: births, hot start (young tracks that prove false are removed), keep-alive;
4. `suppress_overlaps`: of tracks on the same pixels, only the one that was hidden less recently stays;
5. `suppress_shrunken`: before a mask is remembered, is enough of it left where tracks compete for pixels?
6. `resolve_overlaps`: in what is shown, each pixel belongs to one object.

Names in `code` below that are not of this file are of the reference: `sam3/model/sam3_video_base.py` unless said, with
the values that `build_sam3_video_model` (`sam3/model_builder.py`) passes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.masks import mask_iou
from ..ops.nms import mask_nms
from .settings import VideoRules

__all__ = [
    "Association",
    "LifeState",
    "advance",
    "associate",
    "forget",
    "keep_detections",
    "limit_new",
    "reclaim",
    "resolve_overlaps",
    "suppress_overlaps",
    "suppress_shrunken",
]

NEVER_OCCLUDED = -1
ALWAYS_OCCLUDED = 2**63 - 1  # later than any frame: a track that is being removed yields to any that was ever occluded
SUPPRESSED_LOGIT = -10.0
AREA_TO_KEEP = 0.3  # `shrink_threshold` of `_suppress_shrinked_masks`, sam3_tracking_predictor.py


@dataclass(frozen=True)
class Association:
    """How the detections of a frame and its tracks belong together.

    new: indices of detections that start tracks, ascending.
    unmatched: ids of tracks that are visible and that no detection confirms, in the order of the tracks.
    empty: ids of tracks whose mask is empty, in the order of the tracks.
    matches: detection -> ids of all tracks that it belongs to, in the order of the tracks; only where there are any.
    recondition: id of a track -> the last detection that is good enough to prompt it anew.
    """

    new: tuple[int, ...] = ()
    unmatched: tuple[int, ...] = ()
    empty: tuple[int, ...] = ()
    matches: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    recondition: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LifeState:
    """What the rules remember of the tracks of one concept: a few numbers for each track that is alive.

    first_frame: id -> frame on which a detection started it; a track that a user started has none.
    keep_alive: id -> its count.
    unmatched: id -> number of frames where it was visible and unconfirmed.
    overlaps: (older id, id) -> number of frames where both had the same detection, below `hot_start_duplicate`.
    duplicates: ids that reached `hot_start_duplicate` with some older track.
    last_occluded: id -> last frame on which its mask was empty or suppressed, -1 = none.
    lost: id -> number of frames in a row, up to the last one, on which it was empty or unconfirmed; none where 0.

    The reference keeps lists of frames, for dead tracks too. Only their lengths are read there, and a dead track's are
    not read at all: it is in no later frame, so a pair with it stays below the limit, or has passed it and is in
    `duplicates`. (That still counts where a video is gone through backwards afterwards: what was too old to be on trial
    then is on trial again.) So the state grows with the tracks that live at one time, not with the video.
    """

    first_frame: Mapping[int, int] = field(default_factory=dict)
    keep_alive: Mapping[int, int] = field(default_factory=dict)
    unmatched: Mapping[int, int] = field(default_factory=dict)
    overlaps: Mapping[tuple[int, int], int] = field(default_factory=dict)
    duplicates: frozenset[int] = frozenset()
    last_occluded: Mapping[int, int] = field(default_factory=dict)
    lost: Mapping[int, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, list[Any]]:
        """Lists that JSON can hold, each sorted; `from_dict` reads them."""
        return {
            "first_frame": sorted(map(list, self.first_frame.items())),
            "keep_alive": sorted(map(list, self.keep_alive.items())),
            "unmatched": sorted(map(list, self.unmatched.items())),
            "overlaps": sorted([older, track, count] for (older, track), count in self.overlaps.items()),
            "duplicates": sorted(self.duplicates),
            "last_occluded": sorted(map(list, self.last_occluded.items())),
            "lost": sorted(map(list, self.lost.items())),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "LifeState":
        """The state that `to_dict` wrote; ValueError where parts are missing, unknown or no lists of integers."""
        expected = {one.name for one in fields(cls)}
        if set(stored) != expected:
            raise ValueError(f"a stored state has {sorted(stored)}, expected {sorted(expected)}.")
        try:
            return cls(
                first_frame={int(track): int(frame) for track, frame in stored["first_frame"]},
                keep_alive={int(track): int(count) for track, count in stored["keep_alive"]},
                unmatched={int(track): int(count) for track, count in stored["unmatched"]},
                overlaps={(int(older), int(track)): int(count) for older, track, count in stored["overlaps"]},
                duplicates=frozenset(map(int, stored["duplicates"])),
                last_occluded={int(track): int(frame) for track, frame in stored["last_occluded"]},
                lost={int(track): int(count) for track, count in stored["lost"]},
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"a stored state is damaged ({error}); expected what LifeState.to_dict returns."
            ) from error


def keep_detections(masks_logits: Tensor, scores: Tensor, rules: VideoRules) -> Tensor:
    """Indices (K,) int64 of the detections, ascending: scores (N,) above the threshold, then mask suppression.

    `masks_logits` (N, H, W) are compared above 0. Of equal scores the lower index goes first, as in the reference on
    CUDA; its CPU path leaves ties to an unstable sort (`nms_masks`, sam3/perflib/nms.py).
    """
    _check_masks(masks_logits, len(scores), "scores")
    candidates = torch.nonzero(scores > rules.detection_threshold).flatten()
    if rules.nms_iou == 0 or len(candidates) < 2:
        return candidates
    masks = masks_logits[candidates] > 0
    with _exact(masks):
        kept = mask_nms(masks, scores[candidates].float(), rules.nms_iou)
    return candidates[kept.sort().values]


def associate(
    detection_masks: Tensor, detection_scores: Tensor, track_masks: Tensor, track_ids: Sequence[int], rules: VideoRules
) -> Association:
    """Which detections belong to which tracks, by IoU of masks (`_associate_det_trk`).

    `detection_masks` (N, h, w) and `track_masks` (M, H, W) are float logits, compared above 0; where sizes differ, the
    larger ones are resized. `detection_scores` (N,) in 0..1, `track_ids` one for each track. A detection may belong
    to many tracks and a track to many detections.
    """
    _check_masks(detection_masks, len(detection_scores), "detection_scores")
    _check_masks(track_masks, len(track_ids), "track_ids")
    for name, masks in (("detection_masks", detection_masks), ("track_masks", track_masks)):
        if not masks.is_floating_point():
            raise TypeError(f"{name} are {masks.dtype}, expected floating point logits: do not threshold them.")
    if len(track_masks) == 0:
        return Association(new=tuple(range(len(detection_masks))))
    if len(detection_masks) == 0:
        visible = (track_masks > 0).any(dim=(1, 2)).tolist()
        return Association(
            unmatched=_where(track_ids, visible), empty=_where(track_ids, [not seen for seen in visible])
        )

    detections, tracks = (masks > 0 for masks in _same_size(detection_masks, track_masks))
    with _exact(detections):
        iou = mask_iou(detections, tracks).cpu()
    scores = detection_scores.detach().float().cpu()
    visible_tracks = tracks.any(dim=(1, 2)).cpu()
    unmatched = visible_tracks & ~(iou >= rules.track_iou).any(dim=0)
    belongs = iou >= rules.association_iou
    is_new = (scores >= rules.new_object_threshold) & ~belongs.any(dim=1)
    best_iou, best_track = iou.max(dim=1)
    is_good = (scores >= rules.recondition_score) & ~is_new & (best_iou >= rules.recondition_iou)
    matches = {index: _where(track_ids, row) for index, row in enumerate(belongs.tolist()) if any(row)}
    return Association(
        new=tuple(torch.nonzero(is_new).flatten().tolist()),
        unmatched=_where(track_ids, unmatched.tolist()),
        empty=_where(track_ids, (~visible_tracks).tolist()),
        matches=matches,
        recondition={int(track_ids[int(best_track[i])]): i for i in torch.nonzero(is_good).flatten().tolist()},
    )


def reclaim(
    state: LifeState, association: Association, scores: Tensor, rules: VideoRules, barred: Collection[int] = ()
) -> tuple[Association, dict[int, int]]:
    """The association in which lost tracks have got what was found of them again, and id -> detection for each.

    A track is lost while no detection confirms it, be it empty or somewhere else by mistake; it can be reclaimed when
    that has lasted for `reclaim_from` to `reclaim_to` frames before this one. The new detections, best `scores` (N,)
    first, go to the track that was lost last, of equals to the oldest; nothing but time is compared. A detection for
    which there is none starts a track as before. `barred` ids are no candidates.
    """
    if rules.reclaim_to == 0 or not association.new:
        return association, {}
    lost = [
        track
        for track in association.unmatched + association.empty
        if rules.reclaim_from <= state.lost.get(track, 0) <= rules.reclaim_to and track not in barred
    ]
    lost.sort(key=lambda track: (state.lost[track], track))
    order = scores[list(association.new)].float().argsort(descending=True, stable=True).tolist()
    found = {track: association.new[place] for track, place in zip(lost, order, strict=False)}
    taken = set(found.values())
    reclaimed = Association(
        new=tuple(detection for detection in association.new if detection not in taken),
        unmatched=tuple(track for track in association.unmatched if track not in found),
        empty=tuple(track for track in association.empty if track not in found),
        matches={**association.matches, **{detection: (track,) for track, detection in found.items()}},
        recondition=association.recondition,
    )
    return reclaimed, found


def limit_new(new: Sequence[int], scores: Tensor, num_live: int, rules: VideoRules) -> tuple[tuple[int, ...], int]:
    """The new detections that there is room for beside `num_live` tracks, and how many were dropped.

    All of them as they were given, or else the best ones, best first, by `scores` (N,) of all detections (the lower
    index first where they are equal; the reference leaves that to an unstable sort, `_drop_new_det_with_obj_limit`).
    """
    room = len(new) if rules.max_objects is None else max(0, rules.max_objects - num_live)
    if len(new) <= room:
        return tuple(new), 0
    order = scores[list(new)].float().argsort(descending=True, stable=True)[:room].tolist()
    return tuple(new[place] for place in order), len(new) - room


def advance(
    state: LifeState,
    frame: int,
    association: Association,
    new_ids: Sequence[int],
    rules: VideoRules,
    reverse: bool = False,
) -> tuple[LifeState, frozenset[int], frozenset[int]]:
    """The state after a frame, the ids removed on it, and those of the others to hide on it (`_process_hotstart`).

    `new_ids` are given to the detections that start tracks on this frame, `reverse` says that the video is gone through
    backwards. A track that no detection started (it is in `association`, and was never in `new_ids`) is a user's: it
    counts as older than all others and is never removed. Raises ValueError where a new id is known already.
    """
    known = sorted(set(new_ids) & (state.first_frame.keys() | state.keep_alive.keys()))
    if known or len(set(new_ids)) < len(new_ids):
        raise ValueError(f"new_ids {list(new_ids)} must be new, each once, but {known} are tracked; count ids upwards.")
    first_frame = {**state.first_frame, **dict.fromkeys(new_ids, frame)}
    keep_alive = _keep_alive({**state.keep_alive, **dict.fromkeys(new_ids, rules.keep_alive_start)}, association, rules)
    unmatched = dict(state.unmatched)
    for track in association.unmatched:
        unmatched[track] = unmatched.get(track, 0) + 1
    lost = {track: state.lost.get(track, 0) + 1 for track in association.unmatched + association.empty}
    overlaps, duplicates = _count_overlaps(state, association, first_frame, rules, reverse)

    def on_trial(track: int) -> bool:
        if track not in first_frame:
            return False
        age = first_frame[track] - frame if reverse else frame - first_frame[track]
        return age < rules.hot_start_delay

    unconfirmed = {track for track, count in unmatched.items() if count >= rules.hot_start_unmatched}
    removed = frozenset(filter(on_trial, unconfirmed | duplicates))
    hidden = set() if rules.suppress_only_in_hot_start else {track for track in unmatched if keep_alive[track] <= 0}
    # What was last occluded stays until `suppress_overlaps`, which reads it for removed tracks too.
    grown = LifeState(first_frame, keep_alive, unmatched, overlaps, frozenset(duplicates), state.last_occluded, lost)
    return replace(forget(grown, removed), last_occluded=state.last_occluded), removed, frozenset(hidden - removed)


def forget(state: LifeState, ids: Iterable[int]) -> LifeState:
    """The state without these tracks, as when a user removes them; unknown ids are ignored."""
    gone = frozenset(ids)
    if not gone:
        return state
    return LifeState(
        first_frame=_without(state.first_frame, gone),
        keep_alive=_without(state.keep_alive, gone),
        unmatched=_without(state.unmatched, gone),
        overlaps={pair: count for pair, count in state.overlaps.items() if gone.isdisjoint(pair)},
        duplicates=state.duplicates - gone,
        last_occluded=_without(state.last_occluded, gone),
        lost=_without(state.lost, gone),
    )


def suppress_overlaps(
    masks: Tensor,
    ids: Sequence[int],
    state: LifeState,
    removed: Collection[int],
    frame: int,
    rules: VideoRules,
    reverse: bool = False,
) -> tuple[Tensor, LifeState]:
    """Which tracks (N,) bool to suppress on this frame, and the state with `last_occluded` of those that stay.

    Where two of the masks (N, H, W) bool overlap by `overlap_iou` or more, the one that was occluded more recently
    yields, if the other was ever occluded (`_suppress_overlapping_based_on_recent_occlusion`): what came back from
    behind something may have come back in the wrong place. `ids` are the tracks of before this frame, with those that
    `advance` removed on it, which are named in `removed` too. To be called on every frame, after `advance`.

    Backwards (`reverse`) a lower frame is the more recent one, and as in the reference a track that was never occluded
    counts as occluded before all others: it yields to any that was.
    """
    _check_masks(masks, len(ids), "ids")
    if masks.dtype != torch.bool:
        raise TypeError(f"masks are {masks.dtype}, expected bool: compare logits with 0.")
    suppressed = torch.zeros(len(ids), dtype=torch.bool, device=masks.device)
    if rules.overlap_iou == 0:
        return suppressed, replace(state, last_occluded={})
    last = [state.last_occluded.get(track, ALWAYS_OCCLUDED if track in removed else NEVER_OCCLUDED) for track in ids]
    if len(ids) > 1:
        when = torch.tensor(last, dtype=torch.int64, device=masks.device)
        mine, other = when[:, None], when[None, :]
        more_recent = mine < other if reverse else mine > other
        with _exact(masks):
            overlap = mask_iou(masks, masks) >= rules.overlap_iou
        suppressed = (overlap & more_recent & (other > NEVER_OCCLUDED)).any(dim=1)
    occluded = (suppressed | ~masks.any(dim=(1, 2))).tolist()
    last_occluded = {
        track: frame if now else before
        for track, now, before in zip(ids, occluded, last, strict=True)
        if track not in removed
    }
    return suppressed, replace(state, last_occluded=last_occluded)


def suppress_shrunken(masks_logits: Tensor) -> Tensor:
    """Logits (N, H, W) with those masks at -10 or below that lose more than 70 % of their pixels to higher logits.

    Each pixel goes to the highest logit, the first of equal ones; a mask that keeps less than 0.3 of its area, or has
    none, is probably noise (`_suppress_object_pw_area_shrinkage`, sam3_tracking_predictor.py). The others stay as they
    are and may still overlap. The input itself is returned where there is nothing to do.
    """
    if len(masks_logits) == 0:
        return masks_logits
    owner = masks_logits.argmax(dim=0)
    best = masks_logits.gather(0, owner[None])[0]
    area_after = torch.bincount(owner[best > 0], minlength=len(masks_logits))
    area_before = (masks_logits > 0).sum(dim=(1, 2))
    shrunken = area_after.float() / area_before.clamp(min=1).float() < AREA_TO_KEEP
    if not shrunken.any():
        return masks_logits
    suppressed = masks_logits.clone()
    suppressed[shrunken] = masks_logits[shrunken].clamp(max=SUPPRESSED_LOGIT)
    return suppressed


def resolve_overlaps(masks: Tensor, scores: Tensor) -> Tensor:
    """Masks (N, H, W) bool in which each pixel belongs to one object: the one with the highest score (N,) takes all.

    Of equal scores the first one does. Where there is more than one mask, those with a score of 0 or less vanish, as
    in the reference: there the background has score 0 (`_apply_object_wise_non_overlapping_constraints`,
    sam3_tracking_predictor.py, called by `_postprocess_output` for two masks and more).
    """
    _check_masks(masks, len(scores), "scores")
    if masks.dtype != torch.bool:
        raise TypeError(f"masks are {masks.dtype}, expected bool: compare logits with 0.")
    if len(masks) < 2:
        return masks
    resolved = torch.zeros_like(masks)
    taken = torch.zeros_like(masks[0])
    positive = (scores > 0).tolist()
    for index in scores.argsort(descending=True, stable=True).tolist():
        if positive[index]:
            resolved[index] = masks[index] & ~taken
            taken |= masks[index]
    return resolved


def _exact(masks: Tensor) -> torch.autocast:
    """A context without autocast, in which the product that counts common pixels would be rounded to 8 bits."""
    return torch.autocast(masks.device.type, enabled=False)


def _same_size(detections: Tensor, tracks: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits (., h, w) at the size of the smaller ones, or of the tracks where areas are equal."""
    if detections.shape[1:] == tracks.shape[1:]:
        return detections, tracks
    if detections.shape[1:].numel() < tracks.shape[1:].numel():
        return detections, _resize(tracks, detections.shape[1:])
    return _resize(detections, tracks.shape[1:]), tracks


def _resize(logits: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(logits[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def _where(ids: Sequence[int], chosen: Sequence[bool]) -> tuple[int, ...]:
    return tuple(int(track) for track, is_chosen in zip(ids, chosen, strict=True) if is_chosen)


def _without(numbers: Mapping[int, int], gone: frozenset[int]) -> dict[int, int]:
    return {track: number for track, number in numbers.items() if track not in gone}


def _keep_alive(keep_alive: dict[int, int], association: Association, rules: VideoRules) -> dict[int, int]:
    """The counts after this frame; a track that is matched and not confirmed goes up, then down."""
    for track in {track for matched in association.matches.values() for track in matched}:
        keep_alive[track] = min(rules.keep_alive_max, keep_alive.get(track, 0) + 1)
    missed = association.unmatched + (association.empty if rules.count_empty_as_missed else ())
    for track in missed:
        keep_alive[track] = max(rules.keep_alive_min, keep_alive.get(track, 0) - 1)
    return keep_alive


def _count_overlaps(
    state: LifeState, association: Association, first_frame: Mapping[int, int], rules: VideoRules, reverse: bool
) -> tuple[dict[tuple[int, int], int], set[int]]:
    """`overlaps` and `duplicates` after this frame: once a track is known as a duplicate, its pairs need no counts."""
    overlaps, duplicates = dict(state.overlaps), set(state.duplicates)

    def age(track: int) -> float:
        return float("inf") if track not in first_frame else first_frame[track] * (1 if reverse else -1)

    for matched in association.matches.values():
        oldest = max(matched, key=age)
        for track in matched:
            if track != oldest and track not in duplicates:
                overlaps[oldest, track] = overlaps.get((oldest, track), 0) + 1
                if overlaps[oldest, track] >= rules.hot_start_duplicate:
                    duplicates.add(track)
    return {pair: count for pair, count in overlaps.items() if pair[1] not in duplicates}, duplicates


def _check_masks(masks: Tensor, count: int, name: str) -> None:
    if masks.ndim != 3 or len(masks) != count:
        raise ValueError(f"masks are {tuple(masks.shape)} with {count} {name}, expected ({count}, height, width).")
