"""One stage of training the bundled model: its optimizers and rates, its log, its checkpoints."""

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..files import written_whole
from .ema import ExponentialMovingAverage
from .muon import Muon, split_matrices
from .recipes import parameter_groups

__all__ = ["Run", "muon_and_adam", "rate"]


def rate(progress: float, step: int, least: float, warmup: int) -> float:
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

    def parallel(self) -> nn.Module:
        """The model to call in training: itself, or with several processes one that shares its gradients."""
        if self.processes == 1:
            return self.model
        return nn.parallel.DistributedDataParallel(self.model, find_unused_parameters=True)

    def begin_step(self) -> bool:
        """Whether there is another step to take; sets its learning rate."""
        progress = self.step / self.budget if self.options.steps else self.seconds / (60 * self.budget)
        if self.processes > 1:  # clocks differ, and all must stop at the same step
            shared = torch.tensor(progress, device=self.device)
            torch.distributed.broadcast(shared, 0)
            progress = float(shared)
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * rate(progress, self.step, self.options.final_rate, self.options.warmup)
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
