"""A moving average of the weights, which often scores better than the weights themselves."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

__all__ = ["EmaCallback", "ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """The average of a model's trainable parameters over the steps of its training, in float32.

    average ← d·average + (1 - d)·weights with d = min(decay, (1 + n) / (10 + n)) at update n, so that the first,
    random weights are soon forgotten.

    Args:
        model: its trainable parameters are averaged; all others are left as they are.
        decay: d in the long run; 0.999 looks back on about a thousand steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"the decay of a moving average must lie between 0 and 1, e.g. 0.999, got {decay}")
        self.decay, self.num_updates = decay, 0
        self.average = {name: p.detach().float().clone() for name, p in _trainable(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the model's present weights."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for name, parameter in _trainable(model):
            self.average[name].lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Writes the average into the model."""
        for name, parameter in _trainable(model):
            parameter.copy_(self.average[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The model has the average's weights within the block, and its own again after it."""
        own = {name: parameter.detach().clone() for name, parameter in _trainable(model)}
        self.copy_to(model)
        try:
            yield
        finally:
            _write(model, own)

    def load(self, tensors: Mapping[str, Tensor], num_updates: int) -> None:
        """Goes on from an earlier average; raises `ValueError` when it is of other parameters."""
        if tensors.keys() != self.average.keys():
            differing = sorted(tensors.keys() ^ self.average.keys())
            raise ValueError(
                f"the saved average is of other parameters than the model's trainable ones: {len(differing)} differ, "
                f"e.g. {differing[0]}; resume with the same `freeze` and adapters"
            )
        self.num_updates = num_updates
        for name, tensor in tensors.items():
            self.average[name].copy_(tensor)


class EmaCallback(TrainerCallback):
    """Averages the weights with the plain `Trainer`, and leaves the average in the model when training ends.

    `Sam3Trainer` does more when `ema_decay` is set: it evaluates the average, saves it, and resumes it.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.ema: ExponentialMovingAverage | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        self.ema = ExponentialMovingAverage(model, self.decay)

    def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        assert self.ema is not None
        self.ema.update(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        assert self.ema is not None
        if not (args.load_best_model_at_end and state.best_model_checkpoint):
            self.ema.copy_to(model)


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


@torch.no_grad()
def _write(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in _trainable(model):
        parameter.copy_(tensors[name])
