"""Names of tensors here and in the original `sam3.pt`, as tables that are read in both directions.

`*` stands for an index. What follows a prefix (`weight`, `bias`) is the same on both sides.
"""

import re
from dataclasses import dataclass
from functools import cache

__all__ = ["FUSED", "RENAMED", "Fused", "to_original_name", "to_own_name"]


@dataclass(frozen=True)
class Fused:
    """Several of our tensors that the original stacks along their first axis."""

    own: tuple[str, ...]
    original: str


_VIT, _ORIGINAL_VIT = "detector_model.vision_encoder.backbone.", "detector.backbone.vision_backbone.trunk."
_TEXT, _ORIGINAL_TEXT = "detector_model.text_encoder.", "detector.backbone.language_backbone.encoder."
_GEOMETRY, _ORIGINAL_GEOMETRY = "detector_model.geometry_encoder.", "detector.geometry_encoder."
_DECODER, _ORIGINAL_DECODER = "detector_model.detr_decoder.", "detector.transformer.decoder."
_MASKS, _ORIGINAL_MASKS = "detector_model.mask_decoder.", "detector.segmentation_head."
_PROMPTS, _ORIGINAL_PROMPTS = "tracker_model.prompt_encoder.", "tracker.sam_prompt_encoder."
_SAM, _ORIGINAL_SAM = "tracker_model.mask_decoder.", "tracker.sam_mask_decoder."
_MEMORY, _ORIGINAL_MEMORY = "tracker_model.memory_encoder.", "tracker.maskmem_backbone."
_READER, _ORIGINAL_READER = "tracker_model.memory_attention.", "tracker.transformer.encoder."


def _same(own: str, original: str, *names: str) -> list[tuple[str, str]]:
    return [(own + name, original + name) for name in names]


def _neck(own: str, original: str) -> list[tuple[str, str]]:
    names = [(f"{level}.proj1.", f"{level}.conv_1x1.") for level in range(4)]
    names += [(f"{level}.proj2.", f"{level}.conv_3x3.") for level in range(4)]
    names += [("0.scale_layers.0.", "0.dconv_2x2_0."), ("0.scale_layers.2.", "0.dconv_2x2_1.")]
    names += [("1.scale_layers.0.", "1.dconv_2x2.")]
    return [(f"{own}fpn_layers.{ours}", f"{original}{theirs}") for ours, theirs in names]


def _mlp(own: str, original: str, count: int) -> list[tuple[str, str]]:
    """layer1, layer2, ... here; layers.0, layers.1, ... there."""
    return [(f"{own}.layer{i + 1}.", f"{original}.layers.{i}.") for i in range(count)]


def _named_mlp(own: str, original: str) -> list[tuple[str, str]]:
    """proj_in, layers.0, proj_out here; layers.0, layers.1, layers.2 there."""
    names = ("proj_in.", "layers.0.", "proj_out.")
    return [(f"{own}.{name}", f"{original}.layers.{i}.") for i, name in enumerate(names)]


def _split_attention(own: str, original: str) -> list[tuple[str, str]]:
    names = [("q_proj.",) * 2, ("k_proj.",) * 2, ("v_proj.",) * 2, ("o_proj.", "out_proj.")]
    return [(f"{own}.{ours}", f"{original}.{theirs}") for ours, theirs in names]


def _transformer_layer(
    own: str, original: str, attentions: dict[str, str], norms: dict[str, str]
) -> list[tuple[str, str]]:
    """The parts of a DETR-style layer that are not fused: output projections, norms, feed-forward."""
    pairs = [(f"{own}{ours}.o_proj.", f"{original}{theirs}.out_proj.") for ours, theirs in attentions.items()]
    pairs += [(f"{own}{ours}.", f"{original}{theirs}.") for ours, theirs in norms.items()]
    return [*pairs, (f"{own}mlp.fc1.", f"{original}linear1."), (f"{own}mlp.fc2.", f"{original}linear2.")]


_ENCODER_NORMS = {f"layer_norm{i}": f"norm{i}" for i in (1, 2, 3)}
_ENCODER_ATTENTIONS = {"self_attn": "self_attn", "cross_attn": "cross_attn_image"}
_DECODER_ATTENTIONS = {"self_attn": "self_attn", "text_cross_attn": "ca_text", "vision_cross_attn": "cross_attn"}
_DECODER_NORMS = {
    "self_attn_layer_norm": "norm2",
    "text_cross_attn_layer_norm": "catext_norm",
    "vision_cross_attn_layer_norm": "norm1",
    "mlp_layer_norm": "norm3",
}

