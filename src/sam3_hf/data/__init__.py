"""Data: what an annotated picture is, and drawn concept scenes and clips with exact masks and identities."""

from .clips import ConceptClip, concept_clip
from .examples import ConceptExample
from .scenes import SceneDataset, concept_scene
from .vocabulary import parse_phrase, seen_phrases, unseen_phrases

__all__ = [
    "ConceptClip",
    "ConceptExample",
    "SceneDataset",
    "concept_clip",
    "concept_scene",
    "parse_phrase",
    "seen_phrases",
    "unseen_phrases",
]
