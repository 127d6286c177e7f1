"""Pictures and prompts in (`Sam3Processor`), masks, boxes and scores out (`postprocess`)."""

from .processor import Sam3Processor, Sam3TrackerProcessor

__all__ = ["Sam3Processor", "Sam3TrackerProcessor"]
