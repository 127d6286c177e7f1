"""What the demo says: phrases as they were typed, and errors in words that tell what to do."""

import re

import torch

__all__ = ["MAX_PHRASES", "explain_error", "parse_phrases"]

MAX_PHRASES = 16  # on one picture; each takes time and memory of its own

_NO_ROOM = (
    "The machine has not enough memory for this. Try fewer phrases, a smaller picture or a shorter video, or a smaller "
    "model; what you have so far is still here."
)
# torch raises a bare RuntimeError where main memory runs out, and some drivers do for their own
_MEMORY_WORDS = ("not enough memory", "out of memory", "can't allocate memory", "cannot allocate memory")


def parse_phrases(text: str | None) -> list[str]:
    """The phrases of a text, cut at commas, semicolons and line ends, each once, in order; empty ones are dropped.

    Raises:
        ValueError: more than `MAX_PHRASES`.
    """
    parts = (" ".join(part.split()) for part in re.split(r"[,;\n]", text or ""))
    phrases = list(dict.fromkeys(part for part in parts if part))
    if len(phrases) > MAX_PHRASES:
        raise ValueError(f"{len(phrases)} phrases at once; expected at most {MAX_PHRASES}. Ask for the others after.")
    return phrases


def explain_error(error: BaseException) -> str | None:
    """What to tell a user about an error, or None where it is a fault of the program.

    Too little memory is told in its own words; ValueError, TypeError and OSError carry messages that were written for
    users already.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return _NO_ROOM
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY_WORDS):
        return _NO_ROOM
    if isinstance(error, ValueError | TypeError | OSError | ModuleNotFoundError):
        return str(error) or type(error).__name__
    return None
