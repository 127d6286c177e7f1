"""Clips to train the tracker on: drawn ones, and pictures set in motion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data import ConceptClip, ConceptExample, concept_clip
from ..processing.images import normalize_pixels, resize_image
from ..video.clip_loss import PROMPTS

__all__ = ["ClipCollator", "ClipDataset", "moving_picture"]

_HALF = (0.5, 0.5, 0.5)
_TIMES_AS_LONG = (3, 6, 12)
_WELL_SEEN = 0.6  # of an object's greatest area
_BACK_WITHIN = 4  # frames before an object hides, and after it is back, of which the first to be shown is drawn
_TRIES = 100  # clips drawn for an item before giving up: some pictures have no masks, some clips nothing at the start


class ClipDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Clips to follow objects through: drawn ones, or pictures set in motion.

    An item holds `pixel_values` (num_frames, 3, S, S), `clip_masks` (num_frames, num_objects, h, w) bool and
    `clip_prompts`, how the objects are shown on the first frame. `ClipCollator` makes batches of them.

    Args:
        pictures: annotated pictures, each made a clip by a random affine motion; None: concept clips, of which a part
            is shown: their objects cross the whole picture in however many frames there are, so short ones leap.
        length: number of items.
        num_frames: of a clip.
        image_size: side of the square that the model sees.
        max_objects: at most so many objects of a clip.
        seed: with an item's number it decides the clip.
        leaps: share of concept clips whose frames are drawn from anywhere in the whole, in order: objects that were
            hidden or away must be found again elsewhere.
        returns: share of concept clips in which an object is shown before it hides, while it does, and when it comes
            back. In the clips that neither leap nor return the frames follow one another.
    """

    def __init__(
        self,
        pictures: Any = None,
        length: int = 100_000,
        num_frames: int = 8,
        image_size: int = 224,
        max_objects: int = 4,
        seed: int = 0,
        leaps: float = 0.2,
        returns: float = 0.6,
    ) -> None:
        self.pictures, self.length, self.num_frames = pictures, length, num_frames
        self.image_size, self.max_objects, self.seed = image_size, max_objects, seed
        self.leaps, self.returns = leaps, returns

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"clip {index} of {self.length}")
        rng = np.random.default_rng((self.seed, index))
        for _ in range(_TRIES):
            clip = self._part(rng) if self.pictures is None else self._moving(rng)
            start = np.flatnonzero(clip.masks[0].any((1, 2)))
            if len(start):
                break
        else:
            raise ValueError(f"{_TRIES} clips drawn for item {index} had no object with a mask on their first frame.")
        chosen = _returning_first(clip.masks, rng.permutation(start))[: self.max_objects]
        side = self.image_size
        pictures = (torch.from_numpy(frame).permute(2, 0, 1) for frame in clip.frames)
        resized = (resize_image(picture, {"height": side, "width": side}) for picture in pictures)
        pixels = torch.stack([normalize_pixels(picture, _HALF, _HALF) for picture in resized])
        masks = torch.from_numpy(clip.masks[:, chosen])
        return {"pixel_values": pixels, "clip_masks": masks, "clip_prompts": PROMPTS[index % len(PROMPTS)]}

    def _part(self, rng: np.random.Generator) -> ConceptClip:
        """`num_frames` of a concept clip that is 3 to 12 times as long, forwards or backwards."""
        length = self.num_frames * int(rng.choice(_TIMES_AS_LONG))
        kind, is_reversed = rng.random(), rng.random() < 0.5

        def shown(masks: np.ndarray) -> list[int]:
            in_time = masks[::-1] if is_reversed else masks
            frames = None
            if kind < self.returns:
                frames = _hidden_and_back(in_time, self.num_frames, rng)
            elif kind < self.returns + self.leaps:
                frames = np.sort(rng.choice(length, self.num_frames, replace=False))
            if frames is None:
                frames = np.arange(self.num_frames) + rng.integers(length - self.num_frames + 1)
            chosen: list[int] = (length - 1 - frames if is_reversed else frames).tolist()
            return chosen

        return concept_clip(int(rng.integers(2**40)), length, self.image_size, shown=shown)

    def _moving(self, rng: np.random.Generator) -> ConceptClip:
        """A picture in motion; without objects where it has no masks."""
        example = self.pictures[int(rng.integers(len(self.pictures)))]
        if not example.masks:
            return ConceptClip("", np.zeros((1, 1, 1, 3), np.uint8), np.zeros((1, 0, 1, 1), bool), {})
        return moving_picture(example, self.num_frames, rng, max_objects=self.max_objects)


