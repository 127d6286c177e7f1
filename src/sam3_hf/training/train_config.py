"""What `sam3-hf train` is told: a YAML file and flags, checked before anything heavy begins."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .recipes import RECIPES

__all__ = ["TrainConfig", "check_names", "load_config", "named_sources", "number_or_text", "sources"]

_SOURCES = ("coco", "saco", "masks", "scenes")


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Attributes:
        model: directory, or repository on the hub, of the model to start from.
        train: where training pictures come from; see `sources`.
        val: where pictures for evaluation come from: one source, a list of them, or several sets by name.
        val_negatives: at most so many absent phrases of a picture are asked in evaluation, always the same; None: all.
        output: directory for checkpoints and the trained model.
        recipe: a key of `RECIPES`: "full", "frozen_towers" or "lora".
        image_size: side of the square that the model sees; None: the model's own.
        sampler: arguments of `ConceptSampler`.
        augment: arguments of `Augmentation`; False: pictures stay as they are.
        mine: ask the model before each epoch which absent phrases it wrongly accepts, and train on those.
        lora: arguments of `add_lora`, with the recipe "lora".
        merge: with LoRA, also save the model with the adapters merged in.
        training: arguments of `Sam3TrainingArguments`.
        resume: go on from the last checkpoint in `output`, or from the one named; begins anew where there is none.
    """

    model: str = ""
    train: Any = None
    val: Any = None
    val_negatives: int | None = 16
    output: str = ""
    recipe: str = "full"
    image_size: int | None = None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    augment: Mapping[str, Any] | bool = True
    mine: bool = False
    lora: Mapping[str, Any] = field(default_factory=dict)
    merge: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)
    resume: bool | str = False

    def __post_init__(self) -> None:
        for name, what in (("model", "a directory or a repository of the hub"), ("output", "a directory to write to")):
            if not getattr(self, name):
                raise ValueError(f"no {name}: set `{name}:` in the configuration or --{name}, {what}")
        if self.train is None:
            raise ValueError("no training pictures: set `train:` in the configuration or --train, e.g. FILE.json")
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {self.recipe!r}")
        if (self.lora or self.merge) and self.recipe != "lora":
            raise ValueError(f"`lora` and `merge` belong to the recipe 'lora'; this one is {self.recipe!r}")
        for name in ("sampler", "lora", "training"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"`{name}` must hold names and values, got {getattr(self, name)!r}")
        sources(self.train)
        if self.val is not None:
            named_sources(self.val)


def load_config(path: Path | None, flags: Mapping[str, Any], training: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a YAML file (None: there is none), with flags and training arguments laid over it."""
    content = {} if path is None else _read_yaml(path)
    check_names(content, [entry.name for entry in fields(TrainConfig)], f"{path}")
    merged = {**content, **flags}
    written = content.get("training") or {}
    if not isinstance(written, Mapping):
        raise ValueError(f"{path}: `training` must hold names and values, got {written!r}")
    merged["training"] = {**{name: number_or_text(value) for name, value in written.items()}, **training}
    lora = {**(content.get("lora") or {}), **(flags.get("lora") or {})}
    return TrainConfig(**{**merged, "lora": lora})


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raises `ValueError` for a name that is not known, with the one that it resembles."""
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
            raise ValueError(f"{where}: there is no setting {name!r}; {hint}")


def number_or_text(value: Any) -> Any:
    """A text such as "1e-4", which YAML takes for text, as a number; everything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def sources(given: Any) -> list[dict[str, Any]]:
    """The sources of pictures that a `train` setting names, each a dict with one of coco, saco, masks, scenes.

    {coco: FILE.json, images: FOLDER}, {saco: FILE.json, images: FOLDER}, {masks: FOLDER} and {scenes: NUMBER} take the
    options of their loaders as further keys. A string is a JSON file (COCO or SA-Co), a folder of masks, or
    "scenes:NUMBER". A list joins several.
    """
    if isinstance(given, list | tuple):
        return [source for one in given for source in sources(one)]
    if isinstance(given, str):
        return [_source_of(given)]
    kinds = [kind for kind in _SOURCES if isinstance(given, Mapping) and kind in given]
    if len(kinds) != 1:
        raise ValueError(f"a source of pictures needs exactly one of {', '.join(_SOURCES)}; got {given!r}")
    return [dict(given)]


def named_sources(given: Any) -> dict[str, list[dict[str, Any]]]:
    """The sources of each evaluation set by its name; a single set has the name ""."""
    if isinstance(given, Mapping) and not any(kind in given for kind in _SOURCES):
        return {str(name): sources(one) for name, one in given.items()}
    return {"": sources(given)}


def _source_of(text: str) -> dict[str, Any]:
    if text.startswith("scenes:"):
        number = text.removeprefix("scenes:")
        if not number.isdecimal():
            raise ValueError(f"expected scenes:NUMBER, got {text!r}")
        return {"scenes": int(number)}
    path = Path(text)
    if path.is_dir():
        if (path / "masks").is_dir():
            return {"masks": text}
        raise ValueError(f"{text} is a folder without `masks`; give a JSON file, or a folder with images and masks")
    if not path.is_file():
        raise ValueError(f"there is no file or folder {text}; a source is a JSON file, a folder, or scenes:NUMBER")
    if path.suffix != ".json":
        raise ValueError(f"{text} is no JSON file; a source is a JSON file, a folder of masks, or scenes:NUMBER")
    with path.open(encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{text} is not valid JSON: {error}") from error
    images = content.get("images") if isinstance(content, dict) else None
    if images and "text_input" in images[0]:
        return {"saco": text, "images": str(path.parent / "images")}
    return {"coco": text}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError('a YAML configuration needs pyyaml: pip install "sam3-hf[train]"') from error
    if not path.is_file():
        raise ValueError(f"there is no configuration {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, got {type(content).__name__}")
    return content
