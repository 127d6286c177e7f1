"""Training of the tracker on clips: what was shown on one frame must be found again on the next ones."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data import ConceptClip, ConceptExample, concept_clip
from ..losses import object_loss
from ..modeling import Sam3Model
from ..modeling.tracker import FrameMaps, ObjectMasks
from ..ops.masks import masks_to_boxes
from ..processing.images import normalize_pixels, resize_image
from ..video.memory_bank import FrameMemory, MemoryBank, stack_memories
from .clicks import correction_clicks, random_points

__all__ = ["PROMPTS", "ClipDataset", "clip_loss", "moving_picture"]

PROMPTS = ("mask", "point", "box")
_HALF = (0.5, 0.5, 0.5)


def clip_loss(
    model: Sam3Model,
    pixel_values: Tensor,
    masks_bool: Tensor,
    prompt: str = "mask",
    corrections: float = 0.1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss of objects that are followed through a clip, and its mean terms (focal 20; dice, IoU, occlusion 1).

    The objects are shown on the first frame, all in one batch; their memories are the tracker's own answers, through
    which the gradient flows back. The vision tower is not trained (SAM 3's paper, C.3).

    Args:
        model: its tracker and the tracker's neck learn.
        pixel_values: (num_frames, 3, S, S).
        masks_bool: (num_frames, num_objects, h, w); each object is visible on the first frame.
        prompt: how the objects are shown: "mask", "point" or "box".
        corrections: probability of a click on a wrong part, on each later frame; it fixes the frame, as a user's does.

    Raises:
        ValueError: an unknown prompt, fewer than two frames, or an object that is not on the first one.
    """
    if prompt not in PROMPTS:
        raise ValueError(f"prompt is {prompt!r}; expected one of {', '.join(PROMPTS)}.")
    if len(pixel_values) < 2 or len(pixel_values) != len(masks_bool):
        raise ValueError(
            f"{len(pixel_values)} frames and masks of {len(masks_bool)}; expected the same, and 2 or more."
        )
    if not masks_bool[0].flatten(1).any(1).all():
        raise ValueError("an object is not on the first frame, where it is to be shown; leave it out.")
    tracker, num_frames, num_objects = model.tracker_model, *masks_bool.shape[:2]
    with torch.no_grad():
        vision = model.get_vision_features(pixel_values)
    maps = model.get_tracker_maps(vision)
    banks = [MemoryBank() for _ in range(num_objects)]
    losses: list[Tensor] = []
    sums: dict[str, Tensor] = {}
    longest = min(num_frames, tracker.config.max_object_pointers_in_encoder)
    for t in range(num_frames):
        frame = tracker.frame_maps(tuple(m[t : t + 1] for m in maps))
        wanted, is_fixed = masks_bool[t], t == 0
        if t == 0:
            found = _show(tracker, frame, wanted, prompt, model.config.image_size)
        else:
            memories = stack_memories(
                [bank.recall(t, tracker.config, longest) for bank in banks], longest, wanted.device
            )
            found = tracker.follow(frame, memories)
        _learn(found, wanted, losses, sums)
        if t and float(torch.rand(())) < corrections:
            shown = F.interpolate(found.masks[:, None], wanted.shape[-2:], mode="bilinear")[:, 0] > 0
            points, labels = correction_clicks(shown, wanted)
            points = points[:, None] * model.config.image_size
            found = tracker.point_out(frame, points, labels[:, None], found.masks.detach(), memories)
            _learn(found, wanted, losses, sums)
            is_fixed = True
        if t + 1 == num_frames:
            break
        remembered = tracker.remember(frame, found.masks, found.scores > 0, certain=is_fixed)
        for bank, features, pointer, quality in zip(
            banks, remembered, found.pointers, found.quality.tolist(), strict=True
        ):
            memory = FrameMemory(features, pointer, quality)
            if is_fixed:
                bank.fix(t, memory)
            else:
                bank.add(t, memory, tracker.config)
    count = max(len(losses), 1)
    return torch.stack(losses).mean(), {name: total / count for name, total in sums.items()}


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