def _hidden_and_back(masks: np.ndarray, num_frames: int, rng: np.random.Generator) -> np.ndarray | None:
    """Numbers of frames with an object well seen, then hidden, then back; None where none is hidden long enough.

    Up to a third of the frames are before, up to half while it is hidden; before and after they follow one another.
    """
    areas = masks.sum((2, 3))
    third = max(num_frames // 3, 1)
    for index in rng.permutation(areas.shape[1]):
        area = areas[:, index]
        seen = np.flatnonzero(area)
        gaps = np.flatnonzero(np.diff(seen) > 1)
        if not len(gaps):
            continue
        gap = rng.choice(gaps)
        away = np.arange(seen[gap] + 1, seen[gap + 1])
        num_before = int(rng.integers(1, third + 1))
        num_away = int(rng.integers(1, max(num_frames // 2, 1) + 1))
        num_back = num_frames - num_before - num_away
        first = int(np.flatnonzero(area > _WELL_SEEN * area.max())[0])
        before = np.arange(max(first, away[0] - num_before - rng.integers(_BACK_WITHIN)), away[0])[:num_before]
        back = seen[gap + 1] + rng.integers(_BACK_WITHIN) + np.arange(num_back)
        if len(before) < num_before or num_away > len(away) or num_back < 1 or back[-1] >= len(masks):
            continue
        return np.concatenate([before, np.sort(rng.choice(away, num_away, replace=False)), back])
    return None


def _returning_first(masks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The numbers of objects, those first that are away on a frame and to be seen on a later one."""
    seen = masks[:, numbers].any((2, 3))
    returns = (np.diff(seen.astype(np.int8), axis=0) == 1).any(0)
    return np.concatenate([numbers[returns], numbers[~returns]])


class ClipCollator:
    """A batch of clips of equal length, as `Sam3Model.forward` takes it."""

    def __call__(self, clips: Sequence[dict[str, Any]]) -> dict[str, Any]:
        lengths = {len(clip["pixel_values"]) for clip in clips}
        if len(lengths) != 1:
            raise ValueError(f"clips of {sorted(lengths)} frames cannot be one batch; use one num_frames")
        batch = {name: [clip[name] for clip in clips] for name in ("clip_masks", "clip_prompts")}
        return batch | {"pixel_values": torch.stack([clip["pixel_values"] for clip in clips])}


def moving_picture(
    example: ConceptExample,
    num_frames: int,
    rng: np.random.Generator,
    side: int = 256,
    max_objects: int | None = None,
) -> ConceptClip:
    """A clip in which a picture shifts, turns and grows a little from frame to frame, its objects with it.

    Args:
        example: the picture, with masks.
        num_frames: of the clip.
        rng: draws the motion.
        side: of the frames, in pixels.
        max_objects: so many objects at most, drawn from all; None: all.
    """
    from .pictures import open_picture

    picture = open_picture(example)
    if not picture.regions:
        raise ValueError(f"picture {picture.image_id!r} has no masks, so its objects cannot be followed.")
    regions = [picture.regions[i] for i in rng.permutation(len(picture.regions))[:max_objects]]
    drawn_masks = np.zeros((len(regions), *picture.size), dtype=bool)
    for region, mask in zip(regions, drawn_masks, strict=True):
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
