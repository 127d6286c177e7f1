"""What each object remembers of a video: a bank of fixed size, and the choice of what is recalled on a frame."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..configuration import Sam3TrackerConfig
from ..modeling.memory import ObjectMemories

__all__ = ["MAX_FIXED_FRAMES", "FrameMemory", "MemoryBank", "stack_memories"]

LEAST_QUALITY = 0.01  # of a frame worth remembering (the reference's `mf_threshold`)
# Frames fixed by prompts and detections that a bank keeps. The tracker reads the four nearest to the frame it is on;
# more are kept so that a change of direction finds others.
MAX_FIXED_FRAMES = 16


class FrameMemory(NamedTuple):
    """One object on one past frame.

    Attributes:
        features: (memory_channels, grid, grid) from the memory encoder; None where only the pointer is still needed.
        pointer: (channels,) the object pointer.
        quality: 0..1, see `ObjectMasks.quality`.
    """

    features: Tensor | None
    pointer: Tensor
    quality: float


class Recalled(NamedTuple):
    """What one object recalls on a frame: memories with their slots, pointers with their ages in frames."""

    frames: list[tuple[Tensor, int]]
    pointers: list[tuple[Tensor, int]]


@dataclass
class MemoryBank:
    """One object's memories.

    Frames that a prompt or a detection fixed are kept apart (`fixed`). Of the others (`recent`, in the order in which
    they were tracked) only frames on which the object was seen well count, besides the very last one: at most
    `max_object_pointers_in_encoder` are kept, and the maps of the last `num_maskmem` of them. So a bank does not grow.
    """

    fixed: dict[int, FrameMemory] = field(default_factory=dict)
    recent: list[tuple[int, FrameMemory]] = field(default_factory=list)

    def fix(self, frame: int, memory: FrameMemory) -> None:
        """Remembers a frame that a prompt or a detection has fixed; what was tracked there before is forgotten."""
        self.fixed[frame] = memory
        self.recent = [entry for entry in self.recent if entry[0] != frame]
        if len(self.fixed) > MAX_FIXED_FRAMES:
            first = next(iter(self.fixed))  # the object's first appearance is never forgotten
            farthest = max((f for f in self.fixed if f != first), key=lambda f: abs(f - frame))
            del self.fixed[farthest]

    def add(self, frame: int, memory: FrameMemory, config: Sam3TrackerConfig) -> None:
        """Remembers a frame on which the object was tracked."""
        kept = [entry for entry in self.recent if entry[0] != frame and entry[1].quality > LEAST_QUALITY]
        kept = [*kept, (frame, memory)][-config.max_object_pointers_in_encoder :]
        bare = max(len(kept) - config.num_maskmem, 0)
        self.recent = [(f, m._replace(features=None)) for f, m in kept[:bare]] + kept[bare:]

    def doubt(self, frame: int, count: int) -> None:
        """Forgets the `count` frames before this one, but for the fixed ones: the object was not what was seen."""
        self.recent = [entry for entry in self.recent if abs(frame - entry[0]) > count]

    def turn(self) -> None:
        """Forgets all frames but the fixed ones: the video is followed in the other direction from here."""
        self.recent = []

    def recall(self, frame: int, config: Sam3TrackerConfig, longest: int, reverse: bool = False) -> Recalled:
        """What the object recalls on a frame.

        Args:
            frame: the frame it is looked for on.
            config: number of memories and pointers.
            longest: pointers recalled at most: `max_object_pointers_in_encoder`, or the frames of a shorter video.
            reverse: the video is followed backwards.
        """
        chosen = _nearest(frame, list(self.fixed), config.max_cond_frame_num)
        last_slot = config.num_maskmem - 1
        frames = [(self.fixed[f].features, last_slot) for f in chosen]
        others = self._usable(frame, longest, reverse)
        for slot, memory in enumerate(reversed(others[-last_slot:])):
            if memory is not None:
                frames.append((memory.features, slot))
        sign = -1 if reverse else 1
        pointers = [(self.fixed[f].pointer, (frame - f) * sign) for f in chosen if (frame - f) * sign >= 0]
        for age, memory in enumerate(reversed(others[1:]), 1):  # the oldest gives a map but no pointer
            if memory is not None:
                pointers.append((memory.pointer, age))
        return Recalled([(features, slot) for features, slot in frames if features is not None], pointers)

    def _usable(self, frame: int, longest: int, reverse: bool) -> list[FrameMemory | None]:
        """Frames seen well and, however it was seen, the one just before; oldest first. None: it is one of `fixed`."""
        before = frame + 1 if reverse else frame - 1
        good = [entry for entry in self.recent if entry[1].quality > LEAST_QUALITY][-(longest - 1) :]
        memories: list[FrameMemory | None] = [memory for _, memory in good]
        if not good or good[-1][0] != before:
            memories.append(dict(self.recent).get(before))
        return memories


def _nearest(frame: int, frames: Sequence[int], number: int) -> list[int]:
    """Up to `number` fixed frames: the nearest before, the nearest from here on, then the nearest of the rest."""
    if number == -1 or len(frames) <= number:
        return list(frames)
    before = max((f for f in frames if f < frame), default=None)
    after = min((f for f in frames if f >= frame), default=None)
    chosen = [f for f in (before, after) if f is not None]
    rest = sorted((f for f in frames if f not in chosen), key=lambda f: abs(f - frame))
    return chosen + rest[: number - len(chosen)]


def stack_memories(recalled: Sequence[Recalled], longest: int, device: torch.device) -> ObjectMemories:
    """The memories of several objects as one batch on `device`, padded to the longest; see `ObjectMemories`.

    Each must have a frame; it may have no pointer, where all its frames lie ahead.
    """
    maps, slots, maps_valid = _stack([one.frames for one in recalled], device)
    pointers, ages, pointers_valid = _stack([one.pointers for one in recalled], device)
    return ObjectMemories(maps, slots, maps_valid, pointers, ages / max(longest - 1, 1), pointers_valid)


def _stack(items: Sequence[list[tuple[Tensor, int]]], device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Tensors (objects, most, ...), their numbers (objects, most), and which are real, or None where all are."""
    most = max(len(entries) for entries in items)
    if most == 0:
        return torch.zeros(len(items), 0, 0, device=device), torch.zeros(len(items), 0, device=device), None
    blank = next(entry[0][0] for entry in items if entry)
    rows = [[tensor for tensor, _ in entries] + [torch.zeros_like(blank)] * (most - len(entries)) for entries in items]
    numbers = [[number for _, number in entries] + [0] * (most - len(entries)) for entries in items]
    stacked = torch.stack([torch.stack(row) for row in rows]).to(device, non_blocking=True)
    valid = None
    if any(len(entries) < most for entries in items):
        counts = torch.tensor([len(entries) for entries in items])
        valid = (torch.arange(most)[None] < counts[:, None]).to(device)
    return stacked, torch.tensor(numbers, device=device), valid
