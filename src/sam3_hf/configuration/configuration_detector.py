"""Configuration of the detector: vision tower, text tower, exemplar encoder, fusion encoder, decoder, mask head."""

import dataclasses
from typing import Any, ClassVar

from .base import Sam3BaseConfig, Sam3RootConfig, square_size
from .configuration_loss import Sam3LossConfig

__all__ = [
    "Sam3DETRDecoderConfig",
    "Sam3DETREncoderConfig",
    "Sam3DetectorConfig",
    "Sam3GeometryEncoderConfig",
    "Sam3MaskDecoderConfig",
    "Sam3TextConfig",
    "Sam3ViTConfig",
    "Sam3VisionConfig",
]


class Sam3ViTConfig(Sam3BaseConfig):
    """Configuration of the plain vision transformer ("PE-L+") whose single feature map feeds both necks.

    Args:
        layer_norm_eps: 1e-5 as in the released model (transformers' files say 1e-6, see `Sam3RootConfig.from_dict`).
        window_size: side, in tokens, of the attention windows of all layers but `global_attn_indexes`.
        pretrain_image_size: pixel side at which the position table was trained; the table is tiled from there.
        rope_theta: base of the axial rotary position embedding; in global layers positions are scaled by
            `window_size / grid`, so that they span the same range as inside one window.
        drop_path_rate: largest stochastic-depth rate (training only), growing linearly over the layers.
    """

    model_type = "sam3_vit_model"
    base_config_key = "backbone_config"

    hidden_size: int = 1024
    intermediate_size: int = 4736
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 1008
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0
    drop_path_rate: float = 0.1
    rope_theta: float = 10000.0
    window_size: int = 24
    global_attn_indexes: Any = None  # list[int]; [7, 15, 23, 31] when not given
    layer_scale_init_value: float | None = None
    pretrain_image_size: int = 336
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        rope = kwargs.pop("rope_parameters", None) or {}  # how transformers >= 5.1x writes `rope_theta`
        if rope.get("rope_type", "axial") != "axial":
            raise ValueError(f"the vision tower has axial rotary positions only, got rope_type {rope['rope_type']!r}")
        self.rope_theta = rope.get("rope_theta", self.rope_theta)
        self.image_size = square_size(self.image_size, "image_size")
        self.patch_size = square_size(self.patch_size, "patch_size")
        self.pretrain_image_size = square_size(self.pretrain_image_size, "pretrain_image_size")
        if self.global_attn_indexes is None:
            self.global_attn_indexes = [7, 15, 23, 31]
        if self.layer_scale_init_value is not None:
            raise ValueError("layer_scale_init_value must be None: no released SAM 3 model has layer scale")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}, for example "
                f"{self.image_size // self.patch_size * self.patch_size or self.patch_size}"
            )
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the picture."""
        return self.image_size // self.patch_size


class Sam3VisionConfig(Sam3BaseConfig):
    """Configuration of the vision tower: the transformer and one simple feature pyramid ("neck") on it.

    Args:
        scale_factors: sizes of the pyramid's levels relative to the transformer's map. The last one (0.5) has weights
            in every checkpoint but is used by nothing.
    """

    model_type = "sam3_vision_model"
    base_config_key = "vision_config"
    sub_configs: ClassVar = {"backbone_config": Sam3ViTConfig}

    backbone_config: Any = None
    fpn_hidden_size: int = 256
    backbone_feature_sizes: Any = None  # follows from the picture's size
    scale_factors: Any = None  # list[float]; [4, 2, 1, 0.5] when not given
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if self.scale_factors is None:
            self.scale_factors = [4.0, 2.0, 1.0, 0.5]
        super().__post_init__(**kwargs)
        self.image_size = self.backbone_config.image_size

    @property
    def image_size(self) -> int:
        """Side of the square input picture in pixels; setting it sets every size that follows from it."""
        return self.backbone_config.image_size

    @image_size.setter
    def image_size(self, value: Any) -> None:
        size, patch = square_size(value, "image_size"), self.backbone_config.patch_size
        if size % patch:
            raise ValueError(
                f"image_size {size} must be a multiple of the patch size {patch}, e.g. {size // patch * patch}"
            )
        self.backbone_config.image_size = size
        grid = size // patch
        self.backbone_feature_sizes = [[int(grid * scale)] * 2 for scale in self.scale_factors[:3]]


class Sam3TextConfig(Sam3BaseConfig):
    """Configuration of the text tower, a CLIP-style causal transformer."""

    model_type = "clip_text_model"
    base_config_key = "text_config"

    vocab_size: int = 49408
    hidden_size: int = 1024
    intermediate_size: int = 4096
    projection_dim: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    max_position_embeddings: int = 32
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_factor: float = 1.0
    pad_token_id: int | None = 1
    bos_token_id: int | None = 49406
    eos_token_id: int | list[int] | None = 49407


class _TransformerConfig(Sam3BaseConfig):
    """The fields that the three small transformers of the detector share."""

    hidden_size: int = 256
    num_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    dropout: float = 0.1
    hidden_act: str = "relu"
    hidden_dropout: float = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02


class Sam3GeometryEncoderConfig(_TransformerConfig):
    """Configuration of the exemplar encoder.

    Args:
        roi_size: side of the grid to which a box's features are pooled.
        exemplar_points: whether there are weights for point exemplars. The original `sam3.pt` has them, the hub's
            safetensors and transformers do not; set from the checkpoint when one is loaded.
    """

    model_type = "sam3_geometry_encoder"

    num_layers: int = 3
    roi_size: int = 7
    exemplar_points: bool = True


class Sam3DETREncoderConfig(_TransformerConfig):
    """Configuration of the fusion encoder."""

    model_type = "sam3_detr_encoder"


class Sam3DETRDecoderConfig(_TransformerConfig):
    """Configuration of the decoder; `num_queries` bounds how many objects one row can return.

    `presence` False is for comparisons: the model says that every phrase is there, and queries decide alone.
    """

    model_type = "sam3_detr_decoder"

    num_queries: int = 200
    presence: bool = True


class Sam3MaskDecoderConfig(Sam3BaseConfig):
    """Configuration of the mask head and the semantic head."""

    model_type = "sam3_mask_decoder"

    hidden_size: int = 256
    num_upsampling_stages: int = 3
    layer_norm_eps: float = 1e-6
    dropout: float = 0.0
    num_attention_heads: int = 8
    initializer_range: float = 0.02


_DETECTOR_PARTS: dict[str, type[Sam3BaseConfig]] = {
    "vision_config": Sam3VisionConfig,
    "text_config": Sam3TextConfig,
    "geometry_encoder_config": Sam3GeometryEncoderConfig,
    "detr_encoder_config": Sam3DETREncoderConfig,
    "detr_decoder_config": Sam3DETRDecoderConfig,
    "mask_decoder_config": Sam3MaskDecoderConfig,
}


class Sam3DetectorConfig(Sam3RootConfig):
    """Configuration of `Sam3Detector`; equals `detector_config` in the hub's `config.json` (model_type `sam3`).

    `loss_config`: fields of `Sam3LossConfig` that differ from the released recipe, for training; None: none do.
    `duplicate_iou`: outside training, a query whose mask overlaps that of a better query of its row by more than this
    IoU (in 0..1) answers "no object". None, as released: queries answer as they are.
    """

    model_type = "sam3"
    base_config_key = "detector_config"
    sub_configs: ClassVar = _DETECTOR_PARTS

    vision_config: Any = None
    text_config: Any = None
    geometry_encoder_config: Any = None
    detr_encoder_config: Any = None
    detr_decoder_config: Any = None
    mask_decoder_config: Any = None
    loss_config: Any = None
    duplicate_iou: float | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.duplicate_iou is not None and not 0 <= self.duplicate_iou <= 1:
            raise ValueError(f"duplicate_iou is {self.duplicate_iou}; expected an IoU in 0..1, or None.")
        if isinstance(self.loss_config, Sam3LossConfig):
            self.loss_config = dataclasses.asdict(self.loss_config)
        Sam3LossConfig(**(self.loss_config or {}))

    @property
    def losses(self) -> Sam3LossConfig:
        """Weights and rules of the training losses: the released ones, changed by `loss_config`."""
        changes = dict(self.loss_config or {})
        if not self.detr_decoder_config.presence:
            changes["weight_presence"] = 0.0
        return Sam3LossConfig(**changes)

    @property
    def image_size(self) -> int:
        """Side of the square input picture in pixels; settable."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, value: Any) -> None:
        self.vision_config.image_size = value
