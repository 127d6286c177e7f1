"""One frame: detect, follow, reconcile, remember. Only this file changes what a session knows of its objects."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..modeling import Sam3Model, Sam3VideoTracker
from ..modeling.tracker import FrameMaps
from ..ops.boxes import clip_boxes_to_pixels
from ..ops.components import fill_holes_and_remove_specks
from ..processing.images import normalize_pixels, resize_image
from .memory_bank import FrameMemory, stack_memories
from .outputs import Sam3VideoOutput
from .rules import (
    SUPPRESSED_LOGIT,
    VideoRules,
    advance,
    associate,
    forget,
    keep_detections,
    limit_new,
    reclaim,
    suppress_overlaps,
    suppress_shrunken,
)
from .session import Concept, ObjectPrompt, TrackedObject, VideoSession

__all__ = ["masks_of_boxes", "prepare", "segment_frame", "track_frame"]

_SURE = 1024.0  # logit of the pixels of a mask that is given


@dataclass(frozen=True)
class _Seen:
    """A frame after the vision tower: for the detector and for the tracker."""

    vision: Any
    maps: FrameMaps


@dataclass
class _Followed:
    """The live objects on a frame, in the order of the session.

    Attributes:
        objects: the objects.
        masks: (objects, 4·grid, 4·grid) logits.
        scores: (objects,) logits: is the object in the picture?
        pointers: (objects, channels).
        qualities: (objects,) see `ObjectMasks.quality`.
        is_given: of each, whether a prompt or a detection on this very frame says where it is.
        corrected: numbers of those whose mask is now that of a detection.
    """

    objects: list[TrackedObject]
    masks: Tensor
    scores: Tensor
    pointers: Tensor
    qualities: list[float]
    is_given: list[bool]
    corrected: set[int] = field(default_factory=set)


class _Parts:
    """The model's halves: a whole `Sam3Model`, or a tracker alone."""

    def __init__(self, model: Sam3Model | Sam3VideoTracker) -> None:
        self.model = model
        self.tracker = model.tracker_model if isinstance(model, Sam3Model) else model

    def see(self, session: VideoSession, frame: int, pixels: Tensor) -> _Seen:
        if session.cache is not None and session.cache[0] == frame:
            return session.cache[1]
        parameter = next(self.model.parameters())
        pixels = pixels.to(parameter.device, parameter.dtype)
        vision = self.model.get_vision_features(pixels[None] if pixels.dim() == 3 else pixels)
        if isinstance(self.model, Sam3Model):
            maps = self.model.get_tracker_maps(vision)
        else:
            assert vision.fpn_hidden_states is not None
            maps = vision.fpn_hidden_states
        seen = _Seen(vision, self.tracker.frame_maps(maps))
        session.cache = (frame, seen)
        return seen

    def detect(self, session: VideoSession, seen: _Seen, frame: int) -> list[tuple[Tensor, Tensor]]:
        """For each concept its detections on the frame: mask logits (n, 4·grid, 4·grid) and scores (n,)."""
        if not session.concepts:
            return []
        if not isinstance(self.model, Sam3Model):
            raise ValueError("phrases need a Sam3Model; a Sam3VideoTracker alone only follows what is pointed out.")
        asked = [c for c in session.concepts if c.phrase != "visual" or frame in c.exemplars]
        nothing = (seen.maps.coarse.new_zeros(0, 4 * seen.maps.coarse.shape[-1], 4 * seen.maps.coarse.shape[-1]),)
        answers = dict.fromkeys(map(id, session.concepts), (*nothing, seen.maps.coarse.new_zeros(0)))
        if asked:
            for concept, answer in zip(asked, self._answers(session, seen, frame, asked), strict=True):
                answers[id(concept)] = answer
        return [answers[id(concept)] for concept in session.concepts]

    def _answers(
        self, session: VideoSession, seen: _Seen, frame: int, concepts: Sequence[Concept]
    ) -> list[tuple[Tensor, Tensor]]:
        assert isinstance(self.model, Sam3Model)
        device = seen.maps.coarse.device
        for concept in concepts:
            if concept.text is None:
                features = self.model.get_text_features(concept.input_ids.to(device))
                concept.text = features.pooler_output
        prompts: dict[str, Tensor] = {}
        shown = [concept.exemplars.get(frame) for concept in concepts]
        most = max((len(one[0]) for one in shown if one is not None), default=0)
        if most:
            boxes = torch.zeros(len(concepts), most, 4, device=device)
            labels = torch.full((len(concepts), most), -10, dtype=torch.long, device=device)
            for row, one in enumerate(shown):
                if one is not None:
                    boxes[row, : len(one[0])], labels[row, : len(one[1])] = one[0].to(device), one[1].to(device)
            prompts = {"input_boxes": boxes, "input_boxes_labels": labels}
        outputs = self.model(
            vision_embeds=seen.vision,
            text_embeds=torch.cat([concept.text for concept in concepts]),  # type: ignore[misc]
            attention_mask=torch.cat([concept.attention_mask for concept in concepts]).to(device),
            image_ids=torch.zeros(len(concepts), dtype=torch.long, device=device),
            **prompts,
        )
        scores = outputs.pred_logits.float().sigmoid() * outputs.presence_logits.float().sigmoid()
        return [_kept(*one, session.rules) for one in zip(outputs.pred_masks.float(), scores, strict=True)]


