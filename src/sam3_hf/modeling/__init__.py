"""Models: parameters and maths only, one file per box of the paper's diagram, never session state."""

from .auto import AutoConceptModel
from .detector import Sam3Detector
from .model import Sam3Model
from .outputs import (
    Sam3ImageSegmentationOutput,
    Sam3ObjectSegmentationOutput,
    Sam3TextEncoderOutput,
    Sam3VisionEncoderOutput,
)
from .pretrained import Sam3PreTrainedModel
from .tracker import Sam3VideoTracker

__all__ = [
    "AutoConceptModel",
    "Sam3Detector",
    "Sam3ImageSegmentationOutput",
    "Sam3Model",
    "Sam3ObjectSegmentationOutput",
    "Sam3PreTrainedModel",
    "Sam3TextEncoderOutput",
    "Sam3VideoTracker",
    "Sam3VisionEncoderOutput",
]
