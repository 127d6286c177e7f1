"""The stages in which the bundled model's concept half learns: names, words, detector."""

import argparse
from typing import Any, NamedTuple

import torch

from ..data import SceneDataset
from ..modeling import Sam3Detector
from .bundled_data import NUM_SCENES, PICTURES_AN_EPOCH, Mixture, batches, named_batches
from .bundled_run import Run
from .collator import ConceptCollator, ConceptDataset
from .lessons import LessonCollator, Lessons
from .naming import NamingTrainer
from .recipes import freeze
from .sampling import ConceptSampler
from .words import TellingScenes, WordTrainer, cell_coverage

__all__ = ["DETECTOR_STAGES", "DetectorStage", "train_detector", "train_names", "train_words"]


class DetectorStage(NamedTuple):
    """How the concept half learns at one time.

    Attributes:
        minutes: the option that has its budget.
        tower_learns: the vision tower too, with outlines, which are a lesson for it.
        names_learned: with names beside, which only scenes have.
        boxes_bias_learns: the decoder's bias by boxes too: two networks of two numbers, a sixth of a step's time.
        corrections: rounds of corrections before a step, in turn.
        start_share: of the weights that the stage began with, in those that it leaves. Where data changes, the mean of
            both is better than either, on the new data as well (Wortsman et al. 2022, Robust fine-tuning of zero-shot
            models).
    """

    minutes: str
    tower_learns: bool
    names_learned: bool
    boxes_bias_learns: bool
    corrections: tuple[int, ...]
    start_share: float = 0.0


DETECTOR_STAGES = {
    "detector": DetectorStage("minutes", True, True, True, (0, 3, 1, 4, 0, 2)),
    "large": DetectorStage("large_minutes", True, True, True, (0, 3, 1, 4, 0, 2)),
    "photos": DetectorStage("photo_minutes", True, False, False, (0, 1, 0, 2, 0, 0), start_share=0.4),
    "heads": DetectorStage("head_minutes", False, False, False, (0, 3, 1, 4, 0, 2)),
}


def train_names(detector: Sam3Detector, tokenizer: Any, options: argparse.Namespace, seed: int) -> None:
    """Teaches both towers the names of what they see; leaves the average of the weights in `detector`."""
    detector.set_attn_implementation("eager")
    naming = NamingTrainer(detector, tokenizer).train()
    run = Run("names", naming, options.steps or options.name_minutes, options)
    trained = run.parallel()
    stream = named_batches(detector, options, seed + 1000 * run.step)
    while run.begin_step():
        named = [part.to(run.device) for part in next(stream)]
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(*named)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(naming)


def train_words(detector: Sam3Detector, collator: ConceptCollator, options: argparse.Namespace, seed: int) -> None:
    """Teaches both towers and the fusion encoder what words mean; leaves the average of the weights in `detector`."""
    tower = detector.config.vision_config.backbone_config
    scenes = TellingScenes(SceneDataset(NUM_SCENES, "train", image_size=tower.image_size, max_objects=8))
    sampler = ConceptSampler(positives=5, random_negatives=1, hard_negatives=2, visual_query=0.0, added_boxes=0.0)
    data = Mixture(
        {"scenes": ConceptDataset(scenes, sampler, None, seed=seed)}, {"scenes": 1.0}, PICTURES_AN_EPOCH, seed
    )
    detector.set_attn_implementation("eager")
    words = WordTrainer(detector).train()
    run = Run("words", words, options.steps or options.word_minutes, options)
    trained = run.parallel()
    stream = batches(data, collator, options.batch_size, run.step * options.batch_size // len(data), options.workers)
    while run.begin_step():
        batch = next(stream)
        wanted = cell_coverage(batch["labels"], tower.grid_size)
        inputs = {name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask", "image_ids")}
        inputs = {name: value.to(run.device) for name, value in (inputs | {"wanted": wanted}).items()}
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(**inputs)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(words)


def train_detector(
    detector: Sam3Detector,
    data: Mixture,
    collator: ConceptCollator,
    options: argparse.Namespace,
    stage: str = "detector",
) -> None:
    """Trains the concept half in one of `DETECTOR_STAGES`; leaves the average of its weights in it."""
    detector.set_attn_implementation("eager")  # on a CPU in bfloat16, twice as fast as the fused one backwards
    plan = DETECTOR_STAGES[stage]
    start = {name: weight.detach().clone() for name, weight in detector.named_parameters() if plan.start_share}
    if not plan.tower_learns:
        freeze(detector, "vision")
    if not plan.boxes_bias_learns:
        detector.detr_decoder.box_rpb_embed_x.requires_grad_(False)
        detector.detr_decoder.box_rpb_embed_y.requires_grad_(False)
    naming = NamingTrainer(detector, collator.processor.tokenizer)
    name_weight = options.name_weight if plan.names_learned else 0.0
    outline_weight = options.outline_weight if plan.tower_learns else 0.0
    lessons = Lessons(detector, naming, name_weight, outline_weight).train()
    run = Run(stage, lessons, options.steps or getattr(options, plan.minutes), options)
    trained = run.parallel()
    # Masks are learned at twice their size: where an edge runs inside a cell, logits of its neighbours can say.
    collator = LessonCollator(collator.processor, 2 * collator.mask_size)
    stream = batches(data, collator, options.batch_size, run.step * options.batch_size // len(data), options.workers)
    while run.begin_step():
        batch = next(stream)
        labels = batch.pop("labels")
        inputs = {name: value.to(run.device) for name, value in batch.items()}
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(inputs, labels, plan.corrections[run.step % len(plan.corrections)])
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(lessons)
    with torch.no_grad():
        for name, weight in start.items():
            detector.get_parameter(name).lerp_(weight, plan.start_share)
