"""A table of models: one configuration file, one evaluation of each, one page that compares them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .askers import ModelSpec
from .report import Section, to_markdown

__all__ = ["Peer", "load_peers", "peers_table"]

_SETTINGS = {
    "model": str,
    "name": str,
    "prompts": str,
    "threshold": float,
    "nms": float,
    "masks": str,
    "phrases_at_once": int,
    "batch_size": int,
}
_FIGURES = (
    "cgF1",
    "positive_micro_F1",
    "IL_MCC",
    "mask_AP",
    "box_cgF1",
    "box_positive_micro_F1",
    "box_AP",
    "count_MAE",
    "video_mask_demo_cgf1_50_95",
    "video_mask_demo_positive_micro_f1_50_95",
    "video_mask_demo_ilmcc_50_95",
    "video_mask_all_phrase_HOTA",
    "video_mask_teta",
    "video_mask_mAP_50_95",
)


@dataclass(frozen=True)
class Peer:
    """One line of the table: `name` is also the name of its folder."""

    name: str
    spec: ModelSpec
    threshold: float


def load_peers(path: Path, threshold: float = 0.5, **defaults: Any) -> list[Peer]:
    """The models that a YAML file lists under `models`, each with `model` and optionally the other settings.

    ```yaml
    models:
      - {model: facebook/sam3, name: SAM 3}
      - {model: google/owlv2-large-patch14-ensemble, name: OWLv2, threshold: 0.3}
    ```

    `defaults` are those of `ModelSpec`. Raises ValueError for unknown settings, wrong types and names used twice,
    ImportError without pyyaml.
    """
    content = _read(path)
    entries = content.get("models") if isinstance(content, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{path} has no list 'models'; expected entries such as {{model: facebook/sam3, name: SAM 3}}."
        )
    peers = []
    for number, entry in enumerate(entries):
        settings = _checked(entry, f"{path}, model {number + 1}")
        name = settings.pop("name", settings["model"])
        least = settings.pop("threshold", threshold)
        peers.append(Peer(re.sub(r"[^\w.+-]+", "_", name).strip("_"), ModelSpec(**{**defaults, **settings}), least))
    names = [peer.name.lower() for peer in peers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has the names {twice} twice; give each model a name of its own.")
    return peers


def peers_table(figures: Mapping[str, Mapping[str, float]], thresholds: Mapping[str, float]) -> str:
    """The Markdown page of figures by model; a figure that a model does not have is a dash."""
    shown = [name for name in _FIGURES if any(name in some for some in figures.values())]
    rows = [
        [model, f"{thresholds[model]:g}", *(f"{some[name]:.4f}" if name in some else "-" for name in shown)]
        for model, some in figures.items()
    ]
    text = "Fractions of 1, counts in objects. Detectors without `masks` have box figures alone."
    return to_markdown([Section("Models compared", [text], [["model", "threshold", *shown], *rows])])


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    try:
        import yaml
    except ImportError as error:
        raise ImportError("a YAML file needs pyyaml: pip install 'sam3-hf[evaluate]'") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error


def _checked(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or "model" not in entry:
        raise ValueError(f"{where}: expected settings with 'model', got {entry!r}.")
    unknown = sorted(set(entry) - set(_SETTINGS))
    if unknown:
        raise ValueError(f"{where}: unknown settings {unknown}; known are {', '.join(_SETTINGS)}.")
    checked = {}
    for name, value in entry.items():
        wanted: Any = _SETTINGS[name]
        if not isinstance(value, (int, float) if wanted is float else wanted) or isinstance(value, bool):
            raise ValueError(f"{where}: {name} is {value!r}; expected {wanted.__name__}.")
        checked[name] = float(value) if wanted is float else value
    return checked