def _kept(masks: Tensor, scores: Tensor, rules: VideoRules) -> tuple[Tensor, Tensor]:
    kept = keep_detections(masks, scores, rules)
    return masks[kept], scores[kept]


@torch.inference_mode()
def masks_of_boxes(
    model: Sam3Model | Sam3VideoTracker, session: VideoSession, frame: int, pixels: Tensor, boxes_xyxy: Tensor
) -> Tensor:
    """Mask logits (n, 4·grid, 4·grid) of the objects in boxes (n, 4), pixels of the video, on one frame.

    Boxes are clipped to the frame; one that is left without area stands for the pixel where it is.
    """
    assert session.video_size is not None  # `prepare` has seen the frame
    height, width = session.video_size
    boxes = clip_boxes_to_pixels(boxes_xyxy, (height, width))
    parts = _Parts(model)
    seen = parts.see(session, frame, pixels)
    coarse = seen.maps.coarse
    side = 4 * coarse.shape[-1]
    corners = boxes.view(-1, 2, 2) * (session.image_size / torch.tensor([width, height]))
    labels = torch.tensor([2, 3]).expand(len(corners), -1)
    step = session.objects_at_once or max(len(corners), 1)
    drawn = []
    for some, label in zip(corners.split(step), labels.split(step), strict=True):
        if len(some):
            answer = parts.tracker.point_out(seen.maps, some.to(coarse), label.to(coarse.device)).decoded
            assert answer is not None  # it is for masks that are given alone
            rows = torch.arange(len(some), device=coarse.device)  # the detector says that there is an object
            drawn.append(answer.masks[rows, answer.iou_scores.argmax(-1)].float())
    return torch.cat(drawn) if drawn else coarse.new_zeros(0, side, side, dtype=torch.float32)


