"""Configuration of the tracker: click prompts on one picture, and the memory that follows objects through a video."""

from typing import Any, ClassVar

from .base import Sam3BaseConfig, Sam3RootConfig, square_size
from .configuration_detector import Sam3VisionConfig

__all__ = ["Sam3TrackerConfig", "Sam3TrackerMaskDecoderConfig", "Sam3TrackerPromptEncoderConfig"]


class Sam3TrackerPromptEncoderConfig(Sam3BaseConfig):
    """Configuration of the encoder of clicks, object boxes and masks."""

    model_type = "sam3_tracker_video_prompt_encoder"

    hidden_size: int = 256
    image_size: int = 1008
    patch_size: int = 14
    mask_input_channels: int = 16
    num_point_embeddings: int = 4
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    scale: float = 1

    def __post_init__(self, **kwargs: Any) -> None:
        self.image_size = square_size(self.image_size, "image_size")
        self.patch_size = square_size(self.patch_size, "patch_size")
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> int:
        """Tokens along one side of the picture."""
        return self.image_size // self.patch_size


class Sam3TrackerMaskDecoderConfig(Sam3BaseConfig):
    """Configuration of the two-way mask decoder.

    Args:
        dynamic_multimask_via_stability: when one mask is asked for and the single-mask token's mask is unstable (its
            area changes by more than `1 - dynamic_multimask_stability_thresh` between thresholds of
            ±`dynamic_multimask_stability_delta`), answer with the best of the three multi-mask tokens instead.
    """

    model_type = "sam3_tracker_video_mask_decoder"

    hidden_size: int = 256
    hidden_act: str = "gelu"
    mlp_dim: int = 2048
    num_hidden_layers: int = 2
    num_attention_heads: int = 8
    attention_downsample_rate: int = 2
    num_multimask_outputs: int = 3
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    dynamic_multimask_via_stability: bool = True
    dynamic_multimask_stability_delta: float = 0.05
    dynamic_multimask_stability_thresh: float = 0.98


_TRACKER_PARTS: dict[str, type[Sam3BaseConfig]] = {
    "vision_config": Sam3VisionConfig,
    "prompt_encoder_config": Sam3TrackerPromptEncoderConfig,
    "mask_decoder_config": Sam3TrackerMaskDecoderConfig,
}


class Sam3TrackerConfig(Sam3RootConfig):
    """Configuration of `Sam3VideoTracker`; equals `tracker_config` in the hub's `config.json`.

    The fields have the names and meanings of transformers' `Sam3TrackerVideoConfig`, so that its files are read and
    written unchanged.
    """

    model_type = "sam3_tracker_video"
    base_config_key = "tracker_config"
    sub_configs: ClassVar = _TRACKER_PARTS

    vision_config: Any = None
    prompt_encoder_config: Any = None
    mask_decoder_config: Any = None
    initializer_range: float = 0.02
    num_maskmem: int = 7
    sigmoid_scale_for_mem_enc: float = 20.0
    sigmoid_bias_for_mem_enc: float = -10.0
    enable_occlusion_spatial_embedding: bool = True
    multimask_output_in_sam: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    multimask_output_for_tracking: bool = True
    max_object_pointers_in_encoder: int = 16
    max_cond_frame_num: int = 4
    enable_temporal_pos_encoding_for_object_pointers: bool = True
    memory_attention_hidden_size: int = 256
    memory_attention_num_layers: int = 4
    memory_attention_num_attention_heads: int = 1
    memory_attention_downsample_rate: int = 1
    memory_attention_feed_forward_hidden_size: int = 2048
    memory_attention_feed_forward_hidden_act: str = "relu"
    memory_attention_dropout: float = 0.1
    memory_attention_rope_theta: float = 10000.0
    memory_attention_rope_feat_sizes: Any = None  # follows from the picture's size
    memory_attention_rope_dropout: float = 0.1
    memory_encoder_hidden_size: int = 256
    memory_encoder_output_channels: int = 64
    mask_downsampler_embed_dim: int = 256
    mask_downsampler_kernel_size: int = 3
    mask_downsampler_stride: int = 2
    mask_downsampler_padding: int = 1
    mask_downsampler_total_stride: int = 16
    mask_downsampler_hidden_act: str = "gelu"
    memory_fuser_num_layers: int = 2
    memory_fuser_embed_dim: int = 256
    memory_fuser_intermediate_dim: int = 1024
    memory_fuser_kernel_size: int = 7
    memory_fuser_padding: int = 3
    memory_fuser_layer_scale_init_value: float = 1e-6
    memory_fuser_hidden_act: str = "gelu"

    def __post_init__(self, **kwargs: Any) -> None:
        rope = kwargs.pop("rope_parameters", None) or {}  # how transformers >= 5.1x writes the theta
        self.memory_attention_rope_theta = rope.get("rope_theta", self.memory_attention_rope_theta)
        # transformers repeats the picture size at this level; the vision tower's one counts.
        kwargs.pop("image_size", None)
        super().__post_init__(**kwargs)
        self.image_size = self.vision_config.image_size

    @property
    def image_size(self) -> int:
        """Side of the square input picture in pixels; setting it sets every size that follows from it."""
        return self.vision_config.image_size

    @image_size.setter
    def image_size(self, value: Any) -> None:
        self.vision_config.image_size = value
        self.prompt_encoder_config.image_size = self.vision_config.image_size
        self.memory_attention_rope_feat_sizes = [self.vision_config.backbone_config.grid_size] * 2

    def to_dict(self) -> dict[str, Any]:
        # transformers' class takes its picture size from this level and would otherwise fall back to 1008.
        content = super().to_dict() | {"image_size": self.image_size}
        if self.memory_attention_rope_theta == type(self).memory_attention_rope_theta:
            content.pop(
                "memory_attention_rope_theta"
            )  # newer transformers warns about the name, and has the same default
        return content