# (our prefix, the original's prefix)
RENAMED: list[tuple[str, str]] = [
    # vision tower
    (_VIT + "embeddings.patch_embeddings.projection.", _ORIGINAL_VIT + "patch_embed.proj."),
    (_VIT + "layer_norm.", _ORIGINAL_VIT + "ln_pre."),
    (_VIT + "layers.*.layer_norm1.", _ORIGINAL_VIT + "blocks.*.norm1."),
    (_VIT + "layers.*.layer_norm2.", _ORIGINAL_VIT + "blocks.*.norm2."),
    (_VIT + "layers.*.attention.o_proj.", _ORIGINAL_VIT + "blocks.*.attn.proj."),
    *_same(_VIT + "layers.*.", _ORIGINAL_VIT + "blocks.*.", "mlp.fc1.", "mlp.fc2."),
    *_neck("detector_model.vision_encoder.neck.", "detector.backbone.vision_backbone.convs."),
    *_neck("tracker_neck.", "detector.backbone.vision_backbone.sam2_convs."),
    # text tower
    (_TEXT + "text_model.embeddings.token_embedding.", _ORIGINAL_TEXT + "token_embedding."),
    (_TEXT + "text_model.encoder.layers.*.layer_norm1.", _ORIGINAL_TEXT + "transformer.resblocks.*.ln_1."),
    (_TEXT + "text_model.encoder.layers.*.layer_norm2.", _ORIGINAL_TEXT + "transformer.resblocks.*.ln_2."),
    (_TEXT + "text_model.encoder.layers.*.mlp.fc1.", _ORIGINAL_TEXT + "transformer.resblocks.*.mlp.c_fc."),
    (_TEXT + "text_model.encoder.layers.*.mlp.fc2.", _ORIGINAL_TEXT + "transformer.resblocks.*.mlp.c_proj."),
    (
        _TEXT + "text_model.encoder.layers.*.self_attn.out_proj.",
        _ORIGINAL_TEXT + "transformer.resblocks.*.attn.out_proj.",
    ),
    (_TEXT + "text_model.final_layer_norm.", _ORIGINAL_TEXT + "ln_final."),
    ("detector_model.text_projection.", "detector.backbone.language_backbone.resizer."),
    # exemplar encoder
    *_same(_GEOMETRY, _ORIGINAL_GEOMETRY, "label_embed.", "cls_embed.", "final_proj."),
    *_same(_GEOMETRY, _ORIGINAL_GEOMETRY, *(f"boxes_{n}_project." for n in ("direct", "pool", "pos_enc"))),
    *_same(_GEOMETRY, _ORIGINAL_GEOMETRY, *(f"points_{n}_project." for n in ("direct", "pool", "pos_enc"))),
    (_GEOMETRY + "vision_layer_norm.", _ORIGINAL_GEOMETRY + "img_pre_norm."),
    (_GEOMETRY + "prompt_layer_norm.", _ORIGINAL_GEOMETRY + "norm."),
    (_GEOMETRY + "output_layer_norm.", _ORIGINAL_GEOMETRY + "encode_norm."),
    *_transformer_layer(_GEOMETRY + "layers.*.", _ORIGINAL_GEOMETRY + "encode.*.", _ENCODER_ATTENTIONS, _ENCODER_NORMS),
    # fusion encoder
    *_transformer_layer(
        "detector_model.detr_encoder.layers.*.",
        "detector.transformer.encoder.layers.*.",
        _ENCODER_ATTENTIONS,
        _ENCODER_NORMS,
    ),
    # decoder
    *_transformer_layer(_DECODER + "layers.*.", _ORIGINAL_DECODER + "layers.*.", _DECODER_ATTENTIONS, _DECODER_NORMS),
    *_same(_DECODER, _ORIGINAL_DECODER, "query_embed.", "reference_points.", "presence_token."),
    (_DECODER + "output_layer_norm.", _ORIGINAL_DECODER + "norm."),
    (_DECODER + "presence_layer_norm.", _ORIGINAL_DECODER + "presence_token_out_norm."),
    *_mlp(_DECODER + "box_head", _ORIGINAL_DECODER + "bbox_embed", 3),
    *_mlp(_DECODER + "presence_head", _ORIGINAL_DECODER + "presence_token_head", 3),
    *_mlp(_DECODER + "ref_point_head", _ORIGINAL_DECODER + "ref_point_head", 2),
    *_mlp(_DECODER + "box_rpb_embed_x", _ORIGINAL_DECODER + "boxRPB_embed_x", 2),
    *_mlp(_DECODER + "box_rpb_embed_y", _ORIGINAL_DECODER + "boxRPB_embed_y", 2),
    # scoring, mask head
    *_mlp("detector_model.dot_product_scoring.text_mlp", "detector.dot_prod_scoring.prompt_mlp", 2),
    ("detector_model.dot_product_scoring.text_mlp_out_norm.", "detector.dot_prod_scoring.prompt_mlp.out_norm."),
    ("detector_model.dot_product_scoring.text_proj.", "detector.dot_prod_scoring.prompt_proj."),
    ("detector_model.dot_product_scoring.query_proj.", "detector.dot_prod_scoring.hs_proj."),
    *_same(_MASKS, _ORIGINAL_MASKS, "pixel_decoder.conv_layers.*.", "pixel_decoder.norms.*."),
    (_MASKS + "mask_embedder.layers.*.", _ORIGINAL_MASKS + "mask_predictor.mask_embed.layers.*."),
    (_MASKS + "prompt_cross_attn.o_proj.", _ORIGINAL_MASKS + "cross_attend_prompt.out_proj."),
    (_MASKS + "prompt_cross_attn_norm.", _ORIGINAL_MASKS + "cross_attn_norm."),
    (_MASKS + "semantic_projection.", _ORIGINAL_MASKS + "semantic_seg_head."),
    (_MASKS + "instance_projection.", _ORIGINAL_MASKS + "instance_seg_head."),
    # tracker: parameters of its own
    ("tracker_model.memory_temporal_positional_encoding", "tracker.maskmem_tpos_enc"),
    ("tracker_model.no_memory_embedding", "tracker.no_mem_embed"),
    ("tracker_model.no_memory_positional_encoding", "tracker.no_mem_pos_enc"),
    ("tracker_model.no_object_pointer", "tracker.no_obj_ptr"),
    ("tracker_model.occlusion_spatial_embedding_parameter", "tracker.no_obj_embed_spatial"),
    ("tracker_model.mask_downsample.", "tracker.mask_downsample."),
    ("tracker_model.temporal_positional_encoding_projection_layer.", "tracker.obj_ptr_tpos_proj."),
    *_named_mlp("tracker_model.object_pointer_proj", "tracker.obj_ptr_proj"),
    # tracker: prompt encoder
    *_same(_PROMPTS, _ORIGINAL_PROMPTS, "not_a_point_embed.", "no_mask_embed."),
    *[
        (f"{_PROMPTS}mask_embed.{name}.", f"{_ORIGINAL_PROMPTS}mask_downscaling.{i}.")
        for name, i in (("conv1", 0), ("layer_norm1", 1), ("conv2", 3), ("layer_norm2", 4), ("conv3", 6))
    ],
    (
        _PROMPTS + "shared_embedding.positional_embedding",
        _ORIGINAL_PROMPTS + "pe_layer.positional_encoding_gaussian_matrix",
    ),
    # tracker: mask decoder
    *_same(_SAM, _ORIGINAL_SAM, "iou_token.", "mask_tokens.", "obj_score_token.", "conv_s0.", "conv_s1."),
    *[
        (f"{_SAM}{name}.", f"{_ORIGINAL_SAM}output_upscaling.{i}.")
        for name, i in (("upscale_conv1", 0), ("upscale_layer_norm", 1), ("upscale_conv2", 3))
    ],
    *_named_mlp(_SAM + "output_hypernetworks_mlps.*", _ORIGINAL_SAM + "output_hypernetworks_mlps.*"),
    *_named_mlp(_SAM + "iou_prediction_head", _ORIGINAL_SAM + "iou_prediction_head"),
    *_named_mlp(_SAM + "pred_obj_score_head", _ORIGINAL_SAM + "pred_obj_score_head"),
    *[
        pair
        for name in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        for pair in _split_attention(
            f"{_SAM}transformer.layers.*.{name}", f"{_ORIGINAL_SAM}transformer.layers.*.{name}"
        )
    ],
    *_split_attention(
        _SAM + "transformer.final_attn_token_to_image", _ORIGINAL_SAM + "transformer.final_attn_token_to_image"
    ),
    *[
        (f"{_SAM}transformer.layers.*.layer_norm{i}.", f"{_ORIGINAL_SAM}transformer.layers.*.norm{i}.")
        for i in (1, 2, 3, 4)
    ],
    (_SAM + "transformer.layers.*.mlp.proj_in.", _ORIGINAL_SAM + "transformer.layers.*.mlp.lin1."),
    (_SAM + "transformer.layers.*.mlp.proj_out.", _ORIGINAL_SAM + "transformer.layers.*.mlp.lin2."),
    (_SAM + "transformer.layer_norm_final_attn.", _ORIGINAL_SAM + "transformer.norm_final_attn."),
    # tracker: memory
    *[
        (f"{_MEMORY}mask_downsampler.layers.{i}.{name}.", f"{_ORIGINAL_MEMORY}mask_downsampler.encoder.{3 * i + j}.")
        for i in range(4)
        for j, name in enumerate(("conv", "layer_norm"))
    ],
    (_MEMORY + "mask_downsampler.final_conv.", _ORIGINAL_MEMORY + "mask_downsampler.encoder.12."),
    (_MEMORY + "feature_projection.", _ORIGINAL_MEMORY + "pix_feat_proj."),
    (_MEMORY + "projection.", _ORIGINAL_MEMORY + "out_proj."),
    *[
        (f"{_MEMORY}memory_fuser.layers.*.{ours}", f"{_ORIGINAL_MEMORY}fuser.layers.*.{theirs}")
        for ours, theirs in (
            ("scale", "gamma"),
            ("depthwise_conv.", "dwconv."),
            ("layer_norm.", "norm."),
            ("pointwise_conv1.", "pwconv1."),
            ("pointwise_conv2.", "pwconv2."),
        )
    ],
    *_split_attention(_READER + "layers.*.self_attn", _ORIGINAL_READER + "layers.*.self_attn"),
    *_split_attention(_READER + "layers.*.cross_attn_image", _ORIGINAL_READER + "layers.*.cross_attn_image"),
    *_same(_READER + "layers.*.", _ORIGINAL_READER + "layers.*.", "linear1.", "linear2."),
    *[(f"{_READER}layers.*.layer_norm{i}.", f"{_ORIGINAL_READER}layers.*.norm{i}.") for i in (1, 2, 3)],
    (_READER + "layer_norm.", _ORIGINAL_READER + "norm."),
]


