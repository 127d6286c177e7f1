"""Memory of one training step of the detector, computed part by part without doing it.

usage: python benchmarks/training_memory.py [--image-size 1008] [--rows 1] [--dtype bfloat16] [--recipes lora ...]

The forward pass runs on fake tensors, which have shapes and no memory, and every tensor that autograd keeps for the
backward pass is counted once, by the part that made it. Weights, gradients and optimizer state (AdamW, two moments) are
counted exactly. Attention is the fused one (dropout is set to 0 for that). What is not counted: workspaces of kernels,
fragmentation, DAC's copies of the queries, the tensors of the loss itself; with checkpointing, the activations of the
one layer that is recomputed come on top. So these figures are a lower bound, computed and not measured.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from sam3_hf import Sam3Detector, Sam3DetectorConfig
from sam3_hf.training import add_lora, freeze

GIGABYTE = 2**30
PARTS = ("vision_encoder", "text_encoder", "geometry_encoder", "detr_encoder", "detr_decoder", "pixel_decoder")
RECIPES = ("full", "frozen_towers", "lora", "lora_heads")


class Kept:
    """Bytes that autograd keeps, by part; a storage counts once, and weights do not count."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes: Counter[str] = Counter()
        self.seen = {p.untyped_storage()._cdata for p in [*model.parameters(), *model.buffers()]}
        self.alive: list[Any] = []  # storages must not be freed, or another one could get the same address
        self.part = ["other"]

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.alive.append(storage)
            self.bytes[self.part[-1]] += storage.nbytes()
        return tensor

    def watch(self, model: nn.Module) -> None:
        for name, module in model.named_modules():
            if name.rpartition(".")[2] in PARTS:
                part = name.rpartition(".")[2]
                module.register_forward_pre_hook(lambda *_, part=part: self.part.append(part))
                module.register_forward_hook(lambda *_: self.part.pop() and None)


@contextmanager
def counted(model: nn.Module) -> Iterator[Kept]:
    kept = Kept(model)
    kept.watch(model)
    with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        yield kept


def build(recipe: str, image_size: int, dtype: torch.dtype, checkpointing: bool) -> nn.Module:
    config = Sam3DetectorConfig()
    config.image_size = image_size
    # On a CPU, whose kernels the fake tensors take, fused attention knows no dropout; on a GPU it does.
    for part in (config.geometry_encoder_config, config.detr_encoder_config, config.detr_decoder_config):
        part.dropout = 0.0
    torch.set_default_dtype(dtype)
    try:
        model: Any = Sam3Detector(config)
    finally:
        torch.set_default_dtype(torch.float32)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe == "frozen_towers":
        freeze(model, "towers")
    if recipe.startswith("lora"):
        parts = ("fusion", "decoder", "heads") if recipe == "lora_heads" else None
        # Adapters are made where they belong, and moving fake tensors is not known to modules.
        with patch.object(nn.Module, "to", lambda module, *_, **__: module):
            model = add_lora(model, rank=16, **({"parts": parts} if parts else {}))
    return model.train()


def step(model: nn.Module, image_size: int, rows: int, dtype: torch.dtype) -> Any:
    """A forward pass with the answers that a loss would read: those of both halves of the queries."""
    detector = model.get_base_model() if hasattr(model, "get_base_model") else model
    pixels = torch.empty(1, 3, image_size, image_size, dtype=dtype)
    ids = torch.zeros(rows, 32, dtype=torch.long)
    return detector(pixel_values=pixels, input_ids=ids)


def measure(recipe: str, image_size: int, rows: int, dtype: torch.dtype, checkpointing: bool) -> dict[str, float]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build(recipe, image_size, dtype, checkpointing)
        with counted(model) as kept:
            output = step(model, image_size, rows, dtype)
        del output
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        learning = [p for p in model.parameters() if p.requires_grad]
        gradients = sum(p.numel() * p.element_size() for p in learning)
        found = {"weights": weights, "gradients": gradients, "AdamW": 2 * gradients, **kept.bytes}
    return {name: size / GIGABYTE for name, size in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=1008)
    parser.add_argument("--rows", type=int, default=1, help="phrases on the one picture")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    dtype = getattr(torch, options.dtype)
    columns = ("weights", "gradients", "AdamW", *PARTS, "other")
    print("computed, in GB;", f"{options.image_size} px, {options.rows} row(s), {options.dtype}")
    print("recipe               checkpointing  " + "".join(f"{name[:9]:>10}" for name in columns) + "     total")
    for recipe in options.recipes:
        for checkpointing in (False, True):
            sizes = measure(recipe, options.image_size, options.rows, dtype, checkpointing)
            line = "".join(f"{sizes.get(name, 0):10.2f}" for name in columns)
            print(f"{recipe:<20} {'yes' if checkpointing else 'no':<13} {line}{sum(sizes.values()):10.2f}", flush=True)


if __name__ == "__main__":
    main()
