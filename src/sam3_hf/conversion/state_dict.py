"""Whole state dicts between the original `sam3.pt` layout and the hub's, with every tensor accounted for."""

import re

import torch
from torch import Tensor

from ..configuration import Sam3ViTConfig
from ..modeling.checkpoint import describe_keys
from ..modeling.rotary import axial_rotary
from .key_map import FUSED, to_original_name, to_own_name

__all__ = ["from_original", "to_original"]

_POSITION = "detector_model.vision_encoder.backbone.embeddings.position_embeddings"
_ORIGINAL_POSITION = "detector.backbone.vision_backbone.trunk.pos_embed"
_TOKEN_POSITION = "detector_model.text_encoder.text_model.embeddings.position_embedding.weight"
_ORIGINAL_TOKEN_POSITION = "detector.backbone.language_backbone.encoder.positional_embedding"
_TEXT_PROJECTION = "detector_model.text_encoder.text_projection.weight"
_ORIGINAL_TEXT_PROJECTION = "detector.backbone.language_backbone.encoder.text_projection"
_POINTS, _ORIGINAL_POINTS = (
    "tracker_model.prompt_encoder.point_embed.weight",
    "tracker.sam_prompt_encoder.point_embeddings.",
)
_GAUSSIAN = "tracker_model.prompt_encoder.shared_embedding.positional_embedding"
_GAUSSIAN_AGAIN = "tracker_model.shared_image_embedding.positional_embedding"
# Buffers that follow from the sizes; keeping them would tie the model to 1008 px.
_RECOMPUTED = re.compile(r".*\.(freqs_cis|attn_mask|relative_coords)")


def from_original(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hub-layout state dict of an original one (prefixes `detector.` and `tracker.`).

    Raises:
        ValueError: naming the tensors that have no place here.
    """
    left = {name: tensor for name, tensor in state_dict.items() if not _RECOMPUTED.fullmatch(name)}
    own = _special_from_original(left) | _split_fused(left)
    for name in list(left):
        if (ours := to_own_name(name)) is not None:
            own[ours] = left.pop(name)
    if left:
        raise ValueError(f"not the names of an original SAM 3 checkpoint: {describe_keys(left)}")
    if _GAUSSIAN in own:
        own[_GAUSSIAN_AGAIN] = own[_GAUSSIAN].clone()  # the original stores it once
    return own


def to_original(state_dict: dict[str, Tensor], vit: Sam3ViTConfig) -> dict[str, Tensor]:
    """The original layout of a whole hub-layout state dict, rotary buffers recomputed for the picture size of `vit`.

    Raises:
        ValueError: naming the tensors that have no place there.
    """
    left = dict(state_dict)
    left.pop(_GAUSSIAN_AGAIN, None)
    original = _special_to_original(left) | _join_fused(left) | _rotary_buffers(vit)
    for name in list(left):
        if (theirs := to_original_name(name)) is not None:
            original[theirs] = left.pop(name)
    if left:
        raise ValueError(f"no place in an original SAM 3 checkpoint for: {describe_keys(left)}")
    return original


def _special_from_original(left: dict[str, Tensor]) -> dict[str, Tensor]:
    """Takes out of `left` what is more than renamed or split."""
    own = {}
    if (table := left.pop(_ORIGINAL_POSITION, None)) is not None:
        own[_POSITION] = table[:, 1:].contiguous()  # without the CLS position, which nothing uses
    if (table := left.pop(_ORIGINAL_TOKEN_POSITION, None)) is not None:
        own[_TOKEN_POSITION] = table
    if (weight := left.pop(_ORIGINAL_TEXT_PROJECTION, None)) is not None:
        own[_TEXT_PROJECTION] = weight.T.contiguous()
    points = sorted(name for name in left if name.startswith(_ORIGINAL_POINTS))
    if points:
        own[_POINTS] = torch.cat([left.pop(name) for name in points])
    return own


def _special_to_original(left: dict[str, Tensor]) -> dict[str, Tensor]:
    original = {}
    if (table := left.pop(_POSITION, None)) is not None:
        original[_ORIGINAL_POSITION] = torch.cat((torch.zeros_like(table[:, :1]), table), 1)
    if (table := left.pop(_TOKEN_POSITION, None)) is not None:
        original[_ORIGINAL_TOKEN_POSITION] = table
    if (weight := left.pop(_TEXT_PROJECTION, None)) is not None:
        original[_ORIGINAL_TEXT_PROJECTION] = weight.T.contiguous()
    if (table := left.pop(_POINTS, None)) is not None:
        original |= {f"{_ORIGINAL_POINTS}{i}.weight": table[i : i + 1].clone() for i in range(len(table))}
    return original


def _matches(template: str, names: dict[str, Tensor]) -> list[tuple[str, ...]]:
    """The (indices..., weight or bias) of the names that follow a template."""
    pattern = re.compile(re.escape(template).replace(r"\*", r"(\d+)") + r"(weight|bias)")
    return [match.groups() for match in map(pattern.fullmatch, names) if match]


def _filled(template: str, groups: tuple[str, ...]) -> str:
    for index in groups[:-1]:
        template = template.replace("*", index, 1)
    return template + groups[-1]


def _split_fused(left: dict[str, Tensor]) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    for fused in FUSED:
        for groups in _matches(fused.original, left):
            parts = left.pop(_filled(fused.original, groups)).chunk(len(fused.own))
            own |= {_filled(t, groups): part.clone() for t, part in zip(fused.own, parts, strict=True)}
    return own


def _join_fused(left: dict[str, Tensor]) -> dict[str, Tensor]:
    original = {}
    for fused in FUSED:
        for groups in _matches(fused.own[0], left):
            parts = [left.pop(_filled(template, groups)) for template in fused.own]
            original[_filled(fused.original, groups)] = torch.cat(parts)
    return original


def _rotary_buffers(config: Sam3ViTConfig) -> dict[str, Tensor]:
    """The complex `freqs_cis` of each vision layer, which the reference's strict loader wants to see."""
    head_dim = config.hidden_size // config.num_attention_heads
    buffers = {}
    for i in range(config.num_hidden_layers):
        side = config.grid_size if i in config.global_attn_indexes else config.window_size
        angles = axial_rotary(side, side, head_dim, config.rope_theta, config.window_size / side)
        buffers[f"detector.backbone.vision_backbone.trunk.blocks.{i}.attn.freqs_cis"] = torch.complex(*angles)
    return buffers
