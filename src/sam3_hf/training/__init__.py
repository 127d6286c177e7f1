"""Training: data sources, batches, interactive rounds, `Sam3Trainer`, LoRA. Names are loaded when first used.

`sam3_hf.training.bundled` is the recipe of the bundled model, a program of its own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .arguments import Sam3TrainingArguments
    from .augment import Augmentation
    from .clicks import click_loss
    from .collator import ConceptCollator, ConceptDataset
    from .concept_table import ConceptExamples
    from .datasets import load_coco, load_mask_folder, load_saco, to_dataset
    from .ema import EmaCallback, ExponentialMovingAverage
    from .epochs import set_epoch
    from .interactive import interactive_loss, next_exemplars
    from .lora import add_lora, load_lora, merge_lora
    from .metrics import EvaluateConcepts
    from .mining import MineNegatives
    from .negatives import mine_negatives
    from .recipes import RECIPES, freeze, parameter_groups
    from .sampling import AllPhrases, ConceptSampler, MinedNegatives
    from .tracking import ClipCollator, ClipDataset, moving_picture
    from .trainer import Sam3Trainer

__all__ = [
    "RECIPES",
    "AllPhrases",
    "Augmentation",
    "ClipCollator",
    "ClipDataset",
    "ConceptCollator",
    "ConceptDataset",
    "ConceptExamples",
    "ConceptSampler",
    "EmaCallback",
    "EvaluateConcepts",
    "ExponentialMovingAverage",
    "MineNegatives",
    "MinedNegatives",
    "Sam3Trainer",
    "Sam3TrainingArguments",
    "add_lora",
    "click_loss",
    "freeze",
    "interactive_loss",
    "load_coco",
    "load_lora",
    "load_mask_folder",
    "load_saco",
    "merge_lora",
    "mine_negatives",
    "moving_picture",
    "next_exemplars",
    "parameter_groups",
    "set_epoch",
    "to_dataset",
]

# Module → its public names.
_NAMES = {
    "arguments": ("Sam3TrainingArguments",),
    "augment": ("Augmentation",),
    "clicks": ("click_loss",),
    "collator": ("ConceptCollator", "ConceptDataset"),
    "concept_table": ("ConceptExamples",),
    "datasets": ("load_coco", "load_mask_folder", "load_saco", "to_dataset"),
    "ema": ("EmaCallback", "ExponentialMovingAverage"),
    "epochs": ("set_epoch",),
    "interactive": ("interactive_loss", "next_exemplars"),
    "lora": ("add_lora", "load_lora", "merge_lora"),
    "metrics": ("EvaluateConcepts",),
    "mining": ("MineNegatives",),
    "negatives": ("mine_negatives",),
    "recipes": ("RECIPES", "freeze", "parameter_groups"),
    "sampling": ("AllPhrases", "ConceptSampler", "MinedNegatives"),
    "tracking": ("ClipCollator", "ClipDataset", "moving_picture"),
    "trainer": ("Sam3Trainer",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
