"""Muon: steps of equal size in every direction of a weight matrix (Jordan et al. 2024)."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Muon", "split_matrices"]

# Coefficients of the quintic that pulls singular values towards 1 (github.com/KellerJordan/Muon).
_A, _B, _C = 3.4445, -4.7750, 2.0315
# Length of a step that moves a matrix as far as AdamW's does, so that both take the same rate (Liu et al. 2025, §2.2).
_ADAM_LENGTH = 0.2


def orthogonalized(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices (N, rows, columns) with the same singular vectors and all singular values near 1, by Newton-Schulz."""
    wide = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
    x = (wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)).bfloat16()
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return (x if wide is matrices else x.mT).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose step is orthogonalised, for weight matrices; rates and decay are as AdamW's.

    Trained from scratch on few pictures, a small detector learns about twice as much a step as with AdamW
    (`docs/tiny_model.md`). Matrices of one shape are worked on together, and each process does its share of them.

    Args:
        params: matrices, or groups of them; any other parameter raises.
        lr: the rate.
        momentum: of the gradient (Nesterov's).
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"Muon steps matrices, got a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Steps once; gives what `closure`, if any, gives."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        rank = torch.distributed.get_rank() if processes > 1 else 0
        for group in self.param_groups:
            stacks = defaultdict[torch.Size, list[Tensor]](list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    stacks[parameter.shape].append(parameter)
            for index, parameters in enumerate(sorted(stacks.values(), key=lambda stack: stack[0].shape)):
                updates = torch.stack([self._momentum(parameter, group["momentum"]) for parameter in parameters])
                owner = index % processes
                if owner == rank:
                    updates = orthogonalized(updates)
                if processes > 1:
                    torch.distributed.broadcast(updates, owner)
                length = -group["lr"] * _ADAM_LENGTH * max(updates.shape[-2:]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=length)
        return loss

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient, looked ahead along its running mean."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None  # only parameters that have one are stepped
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        running: Tensor = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(running, momentum)


def split_matrices(model: nn.Module, groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Two lists of groups: weight matrices of linear layers that Muon steps, and the rest, for AdamW.

    Layers that read coordinates or write fewer than 16 numbers (box, class and presence heads) stay with AdamW.
    """
    linear = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Linear) and min(module.weight.shape) >= 16
    }
    matrices: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for group in groups:
        for chosen, inside in ((matrices, True), (rest, False)):
            params = [parameter for parameter in group["params"] if (id(parameter) in linear) == inside]
            if params:
                chosen.append(group | {"params": params})
    return matrices, rest
