"""SAM 3, "Segment Anything with Concepts", in the manner of Hugging Face transformers.

Names are loaded when they are first used, so `import sam3_hf` costs next to nothing; the pipeline task
"concept-segmentation" is registered as soon as transformers' pipelines are loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import _pipeline_hook
from .version import __version__

if TYPE_CHECKING:
    from .bundled import bundled_model
    from .configuration import Sam3Config, Sam3DetectorConfig, Sam3TrackerConfig, tiny_config
    from .conversion import convert
    from .modeling import Sam3Detector, Sam3Model, Sam3VideoTracker
    from .modeling import Sam3Model as Sam3VideoModel
    from .modeling import Sam3VideoTracker as Sam3TrackerModel
    from .modeling import Sam3VideoTracker as Sam3TrackerVideoModel
    from .pipelines import ConceptSegmentationPipeline
    from .processing import Sam3Processor, Sam3TrackerProcessor
    from .processing import Sam3Processor as Sam3VideoProcessor
    from .processing import Sam3TrackerProcessor as Sam3TrackerVideoProcessor
    from .video import Sam3VideoOutput, VideoRules, VideoSession, open_video
    from .visualization import draw_instances

__all__ = [
    "ConceptSegmentationPipeline",
    "Sam3Config",
    "Sam3Detector",
    "Sam3DetectorConfig",
    "Sam3Model",
    "Sam3Processor",
    "Sam3TrackerConfig",
    "Sam3TrackerModel",
    "Sam3TrackerProcessor",
    "Sam3TrackerVideoModel",
    "Sam3TrackerVideoProcessor",
    "Sam3VideoModel",
    "Sam3VideoOutput",
    "Sam3VideoProcessor",
    "Sam3VideoTracker",
    "VideoRules",
    "VideoSession",
    "__version__",
    "bundled_model",
    "convert",
    "draw_instances",
    "open_video",
    "tiny_config",
]

# Where each public name lives: module, and its name there.
_HOME = {
    "ConceptSegmentationPipeline": ("pipelines", "ConceptSegmentationPipeline"),
    "Sam3Config": ("configuration", "Sam3Config"),
    "Sam3Detector": ("modeling", "Sam3Detector"),
    "Sam3DetectorConfig": ("configuration", "Sam3DetectorConfig"),
    "Sam3Model": ("modeling", "Sam3Model"),
    "Sam3Processor": ("processing", "Sam3Processor"),
    "Sam3TrackerConfig": ("configuration", "Sam3TrackerConfig"),
    "Sam3TrackerModel": ("modeling", "Sam3VideoTracker"),  # transformers' name, so that its examples run unchanged
    "Sam3TrackerProcessor": ("processing", "Sam3TrackerProcessor"),
    "Sam3TrackerVideoModel": ("modeling", "Sam3VideoTracker"),
    "Sam3TrackerVideoProcessor": ("processing", "Sam3TrackerProcessor"),
    "Sam3VideoModel": ("modeling", "Sam3Model"),
    "Sam3VideoOutput": ("video", "Sam3VideoOutput"),
    "Sam3VideoProcessor": ("processing", "Sam3Processor"),
    "Sam3VideoTracker": ("modeling", "Sam3VideoTracker"),
    "VideoRules": ("video", "VideoRules"),
    "VideoSession": ("video", "VideoSession"),
    "bundled_model": ("bundled", "bundled_model"),
    "convert": ("conversion", "convert"),
    "draw_instances": ("visualization", "draw_instances"),
    "open_video": ("video", "open_video"),
    "tiny_config": ("configuration", "tiny_config"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOME[name]
    value = getattr(importlib.import_module(f".{module}", __name__), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_pipeline_hook.install()
