"""Binary masks as tensors (..., H, W): area, overlap, enclosing box, and COCO's run-length code.

COCO's code (the same bytes as `pycocotools`): a mask is read column by column, its runs of 0 and 1 alternate and start
with 0s (perhaps none of them).  From the fourth run on, the difference to the run two before is stored.  Each number is
cut into 5-bit groups, lowest first; bit 5 says that another group follows, and 48 is added so that all is printable.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "checked_runs",
    "counts_to_string",
    "mask_area",
    "mask_iou",
    "masks_to_boxes",
    "rle_decode",
    "rle_encode",
    "string_to_counts",
]

# A float32 sum of ones is exact up to 2**24, so overlaps are counted in pieces of at most this many pixels.
_PIXELS_PER_PRODUCT = 2**22


def mask_area(masks_bool: Tensor) -> Tensor:
    """Number of pixels (...) in each mask (..., H, W), int64."""
    return masks_bool.flatten(-2).sum(-1, dtype=torch.int64)


def mask_iou(a_bool: Tensor, b_bool: Tensor) -> Tensor:
    """Intersection over union (N, M) float32 of masks (N, H, W) and (M, H, W); 0 where both are empty.

    A product of flattened masks: N x HW + N x M numbers, where comparing pair by pair needs N x M x HW.
    """
    a, b = a_bool.flatten(1), b_bool.flatten(1)
    intersection = torch.zeros(len(a), len(b), dtype=torch.int64, device=a.device)
    for start in range(0, a.shape[1], _PIXELS_PER_PRODUCT):
        piece = slice(start, start + _PIXELS_PER_PRODUCT)
        with torch.autocast(a.device.type, enabled=False):  # in half precision counts are rounded
            intersection += (a[:, piece].float() @ b[:, piece].float().T).long()
    union = mask_area(a_bool)[:, None] + mask_area(b_bool)[None, :] - intersection
    return intersection.float() / union.clamp(min=1).float()


def masks_to_boxes(masks_bool: Tensor) -> Tensor:
    """Smallest boxes (N, 4) float32 around masks (N, H, W), xyxy in pixels with an exclusive end; zeros if empty."""
    rows, columns = masks_bool.any(dim=2), masks_bool.any(dim=1)  # (N, H), (N, W)
    x0, x1 = _first_and_end(columns)
    y0, y1 = _first_and_end(rows)
    return torch.stack([x0, y0, x1, y1], dim=-1).float()


def _first_and_end(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First True and one past the last True along axis 1 of (N, L); (0, 0) where there is none."""
    length = occupied.shape[1]
    counted = occupied.to(torch.uint8)
    first = counted.argmax(dim=1)
    end = length - counted.flip(1).argmax(dim=1)
    some = occupied.any(dim=1)
    return first * some, end * some


def rle_encode(masks_bool: Tensor) -> list[dict[str, Any]]:
    """COCO run-length codes `{"size": [H, W], "counts": str}` of masks (N, H, W), byte for byte pycocotools'."""
    if masks_bool.ndim != 3:
        raise ValueError(f"rle_encode takes masks (N, H, W), got {tuple(masks_bool.shape)}; add or index an axis.")
    size = list(masks_bool.shape[1:])
    return [{"size": list(size), "counts": counts_to_string(_run_lengths(mask))} for mask in masks_bool.bool().cpu()]


def rle_decode(rle: dict[str, Any]) -> Tensor:
    """The bool mask (H, W) of a COCO run-length code: `counts` compressed (str or bytes) or a list of run lengths.

    Raises ValueError where the runs do not fill `size`.
    """
    height, width = rle["size"]
    runs = checked_runs(rle["counts"], (height, width))
    values = np.arange(len(runs)) % 2 == 1
    return torch.from_numpy(np.repeat(values, runs).reshape(width, height).T.copy())


def checked_runs(counts: str | bytes | Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Run lengths (int64), zeros first, of a COCO code's `counts`; ValueError where they do not fill `size`."""
    height, width = size
    runs = string_to_counts(counts) if isinstance(counts, str | bytes) else np.asarray(counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"run lengths sum to {runs.sum()}, expected {height} x {width} = {height * width}: "
            "the code is cut off or belongs to another size."
        )
    return runs


def _run_lengths(mask_bool: Tensor) -> np.ndarray:
    """Run lengths (int64) of one mask (H, W) read column by column, the first one of zeros."""
    pixels = np.ascontiguousarray(mask_bool.numpy().T).ravel()
    if pixels.size == 0:
        return np.zeros(1, dtype=np.int64)
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    starts = [0, 0] if pixels[0] else [0]
    return np.diff(np.concatenate([starts, changes, [pixels.size]]))


def counts_to_string(runs: np.ndarray) -> str:
    """Run lengths as COCO's printable string."""
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    length = np.ones(len(numbers), dtype=np.int64)  # how many 5-bit groups hold the number and its sign
    while (too_short := (numbers < -(1 << (5 * length - 1))) | (numbers >= 1 << (5 * length - 1))).any():
        length += too_short
    group = np.arange(length.max())
    chars = (numbers[:, None] >> (5 * group)) & 31
    chars += 32 * (group < length[:, None] - 1) + 48
    return chars[group < length[:, None]].astype(np.uint8).tobytes().decode("ascii")


def string_to_counts(counts: str | bytes) -> np.ndarray:
    """Run lengths (int64) of COCO's printable string."""
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    chars = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    last = (chars & 32) == 0
    if len(chars) == 0 or not last[-1]:
        raise ValueError(f"run-length string {counts!r} is cut off: its last number is incomplete.")
    begins = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    length = np.diff(np.concatenate([begins, [len(chars)]]))
    place = np.arange(len(chars)) - np.repeat(begins, length)
    numbers = np.add.reduceat((chars & 31) << (5 * place), begins)
    numbers -= np.where(chars[last] & 16, 1 << (5 * length), 0)  # the last group's high bit is the sign
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
