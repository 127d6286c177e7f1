"""Hard negatives from the model itself, mined while it trains."""

from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..processing import Sam3Processor
from .negatives import mine_negatives
from .sampling import MinedNegatives

__all__ = ["MineNegatives"]


class MineNegatives(TrainerCallback):
    """Asks the model for absent phrases before each epoch, and stores what it wrongly accepts.

    Give the same `store` to the `ConceptSampler` of the training set. With several processes each asks about its share
    of the pictures.

    Args:
        store: receives the phrases. With data loading workers it needs a path.
        examples: the pictures.
        processor: prepares them.
        first_epoch: nothing is mined before it.
        choices: arguments of `mine_negatives`, such as `max_phrases`.
    """

    def __init__(
        self, store: MinedNegatives, examples: Any, processor: Sam3Processor, first_epoch: int = 0, **choices: Any
    ) -> None:
        self.store, self.examples, self.processor = store, examples, processor
        self.first_epoch, self.choices = first_epoch, choices

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
        epoch = round(state.epoch or 0.0)
        # A run that goes on inside an epoch has what was mined at its beginning from the checkpoint.
        if epoch < self.first_epoch or abs((state.epoch or 0.0) - epoch) > 1e-6:
            return
        share = _Share(self.examples, args.process_index, args.world_size)
        mined = mine_negatives(model, self.processor, share, seed=epoch, **self.choices) if len(share) else {}
        for part in _gathered(mined):
            self.store.update(part)
        if self.store.path is not None:
            if args.process_index == 0:
                self.store.save()
            if torch.distributed.is_initialized():
                torch.distributed.barrier()


class _Share:
    """Every `count`-th example, from `first` on."""

    def __init__(self, examples: Any, first: int, count: int) -> None:
        self.examples, self.numbers = examples, range(first, len(examples), count)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Any:
        return self.examples[self.numbers[index]]


def _gathered(mined: dict[str, list[str]]) -> list[dict[str, list[str]]]:
    if not torch.distributed.is_initialized():
        return [mined]
    parts: list[dict[str, list[str]]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, mined)
    return parts
