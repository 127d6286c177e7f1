"""One training run from a `TrainConfig`: data, model, trainer, and what is saved at the end."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ..data import ConceptExample, SceneDataset
from ..modeling import AutoConceptModel
from ..processing import Sam3Processor
from .arguments import Sam3TrainingArguments, checkpointing_name
from .augment import Augmentation
from .collator import ConceptCollator, ConceptDataset
from .concept_table import ConceptExamples
from .datasets import load_coco, load_mask_folder, load_saco
from .lora import add_lora, merge_lora
from .mining import MineNegatives
from .recipes import RECIPES
from .sampling import AllPhrases, ConceptSampler, MinedNegatives
from .train_config import TrainConfig, check_names, named_sources, sources
from .trainer import Sam3Trainer

__all__ = ["open_examples", "run_training", "training_arguments"]

# What both versions of the name are called here, and what suits a run from the command line.
_DEFAULTS: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
_CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")


def run_training(config: TrainConfig) -> dict[str, float]:
    """The metrics of the last evaluation (empty without `val`); the trained model is in `config.output`."""
    arguments = training_arguments(config)
    train = open_examples(sources(config.train))
    model = AutoConceptModel.from_pretrained(config.model, **_size(config))
    size = {"height": model.config.image_size, "width": model.config.image_size}
    processor = _processor(config.model, size)
    mined = MinedNegatives(Path(config.output) / "mined_negatives.json") if config.mine else None
    _check_options(config.sampler, ConceptSampler, "sampler")
    dataset = ConceptDataset(
        train, ConceptSampler(**{"mined": mined, **config.sampler}), _augmentation(config), seed=arguments.seed
    )
    callbacks: list[TrainerCallback] = [] if mined is None else [MineNegatives(mined, train, processor)]
    trainer = Sam3Trainer(
        add_lora(model, **config.lora) if config.recipe == "lora" else model,
        arguments,
        train_dataset=dataset,
        eval_dataset=_evaluation_sets(config),
        data_collator=ConceptCollator(processor),
        processing_class=processor,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=_checkpoint(config))
    metrics: dict[str, float] = {} if config.val is None else trainer.evaluate()
    _save(trainer, processor, config)
    return metrics


def training_arguments(config: TrainConfig) -> Sam3TrainingArguments:
    """The arguments of the recipe, with those of the configuration laid over them."""
    given = dict(config.training)
    for name in _CHECKPOINTING:  # either name serves with every version of transformers
        if name in given:
            given[checkpointing_name()] = given.pop(name)
    known = [entry.name for entry in fields(Sam3TrainingArguments) if entry.init and entry.name != "output_dir"]
    check_names(given, known, "training")
    defaults = dict(_DEFAULTS)
    if config.val is None:
        defaults["eval_strategy"] = "no"
    return Sam3TrainingArguments(output_dir=config.output, **(defaults | RECIPES[config.recipe] | given))


def open_examples(given: Sequence[dict[str, Any]]) -> Sequence[ConceptExample]:
    """The pictures of one or several sources (see `train_config.sources`), as a sequence of `ConceptExample`."""
    opened = [_open(dict(source)) for source in given]
    return opened[0] if len(opened) == 1 else _Joined(opened)


class _Joined(Sequence[ConceptExample]):
    """Several sources one after the other; their numbers keep equal picture ids apart."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, index: Any) -> Any:
        for number, part in enumerate(self.parts):
            if index < len(part):
                example = part[index]
                return replace(example, image_id=f"{number}:{example.image_id}")
            index -= len(part)
        raise IndexError("there are fewer examples")


def _open(source: dict[str, Any]) -> Any:
    if "scenes" in source:
        return SceneDataset(source.pop("scenes"), **source)
    if "masks" in source:
        return ConceptExamples(load_mask_folder(source.pop("masks"), **source))
    if "coco" in source:
        return ConceptExamples(load_coco(source.pop("coco"), source.pop("images", None), **source))
    path = source.pop("saco")
    return ConceptExamples(load_saco(path, source.pop("images", Path(path).parent / "images"), **source))


def _size(config: TrainConfig) -> dict[str, int]:
    return {} if config.image_size is None else {"image_size": config.image_size}


def _processor(model: str, size: dict[str, int]) -> Sam3Processor:
    folder = Path(model)
    if folder.is_dir() and not any(folder.glob("*processor_config.json")):
        return Sam3Processor(size=size)
    return Sam3Processor.from_pretrained(model, size=size)


def _augmentation(config: TrainConfig) -> Augmentation | None:
    if isinstance(config.augment, bool):
        return Augmentation() if config.augment else None
    _check_options(config.augment, Augmentation, "augment")
    return Augmentation(**config.augment)


def _check_options(given: Any, target: Any, where: str) -> None:
    check_names(given, [entry.name for entry in fields(target) if entry.init], where)


def _evaluation_sets(config: TrainConfig) -> Any:
    if config.val is None:
        return None
    sets = {
        name: ConceptDataset(open_examples(given), AllPhrases(config.val_negatives), max_side=None)
        for name, given in named_sources(config.val).items()
    }
    return sets.get("", sets)


def _checkpoint(config: TrainConfig) -> str | None:
    if isinstance(config.resume, str):
        return config.resume
    output = Path(config.output)
    return get_last_checkpoint(config.output) if config.resume and output.is_dir() else None


def _save(trainer: Sam3Trainer, processor: Sam3Processor, config: TrainConfig) -> None:
    trainer.save_model(config.output)
    if config.merge and trainer.is_world_process_zero():
        merged = Path(config.output) / "merged"
        merge_lora(trainer.accelerator.unwrap_model(trainer.model)).save_pretrained(merged)
        processor.save_pretrained(merged)
