"""What is trained, and how fast: frozen towers, rates by part and by layer, weight decay where it belongs."""

import re
from typing import Any

from torch import nn

__all__ = ["FREEZE", "RECIPES", "freeze", "parameter_groups"]

FREEZE = ("none", "vision", "text", "towers", "detector")

# Arguments by the name of a recipe, for `Sam3TrainingArguments`; LoRA's adapters start at zero and learn fast.
RECIPES: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen_towers": {"freeze": "towers"},
    "lora": {"learning_rate": 5e-4, "vision_lr_scale": 1.0, "text_lr_scale": 1.0, "layer_decay": 1.0},
}

# Names may begin with what a wrapper puts in front: `detector_model.`, peft's `base_model.model.`, DDP's `module.`.
_VISION = re.compile(r"(^|\.)vision_encoder\.")
_TEXT = re.compile(r"(^|\.)text_(encoder|projection)\.")
_VISION_LAYER = re.compile(r"(^|\.)vision_encoder\.backbone\.layers\.(\d+)\.")
_VISION_INPUT = re.compile(r"(^|\.)vision_encoder\.backbone\.(embeddings|layer_norm)\.")
# Parameters that are no layer's weight: positions, tokens, scales.
_BARE = re.compile(r"(position_embeddings|memory_temporal|no_object|no_memory|occlusion_spatial|\.scale$)")


def freeze(model: nn.Module, what: str = "none") -> list[nn.Module]:
    """The modules that are frozen now: their parameters take no gradients.

    "vision" is the vision transformer, "text" the text transformer, "towers" both; the detector's neck and the text
    projection go on learning. With a frozen vision transformer the clicks of a `Sam3Model`, which read the same tower
    through a neck of their own, stay as good as they were. "detector" is everything of a `Sam3Model` but its tracker
    and the tracker's neck.
    """
    if what not in FREEZE:
        raise ValueError(f"what to freeze must be one of {', '.join(FREEZE)}, got {what!r}")
    suffixes = {"none": (), "vision": ("vision_encoder.backbone",), "text": ("text_encoder",)}
    suffixes |= {"towers": suffixes["vision"] + suffixes["text"], "detector": ("detector_model",)}
    found = [module for name, module in model.named_modules() if name.endswith(suffixes[what] or ("\0",))]
    if what != "none" and not found:
        raise ValueError(
            f"{type(model).__name__} has no {what} to freeze; expected a Sam3Model, or a Sam3Detector for towers"
        )
    for module in found:
        module.requires_grad_(False)
    return found


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.1,
    vision_lr_scale: float = 0.5,
    text_lr_scale: float = 0.1,
    layer_decay: float = 0.9,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer, each with `params`, `lr`, `weight_decay`, `name`; frozen parameters are in none.

    The rate is `learning_rate` for the detector, times `vision_lr_scale` or `text_lr_scale` in the towers, and in the
    vision transformer also times `layer_decay` for every layer that lies above (Clark et al. 2020, ELECTRA; Bao et al.
    2021, BEiT). Biases, norms, embeddings and positions are not decayed.
    """
    embeddings = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    layers = [int(found[2]) for name, _ in model.named_parameters() if (found := _VISION_LAYER.search(name))]
    num_layers = max(layers, default=-1) + 1
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        part, depth = _part(name, num_layers)
        scale = {"vision": vision_lr_scale, "text": text_lr_scale, "rest": 1.0}[part] * layer_decay**depth
        plain = parameter.dim() <= 1 or name.rpartition(".")[0] in embeddings or bool(_BARE.search(name))
        decay = 0.0 if plain else weight_decay
        key = (part, scale, decay)
        label = f"{part}{f'-{depth}' if depth else ''}{'' if decay else '/no_decay'}"
        group = {"params": [], "lr": learning_rate * scale, "weight_decay": decay, "name": label}
        groups.setdefault(key, group)["params"].append(parameter)
    if not groups:
        raise ValueError("every parameter of the model is frozen, so there is nothing to train; see `freeze`")
    # Trainer logs the rate of the first group.
    return sorted(groups.values(), key=lambda group: not group["name"].startswith("rest"))


def _part(name: str, num_layers: int) -> tuple[str, int]:
    """ "vision", "text" or "rest", and how many transformer layers of the vision tower lie above the parameter."""
    if _TEXT.search(name):
        return "text", 0
    if not _VISION.search(name):
        return "rest", 0
    if layer := _VISION_LAYER.search(name):
        return "vision", num_layers - int(layer[2])
    return "vision", num_layers + 1 if _VISION_INPUT.search(name) else 0
