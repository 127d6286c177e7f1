"""Remake losses/cases.safetensors: the reference's losses in cases that reference/remake_losses.py does not have.

usage: PEERS/python tests/golden/make_losses.py   (needs the packages `sam3` 0.1.4, torch, torchmetrics; no GPU)

Cases: `one` (a single target), `none` (no phrase is present), `boxes` (no target has a mask), `some` (every other one
has). The last two differ from the reference's own script in `is_valid_mask` alone.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "reference"))

import remake_losses  # noqa: E402

CASES = {"one": [1], "none": [0, 0, 0], "boxes": [2, 0, 3], "some": [4, 1]}
remake_losses.NUM_QUERIES, remake_losses.SIDE = 18, 12


def valid_masks(case: str, count: int) -> torch.Tensor:
    """Which targets have a mask."""
    if case == "some":
        return torch.arange(count) % 2 == 0
    return torch.full((count,), case != "boxes")


def reference_losses(case: str, outputs: dict, targets: dict) -> dict[str, torch.Tensor]:
    """`remake_losses.reference_losses` with the given targets' masks declared invalid."""
    masks = remake_losses.terms.Masks
    given, valid = masks.get_loss, valid_masks(case, len(targets["boxes"]))

    def get_loss(self, outputs, targets, indices, num_boxes):
        return given(self, outputs, targets | {"is_valid_mask": valid}, indices, num_boxes)

    masks.get_loss = get_loss
    try:
        return remake_losses.reference_losses(outputs, targets)
    finally:
        masks.get_loss = given


def main() -> None:
    stored = {}
    for seed, (case, counts) in enumerate(CASES.items()):
        remake_losses.NUM_TARGETS = counts
        outputs, targets = remake_losses.random_case(100 + seed)
        results = reference_losses(case, outputs, targets)
        targets["has_mask"] = valid_masks(case, len(targets["boxes"]))
        for group, tensors in (("in", outputs | targets), ("out", results)):
            stored |= {f"{case}.{group}.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    (HERE / "losses").mkdir(exist_ok=True)
    save_file(stored, HERE / "losses" / "cases.safetensors")


if __name__ == "__main__":
    main()
