"""Checkpoints that are whole or not there, and what they hold when an average of the weights is trained.

With an average, `model.safetensors` is the average, so that what is opened is what was evaluated. What the optimizer
works on is beside it: in `training_weights.safetensors`, or, sharded, where accelerate puts it.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..modeling.checkpoint import Checkpoint

__all__ = [
    "STAGING",
    "fill_optimizer_state",
    "load_mined",
    "num_updates",
    "publish",
    "read_average",
    "save_average_state",
    "save_mined",
    "take_training_weights",
]

STAGING = ".unfinished"  # folder, in the run's, in which a checkpoint is written before it gets its place
_TRAINING_WEIGHTS, _AVERAGE_STATE = "training_weights.safetensors", "average.json"
_MINED = "mined_negatives.json"


def publish(staged: Path, final: Path) -> None:
    """Gives a finished checkpoint its place; one that is already there is replaced, and lost at no moment."""
    replaced = final.with_name(f".replaced-{final.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if final.exists():
        os.replace(final, replaced)
    os.replace(staged, final)
    shutil.rmtree(replaced, ignore_errors=True)


def save_average_state(model: nn.Module, updates: int, directory: Path, is_sharded: bool) -> None:
    """Writes into a checkpoint how often its weights were averaged, and the weights that training goes on with."""
    if not is_sharded:
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in _trainable(model)}
        save_file(tensors, directory / _TRAINING_WEIGHTS, metadata={"format": "pt"})
    (directory / _AVERAGE_STATE).write_text(json.dumps({"num_updates": updates}) + "\n", encoding="utf-8")


def num_updates(directory: Path) -> int | None:
    """How often the weights of a checkpoint were averaged; None where they are no average."""
    path = directory / _AVERAGE_STATE
    return int(json.loads(path.read_text(encoding="utf-8"))["num_updates"]) if path.is_file() else None


@torch.no_grad()
def take_training_weights(model: nn.Module, directory: Path) -> dict[str, Tensor]:
    """The average, which the model holds after loading; the model gets the weights that training goes on with."""
    path = directory / _TRAINING_WEIGHTS
    average = {}
    with safe_open(path, framework="pt") as file:
        _compare(set(file.keys()), {name for name, _ in _trainable(model)}, path)
        for name, parameter in _trainable(model):
            average[name] = parameter.detach().float().clone()
            parameter.copy_(file.get_tensor(name))
    return average


@torch.no_grad()
def read_average(model: nn.Module, directory: Path) -> dict[str, Tensor]:
    """The average in a checkpoint's `model.safetensors`, sharded as the model is (every process must call it)."""
    checkpoint = Checkpoint(directory)
    parameters = dict(_trainable(model))
    _compare(checkpoint.shapes.keys() & parameters.keys(), set(parameters), directory)
    tensors = checkpoint.tensors(parameters)
    return {name: _sharded_as(parameter, tensors[name].float()) for name, parameter in parameters.items()}


def save_mined(dataset: Any, directory: Path) -> None:
    """Writes a training set's mined negatives, where it has some, into a checkpoint's directory."""
    mined = getattr(getattr(dataset, "sampler", None), "mined", None)
    if mined is not None:
        (directory / _MINED).write_text(json.dumps(mined.phrases, ensure_ascii=False), encoding="utf-8")


def load_mined(dataset: Any, directory: Path, is_writer: bool) -> None:
    """Gives a training set the mined negatives of a checkpoint; the writer also stores them, for workers."""
    mined, path = getattr(getattr(dataset, "sampler", None), "mined", None), directory / _MINED
    if mined is not None and path.is_file():
        mined.phrases = json.loads(path.read_text(encoding="utf-8"))
        if mined.path is not None and is_writer:
            mined.save()


def fill_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Gives an optimizer the state of parameters that no batch has used so far; they and all others stay as they are.

    torch refuses to load a sharded optimizer whose checkpoint lacks some. Gradients must be cleared.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    missing = [p for p in parameters if p.requires_grad and not optimizer.state[p]]
    if not missing:
        return
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter in missing:
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for parameter in missing:
        parameter.grad = None


def _sharded_as(parameter: Tensor, whole: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return whole.to(parameter.device)
    return distribute_tensor(whole.to(parameter.device), parameter.device_mesh, parameter.placements)


def _trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _compare(found: set[str], expected: set[str], path: Path) -> None:
    if found != expected:
        differing = sorted(found ^ expected)
        raise ValueError(
            f"{path} holds other parameters than the model's trainable ones: {len(differing)} differ, e.g. "
            f"{differing[0]}; resume with the same `freeze` and adapters"
        )
