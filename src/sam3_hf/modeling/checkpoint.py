"""Reading a checkpoint directory: which tensors are there, under which names, and what is wrong with them."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

__all__ = ["Checkpoint", "canonical_key", "describe_keys"]

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
# transformers 5.23 puts `tracker_model.` before names that are whole already.
_PREFIXED_TWICE = re.compile(r"tracker_model\.(?=(tracker_model|tracker_neck|detector_model)\.)")


class Checkpoint:
    """The tensors of a directory's safetensors files, read from disk one by one when asked for.

    Args:
        directory: holds `model.safetensors`, or `model.safetensors.index.json` and the shards that it names.
        variant: `model.VARIANT.safetensors` instead.

    Raises:
        ValueError: naming the file, when weights are absent, of another kind, cut off, or incomplete.
    """

    def __init__(self, directory: Path, variant: str | None = None) -> None:
        self.directory = directory
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for path in _weight_files(directory, variant):
            self._read_header(path)

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    self.shapes[key] = tuple(file.get_slice(key).get_shape())
                    self._files[key] = path
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a whole safetensors file ({error}): a download that broke off? Delete it and "
                "fetch it again"
            ) from error

    def tensors(self, keys: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, mapped from their files: memory is used when they are touched."""
        by_file: dict[Path, list[str]] = {}
        for key in keys:
            by_file.setdefault(self._files[key], []).append(key)
        result: dict[str, torch.Tensor] = {}
        for path, names in by_file.items():
            with safe_open(path, framework="pt") as file:
                result |= {name: file.get_tensor(name) for name in names}
        return result


def _weight_files(directory: Path, variant: str | None) -> list[Path]:
    suffix = f".{variant}" if variant else ""
    single = directory / _SINGLE.replace("model.", f"model{suffix}.", 1)
    if single.is_file():
        return [single]
    index = directory / _INDEX.replace(".index", f".index{suffix}", 1)
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        absent = [name for name in names if not (directory / name).is_file()]
        if absent:
            raise ValueError(f"{index} names shards that are not there: {', '.join(absent)}; fetch them, or save again")
        return [directory / name for name in names]
    raise ValueError(f"{directory} holds no {single.name}: {_what_is_it(directory)}")


def _what_is_it(directory: Path) -> str:
    if (directory / "adapter_config.json").is_file():
        return (
            "it is a LoRA adapter, not a model; load its base model and put the adapter on it with "
            f"`peft.PeftModel.from_pretrained(base_model, {str(directory)!r})`"
        )
    if originals := sorted(directory.glob("*.pt")):
        return f"convert the original checkpoint first: `sam3-hf convert {originals[0]} DIRECTORY`"
    if pickles := sorted(directory.glob("*.bin")):
        return f"{pickles[0].name} is a pickle, which can run code when it is read; only safetensors are opened"
    return "is it a checkpoint directory?"


def canonical_key(key: str) -> str:
    """A checkpoint key without the prefix `tracker_model.` that some versions of transformers write once too often."""
    return _PREFIXED_TWICE.sub("", key, count=1) if _PREFIXED_TWICE.match(key) else key


def describe_keys(keys: Iterable[str], limit: int = 8) -> str:
    """The first few keys, and how many more there are."""
    keys = sorted(keys)
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
