"""Telling a data loader's parts which epoch begins."""

from typing import Any

__all__ = ["set_epoch"]


def set_epoch(dataloader: Any, epoch: int) -> None:
    """Tells the dataset and every sampler of a data loader which epoch begins.

    accelerate tells only some of them: not the dataset when there are several processes, and not the sampler inside a
    sampler that skips batches when a run goes on in the middle of an epoch.
    """
    sampler = getattr(dataloader, "batch_sampler", None)
    told = [getattr(dataloader, "dataset", None)]
    while sampler is not None:
        told.append(sampler)
        sampler = getattr(sampler, "batch_sampler", getattr(sampler, "sampler", None))
    for one in told:
        if one is not None and hasattr(one, "set_epoch"):
            one.set_epoch(epoch)
