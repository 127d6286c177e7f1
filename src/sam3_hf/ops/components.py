"""Connected components of binary masks, and the small ones among them: holes to fill, specks to remove.

Pixels that touch at a side or a corner are connected (8-connectivity), in the mask and in its background alike. Work is
done on runs, the unbroken stretches of set pixels in a row, of which there are far fewer than pixels: where two runs
touch, the larger root is hooked under the smaller one, and paths are shortened by pointer jumping, until no neighbours
differ (Shiloach and Vishkin, https://doi.org/10.1016/0196-6774(82)90008-6).
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["fill_holes_and_remove_specks", "label_components", "small_components"]

# Just in and just out of the mask: the values of the reference's `fill_holes_in_mask_scores`.
FILLED_LOGIT = 0.1
REMOVED_LOGIT = -0.1


class _Runs(NamedTuple):
    """Runs (R,) int64 of all masks in reading order, with the component each belongs to."""

    image: Tensor
    start: Tensor  # of the first pixel, in the flattened (N, H, W)
    length: Tensor
    root: Tensor  # index of the component's first run

    def area(self) -> Tensor:
        """Pixels (R,) int64 of the component that each run belongs to."""
        return torch.zeros_like(self.length).index_add_(0, self.root, self.length)[self.root]

    def pixels(self) -> Tensor:
        """Where the runs' pixels are in the flattened (N, H, W), run after run."""
        before = self.length.cumsum(0) - self.length
        pixels = torch.repeat_interleave(self.start - before, self.length)
        return pixels + torch.arange(len(pixels), device=pixels.device)


def label_components(masks_bool: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and areas (N, H, W) int32 of each pixel's component in masks (N, H, W); both are 0 outside the masks.

    Labels count 1, 2, ... within each mask, in reading order of the components' first pixels.
    """
    runs = _find_runs(masks_bool)
    is_root = runs.root == torch.arange(len(runs.root), device=runs.root.device)
    rank = is_root.cumsum(0)
    roots_before = torch.zeros(len(masks_bool) + 1, dtype=torch.int64, device=rank.device)
    roots_before[1:] = torch.bincount(runs.image[is_root], minlength=len(masks_bool)).cumsum(0)
    label = rank[runs.root] - roots_before[runs.image]
    labels = torch.zeros(masks_bool.shape, dtype=torch.int32, device=masks_bool.device)
    areas = torch.zeros_like(labels)
    pixels = runs.pixels()
    labels.view(-1)[pixels] = torch.repeat_interleave(label.int(), runs.length)
    areas.view(-1)[pixels] = torch.repeat_interleave(runs.area().int(), runs.length)
    return labels, areas


def small_components(masks_bool: Tensor, max_area: int | Tensor) -> Tensor:
    """The pixels (N, H, W) bool of masks (N, H, W) whose component has at most `max_area` pixels.

    `max_area` is one number, or one for each mask (N,).
    """
    runs = _find_runs(masks_bool)
    limit = max_area[runs.image] if isinstance(max_area, Tensor) else max_area
    small = runs.area() <= limit
    found = torch.zeros(masks_bool.shape, dtype=torch.bool, device=masks_bool.device)
    found.view(-1)[_Runs(*(values[small] for values in runs)).pixels()] = True
    return found


def fill_holes_and_remove_specks(mask_logits: Tensor, max_area: int = 16) -> Tensor:
    """Logits (N, H, W) with small holes set to 0.1, and then small specks to -0.1; all others as they were.

    A hole is a component of what is not above 0, with at most `max_area` pixels (at the border too). A speck is a
    component of what is above 0 then, with at most `max_area` pixels and at most half of its mask: a tiny object that
    is all there is stays, but two equal halves both go. `max_area` 0 changes nothing.
    """
    if not mask_logits.is_floating_point():
        raise TypeError(f"mask_logits are {mask_logits.dtype}, expected floating point logits: do not threshold them.")
    if max_area <= 0:
        return mask_logits
    holes = small_components(mask_logits <= 0, max_area)
    filled = torch.where(holes, FILLED_LOGIT, mask_logits)
    foreground = filled > 0
    half = foreground.sum(dim=(1, 2), dtype=torch.int32) // 2  # far faster than a sum in int64
    specks = small_components(foreground, half.clamp(max=max_area))
    return torch.where(specks, REMOVED_LOGIT, filled)


def _find_runs(masks_bool: Tensor) -> _Runs:
    """The runs of masks (N, H, W), joined to components."""
    if masks_bool.ndim != 3 or masks_bool.dtype != torch.bool:
        raise ValueError(
            f"masks are {masks_bool.dtype} {tuple(masks_bool.shape)}, expected bool (N, H, W): threshold logits at 0, "
            "index or add an axis."
        )
    num_masks, height, width = masks_bool.shape
    # An empty column and an empty row behind each mask, and one empty pixel before all: no run goes on in the next row,
    # and the last row of a mask is no neighbour of the next mask.
    stride, size = width + 1, (height + 1) * (width + 1)
    flat = torch.zeros(1 + num_masks * size, dtype=torch.bool, device=masks_bool.device)
    flat[1:].view(num_masks, height + 1, stride)[:, :height, :width] = masks_bool
    changes = torch.nonzero(flat[1:] ^ flat[:-1]).flatten()
    start, end = changes[0::2].contiguous(), changes[1::2].contiguous()
    image = start // size
    row = start // stride  # counts the empty rows as well
    return _Runs(image, start - row - image * width, end - start, _join(start, end, stride))


def _join(start: Tensor, end: Tensor, stride: int) -> Tensor:
    """For each run [start, end), both sorted, the first run of its component; rows are `stride` apart."""
    # The neighbours in the row above end at or after this run's start there, and start at or before its end.
    first = torch.searchsorted(end, start - stride)
    num_above = torch.searchsorted(start, end - stride, right=True) - first
    below = torch.repeat_interleave(torch.arange(len(start), device=start.device), num_above)
    before = num_above.cumsum(0) - num_above
    above = torch.arange(len(below), device=start.device) + (first - before)[below]

    root = torch.arange(len(start), device=start.device)
    while len(below):
        a, b = root[above], root[below]
        root.scatter_reduce_(0, torch.maximum(a, b), torch.minimum(a, b), "amin")
        while not torch.equal(jumped := root[root], root):
            root = jumped
        apart = root[above] != root[below]
        above, below = above[apart], below[apart]
    return root
