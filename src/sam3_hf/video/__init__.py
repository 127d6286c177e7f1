"""Video: every object of a phrase, and every object that is pointed out, followed with its number."""

from .clip_loss import clips_loss
from .detections import follow_detections
from .engine import segment_frame, track_frame
from .frames import Frame, FrameSource, VideoReadError, open_video
from .outputs import Sam3VideoOutput, postprocess_outputs
from .propagation import flush, propagate
from .session import Concept, ObjectPrompt, TrackedObject, VideoSession
from .settings import VideoRules

__all__ = [
    "Concept",
    "Frame",
    "FrameSource",
    "ObjectPrompt",
    "Sam3VideoOutput",
    "TrackedObject",
    "VideoReadError",
    "VideoRules",
    "VideoSession",
    "clips_loss",
    "flush",
    "follow_detections",
    "open_video",
    "postprocess_outputs",
    "propagate",
    "segment_frame",
    "track_frame",
]
