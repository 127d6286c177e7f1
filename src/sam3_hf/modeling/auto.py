"""Concept prompts from any directory: the whole model, or the detector where that is all there is."""

import json
import os
from typing import Any

from ..hub import local_directory
from .detector import Sam3Detector
from .model import Sam3Model
from .pretrained import HUB_ARGUMENTS

__all__ = ["AutoConceptModel"]


class AutoConceptModel:
    """Opens whichever of `Sam3Model` and `Sam3Detector` a directory's config.json describes."""

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **kwargs: Any) -> Sam3Model | Sam3Detector:
        """A `Sam3Detector` for model_type `sam3`, else a `Sam3Model`; arguments and errors are theirs."""
        hub = {key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None}
        path = local_directory(name, **hub) / "config.json"
        holds_detector = path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("model_type") == "sam3"
        model_class: Any = Sam3Detector if holds_detector else Sam3Model
        return model_class.from_pretrained(name, **kwargs)
