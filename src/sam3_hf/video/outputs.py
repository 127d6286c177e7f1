"""What a frame of a video gives, and how it becomes masks of the video's size."""

from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils import ModelOutput

from ..ops.masks import masks_to_boxes
from .rules import resolve_overlaps

__all__ = ["Sam3VideoOutput", "postprocess_outputs"]


@dataclass
class Sam3VideoOutput(ModelOutput):
    """All objects on one frame.

    Attributes:
        frame_idx: number of the frame.
        obj_id_to_mask: id → (1, 4·grid, 4·grid) mask logits.
        obj_id_to_score: id → 0..1, of the detection that started it; 1 where a user had a hand in it.
        obj_id_to_tracker_score: id → 0..1: is it in this frame's picture?
        obj_id_to_concept: id → index of its phrase, or None.
        user_obj_ids: objects that a user pointed out or corrected; they share no pixels with the rules.
        removed_obj_ids: objects in it that the hot start has removed since; they are not shown.
        suppressed_obj_ids: objects that are not shown on this frame.
        video_size: (height, width), where it is known.
        prompts: phrases by index.
    """

    frame_idx: int = 0
    obj_id_to_mask: dict[int, Tensor] = field(default_factory=dict)
    obj_id_to_score: dict[int, float] = field(default_factory=dict)
    obj_id_to_tracker_score: dict[int, float] = field(default_factory=dict)
    obj_id_to_concept: dict[int, int | None] = field(default_factory=dict)
    user_obj_ids: set[int] = field(default_factory=set)
    removed_obj_ids: set[int] = field(default_factory=set)
    suppressed_obj_ids: set[int] = field(default_factory=set)
    video_size: tuple[int, int] | None = None
    prompts: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A plain record: `ModelOutput` would leave out what is empty."""

    def add(
        self, number: int, mask: Tensor, score: float, tracker_score: float, concept: int | None, by_user: bool = False
    ) -> None:
        """Adds an object."""
        self.obj_id_to_mask[number] = mask[None]
        self.obj_id_to_score[number] = score
        self.obj_id_to_tracker_score[number] = tracker_score
        self.obj_id_to_concept[number] = concept
        if by_user:
            self.user_obj_ids.add(number)

    def to_plain(self) -> dict[str, Any]:
        """Plain containers and tensors in main memory, that `torch.load` may read."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        plain["obj_id_to_mask"] = {number: mask.cpu() for number, mask in self.obj_id_to_mask.items()}
        return {name: sorted(value) if isinstance(value, set) else value for name, value in plain.items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Sam3VideoOutput":
        """What `to_plain` gave."""
        sets = {name: set(plain[name]) for name in ("user_obj_ids", "removed_obj_ids", "suppressed_obj_ids")}
        return cls(**(plain | sets))

    @property
    def object_ids(self) -> list[int]:
        """Ids of the objects, oldest first."""
        return list(self.obj_id_to_mask)

    @property
    def pred_masks(self) -> Tensor:
        """(objects, 1, 4·grid, 4·grid) mask logits of all objects, in the order of `object_ids`."""
        if not self.obj_id_to_mask:
            return torch.zeros(0, 1, 0, 0)
        return torch.stack(list(self.obj_id_to_mask.values()))


def postprocess_outputs(output: Sam3VideoOutput, size: tuple[int, int]) -> dict[str, Any]:
    """The objects to show on a frame: `object_ids` (n,), `scores` (n,), `boxes` (n, 4) xyxy in pixels, `masks` (n,
    height, width) bool, `labels` (their phrases, None where a user pointed) and `prompt_to_obj_ids`.

    Logits are resized to the video and compared with 0. Objects of one phrase share no pixel: the one that the tracker
    is surer of has it. Empty masks, and objects that are removed or suppressed, are left out.

    Args:
        output: of a frame.
        size: (height, width) of the video.
    """
    hidden = output.removed_obj_ids | output.suppressed_obj_ids
    ids = sorted(number for number in output.obj_id_to_mask if number not in hidden)
    masks = torch.zeros(0, *size, dtype=torch.bool)
    if ids:
        logits = torch.stack([output.obj_id_to_mask[number] for number in ids]).float()
        masks = F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0] > 0
        visible = masks.flatten(1).any(1)
        masks = masks[visible]
        ids = [number for number, is_visible in zip(ids, visible.tolist(), strict=True) if is_visible]
        groups: dict[int, list[int]] = {}
        for row, number in enumerate(ids):
            concept = output.obj_id_to_concept[number]
            if concept is not None and number not in output.user_obj_ids:
                groups.setdefault(concept, []).append(row)
        for rows in groups.values():
            scores = torch.tensor([output.obj_id_to_tracker_score[ids[row]] for row in rows], device=masks.device)
            masks[rows] = resolve_overlaps(masks[rows], scores)
    named = {number: output.obj_id_to_concept[number] for number in ids}
    labels = [None if concept is None else output.prompts[concept] for concept in named.values()]
    by_phrase: dict[str, list[int]] = {}
    for number, label in zip(ids, labels, strict=True):
        if label is not None:
            by_phrase.setdefault(label, []).append(number)
    return {
        "object_ids": torch.tensor(ids, dtype=torch.int64),
        "scores": torch.tensor([output.obj_id_to_score[number] for number in ids]),
        "boxes": masks_to_boxes(masks),
        "masks": masks,
        "labels": labels,
        "prompt_to_obj_ids": by_phrase,
    }
