"""Checkpoints from the original layout to the hub's and back, on disk."""

import os
import pickle
import re
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..configuration import Sam3Config
from ..modeling import Sam3Detector, Sam3Model
from ..modeling.checkpoint import describe_keys
from ..processing import Sam3Processor
from .state_dict import from_original, to_original

__all__ = ["convert", "read_original"]

_DETECTOR_PARTS = ("backbone.", "transformer.", "geometry_encoder.", "segmentation_head.", "dot_prod_scoring.")
_SAM_3_1 = re.compile(r"multiplex|interactive_convs|propagation_convs|^(sam2_predictor|sam3_model)\.")


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    config: str | os.PathLike[str] | Sam3Config | None = None,
    to: str = "hf",
) -> Path:
    """The path written: a directory for `from_pretrained` (`to="hf"`), or an original-layout file (`to="original"`).

    Args:
        source: for "hf" an original checkpoint file (`sam3.pt`, whole, wrapped as {"model": ...}, with `module.`
            prefixes, or the detector alone as the reference's trainer saves it); for "original" a directory.
        destination: the directory, or the file, to write.
        config: `config.json`, or a configuration, of a model that is not of the released size.
        to: "hf" or "original".

    Raises:
        ValueError: naming the missing, unexpected or misshapen tensors, or what is wrong with the file.
    """
    if to not in ("hf", "original"):
        raise ValueError(f"`to` must be 'hf' or 'original', got {to!r}")
    source, destination = Path(source), Path(destination)
    if not source.exists():
        raise ValueError(f"there is no {source}; give the path of the checkpoint to convert")
    return _to_hub(source, destination, config) if to == "hf" else _to_original(source, destination)


def read_original(path: Path) -> dict[str, Tensor]:
    """The tensors of an original checkpoint file, mapped into memory, under names with `detector.` and `tracker.`.

    The file is read with `weights_only=True`: a pickle that holds code is refused, not run.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the checkpoint file itself, for example {path / 'sam3.pt'}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is refused: it holds more than tensors, and unpickling that could run code. Save only the state "
            f"dict with torch.save(model.state_dict(), ...). ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}): a download that broke off?") from error
    return _unwrap(content, path)


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The plain state dict inside a file's content."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(
            f"{path} holds {type(content).__name__}, expected a dict of named tensors, or one under 'model'"
        )
    state_dict = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    if strange := [name for name in state_dict if _SAM_3_1.search(name)]:
        raise ValueError(
            f"{path} is a SAM 3.1 checkpoint (it has {describe_keys(strange, 3)}), which is not supported yet"
        )
    if lora := [name for name in state_dict if "lora_" in name]:
        raise ValueError(
            f"{path} holds LoRA weights ({describe_keys(lora, 3)}), not a model; merge them into the model first"
        )
    if not any(name.startswith(("detector.", "tracker.")) for name in state_dict):
        # What the reference's trainer saves: the detector alone, without its prefix.
        if not any(name.startswith(_DETECTOR_PARTS) for name in state_dict):
            counts = Counter(name.split(".")[0] for name in state_dict)
            raise ValueError(f"{path} is not a SAM 3 checkpoint: its tensors are named {dict(counts.most_common(5))}")
        state_dict = {f"detector.{name}": tensor for name, tensor in state_dict.items()}
    return state_dict


def _configuration(config: str | os.PathLike[str] | Sam3Config | None) -> Sam3Config:
    if config is None:
        return Sam3Config()
    return config if isinstance(config, Sam3Config) else Sam3Config.from_pretrained(config)


def _to_hub(source: Path, destination: Path, given: str | os.PathLike[str] | Sam3Config | None) -> Path:
    if destination.is_file():
        raise ValueError(f"{destination} is a file; the converted checkpoint is a directory")
    own = from_original(read_original(source))
    whole = _configuration(given)
    has_tracker = any(name.startswith("tracker_model.") for name in own)
    detector_config = whole.detector_config
    detector_config.geometry_encoder_config.exemplar_points = any(".points_direct_project." in name for name in own)
    if has_tracker:
        model: Sam3Model | Sam3Detector = _filled_model(Sam3Model, whole, own, source)
    else:
        # A detector's checkpoint may still carry the shared tower's second neck; alone it serves nothing.
        own = {n.removeprefix("detector_model."): t for n, t in own.items() if not n.startswith("tracker_neck.")}
        model = _filled_model(Sam3Detector, detector_config, own, source)
    model.save_pretrained(destination)
    side = model.config.image_size
    Sam3Processor(size={"height": side, "width": side}).save_pretrained(destination)
    return destination


def _filled_model(model_class: Any, config: Any, state_dict: dict[str, Tensor], source: Path) -> Any:
    """A model that holds `state_dict` itself, not a copy of it."""
    with torch.device("meta"):
        model = model_class(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing, unexpected = expected.keys() - state_dict.keys(), state_dict.keys() - expected.keys()
    wrong = [n for n in expected.keys() & state_dict.keys() if expected[n] != tuple(state_dict[n].shape)]
    if missing or unexpected or wrong:
        lines = [f"{source} does not fit a {model_class.__name__} of this configuration (other sizes? pass --config):"]
        lines += [f"missing: {describe_keys(missing)}"] if missing else []
        lines += [f"unexpected: {describe_keys(unexpected)}"] if unexpected else []
        lines += [
            f"wrong shape: {n} is {tuple(state_dict[n].shape)}, expected {expected[n]}" for n in sorted(wrong)[:8]
        ]
        raise ValueError("\n  ".join(lines))
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def _to_original(source: Path, destination: Path) -> Path:
    if destination.is_dir():
        raise ValueError(f"{destination} is a directory; give the file to write, for example {destination / 'sam3.pt'}")
    model = Sam3Model.from_pretrained(source)
    vit = model.config.detector_config.vision_config.backbone_config
    original = to_original(dict(model.state_dict()), vit)
    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = destination.with_name(f".{destination.name}.part")
    try:
        torch.save(original, scratch)
        os.replace(scratch, destination)
    finally:
        scratch.unlink(missing_ok=True)
    return destination