def _learn(found: ObjectMasks, wanted: Tensor, losses: list[Tensor], sums: dict[str, Tensor]) -> None:
    """Adds the loss of an answer; masks that were given teach nothing."""
    if found.decoded is None:
        return
    loss, terms = object_loss(found.decoded.masks, found.decoded.iou_scores, found.decoded.object_score_logits, wanted)
    losses.append(loss)
    for name, value in terms.items():
        sums[name] = sums[name] + value if name in sums else value


class ClipDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Clips for `clip_loss`: drawn ones, or pictures set in motion. An item is `pixel_values` and `masks_bool`.

    Args:
        pictures: annotated pictures, each made a clip by a random affine motion; None: concept clips.
        length: number of items.
        num_frames: of a clip.
        image_size: side of the square that the model sees.
        max_objects: at most so many objects of a clip.
        seed: with an item's number it decides the clip.
    """

    def __init__(
        self,
        pictures: Any = None,
        length: int = 100_000,
        num_frames: int = 8,
        image_size: int = 224,
        max_objects: int = 4,
        seed: int = 0,
    ) -> None:
        self.pictures, self.length, self.num_frames = pictures, length, num_frames
        self.image_size, self.max_objects, self.seed = image_size, max_objects, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.length:
            raise IndexError(f"clip {index} of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        while True:
            if self.pictures is None:
                clip = concept_clip(int(rng.integers(2**40)), self.num_frames, self.image_size)
            else:
                clip = moving_picture(self.pictures[int(rng.integers(len(self.pictures)))], self.num_frames, rng)
            start = np.flatnonzero(clip.masks[0].any((1, 2)))
            if len(start):
                break
        chosen = rng.permutation(start)[: self.max_objects]
        side = self.image_size
        pictures = (torch.from_numpy(frame).permute(2, 0, 1) for frame in clip.frames)
        resized = (resize_image(picture, {"height": side, "width": side}) for picture in pictures)
        pixels = torch.stack([normalize_pixels(picture, _HALF, _HALF) for picture in resized])
        return pixels, torch.from_numpy(clip.masks[:, chosen])


def moving_picture(example: ConceptExample, num_frames: int, rng: np.random.Generator, side: int = 256) -> ConceptClip:
    """A clip in which a picture shifts, turns and grows a little from frame to frame, its objects with it.

    Args:
        example: the picture, with masks.
        num_frames: of the clip.
        rng: draws the motion.
        side: of the frames, in pixels.
    """
    from .pictures import open_picture

    picture = open_picture(example)
    if not picture.regions:
        raise ValueError(f"picture {picture.image_id!r} has no masks, so its objects cannot be followed.")
    drawn_masks = np.zeros((len(picture.regions), *picture.size), dtype=bool)
    for region, mask in zip(picture.regions, drawn_masks, strict=True):
        region.paint(mask)
    image, masks = picture.pixels[None].float(), torch.from_numpy(drawn_masks)[None].float()
    angle, shift, growth = rng.normal(0, 0.03), rng.normal(0, 0.03, 2), rng.normal(0, 0.02)
    frames, drawn = [], []
    for t in range(num_frames):
        scale, turn = float(np.exp(growth * t)), angle * t
        cosine, sine = np.cos(turn) * scale, np.sin(turn) * scale
        theta = torch.tensor([[cosine, -sine, shift[0] * t], [sine, cosine, shift[1] * t]], dtype=torch.float32)[None]
        grid = F.affine_grid(theta, [1, 1, side, side], align_corners=False)
        moved = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        frames.append(moved[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy())
        drawn.append((F.grid_sample(masks, grid, mode="nearest", align_corners=False)[0] > 0.5).numpy())
    return ConceptClip(f"moving-{picture.image_id}", np.stack(frames), np.stack(drawn), {})
