"""Configuration of the whole model, as the hub's `config.json` has it, and a tiny one for tests and examples."""

from typing import Any, ClassVar

from .base import Sam3RootConfig
from .configuration_detector import Sam3DetectorConfig
from .configuration_tracker import Sam3TrackerConfig

__all__ = ["Sam3Config", "tiny_config"]

_PARTS: dict[str, type[Sam3RootConfig]] = {"detector_config": Sam3DetectorConfig, "tracker_config": Sam3TrackerConfig}


class Sam3Config(Sam3RootConfig):
    """Configuration of `Sam3Model`: detector and tracker on one vision tower, and the rules of video.

    Reads the hub's `config.json` (model_type `sam3_video`) as it is; the defaults are the released model's. Setting
    `image_size` sets every size that follows from it. The video rules (thresholds, hot start, ...) are those of
    `facebookresearch/sam3` `model_builder.py`, under transformers' names; `reclaim_lost_trk_from` and
    `reclaim_lost_trk_to` are our own, see `VideoRules`.

    Raises:
        ValueError: when the two halves disagree on the vision tower that they share.
    """

    model_type = "sam3_video"
    sub_configs: ClassVar = _PARTS

    detector_config: Any = None
    tracker_config: Any = None
    initializer_range: float = 0.02
    low_res_mask_size: int = 288
    score_threshold_detection: float = 0.5
    det_nms_thresh: float = 0.1
    assoc_iou_thresh: float = 0.1
    trk_assoc_iou_thresh: float = 0.5
    new_det_thresh: float = 0.7
    recondition_on_trk_masks: bool = True
    hotstart_delay: int = 15
    hotstart_unmatch_thresh: int = 8
    hotstart_dup_thresh: int = 8
    suppress_unmatched_only_within_hotstart: bool = True
    reclaim_lost_trk_from: int = 0
    reclaim_lost_trk_to: int = 0
    init_trk_keep_alive: int = 30
    max_trk_keep_alive: int = 30
    min_trk_keep_alive: int = -1
    suppress_overlapping_based_on_recent_occlusion_threshold: float = 0.7
    decrease_trk_keep_alive_for_empty_masklets: bool = False
    fill_hole_area: int = 16
    max_num_objects: int = 10000
    recondition_every_nth_frame: int = 16
    high_conf_thresh: float = 0.8
    high_iou_thresh: float = 0.8

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        detector = self.detector_config.vision_config.backbone_config
        tracker = self.tracker_config.vision_config.backbone_config
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"):
            ours, theirs = getattr(detector, name), getattr(tracker, name)
            if ours != theirs:
                raise ValueError(
                    f"detector and tracker share one vision tower, but `{name}` is {ours} in detector_config and "
                    f"{theirs} in tracker_config; give both the same `vision_config`"
                )

    @property
    def image_size(self) -> int:
        """Side of the square input picture in pixels; settable, for both halves at once."""
        return self.detector_config.image_size

    @image_size.setter
    def image_size(self, value: Any) -> None:
        self.detector_config.image_size = value
        self.tracker_config.image_size = value


def tiny_config(image_size: int = 224) -> Sam3Config:
    """The released graph made small: every part is there, about 1.9 M parameters, 1.6 M of them word embeddings."""
    backbone = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": image_size, "window_size": 4, "global_attn_indexes": [1, 3], "pretrain_image_size": 56,
    }  # fmt: skip
    vision = {"backbone_config": backbone, "fpn_hidden_size": 32}
    transformer = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = {
        "hidden_size": 32, "intermediate_size": 64, "projection_dim": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }  # fmt: skip
    return Sam3Config(
        detector_config={
            "vision_config": vision,
            "text_config": text,
            "geometry_encoder_config": transformer,
            "detr_encoder_config": transformer,
            "detr_decoder_config": transformer | {"num_queries": 12},
            "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 4},
        },
        tracker_config={
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": 32},
            "mask_decoder_config": {
                "hidden_size": 32,
                "mlp_dim": 64,
                "num_attention_heads": 4,
                "iou_head_hidden_dim": 32,
            },
            "memory_attention_hidden_size": 32,
            "memory_attention_num_layers": 2,
            "memory_attention_feed_forward_hidden_size": 64,
            "memory_encoder_hidden_size": 32,
            "memory_encoder_output_channels": 16,
            "mask_downsampler_embed_dim": 32,
            "memory_fuser_embed_dim": 32,
            "memory_fuser_intermediate_dim": 64,
        },
    )
