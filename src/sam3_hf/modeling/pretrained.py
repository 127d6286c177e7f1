"""What the three model classes share: strict loading of every layout, whole-or-nothing saving, first weights."""

import contextlib
import copy
import os
import re
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ..hub import local_directory
from .checkpoint import Checkpoint, canonical_key, describe_keys
from .model_card import write_model_card

__all__ = ["HUB_ARGUMENTS", "Sam3PreTrainedModel"]

ModelT = TypeVar("ModelT", bound="Sam3PreTrainedModel")
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
_WHOLE_LAYOUT = re.compile(r"^(detector_model|tracker_model|tracker_neck)\.")
_SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors|model\.safetensors\.index\.json|model\.safetensors")
# Parameters that are no layer's weight or bias, by the beginning of their names.
_BARE_PARAMETERS = ("position_embeddings", "memory_temporal", "no_object", "no_memory", "occlusion_spatial")
# What transformers calls the classes that open the same file.
_ARCHITECTURES = {
    "Sam3Model": "Sam3VideoModel",
    "Sam3Detector": "Sam3Model",
    "Sam3VideoTracker": "Sam3TrackerVideoModel",
}


class Sam3PreTrainedModel(PreTrainedModel):
    """Base of `Sam3Model`, `Sam3Detector` and `Sam3VideoTracker`."""

    base_model_prefix = "sam3"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Box, position-bias and presence maths lose objects in half precision, so their weights stay float32.
    _keep_in_fp32_modules_strict: ClassVar = [
        "box_head",
        "box_rpb_embed_x",
        "box_rpb_embed_y",
        "presence_head",
        "ref_point_head",
        "reference_points",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # DETR's first weights, from which a model can be trained: Xavier for products, so that signals keep their size.
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Linear) and getattr(module, "starts_at_zero", False):
            init.zeros_(module.weight)
        if isinstance(module, nn.Embedding) and getattr(module, "holds_boxes", False):
            # Logits of cxcywh: centres all over the picture, sides of 5 to 50 % of it.
            # As one tensor: a slice has lost transformers' mark of a weight that was loaded.
            centres, sides = torch.empty(len(module.weight), 2), torch.empty(len(module.weight), 2)
            boxes = torch.cat((centres.uniform_(-2.5, 2.5), sides.uniform_(-3.0, 0.0)), 1)
            init.copy_(module.weight, boxes.to(module.weight))
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith(_BARE_PARAMETERS):
                init.normal_(parameter, std=self.config.initializer_range)
        if "positional_embedding" in dict(module.named_buffers(recurse=False)):
            init.normal_(module.get_buffer("positional_embedding"), std=module.scale)
        if hasattr(module, "shared_image_embedding"):  # the tracker: `sam3.pt` stores the table of both once
            table = module.get_buffer("prompt_encoder.shared_embedding.positional_embedding")
            init.copy_(module.get_buffer("shared_image_embedding.positional_embedding"), table)
        if isinstance(getattr(module, "scale", None), nn.Parameter):
            init.constant_(module.scale, 1e-6)

    @classmethod
    def from_pretrained(
        cls: type[ModelT],
        pretrained_model_name_or_path: str | os.PathLike[str] | None,
        *model_args: Any,
        config: PreTrainedConfig | str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> ModelT:
        """The model with every tensor of a checkpoint accounted for, in evaluation mode.

        Opens a directory in the hub's layout (`facebook/sam3`, or what transformers or this package saved), whole or
        one half; a half also opens from the whole. Original `sam3.pt` files are converted first (`sam3-hf convert`).

        Args:
            pretrained_model_name_or_path: local directory or repository on the hub.
            config: a configuration to use instead of the directory's, for example with another `image_size`.
            kwargs: fields of the configuration (`image_size=560`), hub arguments (`revision`, `token`, ...) and
                transformers' loading arguments (`dtype`, `device_map`, `attn_implementation`, ...).

        Raises:
            ValueError: naming the tensors that are missing, unexpected or of the wrong shape, or the broken file.
            CheckpointNotFoundError: when there is no such directory or repository, or it may not be read.
        """
        if pretrained_model_name_or_path is None or "state_dict" in kwargs:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)
        if kwargs.pop("ignore_mismatched_sizes", False):
            raise ValueError("ignore_mismatched_sizes would leave random weights in the model; it is not supported")
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        for name in (*HUB_ARGUMENTS, "use_safetensors", "weights_only", "trust_remote_code", "_from_pipeline"):
            kwargs.pop(name, None)
        directory = local_directory(pretrained_model_name_or_path, **hub)
        checkpoint = Checkpoint(directory, kwargs.pop("variant", None))
        resolved = cls._resolve_config(directory, config, kwargs)
        plan = cls._plan(checkpoint, resolved)
        stored = checkpoint.tensors(plan.values())
        state_dict = {key: stored.pop(source) for key, source in plan.items()}
        model = super().from_pretrained(None, *model_args, config=resolved, state_dict=state_dict, **kwargs)
        loaded = model[0] if isinstance(model, tuple) else model  # output_loading_info=True gives a pair
        loaded.name_or_path = loaded.config._name_or_path = str(pretrained_model_name_or_path)
        return model

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """Switches every attention of the model to "sdpa" or "eager"."""
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        # Not every version of transformers reaches the configurations that are nested twice.
        self.config._attn_implementation = attn_implementation

    @classmethod
    def _resolve_config(cls, directory: Path, given: Any, kwargs: dict[str, Any]) -> PreTrainedConfig:
        """A configuration of this class: the given one, or the directory's with fields taken out of `kwargs`."""
        wanted = cls.config_class
        if isinstance(given, (str, os.PathLike)):
            given = wanted.from_pretrained(given)
        if given is None:
            if not (directory / "config.json").is_file():
                raise ValueError(f"{directory} holds no config.json, so the sizes of the model are unknown")
            given = wanted.from_pretrained(directory)
        elif not isinstance(given, wanted):  # the whole model's configuration, or transformers' own class
            content = given.to_dict()
            given = wanted.from_dict(content.get(wanted.base_config_key, content))
        config = copy.deepcopy(given)
        own = {field.name for field in fields(wanted)} - {field.name for field in fields(PreTrainedConfig)}
        for name in [name for name in kwargs if name in own | {"image_size"}]:
            setattr(config, name, kwargs.pop(name))
        return config

    @classmethod
    def _plan(cls, checkpoint: Checkpoint, config: PreTrainedConfig) -> dict[str, str]:
        """Checkpoint key of each of the model's tensors; notes in `config` whether point exemplars have weights."""
        sources = {canonical_key(key): key for key in checkpoint.shapes}
        found = cls._own_keys(sources)
        detector = getattr(config, "detector_config", config)
        if hasattr(detector, "geometry_encoder_config"):
            detector.geometry_encoder_config.exemplar_points = any("geometry_encoder.points_" in key for key in found)
        with torch.device("meta"):
            expected = {key: tuple(tensor.shape) for key, tensor in cls(config).state_dict().items()}
        _raise_on_misfit(cls.__name__, checkpoint, expected, found)
        return found

    @classmethod
    def _own_keys(cls, sources: dict[str, str]) -> dict[str, str]:
        """Model key → checkpoint key for what belongs to this class, whichever layout the checkpoint has."""
        if cls.__name__ == "Sam3Model" or not any(_WHOLE_LAYOUT.match(key) for key in sources):
            return sources
        renames = {
            "Sam3Detector": [("detector_model.", "")],
            "Sam3VideoTracker": [
                ("tracker_model.", ""),
                ("tracker_neck.", "vision_encoder.neck."),
                ("detector_model.vision_encoder.backbone.", "vision_encoder.backbone."),
            ],
        }[cls.__name__]
        own = {}
        for key, source in sources.items():
            old_new = next(((old, new) for old, new in renames if key.startswith(old)), None)
            if old_new is not None:
                own[old_new[1] + key.removeprefix(old_new[0])] = source
            elif not _WHOLE_LAYOUT.match(key):
                own[key] = source  # belongs to neither half: reported as unexpected
        return own

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Writes config.json, model.safetensors and a model card that this package and plain transformers open.

        Files are written beside the old ones and renamed when they are whole, so an interruption loses nothing.
        """
        target = Path(save_directory)
        if target.is_file():
            raise ValueError(f"{target} is a file; save_pretrained needs a directory")
        target.mkdir(parents=True, exist_ok=True)
        repository = {name: kwargs.pop(name) for name in ("repo_id", "commit_message", "private") if name in kwargs}
        scratch = Path(tempfile.mkdtemp(prefix=".saving-", dir=target))
        try:
            # transformers would write a tracker's keys with the prefix doubled; ours have the hub's layout already.
            super().save_pretrained(scratch, *args, **{"save_original_format": False} | kwargs)
            if (scratch / "config.json").is_file():
                self.config.architectures = [_ARCHITECTURES.get(type(self).__name__, type(self).__name__)]
                self.config.save_pretrained(scratch)
                if not (target / "README.md").exists():
                    write_model_card(scratch / "README.md", type(self).__name__, self.num_parameters())
            _move_files(scratch, target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if push_to_hub:
            self.push_to_hub(repository.pop("repo_id", target.resolve().name), **repository)


def _move_files(scratch: Path, target: Path) -> None:
    """Renames new files into place, and removes the weight files of an earlier save that they replace."""
    names = {path.name for path in scratch.iterdir()}
    for path in sorted(scratch.iterdir()):
        os.replace(path, target / path.name)
    if any(_SHARD.fullmatch(name) for name in names):
        for path in target.iterdir():
            if _SHARD.fullmatch(path.name) and path.name not in names:
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()


def _raise_on_misfit(
    name: str, checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]], found: dict[str, str]
) -> None:
    """Raises `ValueError` unless the checkpoint's tensors are exactly the model's."""
    missing, unexpected = expected.keys() - found.keys(), found.keys() - expected.keys()
    shapes = {key: checkpoint.shapes[source] for key, source in found.items()}
    wrong = [key for key in expected.keys() & shapes.keys() if expected[key] != shapes[key]]
    if not (missing or unexpected or wrong):
        return
    lines = [f"the weights in {checkpoint.directory} are not those of a {name} with this configuration:"]
    if missing:
        lines.append(f"missing: {describe_keys(missing)}")
    if unexpected:
        lines.append(f"unexpected: {describe_keys(unexpected)}")
    for key in sorted(wrong)[:8]:
        lines.append(f"wrong shape: {key} is {shapes[key]}, expected {expected[key]}")
    lines.append(_advice(name, missing, unexpected))
    raise ValueError("\n  ".join(lines))


def _advice(name: str, missing: set[str], unexpected: set[str]) -> str:
    if any(key.startswith(("detector.", "tracker.", "module.", "model.")) for key in unexpected):
        return "these are the original checkpoint's names: convert it with `sam3-hf convert SOURCE DIRECTORY`"
    if any("lora_" in key for key in unexpected):
        return (
            "these are LoRA weights: load the base model and put the adapter on it with peft.PeftModel.from_pretrained"
        )
    if any("multiplex" in key or "sam3_1" in key for key in unexpected):
        return "this looks like SAM 3.1, which is not supported yet"
    if name == "Sam3Model" and any(key.startswith("tracker_") for key in missing):
        return "if this checkpoint holds one half only, open it with Sam3Detector or Sam3VideoTracker"
    return "check that config.json and the weights belong together; nothing was loaded"
