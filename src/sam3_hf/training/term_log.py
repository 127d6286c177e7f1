"""The terms of the loss, from the steps to the logs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["TermLog"]


class TermLog:
    """Sums the loss's terms on their device until they are logged: no step waits for a number."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._last_step = 0

    def begin(self, step: int) -> None:
        """Forgets what was added; the next log's means begin after `step`."""
        self._sums, self._last_step = {}, step

    def add(self, terms: Mapping[str, Tensor], scale: float) -> None:
        """Adds a micro-batch's terms, times `scale`."""
        for name, value in terms.items():
            value = value.detach().float() * scale
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self, step: int, accelerator: Any) -> dict[str, float]:
        """Each term's mean over the steps since the last time, and over processes; all processes must call it."""
        names, steps = sorted(self._sums), max(step - self._last_step, 1)
        values = accelerator.reduce(torch.stack([self._sums[name] for name in names]), "mean") if names else ()
        self.begin(step)
        return {name: float(value) / steps for name, value in zip(names, values, strict=True)}