@torch.inference_mode()
def track_frame(
    model: Sam3Model | Sam3VideoTracker,
    session: VideoSession,
    frame: int,
    pixels: Tensor,
    reverse: bool = False,
    detections: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> Sam3VideoOutput:
    """Everything on the next frame, at once: detections and tracks reconciled, memories updated.

    Objects that the hot start will remove are still in it; `propagate` holds results back until that is known.

    Args:
        model: the model, or a tracker alone where there are no phrases.
        session: is changed.
        frame: number of the frame.
        pixels: (3, S, S) normalised pixels from `Sam3Processor`.
        reverse: the video is followed backwards.
        detections: for each phrase mask logits (n, 4·grid, 4·grid) and scores (n,) in place of the model's own.
    """
    session.settle_rules(model.config)
    if reverse != session.reverse:
        session.turn(reverse)
    parts = _Parts(model)
    seen = parts.see(session, frame, pixels)
    _apply_prompts(parts, session, seen, frame)
    if session.last_frame is None and session.concepts:
        # The reference looks at the first frame twice: when the phrase is given, and again when the video is followed.
        _pass(parts, session, seen, frame, reverse, detections)
    return _pass(parts, session, seen, frame, reverse, detections)


def _pass(
    parts: _Parts,
    session: VideoSession,
    seen: _Seen,
    frame: int,
    reverse: bool,
    given: Sequence[tuple[Tensor, Tensor]] | None,
) -> Sam3VideoOutput:
    """One look at a frame; see `track_frame`."""
    detections = parts.detect(session, seen, frame) if given is None else [_kept(*one, session.rules) for one in given]
    followed = _follow(parts, session, seen, frame)
    output = Sam3VideoOutput(frame_idx=frame, video_size=session.video_size)
    removed: set[int] = set()
    births: list[tuple[int, int, int]] = []  # concept, detection, id
    returns: list[tuple[int, int, int]] = []  # the same of lost objects that are found again
    fixed: dict[int, Tensor] = {}  # pointers of tracks that a detection prompts anew
    for index, (concept, (masks, scores)) in enumerate(zip(session.concepts, detections, strict=True)):
        places = [i for i, found in enumerate(followed.objects) if found.concept == index]
        ids = [followed.objects[i].object_id for i in places]
        association = associate(masks, scores, followed.masks[places], ids, session.rules)
        by_user = {number for number in ids if session.objects[number].prompts}
        lost = concept.life.lost
        association, reclaimed = reclaim(concept.life, association, scores, session.rules, by_user)
        kept, dropped = limit_new(association.new, scores, len(session.objects) + len(births), session.rules)
        _warn_of_dropped(session, dropped)
        new_ids = [session.new_id() for _ in kept]
        concept.life, gone, hidden = advance(concept.life, frame, association, new_ids, session.rules, reverse)
        removed |= gone
        for number in sorted(reclaimed.keys() - gone):
            session.objects[number].bank.doubt(frame, lost[number])
            returns.append((index, reclaimed[number], number))
        output.suppressed_obj_ids |= hidden
        if session.rules.reconditions_on(frame):
            fixed |= _anew(parts, session, seen, masks, association.recondition, followed)
        suppressed, concept.life = suppress_overlaps(
            followed.masks[places] > 0, ids, concept.life, gone, frame, session.rules, reverse
        )
        for place, is_suppressed in zip(places, suppressed.tolist(), strict=True):
            if is_suppressed:
                followed.masks[place] = SUPPRESSED_LOGIT
        births.extend((index, detection, number) for detection, number in zip(kept, new_ids, strict=True))
    _remember(parts, session, seen, frame, followed, fixed)
    _report(output, followed)
    for index, (masks, scores) in enumerate(detections):
        mine = [(detection, number) for concept, detection, number in returns + births if concept == index]
        if mine:
            _begin(parts, session, seen, frame, index, masks, scores, mine, output)
    for number in removed:
        output.obj_id_to_tracker_score[number] = -1e4
        session.objects.pop(number, None)
    session.removed |= removed
    output.removed_obj_ids = set(removed)
    _forget_unseen(session, frame)
    session.last_frame = frame
    return output


def _apply_prompts(parts: _Parts, session: VideoSession, seen: _Seen, frame: int) -> None:
    """Objects that a user showed on this frame: their masks, and the memory of them; prompts of a kind as one batch."""
    kinds: dict[Any, list[tuple[TrackedObject, ObjectPrompt]]] = {}
    for found in session.objects.values():
        prompt = found.prompts.get(frame)
        if prompt is not None and not prompt.is_applied:
            given = prompt.points if prompt.mask is None else prompt.mask
            assert given is not None
            has_answer = found.mask is not None and found.mask[0] == frame
            kinds.setdefault((prompt.mask is None, given.shape, has_answer), []).append((found, prompt))
    for pending in kinds.values():
        step = session.objects_at_once or len(pending)
        for start in range(0, len(pending), step):
            _apply_alike(parts, session, seen, frame, pending[start : start + step])


def _apply_alike(
    parts: _Parts, session: VideoSession, seen: _Seen, frame: int, pending: Sequence[tuple[TrackedObject, ObjectPrompt]]
) -> None:
    """`_apply_prompts` for masks of one size, or the same number of points."""
    tracker, device = parts.tracker, seen.maps.coarse.device

    def together(name: str) -> Tensor:
        return torch.stack([getattr(prompt, name) for _, prompt in pending]).to(device)

    if pending[0][1].mask is not None:
        wanted = together("mask").float()
        shown = tracker.take_masks(seen.maps, wanted)
        shown = replace(shown, masks=_given(wanted > 0.5, session, seen))
    else:
        answers = [found.mask[1] for found, _ in pending if found.mask is not None and found.mask[0] == frame]
        before = torch.stack(answers).to(device) if answers else None
        shown = tracker.point_out(seen.maps, together("points"), together("labels"), before)
    high = _resized(shown.masks, session.image_size)
    memories = tracker.remember(seen.maps, high, shown.scores > 0, certain=True)
    for (found, prompt), memory, pointer, mask in zip(pending, memories, shown.pointers, shown.masks, strict=True):
        found.bank.fix(frame, _stored(session, memory, pointer, 1.0))
        found.mask = (frame, mask)
        prompt.is_applied = True


def _follow(parts: _Parts, session: VideoSession, seen: _Seen, frame: int) -> _Followed:
    """Where the objects are that are known already."""
    objects = [found for found in session.objects.values() if found.is_known]
    given = [frame in found.bank.fixed and found.mask is not None and found.mask[0] == frame for found in objects]
    coarse = seen.maps.coarse
    side = 4 * coarse.shape[-1]
    masks = coarse.new_zeros(len(objects), side, side, dtype=torch.float32)
    scores = coarse.new_full((len(objects),), 10.0, dtype=torch.float32)
    pointers = coarse.new_zeros(len(objects), coarse.shape[1])
    qualities = [1.0] * len(objects)
    for i, found in enumerate(objects):
        if given[i]:
            assert found.mask is not None
            masks[i] = found.mask[1]
            pointers[i] = found.bank.fixed[frame].pointer
            scores[i] = 10.0 if (found.mask[1] > 0).any() else -10.0
    others = [i for i, is_given in enumerate(given) if not is_given]
    longest = parts.tracker.config.max_object_pointers_in_encoder
    longest = longest if session.num_frames is None else min(longest, session.num_frames)
    step = session.objects_at_once or max(len(others), 1)
    for start in range(0, len(others), step):
        places = others[start : start + step]
        config = parts.tracker.config
        recalled = [objects[i].bank.recall(frame, config, longest, session.reverse) for i in places]
        answer = parts.tracker.follow(seen.maps, stack_memories(recalled, longest, coarse.device))
        masks[places], scores[places], pointers[places] = answer.masks, answer.scores, answer.pointers
        for i, quality in zip(places, answer.quality.tolist(), strict=True):
            qualities[i] = quality
    return _Followed(objects, _cleaned(masks, session), scores, pointers, qualities, given)


def _cleaned(masks: Tensor, session: VideoSession) -> Tensor:
    """Mask logits without small holes and specks."""
    area = session.rules.max_hole_area
    return fill_holes_and_remove_specks(masks, area) if area and len(masks) else masks


def _anew(
    parts: _Parts,
    session: VideoSession,
    seen: _Seen,
    detections: Tensor,
    candidates: dict[int, int] | Any,
    followed: _Followed,
) -> dict[int, Tensor]:
    """By id, the pointers of tracks that a good detection prompts anew; it may correct their masks as well."""
    logits = {found.object_id: score for found, score in zip(followed.objects, followed.scores.tolist(), strict=True)}
    # The reference compares the logit, not the probability.
    chosen = {number: d for number, d in candidates.items() if logits[number] > session.rules.recondition_score}
    if not chosen:
        return {}
    masks = detections[list(chosen.values())]
    if not session.rules.recondition_on_tracks:
        places = {found.object_id: place for place, found in enumerate(followed.objects)}
        followed.masks[[places[number] for number in chosen]] = _cleaned(masks, session)
        followed.corrected |= chosen.keys()
    wanted = _resized(masks, 16 * seen.maps.coarse.shape[-1]) > 0
    return dict(zip(chosen, parts.tracker.take_masks(seen.maps, wanted).pointers, strict=True))


def _remember(
    parts: _Parts, session: VideoSession, seen: _Seen, frame: int, followed: _Followed, fixed: dict[int, Tensor]
) -> None:
    """Stores what was followed, each concept's objects competing for pixels among themselves."""
    # What a prompt on this frame showed is remembered already.
    places = [i for i, found in enumerate(followed.objects) if not (followed.is_given[i] and frame in found.prompts)]
    high = _resized(followed.masks[places], 16 * seen.maps.coarse.shape[-1])
    groups: dict[int, list[int]] = {}
    for row, i in enumerate(places):
        found = followed.objects[i]
        if found.concept is not None and not found.prompts:  # what a user has touched stands for itself
            groups.setdefault(found.concept, []).append(row)
    for rows in groups.values():
        high[rows] = suppress_shrunken(high[rows])
    present = (high > 0).flatten(1).any(1)
    high = torch.where(present[:, None, None], high, high.clamp(max=SUPPRESSED_LOGIT))
    step = session.objects_at_once or max(len(places), 1)
    for start in range(0, len(places), step):
        part = slice(start, start + step)
        certain = [followed.objects[i].object_id in followed.corrected for i in places[part]]
        memories = parts.tracker.remember(
            seen.maps, high[part], present[part], torch.tensor(certain, device=high.device)
        )
        for i, memory in zip(places[part], memories, strict=True):
            found = followed.objects[i]
            pointer = followed.pointers[i] if followed.is_given[i] else fixed.get(found.object_id)
            if pointer is not None:
                found.bank.fix(frame, _stored(session, memory, pointer, 1.0))
            else:
                entry = _stored(session, memory, followed.pointers[i], followed.qualities[i])
                found.bank.add(frame, entry, parts.tracker.config)
    visible = (followed.masks > 0).flatten(1).any(1).tolist()
    for found, mask, is_visible in zip(followed.objects, followed.masks, visible, strict=True):
        found.mask = (frame, mask)
        if is_visible or found.seen is None:
            found.seen = frame


def _begin(
    parts: _Parts,
    session: VideoSession,
    seen: _Seen,
    frame: int,
    concept: int,
    masks: Tensor,
    scores: Tensor,
    mine: Sequence[tuple[int, int]],
    output: Sam3VideoOutput,
) -> None:
    """Starts objects from detections, given as pairs of detection and id, or shows lost ones anew."""
    chosen = masks[[detection for detection, _ in mine]]
    wanted = _resized(chosen, 16 * seen.maps.coarse.shape[-1]) > 0
    low = _given(wanted, session, seen)
    high = _resized(low, session.image_size)
    owner = high.argmax(0)  # of new objects on the same pixels the first one has them
    own = owner[None] == torch.arange(len(high), device=high.device)[:, None, None]
    high = torch.where(own, high, high.clamp(max=SUPPRESSED_LOGIT))
    taken = parts.tracker.take_masks(seen.maps, wanted)
    memories = parts.tracker.remember(seen.maps, high, taken.scores > 0, certain=True)
    shown = _cleaned(chosen, session)
    for row, (detection, number) in enumerate(mine):
        found = session.objects.setdefault(number, TrackedObject(number))
        found.concept, found.score = concept, float(scores[detection])
        found.bank.fix(frame, _stored(session, memories[row], taken.pointers[row], 1.0))
        found.mask, found.seen = (frame, low[row]), frame
        output.add(number, shown[row], found.score, found.score, concept)


def _report(output: Sam3VideoOutput, followed: _Followed) -> None:
    probabilities = followed.scores.sigmoid().tolist()
    for i, found in enumerate(followed.objects):
        tracker_score = 1.0 if found.prompts else probabilities[i]
        output.add(found.object_id, followed.masks[i], found.score, tracker_score, found.concept, bool(found.prompts))


def _stored(session: VideoSession, features: Tensor, pointer: Tensor, quality: float) -> FrameMemory:
    """A memory as it is kept; cloned, so that it does not hold the whole batch."""
    features = features.to(session.storage_device, session.memory_dtype, copy=True)
    return FrameMemory(features, pointer.to(session.storage_device, copy=True), quality)


def _given(wanted: Tensor, session: VideoSession, seen: _Seen) -> Tensor:
    """Logits (n, 4·grid, 4·grid) of ±1024 of masks (n, h, w) bool, by way of the video's own pixels."""
    masks = wanted.float()
    if session.video_size is not None and tuple(masks.shape[-2:]) != tuple(session.video_size):
        masks = F.interpolate(masks[:, None], session.video_size, mode="bilinear", antialias=True)[:, 0]
    side = 4 * seen.maps.coarse.shape[-1]
    logits = torch.where(masks > 0.5, _SURE, -_SURE)
    return F.interpolate(logits[:, None], (side, side), mode="bilinear", antialias=True)[:, 0]


def _resized(masks: Tensor, side: int) -> Tensor:
    if masks.shape[-2:] == (side, side):
        return masks
    return F.interpolate(masks[:, None].float(), (side, side), mode="bilinear", align_corners=False)[:, 0]


def _forget_unseen(session: VideoSession, frame: int) -> None:
    """Drops objects that were not seen for long."""
    if session.forget_after is None:
        return
    for number, found in list(session.objects.items()):
        if found.seen is not None and abs(frame - found.seen) >= session.forget_after and not found.prompts:
            del session.objects[number]
            if found.concept is not None:
                concept = session.concepts[found.concept]
                concept.life = forget(concept.life, [number])


def _warn_of_dropped(session: VideoSession, dropped: int) -> None:
    if dropped and not session.num_dropped:
        warnings.warn(
            f"there is room for {session.rules.max_objects} objects (max_objects); of new ones the best are followed "
            "and the others left out.",
            stacklevel=4,
        )
    session.num_dropped += dropped


# ---- whole videos ----


def prepare(session: VideoSession, image: np.ndarray | Tensor) -> Tensor:
    """(3, S, S) pixels of a frame (height, width, 3) uint8, as the model wants them."""
    picture = torch.as_tensor(image).permute(2, 0, 1)
    size = (int(picture.shape[1]), int(picture.shape[2]))
    if session.video_size is None:
        session.video_size = size
    elif tuple(session.video_size) != size:
        raise ValueError(
            f"a frame of {size} (height, width) in a video of {tuple(session.video_size)}; frames must not change size."
        )
    side = session.image_size
    return normalize_pixels(
        resize_image(picture, {"height": side, "width": side}), session.image_mean, session.image_std
    )


def segment_frame(
    model: Sam3Model | Sam3VideoTracker, session: VideoSession, frame: int, pixels: Tensor | None = None
) -> Sam3VideoOutput:
    """The objects that a user showed on one frame, before anything is followed; no other object changes."""
    session.check_frame(frame)
    if pixels is None:
        if session.frames is None:
            raise ValueError(f"frame {frame} of a stream must be given: model(inference_session, frame=pixel_values).")
        pixels = prepare(session, session.frames.read(frame).image)
    parts = _Parts(model)
    with torch.inference_mode():
        seen = parts.see(session, frame, pixels)
        _apply_prompts(parts, session, seen, frame)
    output = Sam3VideoOutput(frame_idx=frame, video_size=session.video_size)
    side = 4 * seen.maps.coarse.shape[-1]
    for found in session.objects.values():
        here = found.mask is not None and found.mask[0] == frame
        mask = found.mask[1] if here and found.mask is not None else seen.maps.coarse.new_full((side, side), -_SURE)
        output.add(found.object_id, mask, found.score, found.score, found.concept, bool(found.prompts))
    return output
