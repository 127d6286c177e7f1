"""The stages of training the bundled model: names, words, detector, clicks, clips."""

import argparse
import json
import math
import os
import random
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import SceneDataset
from ..files import written_whole
from ..modeling import Sam3Detector, Sam3Model
from ..modeling.outputs import Sam3VisionEncoderOutput
from ..video.clip_loss import CORRECTIONS, PROMPTS, REMINDERS, clip_loss
from .bundled_data import NUM_SCENES, PICTURES_AN_EPOCH, Mixture, batches, named_batches, training_clips
from .clicks import click_loss
from .collator import ConceptCollator, ConceptDataset
from .ema import ExponentialMovingAverage
from .lessons import LessonCollator, Lessons
from .muon import Muon, split_matrices
from .naming import NamingTrainer
from .priming import prime_memory, prime_tracker
from .recipes import freeze, parameter_groups
from .sampling import ConceptSampler
from .seen import SeenPictures, objects_of_pictures
from .words import TellingScenes, WordTrainer, cell_coverage

__all__ = [
    "DETECTOR_STAGES",
    "DetectorStage",
    "Run",
    "muon_and_adam",
    "rate",
    "train_clicks",
    "train_clips",
    "train_detector",
    "train_names",
    "train_neck",
    "train_words",
]


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
OBJECTS_CLICKED = 6  # of each picture
BATCHES_AT_FIRST = 40  # of pictures, before the first click
CLIPS_AT_FIRST = 20  # each seen as it comes; from then on one in `STEPS_A_CLIP` steps
CLIPS_KEPT = 400
STEPS_A_CLIP = 3
STEPS_A_CLICK = 4  # of following, of which one clicks on pictures, so that corrections are not forgotten
STEPS_A_BATCH = 3  # of clicking, for each further batch of pictures


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
    muon = [Muon(matrices)] if matrices else []  # a neck has convolutions alone
    return [*muon, torch.optim.AdamW(rest, betas=(0.9, 0.98))]


class Run:
    """One stage of training: what is stepped, what is stored, and how far it is.

    Args:
        name: of the stage; its checkpoint is OUTPUT/NAME.pt.
        model: its parameters that take gradients are trained.
        budget: minutes, or steps if `options.steps` is set.
        options: of the command line.
        rates: the highest learning rate, and that of matrices (default: the options').
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        budget: float,
        options: argparse.Namespace,
        rates: tuple[float, float] | None = None,
    ) -> None:
        self.name, self.model, self.budget, self.options = name, model, budget, options
        self.rank, self.processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        self.device = next(model.parameters()).device
        self.optimizers = muon_and_adam(model, *(rates or (options.learning_rate, options.matrix_rate)))
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
                "loss_neck",
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
    """Trains the concept half in one of `DETECTOR_STAGES`; leaves the average of its weights in it."""
    detector.set_attn_implementation("eager")  # on a CPU in bfloat16, twice as fast as the fused one backwards
    plan = DETECTOR_STAGES[stage]
    start = {name: parameter.detach().clone() for name, parameter in detector.named_parameters()}
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
    trained: torch.nn.Module = lessons
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(lessons, find_unused_parameters=True)
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
        for name, parameter in detector.named_parameters():
            parameter.lerp_(start[name], plan.start_share)


class SameMaps(nn.Module):
    """How far the tracker's neck is from making, of what the vision tower is now, the maps that it made before.

    Args:
        model: its tracker's neck learns, and nothing else.
        before: the model whose maps are wanted.
    """

    def __init__(self, model: Sam3Model, before: Sam3Model) -> None:
        super().__init__()
        self.neck = model.tracker_neck.requires_grad_(True)
        self._towers = (model.eval(), before.eval())  # in a tuple: neither trained nor stored with the neck

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the three maps of the squared error, as a part of the wanted map's variance; and that, named."""
        now, before = self._towers
        with torch.no_grad():
            tokens = now.detector_model.vision_encoder.backbone(pixel_values)
            wanted = before.tracker_neck(before.detector_model.vision_encoder.backbone(pixel_values))
        made = self.neck(tokens)
        errors = [(a.float() - b.float()).square().mean() / b.float().var() for a, b in zip(made, wanted, strict=True)]
        loss = torch.stack(errors).mean()
        return loss, {"loss_neck": loss.detach()}