def _qkv(own: str, original: str) -> Fused:
    return Fused(tuple(f"{own}.{name}_proj." for name in "qkv"), original)


FUSED: list[Fused] = [
    _qkv(_VIT + "layers.*.attention", _ORIGINAL_VIT + "blocks.*.attn.qkv."),
    _qkv(_TEXT + "text_model.encoder.layers.*.self_attn", _ORIGINAL_TEXT + "transformer.resblocks.*.attn.in_proj_"),
    *[
        _qkv(f"{_GEOMETRY}layers.*.{ours}", f"{_ORIGINAL_GEOMETRY}encode.*.{theirs}.in_proj_")
        for ours, theirs in _ENCODER_ATTENTIONS.items()
    ],
    *[
        _qkv(f"detector_model.detr_encoder.layers.*.{ours}", f"detector.transformer.encoder.layers.*.{theirs}.in_proj_")
        for ours, theirs in _ENCODER_ATTENTIONS.items()
    ],
    *[
        _qkv(f"{_DECODER}layers.*.{ours}", f"{_ORIGINAL_DECODER}layers.*.{theirs}.in_proj_")
        for ours, theirs in _DECODER_ATTENTIONS.items()
    ],
    _qkv(_MASKS + "prompt_cross_attn", _ORIGINAL_MASKS + "cross_attend_prompt.in_proj_"),
]


@cache
def _compiled(own_to_original: bool) -> list[tuple[re.Pattern[str], str]]:
    rules = []
    for own, original in RENAMED:
        source, target = (own, original) if own_to_original else (original, own)
        pattern = re.escape(source).replace(r"\*", r"(\d+)")
        # A prefix that ends in a dot goes on with weight or bias; another is a whole name.
        rest = r"(weight|bias)" if source.endswith(".") else r"()"
        rules.append((re.compile(pattern + rest), target))
    return rules


def _translate(name: str, own_to_original: bool) -> str | None:
    for pattern, target in _compiled(own_to_original):
        if match := pattern.fullmatch(name):
            *indices, rest = match.groups()
            for index in indices:
                target = target.replace("*", index, 1)
            return target + rest
    return None


def to_original_name(own: str) -> str | None:
    """The original's name of one of our tensors that is merely renamed; None when there is none."""
    return _translate(own, own_to_original=True)


def to_own_name(original: str) -> str | None:
    """Our name of one of the original's tensors that is merely renamed; None when there is none."""
    return _translate(original, own_to_original=False)
