"""Targets of a batch, packed, and the one normaliser of its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..ops.boxes import box_xyxy_to_cxcywh
from ..ops.masks import masks_to_boxes

__all__ = ["Normalizer", "Targets"]

Labels = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Normalizer:
    """What the losses of one optimizer step are divided by: its totals over micro-batches and processes.

    Attributes:
        num_boxes: targets; divides box and mask losses.
        num_rows: picture-phrase pairs; divides class and presence losses.
        num_present: rows whose phrase has a mask; divides the semantic losses.
    """

    num_boxes: float
    num_rows: float
    num_present: float

    @classmethod
    def of(cls, labels: Labels) -> "Normalizer":
        """The counts of one micro-batch's labels."""
        sizes = [_num_targets(label) for label in labels]
        present = sum(size > 0 and label.get("masks") is not None for size, label in zip(sizes, labels, strict=True))
        return cls(float(sum(sizes)), float(len(sizes)), float(present))

    def __add__(self, other: "Normalizer") -> "Normalizer":
        return Normalizer(
            self.num_boxes + other.num_boxes, self.num_rows + other.num_rows, self.num_present + other.num_present
        )

    def over_processes(self, device: torch.device, mean: bool = False) -> "Normalizer":
        """The totals (or means) over all processes; itself where torch.distributed does not run."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        counts = torch.tensor([self.num_boxes, self.num_rows, self.num_present], device=device)
        torch.distributed.all_reduce(counts)
        return Normalizer(*(counts / torch.distributed.get_world_size() if mean else counts).tolist())


@dataclass(frozen=True)
class Targets:
    """Targets of all rows, one after the other.

    Attributes:
        counts: number of targets of each row.
        boxes: (num_targets, 4) cxcywh in 0..1, float32.
        masks: (num_targets, height, width) bool; of targets without mask all False.
        has_mask: (num_targets,) bool.
        rows: (num_targets,) row of each target.
        rows_with_masks: (num_rows,) bool: rows with targets, all of which have masks (the semantic map is known).
        is_exhaustive: (num_rows,) bool: what is not among a row's targets is not the phrase.
    """

    counts: list[int]
    boxes: Tensor
    masks: Tensor | None
    has_mask: Tensor
    rows: Tensor
    rows_with_masks: Tensor
    is_exhaustive: Tensor

    @property
    def present(self) -> Tensor:
        """(num_rows,) float: whether the row's phrase is in its picture."""
        return torch.tensor([count > 0 for count in self.counts], dtype=torch.float32, device=self.boxes.device)

    @classmethod
    def pack(cls, labels: Labels, num_rows: int, device: torch.device) -> "Targets":
        """The targets of `labels`, checked.

        Args:
            labels: per row `{"boxes": (n, 4) cxcywh in 0..1, "masks": (n, h, w) bool}`; either may be missing.
            num_rows: rows (picture-phrase pairs) that the model answered.
            device: where the model runs.

        Raises:
            ValueError, TypeError: naming the row whose labels cannot be used.
        """
        if isinstance(labels, Mapping) or not isinstance(labels, Sequence):
            raise TypeError(f"labels must be a list with one dict per row, got {type(labels).__name__}")
        if len(labels) != num_rows:
            raise ValueError(
                f"{len(labels)} labels for {num_rows} rows; give one dict per picture-phrase pair, with empty boxes "
                "(0, 4) where the phrase is absent"
            )
        parts = [_checked(label, row) for row, label in enumerate(labels)]
        counts = [len(boxes) for boxes, _ in parts]
        with_masks = [masks for _, masks in parts if masks is not None and len(masks)]
        height, width = (max(m.shape[axis] for m in with_masks) if with_masks else 0 for axis in (1, 2))
        masks = None
        if with_masks:
            masks = torch.cat([_sized(m, len(b), height, width) for b, m in parts]).to(device)
        flags = [torch.full((n,), m is not None) for n, (_, m) in zip(counts, parts, strict=True)]
        known = [n > 0 and m is not None for n, (_, m) in zip(counts, parts, strict=True)]
        return cls(
            counts=counts,
            boxes=torch.cat([boxes for boxes, _ in parts]).to(device),
            masks=masks,
            has_mask=torch.cat(flags).to(device),
            rows=torch.arange(num_rows).repeat_interleave(torch.tensor(counts)).to(device),
            rows_with_masks=torch.tensor(known).to(device),
            is_exhaustive=torch.tensor([bool(label.get("is_exhaustive", True)) for label in labels]).to(device),
        )


def _num_targets(label: Mapping[str, Any]) -> int:
    boxes, masks = label.get("boxes"), label.get("masks")
    return len(boxes) if boxes is not None else len(masks) if masks is not None else 0


def _checked(label: Mapping[str, Any], row: int) -> tuple[Tensor, Tensor | None]:
    """Boxes and masks of one row; boxes from the masks where only those are given."""
    boxes, masks = label.get("boxes"), label.get("masks")
    if boxes is None and masks is None:
        raise ValueError(f"labels[{row}] has neither 'boxes' nor 'masks': {sorted(label)}; absent is boxes of (0, 4)")
    if masks is not None:
        masks = torch.as_tensor(masks)
        if masks.dim() != 3:
            raise ValueError(f"labels[{row}]['masks'] must have shape (n, height, width), got {tuple(masks.shape)}")
        masks = masks.bool().cpu()
    if boxes is None:
        assert masks is not None
        size = torch.tensor([masks.shape[2], masks.shape[1]] * 2)
        boxes = box_xyxy_to_cxcywh(masks_to_boxes(masks) / size.clamp(min=1))
    boxes = torch.as_tensor(boxes).float().cpu().reshape(-1, 4)
    if masks is not None and len(masks) != len(boxes):
        raise ValueError(f"labels[{row}] has {len(boxes)} boxes and {len(masks)} masks; give one mask per box")
    if not torch.isfinite(boxes).all() or (boxes < -1e-4).any() or (boxes > 1 + 1e-4).any():
        raise ValueError(
            f"labels[{row}]['boxes'] must be cxcywh as fractions 0..1 of the picture, got "
            f"{boxes[((boxes < -1e-4) | (boxes > 1 + 1e-4) | ~torch.isfinite(boxes)).any(1)][0].tolist()}"
        )
    if (boxes[:, 2:] <= 0).any():
        which = int((boxes[:, 2:] <= 0).any(1).nonzero()[0, 0])
        raise ValueError(f"labels[{row}]: target {which} is empty, box {boxes[which].tolist()}; leave it out")
    return boxes, masks


def _sized(masks: Tensor | None, count: int, height: int, width: int) -> Tensor:
    """`count` masks of the common size; False where there are none."""
    if masks is None or not len(masks):
        return torch.zeros(count, height, width, dtype=torch.bool)
    if masks.shape[1:] == (height, width):
        return masks
    return torch.nn.functional.interpolate(masks[None].float(), (height, width), mode="nearest-exact")[0] > 0.5