def train_neck(
    model: Sam3Model, before: Sam3Model, data: Mixture, collator: ConceptCollator, options: argparse.Namespace
) -> None:
    """Keeps clicks and following as they were when the vision tower has gone on learning without them.

    The tracker's neck learns to make the maps of the model `before`; leaves the average of its weights in it.
    """
    maps = SameMaps(model.requires_grad_(False), before.requires_grad_(False))
    run = Run("neck", maps, options.steps or options.neck_minutes, options)
    trained: torch.nn.Module = maps
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(maps, find_unused_parameters=True)
    stream = batches(data, collator, options.batch_size, 3000 + options.seed, options.workers)
    while run.begin_step():
        pixels = next(stream)["pixel_values"].to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(pixels)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(maps)


class Clicks(nn.Module):
    """The loss of clicking on objects, as a module for several processes.

    Beside the masks, which are products of what tokens and pixels say, two linear maps tell the object from the
    decoder's cells and pixels alone: while both factors are near zero, a product teaches neither of them.
    """

    def __init__(self, model: Sam3Model) -> None:
        super().__init__()
        self.model = model
        decoder = model.tracker_model.mask_decoder
        size = decoder.config.hidden_size
        self.cell, self.pixel = nn.Linear(size, 1), nn.Conv2d(size // 8, 1, 1)

    def forward(self, tokens: Tensor, masks_bool: Tensor, box: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """`click_loss` and the loss of the linear maps, of pictures' tokens (num_images, cells, channels)."""
        decoder = self.model.tracker_model.mask_decoder
        cells: list[Tensor] = []  # of each round
        pixels: list[Tensor] = []
        hooks = (
            decoder.transformer.register_forward_hook(lambda _module, _args, out: cells.append(out[1])),
            decoder.upscale_conv2.register_forward_hook(lambda _module, _args, out: pixels.append(out)),
        )
        try:
            vision = Sam3VisionEncoderOutput(last_hidden_state=tokens)
            loss, terms = click_loss(self.model, vision, masks_bool, rounds=2, box=box)
        finally:
            for hook in hooks:
                hook.remove()
        wanted = masks_bool.flatten(0, 1)[:, None].float()
        told = []
        for of_cells, of_pixels in zip(cells, pixels, strict=True):
            side = round(of_cells.shape[1] ** 0.5)
            coarse = self.cell(of_cells).transpose(1, 2).unflatten(2, (side, side))
            told += [_balanced(_EAGERNESS * logits, wanted) for logits in (coarse, self.pixel(F.gelu(of_pixels)))]
        beside = 2 * torch.stack(told).mean()
        return loss + beside, terms | {"loss_told": beside.detach()}


_EAGERNESS = 8.0  # makes the linear maps learn that much faster than the decoder behind them


def _balanced(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy of maps (objects, 1, h, w), in which an object weighs as much as all that is around it."""
    wanted = F.interpolate(wanted, logits.shape[-2:], mode="area")
    share = wanted.mean((2, 3), keepdim=True).clamp(5e-4, 0.9)
    weight = 0.5 * wanted / share + 0.5 * (1 - wanted) / (1 - share)
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, weight)


def only_tracker(model: Sam3Model) -> Sam3Model:
    """The model, of which now only the tracker is trained; its neck stays as it was primed."""
    model.requires_grad_(False)
    model.tracker_model.requires_grad_(True).train()
    return model


@torch.no_grad()
def _look(model: Sam3Model, batch: dict[str, Any], options: argparse.Namespace) -> tuple[Tensor, list[Tensor]]:
    """Tokens of a batch's pictures, and the masks of each picture's objects."""
    pixels = batch["pixel_values"].to(next(model.parameters()).device)
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=options.bf16):
        tokens = model.get_vision_features(pixels).last_hidden_state
    assert tokens is not None
    return tokens, objects_of_pictures(batch["labels"], batch["image_ids"], len(pixels))


def train_clicks(
    model: Sam3Model, data: Mixture, collator: ConceptCollator, options: argparse.Namespace, fresh: bool
) -> None:
    """Trains the click half on the frozen vision tower; leaves the average of its weights in it. `fresh`: primed."""
    model.tracker_model.set_attn_implementation("eager")
    stream = batches(data, collator, options.batch_size, 1000 + options.seed, options.workers)
    seen = SeenPictures()
    for _ in range(2 if options.steps else BATCHES_AT_FIRST):
        seen.add(*_look(model, next(stream), options))
    checkpoint = Path(options.output) / "clicks.pt"
    if fresh and not checkpoint.exists():
        prime_tracker(model, seen.draw(min(64, len(seen)), 1)[0].to(next(model.parameters()).device))
        share_weights(model)
    clicks = Clicks(only_tracker(model))
    budget = options.steps or options.click_minutes
    run = Run("clicks", clicks, budget, options, (options.click_rate, options.click_matrix_rate))
    trained: torch.nn.Module = clicks
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(clicks, find_unused_parameters=True)
    while run.begin_step():
        if run.step % STEPS_A_BATCH == 0:
            seen.add(*_look(model, next(stream), options))
        tokens, masks = (x.to(run.device) for x in seen.draw(options.batch_size, OBJECTS_CLICKED))
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(tokens, masks, run.step % 3 == 2)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(clicks)


def share_weights(model: nn.Module) -> None:
    """Gives every process the first one's weights."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            torch.distributed.broadcast(tensor.data, 0)


class Clips(nn.Module):
    """The loss of following objects through clips, or of clicking on pictures, as a module for several processes."""

    def __init__(self, model: Sam3Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, masks_bool: Tensor, prompt: str | None) -> tuple[Tensor, dict[str, Tensor]]:
        """`clip_loss` of a clip's tokens (num_frames, cells, channels), with a few corrections and reminders.

        Without a prompt `click_loss`, half the time with a box first, of tokens of unrelated pictures.
        """
        vision = Sam3VisionEncoderOutput(last_hidden_state=tokens)
        if prompt is None:
            return click_loss(self.model, vision, masks_bool, box=bool(torch.rand(()) < 0.5))
        return clip_loss(self.model, vision, masks_bool, prompt, CORRECTIONS, REMINDERS)


def train_clips(
    model: Sam3Model,
    data: Mixture,
    collator: ConceptCollator,
    options: argparse.Namespace,
    seed: int,
    fresh: bool,
) -> None:
    """Trains the whole tracker on `training_clips`; leaves the average of its weights in it. `fresh`: memory primed.

    As with clicks, the frozen vision tower sees a clip once, and the tracker learns from it several times. One lesson
    in `STEPS_A_CLICK` is a click on pictures: clips alone teach the tracker to trust its memory, and a click that
    corrects a picture without one is then answered worse than before.
    """
    model.tracker_model.set_attn_implementation("eager")
    if fresh and not (Path(options.output) / "clips.pt").exists():
        prime_memory(model)
        share_weights(model)
    rates = (options.clip_rate, options.clip_matrix_rate)
    following = Clips(only_tracker(model))
    run = Run("clips", following, options.steps or options.clip_minutes, options, rates)
    trained: torch.nn.Module = following
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(following, find_unused_parameters=True)
    clips = training_clips(data, options.clip_frames, model.config.image_size, seed)
    first = run.step // STEPS_A_CLIP
    stream = iter(DataLoader(clips, None, num_workers=options.workers, sampler=range(first, len(clips))))
    pictures = batches(data, collator, options.batch_size, 2000 + options.seed, options.workers)
    seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=CLIPS_KEPT)
    clicked = SeenPictures()
    draw = random.Random(seed)
    while run.begin_step():
        if len(seen) < CLIPS_AT_FIRST or run.step % STEPS_A_CLIP == 0:
            clip = next(stream)
            with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
                vision = model.get_vision_features(clip["pixel_values"].to(run.device))
            assert vision.last_hidden_state is not None
            seen.append((vision.last_hidden_state.half(), clip["clip_masks"]))
        if run.step % STEPS_A_CLICK == 1:
            clicked.add(*_look(model, next(pictures), options))
            lesson, prompt = clicked.draw(options.batch_size, OBJECTS_CLICKED), None
        else:
            lesson, prompt = draw.choice(seen), draw.choice(PROMPTS)
        tokens, masks = (part.to(run.device) for part in lesson)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(tokens.float(), masks, prompt)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(following)
