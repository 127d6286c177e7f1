"""What travels with the weights: configurations that read and write the hub's `config.json`."""

from .configuration_detector import (
    Sam3DetectorConfig,
    Sam3DETRDecoderConfig,
    Sam3DETREncoderConfig,
    Sam3GeometryEncoderConfig,
    Sam3MaskDecoderConfig,
    Sam3TextConfig,
    Sam3VisionConfig,
    Sam3ViTConfig,
)
from .configuration_loss import Sam3LossConfig
from .configuration_sam3 import Sam3Config, tiny_config
from .configuration_tracker import Sam3TrackerConfig, Sam3TrackerMaskDecoderConfig, Sam3TrackerPromptEncoderConfig

__all__ = [
    "Sam3Config",
    "Sam3DETRDecoderConfig",
    "Sam3DETREncoderConfig",
    "Sam3DetectorConfig",
    "Sam3GeometryEncoderConfig",
    "Sam3LossConfig",
    "Sam3MaskDecoderConfig",
    "Sam3TextConfig",
    "Sam3TrackerConfig",
    "Sam3TrackerMaskDecoderConfig",
    "Sam3TrackerPromptEncoderConfig",
    "Sam3ViTConfig",
    "Sam3VisionConfig",
    "tiny_config",
]
