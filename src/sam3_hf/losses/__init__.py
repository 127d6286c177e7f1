"""Matching, loss terms, and the whole of a detector's loss. `model(**inputs, labels=...)` is the usual way in."""

from .criterion import QueryAnswers, detection_loss
from .denoising import noisy_queries
from .matcher import Match, match_one_to_many, match_one_to_one
from .objects import object_loss
from .targets import Normalizer, Targets

__all__ = [
    "Match",
    "Normalizer",
    "QueryAnswers",
    "Targets",
    "detection_loss",
    "match_one_to_many",
    "match_one_to_one",
    "noisy_queries",
    "object_loss",
]
