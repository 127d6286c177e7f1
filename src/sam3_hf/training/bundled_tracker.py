"""The stages in which the bundled model's tracker learns: its neck, clicks, clips."""

import argparse
import os
import random
from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..modeling import Sam3Model
from ..modeling.outputs import Sam3VisionEncoderOutput
from ..video.clip_loss import CORRECTIONS, PROMPTS, REMINDERS, clip_loss
from .bundled_data import Mixture, batches, training_clips
from .bundled_run import Run
from .clicks import click_loss
from .collator import ConceptCollator
from .priming import prime_memory, prime_tracker
from .seen import SeenPictures, objects_of_pictures

__all__ = ["train_clicks", "train_clips", "train_neck"]

OBJECTS_CLICKED = 6  # of each picture
BATCHES_AT_FIRST = 40  # of pictures, before the first click
CLIPS_AT_FIRST = 20  # each seen as it comes; from then on one in `STEPS_A_CLIP` steps
CLIPS_KEPT = 400
STEPS_A_CLIP = 3
STEPS_A_CLICK = 4  # of following, of which one clicks on pictures, so that corrections are not forgotten
STEPS_A_BATCH = 3  # of clicking, for each further batch of pictures


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
    trained = run.parallel()
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
    trained = run.parallel()
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
    trained = run.parallel()
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
