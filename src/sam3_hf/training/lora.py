"""LoRA through `peft`: adapters on the attention and feed-forward layers of chosen parts, saved apart or merged."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ..modeling.pretrained import Sam3PreTrainedModel

__all__ = ["LORA_PARTS", "add_lora", "load_lora", "lora_targets", "merge_lora"]

_LAYER = r"\.layers\.\d+\.\w+\.(?:(?:[qkvo]|out)_proj|fc[12])"
# Part → the names of its layers that get an adapter. The small networks for boxes and presence are in none: they use
# their weights themselves, in float32, and would not see it; name them in `fully` instead.
LORA_PARTS = {
    "vision": r"vision_encoder\.backbone" + _LAYER,
    "text": r"text_encoder\.text_model\.encoder" + _LAYER,
    "exemplars": "geometry_encoder" + _LAYER,
    "fusion": "detr_encoder" + _LAYER,
    "decoder": "detr_decoder" + _LAYER,
    "heads": r"dot_product_scoring\.(?:\w+_proj|text_mlp\.layer\d)|mask_decoder\.prompt_cross_attn\.\w_proj"
    r"|mask_decoder\.mask_embedder\.layers\.\d",
}
_WHOLE = "detector_model."
_WEIGHTS = "adapter_model.safetensors"


def lora_targets(parts: Sequence[str] = tuple(LORA_PARTS)) -> str:
    """The pattern of the names of layers that get an adapter, for `peft`; it fits `Sam3Detector` and `Sam3Model`."""
    if unknown := [part for part in parts if part not in LORA_PARTS]:
        raise ValueError(f"LoRA knows the parts {', '.join(LORA_PARTS)}; got {', '.join(unknown)}")
    if not parts:
        raise ValueError(f"LoRA needs at least one of the parts {', '.join(LORA_PARTS)}")
    return r"(?:detector_model\.)?(?:" + "|".join(LORA_PARTS[part] for part in parts) + ")"


def add_lora(
    model: Sam3PreTrainedModel,
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    parts: Sequence[str] = tuple(LORA_PARTS),
    fully: Sequence[str] = (),
) -> Any:
    """A `peft.PeftModel` around the model in which only the adapters learn; it trains and saves as any model does.

    Its `save_pretrained` writes the adapters alone (megabytes); `merge_lora` gives the plain model back.

    Args:
        model: `Sam3Detector` or `Sam3Model`; its layers are replaced by ones with adapters.
        rank: r of the update B·A of each weight matrix (Hu et al. 2021).
        alpha: the update is scaled by alpha / rank; default 2·rank.
        dropout: rate on the adapters' inputs in training.
        parts: keys of `LORA_PARTS`.
        fully: names of modules that are trained whole and saved with the adapters, such as "presence_head".
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=lora_targets(parts),
        modules_to_save=list(fully) or None,
    )
    return _wrapped(model, config)


def load_lora(model: Sam3PreTrainedModel, directory: str | os.PathLike[str], is_trainable: bool = False) -> Any:
    """A `peft.PeftModel` of the base model with the adapters of a directory; `.get_base_model()` serves pipelines.

    Adapters of a `Sam3Detector` also fit the detector of a `Sam3Model`, and the other way round.

    Raises:
        ValueError: when there are no adapters in the directory, or not those of this model.
    """
    peft = _peft()
    folder = Path(directory)
    if not (folder / _WEIGHTS).is_file() or not (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds no LoRA adapters: adapter_config.json and {_WEIGHTS} are expected there")
    config = peft.PeftConfig.from_pretrained(folder)
    config.inference_mode, config.base_model_name_or_path = not is_trainable, None
    adapted = _wrapped(model, config)
    tensors = load_file(folder / _WEIGHTS)
    expected = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False)
    tensors = {_as_in(expected, key): tensor for key, tensor in tensors.items()}
    wrong = sorted(tensors.keys() ^ expected.keys())
    wrong += sorted(key for key in tensors.keys() & expected.keys() if tensors[key].shape != expected[key].shape)
    if wrong:
        raise ValueError(
            f"the adapters in {folder} are not those of this {type(model).__name__}: {len(wrong)} tensors are missing, "
            f"unexpected or of another shape, e.g. {wrong[0]}; load the base model that they were trained on"
        )
    peft.set_peft_model_state_dict(adapted, tensors)
    return adapted if is_trainable else adapted.eval()


def merge_lora(adapted: Any) -> Any:
    """The plain `Sam3Detector` or `Sam3Model` with the adapters' updates added to its weights; saves as usual."""
    if not isinstance(adapted, _peft().PeftModel):
        raise TypeError(f"merge_lora takes the PeftModel of add_lora or load_lora, got {type(adapted).__name__}")
    return adapted.merge_and_unload(safe_merge=True)


def _wrapped(model: Sam3PreTrainedModel, config: Any) -> Any:
    with warnings.catch_warnings():
        # peft 0.21 asks for a property of transformers by a name that is going out of use.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return _peft().get_peft_model(model, config)


def _as_in(expected: dict[str, Any], key: str) -> str:
    """The name of an adapter's tensor in a model that has, or has not, the detector inside it."""
    prefix = "base_model.model."
    name = key.removeprefix(prefix)
    variants = (key, prefix + _WHOLE + name, prefix + name.removeprefix(_WHOLE))
    return next((variant for variant in variants if variant in expected), key)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs peft: install it with `pip install "sam3-hf[train]"`') from error
    return peft
