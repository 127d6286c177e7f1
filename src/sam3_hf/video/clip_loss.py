"""The loss of following objects through a clip: what was shown on one frame must be found again on the next ones."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..losses import object_loss
from ..modeling import Sam3Model
from ..modeling.outputs import Sam3ClipOutput, Sam3VisionEncoderOutput
from ..modeling.tracker import FrameMaps, ObjectMasks
from ..ops.masks import masks_to_boxes
from ..ops.points import correction_clicks, random_points
from .memory_bank import FrameMemory, MemoryBank, stack_memories

__all__ = ["PROMPTS", "clip_loss", "clips_loss"]

PROMPTS = ("mask", "point", "box")
# Of a frame in training, for all objects on it: a click on a wrong part; or, as when a detection prompts a track anew,
# the true masks, which are remembered in place of the answers.
CORRECTIONS = 0.1
REMINDERS = 0.2


def clips_loss(
    model: Sam3Model, pixel_values: Tensor, clip_masks: Sequence[Tensor], clip_prompts: Sequence[str] | None = None
) -> Sam3ClipOutput:
    """A `Sam3ClipOutput`: the mean over clips of `clip_loss`, with a few corrections and reminders in training mode.

    Args:
        model: its tracker learns, and the tracker's neck where it takes gradients.
        pixel_values: (num_clips, num_frames, 3, S, S).
        clip_masks: of each clip (num_frames, num_objects, h, w) bool.
        clip_prompts: of each clip how its objects are shown, one of `PROMPTS`; default "mask".
    """
    prompts = ["mask"] * len(clip_masks) if clip_prompts is None else clip_prompts
    if pixel_values.dim() != 5 or not len(pixel_values) == len(clip_masks) == len(prompts):
        raise ValueError(
            f"pixel_values {tuple(pixel_values.shape)} with {len(clip_masks)} clip_masks and {len(prompts)} "
            "clip_prompts; expected (num_clips, num_frames, 3, S, S) and one of each for every clip."
        )
    corrections, reminders = (CORRECTIONS, REMINDERS) if model.training else (0.0, 0.0)
    losses, sums = [], dict[str, Tensor]()
    for pixels, masks, prompt in zip(pixel_values, clip_masks, prompts, strict=True):
        loss, terms = clip_loss(model, pixels, masks, prompt, corrections, reminders)
        losses.append(loss)
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / len(prompts)
    return Sam3ClipOutput(loss=torch.stack(losses).mean(), loss_dict=sums)


def clip_loss(
    model: Sam3Model,
    frames: Tensor | Sam3VisionEncoderOutput,
    masks_bool: Tensor,
    prompt: str = "mask",
    corrections: float = CORRECTIONS,
    reminders: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss of objects that are followed through a clip, and its mean terms (focal 20; dice, IoU, occlusion 1).

    The objects are shown on the first frame, all in one batch; their memories are the tracker's own answers, through
    which the gradient flows back. The vision tower is not trained (SAM 3's paper, C.3).

    Args:
        model: its tracker learns, and the tracker's neck where it takes gradients.
        frames: (num_frames, 3, S, S), or what the vision tower makes of them.
        masks_bool: (num_frames, num_objects, h, w); each object is visible on the first frame.
        prompt: how the objects are shown: "mask", "point" or "box".
        corrections: probability of a click on a wrong part, on each later frame; it fixes the frame, as a user's does.
        reminders: probability, on each later frame, that the objects to be seen are shown by their masks once more,
            after the answer was judged.

    Raises:
        ValueError: an unknown prompt, fewer than two frames, or an object that is not on the first one.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"prompt is {prompt!r}; expected one of {', '.join(PROMPTS)}.")
    if isinstance(frames, Tensor):
        with torch.no_grad():
            frames = model.get_vision_features(frames)
    assert frames.last_hidden_state is not None
    count = len(frames.last_hidden_state)
    if count < 2 or count != len(masks_bool):
        raise ValueError(f"{count} frames and masks of {len(masks_bool)}; expected the same, and 2 or more.")
    if not masks_bool[0].flatten(1).any(1).all():
        raise ValueError("an object is not on the first frame, where it is to be shown; leave it out.")
    tracker, num_frames, num_objects = model.tracker_model, *masks_bool.shape[:2]
    maps = model.get_tracker_maps(frames)
    banks = [MemoryBank() for _ in range(num_objects)]
    losses: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    longest = min(num_frames, tracker.config.max_object_pointers_in_encoder)
    for t in range(num_frames):
        frame = tracker.frame_maps(tuple(m[t : t + 1] for m in maps))
        wanted, chance = masks_bool[t], float(torch.rand(()))
        is_fixed = torch.full((num_objects,), t == 0, device=wanted.device)
        if t == 0:
            found = _show(tracker, frame, wanted, prompt, model.config.image_size)
        else:
            memories = stack_memories(
                [bank.recall(t, tracker.config, longest) for bank in banks], longest, wanted.device
            )
            found = tracker.follow(frame, memories)
        _learn(found, wanted, losses, sums)
        if t and chance < corrections:
            shown = F.interpolate(found.masks[:, None], wanted.shape[-2:], mode="bilinear")[:, 0] > 0
            points, labels = correction_clicks(shown, wanted)
            points = points[:, None] * model.config.image_size
            found = tracker.point_out(frame, points, labels[:, None], found.masks.detach(), memories)
            _learn(found, wanted, losses, sums)
            is_fixed[:] = True
        elif t and chance < corrections + reminders:
            is_fixed = wanted.flatten(1).any(1)
            found = _reminded(found, tracker.take_masks(frame, wanted), is_fixed)
        if t + 1 == num_frames:
            break
        remembered = tracker.remember(frame, found.masks, found.scores > 0, certain=is_fixed)
        for bank, features, pointer, quality, fixed in zip(
            banks, remembered, found.pointers, found.quality.tolist(), is_fixed.tolist(), strict=True
        ):
            memory = FrameMemory(features, pointer, quality)
            if fixed:
                bank.fix(t, memory)
            else:
                bank.add(t, memory, tracker.config)
    return torch.stack(losses).mean(), {name: total / len(losses) for name, total in sums.items()}


def _show(tracker: Any, frame: FrameMaps, masks_bool: Tensor, prompt: str, image_size: int) -> ObjectMasks:
    if prompt == "mask":
        taken: ObjectMasks = tracker.take_masks(frame, masks_bool)
        return taken
    if prompt == "point":
        points = random_points(masks_bool)[:, None] * image_size
        labels = torch.ones(len(points), 1, dtype=torch.long, device=points.device)
    else:
        size = torch.tensor([*masks_bool.shape[:0:-1]] * 2, device=masks_bool.device)
        points = (masks_to_boxes(masks_bool) / size * image_size).view(-1, 2, 2)
        labels = torch.tensor([[2, 3]], device=points.device).expand(len(points), -1)
    pointed: ObjectMasks = tracker.point_out(frame, points, labels)
    return pointed


def _reminded(found: ObjectMasks, shown: ObjectMasks, is_shown: Tensor) -> ObjectMasks:
    """The answers, but for the objects that are shown once more what was shown of them."""
    return ObjectMasks(
        torch.where(is_shown[:, None, None], shown.masks, found.masks),
        torch.where(is_shown, shown.ious, found.ious),
        torch.where(is_shown, shown.scores, found.scores),
        torch.where(is_shown[:, None], shown.pointers, found.pointers),
    )


def _learn(found: ObjectMasks, wanted: Tensor, losses: list[Tensor], sums: dict[str, Tensor]) -> None:
    """Adds the loss of an answer; masks that were given teach nothing."""
    if found.decoded is None:
        return
    loss, terms = object_loss(found.decoded.masks, found.decoded.iou_scores, found.decoded.object_score_logits, wanted)
    losses.append(loss)
    for name, value in terms.items():
        sums[name] = sums[name] + value if name in sums else value
