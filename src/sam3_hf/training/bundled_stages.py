"""The stages of training the bundled model: names, words, detector, clicks, clips."""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import SceneDataset
from ..files import written_whole
from ..modeling import Sam3Detector, Sam3Model
from .bundled_data import NUM_SCENES, PICTURES_AN_EPOCH, Mixture, batches, named_batches, training_clips
from .clicks import click_loss, drawn_objects
from .collator import ConceptCollator, ConceptDataset
from .ema import ExponentialMovingAverage
from .lessons import LessonCollator, Lessons
from .muon import Muon, split_matrices
from .naming import NamingTrainer
from .recipes import parameter_groups
from .sampling import ConceptSampler
from .tracking import ClipCollator
from .words import TellingScenes, WordTrainer, cell_coverage

__all__ = [
    "Run",
    "muon_and_adam",
    "rate",
    "train_clicks",
    "train_clips",
    "train_detector",
    "train_names",
    "train_words",
]

OBJECTS_CLICKED = 6  # of each picture


def rate(progress: float, step: int, least: float, warmup: int = 100) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to `least`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return min(1.0, (step + 1) / warmup) * (least + (1 - least) * cosine)


def muon_and_adam(model: nn.Module, learning_rate: float, matrix_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices, AdamW for all other parameters that take gradients."""
    groups = parameter_groups(model, learning_rate, 0.05, vision_lr_scale=1.0, text_lr_scale=1.0, layer_decay=1.0)
    matrices, rest = split_matrices(model, groups)
    for group in matrices:
        group["lr"] = matrix_rate
    return [Muon(matrices), torch.optim.AdamW(rest, betas=(0.9, 0.98))]


class Run:
    """One stage of training: what is stepped, what is stored, and how far it is.

    Args:
        name: of the stage; its checkpoint is OUTPUT/NAME.pt.
        model: its parameters that take gradients are trained.
        budget: minutes, or steps if `options.steps` is set.
        options: of the command line.
    """

    def __init__(self, name: str, model: torch.nn.Module, budget: float, options: argparse.Namespace) -> None:
        self.name, self.model, self.budget, self.options = name, model, budget, options
        self.rank, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = next(model.parameters()).device
        self.optimizers = muon_and_adam(model, options.learning_rate, options.matrix_rate)
        self.groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self.peaks = [group["lr"] for group in self.groups]
        self.average = ExponentialMovingAverage(model, options.ema)
        self.step, self.seconds, self.sums = 0, 0.0, dict[str, float]()
        self.saved = self.clock = time.monotonic()
        self.checkpoint = Path(options.output) / f"{name}.pt"
        if self.checkpoint.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        self.average.load(state["average"], state["step"])
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"{self.name}: going on from step {self.step}", flush=True)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        if self.rank:
            return
        state: dict[str, Any] = {"model": self.model.state_dict()}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        state |= {"average": self.average.average, "step": self.step, "seconds": self.seconds}
        with written_whole(self.checkpoint) as partial:
            torch.save(state, partial)
        self.saved = time.monotonic()

    def begin_step(self) -> bool:
        """Whether there is another step to take; sets its learning rate."""
        progress = self.step / self.budget if self.options.steps else self.seconds / (60 * self.budget)
        if self.processes > 1:  # clocks differ, and all must stop at the same step
            shared = torch.tensor(progress, device=self.device)
            torch.distributed.broadcast(shared, 0)
            progress = float(shared)
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * rate(progress, self.step, self.options.final_rate)
        return progress < 1

    def end_step(self, loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> None:
        """Steps the optimizer on the loss's gradient, logs and, now and then, saves."""
        if not torch.isfinite(loss):
            raise RuntimeError(f"{self.name}: the loss is {loss.item()} at step {self.step}: {terms}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.average.update(self.model)
        self.step += 1
        self.seconds, self.clock = self.seconds + time.monotonic() - self.clock, time.monotonic()
        for name, value in {"loss": loss.detach(), **terms}.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) / self.options.log_every
        if self.step % self.options.log_every == 0:
            self._log()
        if time.monotonic() - self.saved > 60 * self.options.save_minutes:
            self.save()

    def _log(self) -> None:
        line: dict[str, Any] = {"stage": self.name, "step": self.step, "seconds": round(self.seconds)}
        line |= {"rate": self.groups[-1]["lr"]}
        line |= {name: round(value, 4) for name, value in self.sums.items()}
        self.sums.clear()
        if self.rank == 0:
            with (Path(self.options.output) / "log.jsonl").open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            shown = (
                "step",
                "seconds",
                "loss",
                "loss_shape",
                "loss_outline",
                "loss_mask",
                "loss_dice",
                "loss_giou",
                "loss_ce",
                "loss_presence",
            )
            print(self.name, {name: line[name] for name in shown if name in line}, flush=True)


def train_names(detector: Sam3Detector, tokenizer: Any, options: argparse.Namespace, seed: int) -> None:
    """Teaches both towers the names of what they see; leaves the average of the weights in `detector`."""
    detector.set_attn_implementation("eager")
    naming = NamingTrainer(detector, tokenizer).train()
    run = Run("names", naming, options.steps or options.name_minutes, options)
    trained: torch.nn.Module = naming
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(naming, find_unused_parameters=True)
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
    size = options.image_size
    scenes = TellingScenes(SceneDataset(NUM_SCENES, "train", image_size=size, max_objects=8))
    sampler = ConceptSampler(positives=5, random_negatives=1, hard_negatives=2, visual_query=0.0, added_boxes=0.0)
    data = Mixture(
        {"scenes": ConceptDataset(scenes, sampler, None, seed=seed)}, {"scenes": 1.0}, PICTURES_AN_EPOCH, seed
    )
    detector.set_attn_implementation("eager")
    words = WordTrainer(detector).train()
    run = Run("words", words, options.steps or options.word_minutes, options)
    trained: torch.nn.Module = words
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(words, find_unused_parameters=True)
    stream = batches(data, collator, options.batch_size, run.step * options.batch_size // len(data), options.workers)
    side = words.detector.config.vision_config.backbone_config.grid_size
    while run.begin_step():
        batch = next(stream)
        wanted = cell_coverage(batch["labels"], side)
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
    """Trains the concept half; leaves the average of its weights in it. `stage`: "detector", or "large"."""
    detector.set_attn_implementation("eager")  # on a CPU in bfloat16, twice as fast as the fused one backwards
    naming = NamingTrainer(detector, collator.processor.tokenizer)
    lessons = Lessons(detector, naming, options.name_weight, options.outline_weight).train()
    minutes = options.large_minutes if stage == "large" else options.minutes
    run = Run(stage, lessons, options.steps or minutes, options)
    trained: torch.nn.Module = lessons
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(lessons, find_unused_parameters=True)
    collator = LessonCollator(collator.processor)
    stream = batches(data, collator, options.batch_size, run.step * options.batch_size // len(data), options.workers)
    while run.begin_step():
        batch = next(stream)
        labels = batch.pop("labels")
        inputs = {name: value.to(run.device) for name, value in batch.items()}
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(inputs, labels)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(lessons)


class Clicks(nn.Module):
    """The loss of clicking on objects, as a module for several processes."""

    def __init__(self, model: Sam3Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, masks_bool: Tensor, box: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """`click_loss` on pictures that the frozen vision tower sees."""
        with torch.no_grad():
            vision = self.model.get_vision_features(pixel_values)
        return click_loss(self.model, vision, masks_bool, rounds=2, box=box)


def only_tracker(model: Sam3Model) -> Sam3Model:
    """The model, of which now only the tracker and its neck are trained."""
    model.requires_grad_(False)
    for part in (model.tracker_neck, model.tracker_model):
        part.requires_grad_(True).train()
    return model


def train_clicks(model: Sam3Model, data: Mixture, collator: ConceptCollator, options: argparse.Namespace) -> None:
    """Trains the click half on the frozen vision tower; leaves the average of its weights in it."""
    model.set_attn_implementation("eager")
    clicks = Clicks(only_tracker(model))
    run = Run("clicks", clicks, options.steps or options.click_minutes, options)
    trained: torch.nn.Module = clicks
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(clicks, find_unused_parameters=True)
    stream = batches(data, collator, options.batch_size, 1000 + run.step, options.workers)
    while run.begin_step():
        batch = next(stream)
        pixels = batch["pixel_values"].to(run.device)
        masks = drawn_objects(batch["labels"], batch["image_ids"], len(pixels), OBJECTS_CLICKED).to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(pixels, masks, run.step % 3 == 2)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(clicks)


def train_clips(model: Sam3Model, data: Mixture, options: argparse.Namespace, seed: int) -> None:
    """Trains the whole tracker on `training_clips`; leaves the average of its weights in it."""
    model.set_attn_implementation("eager")
    run = Run("clips", only_tracker(model), options.steps or options.clip_minutes, options)
    trained: torch.nn.Module = model
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    clips = training_clips(data, options.clip_frames, model.config.image_size, seed)
    loader = DataLoader(
        clips, 1, collate_fn=ClipCollator(), num_workers=options.workers, sampler=range(run.step, len(clips))
    )
    stream = iter(loader)
    while run.begin_step():
        clip = next(stream)
        pixels, masks = clip["pixel_values"].to(run.device), [m.to(run.device) for m in clip["clip_masks"]]
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            answer = trained(pixel_values=pixels, clip_masks=masks, clip_prompts=clip["clip_prompts"])
        run.end_step(answer.loss, answer.loss_dict)
    run.save()
    run.average.copy_to(model)
