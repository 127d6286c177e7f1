"""What the web demo does, without the web: sessions of pictures and videos, what is shown of them, what is taken away.

`page` maps it to Gradio; nothing else here needs that package.
"""

from .engine import SCORE_FLOOR, Answer, Candidate, Engine, Features
from .image_session import FoundObject, ImageSession
from .messages import explain_error, parse_phrases
from .models import BUNDLED, RELEASED, ModelShelf, model_note, settings_for
from .pictures import example_clip, example_pictures, open_picture
from .prompts import Click, ExampleBox, Prompts, VideoPrompts
from .video_job import Progress, VideoJob, VideoResult
from .visitors import Visitor, Visitors

__all__ = [
    "BUNDLED",
    "RELEASED",
    "SCORE_FLOOR",
    "Answer",
    "Candidate",
    "Click",
    "Engine",
    "ExampleBox",
    "Features",
    "FoundObject",
    "ImageSession",
    "ModelShelf",
    "Progress",
    "Prompts",
    "VideoJob",
    "VideoPrompts",
    "VideoResult",
    "Visitor",
    "Visitors",
    "example_clip",
    "example_pictures",
    "explain_error",
    "model_note",
    "open_picture",
    "parse_phrases",
    "settings_for",
]
