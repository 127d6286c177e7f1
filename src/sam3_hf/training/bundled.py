"""How the bundled model `sam3-hf-tiny` is made: its configuration, its data, its training.

usage: python -m sam3_hf.training.bundled OUTPUT [--word-minutes 25] [--minutes 100 | --steps N] [--data FOLDER]
           [--init MODEL]
       (several processes: torchrun --nproc_per_node 2 -m sam3_hf.training.bundled ...)

Trains the detector on concept scenes and, with `--data`, on the train splits of COCO JSON folders
(`FOLDER/NAME/train.json`), then clicks and tracking on the frozen vision tower, and writes the model to OUTPUT/model.
Stopped at any moment, the same command goes on from the last checkpoint. docs/tiny_model.md has what came of it.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..configuration import Sam3Config
from ..data import SceneDataset
from ..modeling import Sam3Detector, Sam3Model
from ..modeling.layers import multiplies_fast
from ..processing import Sam3Processor
from ..video.clip_loss import clip_loss
from .augment import Augmentation
from .clicks import click_loss, drawn_objects
from .collator import ConceptCollator, ConceptDataset, ConceptSample
from .datasets import load_coco
from .ema import ExponentialMovingAverage
from .muon import Muon, split_matrices
from .naming import NamedScenes, NamingTrainer
from .priming import prime_detector
from .recipes import parameter_groups
from .sampling import ConceptSampler
from .tracking import ClipDataset
from .words import TellingScenes, WordTrainer, cell_coverage

__all__ = ["MIXTURE", "Mixture", "bundled_config", "export", "main", "training_data"]

# Share of each source in what the model sees. Scenes teach language; each photo set is small.
MIXTURE = {"scenes": 0.55, "facade": 0.12, "nuclei": 0.08, "clothing": 0.13, "coco": 0.12}
# Against the released recipe: boxes count for more, the semantic map and presence for less, and DAC's copies start from
# noisy true boxes. A released model can wait until its queries have learned to look near their boxes; this one cannot.
LOSSES = {
    "weight_bbox": 10.0,
    "weight_giou": 4.0,
    "weight_presence": 10.0,
    "weight_semantic": 10.0,
    "weight_semantic_dice": 10.0,
    "weight_o2m": 1.0,
    "denoise": 2,
}
NUM_SCENES = 1_000_000
PICTURES_AN_EPOCH = 8000
OBJECTS_CLICKED = 6  # of each picture


def bundled_config(image_size: int = 224) -> Sam3Config:
    """The released graph with small sizes: a 192-wide vision tower of 8 layers, 64 channels from the neck on."""
    backbone = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "image_size": image_size,
        "patch_size": 14,
        "window_size": 8,
        "global_attn_indexes": [1, 3, 5, 7],
        "pretrain_image_size": image_size,
        "drop_path_rate": 0.0,
    }
    vision = {"backbone_config": backbone, "fpn_hidden_size": 64}
    size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "dropout": 0.0}
    text = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "projection_dim": 64}
    clicks = {"hidden_size": 64, "num_attention_heads": 4, "mlp_dim": 128, "iou_head_hidden_dim": 64}
    return Sam3Config(
        detector_config={
            "vision_config": vision,
            "text_config": text | {"num_hidden_layers": 3},
            "geometry_encoder_config": size | {"num_layers": 2},
            "detr_encoder_config": size | {"num_layers": 3},
            "detr_decoder_config": size | {"num_layers": 3, "num_queries": 100},
            "mask_decoder_config": {"hidden_size": 64, "num_attention_heads": 4},
            "loss_config": LOSSES,
        },
        tracker_config={
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": 64},
            "mask_decoder_config": clicks,
            "memory_attention_hidden_size": 64,
            "memory_attention_num_layers": 2,
            "memory_attention_feed_forward_hidden_size": 128,
            "memory_encoder_hidden_size": 64,
            "mask_downsampler_embed_dim": 64,
            "memory_fuser_embed_dim": 64,
            "memory_fuser_intermediate_dim": 128,
        },
    )


class Mixture(Dataset[ConceptSample]):
    """Samples of several datasets, each drawn with its share; the same for the same seed and epoch."""

    def __init__(
        self, sources: dict[str, ConceptDataset], shares: dict[str, float], length: int, seed: int = 0
    ) -> None:
        self.sources = [(name, source) for name, source in sources.items() if shares.get(name)]
        if not self.sources:
            raise ValueError(f"no source of {list(sources)} has a share above 0 in {shares}")
        share = np.array([shares[name] for name, _ in self.sources])
        self.share, self.length, self.seed, self.epoch = share / share.sum(), length, seed, 0

    def __len__(self) -> int:
        return self.length

    def set_epoch(self, epoch: int) -> None:
        """Draws other samples."""
        self.epoch = epoch
        for _, source in self.sources:
            source.set_epoch(epoch)

    def __getitem__(self, index: int) -> ConceptSample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        _, source = self.sources[rng.choice(len(self.sources), p=self.share)]
        return source[int(rng.integers(len(source)))]


def training_data(
    folder: Path | None, image_size: int, shares: dict[str, float], seed: int = 0, max_objects: int = 20
) -> Mixture:
    """What the bundled model is trained on: scenes, and the photo sets of `folder` that have a share."""

    def sampler(assumed_absent: Sequence[str] = ()) -> ConceptSampler:
        return ConceptSampler(positives=2, random_negatives=1, hard_negatives=1, assumed_absent=assumed_absent)

    scenes = SceneDataset(NUM_SCENES, "train", image_size=image_size, max_objects=max_objects)
    sources = {"scenes": ConceptDataset(scenes, sampler(), None, seed=seed)}
    names = [] if folder is None else [name for name, share in shares.items() if share and name != "scenes"]
    sets = {name: load_coco(folder / name / "train.json") for name in names if folder is not None}
    phrases = {name: list(data[0]["vocabulary"]) for name, data in sets.items()}
    for name, data in sets.items():
        # Pictures of a set with a single phrase have no absent ones of their own; what other sets are about is absent.
        others = [phrase for other in sets if other != name for phrase in phrases[other]]
        chosen = sampler(others if len(phrases[name]) == 1 else ())
        sources[name] = ConceptDataset(data, chosen, Augmentation(), seed=seed)
    return Mixture(sources, shares, PICTURES_AN_EPOCH, seed)


def batches(
    data: Mixture, collator: ConceptCollator, batch_size: int, epoch: int, workers: int
) -> Iterator[dict[str, Any]]:
    """Batches without end."""
    prefetch = 4 if workers else None
    while True:
        data.set_epoch(epoch)
        yield from DataLoader(
            data, batch_size, collate_fn=collator, num_workers=workers, drop_last=True, prefetch_factor=prefetch
        )
        epoch += 1


def rate(progress: float, step: int, least: float, warmup: int = 100) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine down to `least`."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return min(1.0, (step + 1) / warmup) * (least + (1 - least) * cosine)


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
        groups = parameter_groups(
            model, options.learning_rate, 0.05, vision_lr_scale=1.0, text_lr_scale=1.0, layer_decay=1.0
        )
        matrices, rest = split_matrices(model, groups)
        for group in matrices:
            group["lr"] = options.matrix_rate
        self.optimizers = [Muon(matrices), torch.optim.AdamW(rest, betas=(0.9, 0.98))]
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
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)
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
                "loss_mask",
                "loss_dice",
                "loss_giou",
                "loss_ce",
                "loss_presence",
            )
            print(self.name, {name: line[name] for name in shown if name in line}, flush=True)


class Lessons(nn.Module):
    """A detector's loss on phrases and, beside it, on names (`naming`), as one module for several processes."""

    def __init__(self, detector: Sam3Detector, naming: NamingTrainer, weight: float) -> None:
        super().__init__()
        self.detector, self.naming, self.weight = detector, naming, weight

    def forward(self, batch: dict[str, Any], labels: Any, named: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both losses, and their terms."""
        answer = self.detector(**batch, labels=labels)  # normalised by the mean counts over processes
        loss, terms = self.naming(*named)
        return answer.loss + self.weight * loss, answer.loss_dict | terms


def named_batches(detector: Sam3Detector, options: argparse.Namespace, max_objects: int, seed: int) -> Iterator[Any]:
    """Batches without end of pixels and the names of their cells."""
    scenes = SceneDataset(NUM_SCENES, "train", image_size=options.image_size, max_objects=max_objects)
    side = detector.config.vision_config.backbone_config.grid_size
    loader = DataLoader(
        NamedScenes(scenes, side, seed), options.batch_size, num_workers=options.workers, drop_last=True
    )
    while True:
        yield from loader


def train_names(detector: Sam3Detector, tokenizer: Any, options: argparse.Namespace, seed: int) -> None:
    """Teaches both towers the names of what they see; leaves the average of the weights in `detector`."""
    detector.set_attn_implementation("eager")
    naming = NamingTrainer(detector, tokenizer).train()
    run = Run("names", naming, options.steps or options.name_minutes, options)
    trained: torch.nn.Module = naming
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(naming, find_unused_parameters=True)
    stream = named_batches(detector, options, 8, seed + 1000 * run.step)
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
    detector: Sam3Detector, data: Mixture, collator: ConceptCollator, options: argparse.Namespace
) -> None:
    """Trains the concept half; leaves the average of its weights in it."""
    detector.set_attn_implementation("eager")  # on a CPU in bfloat16, twice as fast as the fused one backwards
    lessons = Lessons(detector, NamingTrainer(detector, collator.processor.tokenizer), options.name_weight).train()
    run = Run("detector", lessons, options.steps or options.minutes, options)
    trained: torch.nn.Module = lessons
    if run.processes > 1:
        trained = torch.nn.parallel.DistributedDataParallel(lessons, find_unused_parameters=True)
    stream = batches(data, collator, options.batch_size, run.step * options.batch_size // len(data), options.workers)
    seed = data.seed + 1_000_000 + 1000 * run.step
    names = named_batches(detector, options, options.max_objects, seed)
    while run.begin_step():
        batch = next(stream)
        labels = batch.pop("labels")
        inputs = {name: value.to(run.device) for name, value in batch.items()}
        named = [part.to(run.device) for part in next(names)]
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            loss, terms = trained(inputs, labels, named)
        run.end_step(loss, terms)
    run.save()
    run.average.copy_to(lessons)


def train_clicks(model: Sam3Model, data: Mixture, collator: ConceptCollator, options: argparse.Namespace) -> None:
    """Trains the click half on the frozen vision tower, in one process; leaves the average of its weights in it."""
    model.requires_grad_(False)
    for part in (model.tracker_neck, model.tracker_model):
        part.requires_grad_(True).train()
    share = options.click_share
    run = Run("clicks", model, options.steps * share if options.steps else options.minutes * share, options)
    run.processes = 1
    stream = batches(data, collator, options.batch_size, 0, options.workers)
    while run.begin_step():
        batch = next(stream)
        pixels = batch["pixel_values"].to(run.device)
        masks = drawn_objects(batch["labels"], batch["image_ids"], len(pixels), OBJECTS_CLICKED).to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            with torch.no_grad():
                vision = model.get_vision_features(pixels)
            run.end_step(*click_loss(model, vision, masks, rounds=2, box=run.step % 3 == 2))
    run.save()
    run.average.copy_to(model)


def train_clips(model: Sam3Model, options: argparse.Namespace, seed: int) -> None:
    """Trains the whole tracker on concept clips, in one process; leaves the average of its weights in it."""
    model.requires_grad_(False)
    for part in (model.tracker_neck, model.tracker_model):
        part.requires_grad_(True).train()
    clips = ClipDataset(num_frames=options.clip_frames, image_size=options.image_size, seed=seed)
    share = options.clip_share
    run = Run("clips", model, options.steps * share if options.steps else options.minutes * share, options)
    run.processes = 1
    loader = DataLoader(clips, batch_size=None, num_workers=options.workers, sampler=range(run.step, len(clips)))
    stream = iter(loader)
    while run.begin_step():
        clip = next(stream)
        pixels, masks = clip["pixel_values"].to(run.device), clip["clip_masks"].to(run.device)
        with torch.autocast(run.device.type, torch.bfloat16, enabled=options.bf16):
            run.end_step(*clip_loss(model, pixels, masks, clip["clip_prompts"]))
    run.save()
    run.average.copy_to(model)


def export(model: Sam3Model, folder: Path) -> None:
    """Writes model and processor to `folder`, the weights as float16 to be opened as float32: half the size."""
    model.eval().requires_grad_(True)
    model.save_pretrained(folder)
    Sam3Processor(size=model.config.image_size).save_pretrained(folder)
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "model.safetensors")


def train(options: argparse.Namespace) -> None:
    """Both stages, and the model in OUTPUT/model."""
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if processes > 1:
        torch.distributed.init_process_group("nccl" if place != "cpu" else "gloo")
    torch.manual_seed(options.seed)
    size = options.image_size
    model = (
        Sam3Model.from_pretrained(options.init, image_size=size) if options.init else Sam3Model(bundled_config(size))
    )
    if not options.init:
        prime_detector(model.detector_model)
    model.to(place)
    folder = Path(options.data) if options.data else None
    seed = options.seed * processes + rank
    data = training_data(folder, size, MIXTURE | options.share, seed, options.max_objects)
    collator = ConceptCollator(Sam3Processor(size=size))
    if options.name_minutes:
        train_names(model.detector_model, collator.processor.tokenizer, options, seed)
    if options.word_minutes:
        train_words(model.detector_model, collator, options, seed)
    if options.minutes or options.steps:
        train_detector(model.detector_model, data, collator, options)
    if rank == 0:
        if options.click_share:
            train_clicks(model, data, collator, options)
        if options.clip_share:
            train_clips(model, options, seed)
        export(model, output / "model")
    if processes > 1:
        torch.distributed.destroy_process_group()


def _share(text: str) -> dict[str, float]:
    name, _, value = text.partition("=")
    if name not in MIXTURE or not value.replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"expected NAME=SHARE with a name of {', '.join(MIXTURE)}, got {text!r}")
    return {name: float(value)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    add = parser.add_argument
    add("output")
    add("--minutes", type=float, default=100, help="of the detector's training, if --steps is not given")
    add("--name-minutes", type=float, default=0, help="of the stage before: shapes, colours, ... by name (0: none)")
    add("--name-weight", type=float, default=2.0, help="of names beside the detector's loss")
    add("--word-minutes", type=float, default=0, help="of the stage before: what words mean (0: none)")
    add("--steps", type=int, default=0)
    add("--click-share", type=float, default=0.1, help="budget of the click stage, as a part of the detector's")
    add("--clip-share", type=float, default=0.2, help="budget of the stage on clips, as a part of the detector's")
    add("--clip-frames", type=int, default=6, help="frames of a clip")
    add("--data", help="folder with facade/, nuclei/, clothing/, coco/ (default: concept scenes alone)")
    add("--share", type=_share, action="append", default=[], metavar="NAME=SHARE", help=f"change {MIXTURE}")
    add("--max-objects", type=int, default=20, help="in a scene; fewer (and so larger) ones are easier to begin with")
    add("--init", help="model to start from")
    add("--image-size", type=int, default=224)
    add("--batch-size", type=int, default=8, help="pictures of a process")
    add("--learning-rate", type=float, default=6e-4)
    add("--matrix-rate", type=float, default=2e-3, help="the rate of weight matrices, which Muon steps")
    add("--final-rate", type=float, default=0.02, help="the last learning rate, as a part of the highest")
    add("--ema", type=float, default=0.998)
    add("--clip", type=float, default=5.0)
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=1)
    add("--log-every", type=int, default=20)
    add("--save-minutes", type=float, default=5)
    fast = torch.cuda.is_available() or multiplies_fast(torch.bfloat16)  # a CPU without instructions for it emulates it
    add("--bf16", action=argparse.BooleanOptionalAction, default=fast)
    options = parser.parse_args(arguments)
    options.share = {name: share for change in options.share for name, share in change.items()}
    train(options)


if __name__ == "__main__":
    main()
