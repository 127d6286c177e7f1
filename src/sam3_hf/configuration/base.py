"""What all SAM 3 configurations share: nested parts, and reading files that transformers wrote."""

import copy
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from ..version import __version__

__all__ = ["Sam3BaseConfig", "Sam3RootConfig", "square_size"]

# transformers writes 1e-6 for the vision tower, the released model was trained with 1e-5
# (facebookresearch/sam3 `vitdet.py`: `partial(nn.LayerNorm, eps=1e-5)`).
_TRANSFORMERS_VIT_EPS, _REFERENCE_VIT_EPS = 1e-6, 1e-5
_WRITTEN_BY = "sam3_hf_version"


def square_size(value: Any, name: str) -> int:
    """The side in pixels of a square given as an int or a pair of equal ints; raises `ValueError` for anything else."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    if not sides or any(isinstance(s, bool) or not isinstance(s, int) or s < 1 for s in sides) or len(set(sides)) != 1:
        raise ValueError(f"{name} must be one positive int (SAM 3 works on square pictures), got {value!r}")
    return sides[0]


class Sam3BaseConfig(PreTrainedConfig):
    """A configuration whose nested parts (`sub_configs`) are dicts, configurations, or not given (then defaults)."""

    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["loss_dict", "vision_embeds"]  # read by Trainer

    def __post_init__(self, **kwargs: Any) -> None:
        for name, part in self.sub_configs.items():
            setattr(self, name, _as_config(getattr(self, name), part, name))
        super().__post_init__(**kwargs)


class Sam3RootConfig(Sam3BaseConfig):
    """A configuration that has a `config.json` of its own: `from_dict` mends what transformers' files get wrong."""

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {_WRITTEN_BY: __version__}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The configuration described by a `config.json`, with the vision tower's LayerNorm epsilon of the reference.

        Files that transformers wrote say 1e-6 there, which is transformers' own default; the weights were trained with
        1e-5. Files that this package wrote are taken at their word.
        """
        if _WRITTEN_BY not in config_dict:
            config_dict = copy.deepcopy(config_dict)
            _mend_vit_epsilon(config_dict)
        return super().from_dict(config_dict, **kwargs)


def _as_config(given: Any, part: type[PreTrainedConfig], name: str) -> PreTrainedConfig:
    if isinstance(given, part):
        return given
    if isinstance(given, PreTrainedConfig):  # transformers' class of the same part
        given = given.to_dict()
    if given is None:
        return part()
    if not isinstance(given, dict):
        raise TypeError(f"`{name}` must be a dict or a {part.__name__}, got {type(given).__name__}")
    expected = part.model_type
    if given.get("model_type", expected) not in (expected, ""):
        raise ValueError(f"`{name}` is of model_type {given['model_type']!r}, expected {expected!r}")
    return part(**{key: value for key, value in given.items() if key not in ("model_type", _WRITTEN_BY)})


def _mend_vit_epsilon(node: dict[str, Any]) -> None:
    for key, value in node.items():
        if not isinstance(value, dict):
            continue
        if key == "backbone_config" and value.get("layer_norm_eps") == _TRANSFORMERS_VIT_EPS:
            value["layer_norm_eps"] = _REFERENCE_VIT_EPS
        _mend_vit_epsilon(value)
