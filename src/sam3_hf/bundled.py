"""The small trained model that ships with the package."""

from pathlib import Path

__all__ = ["bundled_model"]

_DIRECTORY = Path(__file__).resolve().parent / "assets" / "sam3-hf-tiny"


def bundled_model() -> str:
    """Directory of `sam3-hf-tiny`, for `from_pretrained`, `pipeline(model=...)` and `sam3-hf --model`.

    A small model of the same graph, trained on drawn shapes and a few photo sets, so that examples, tests and demos run
    on a trained model. It is no replacement for the released weights; `docs/tiny_model.md` says what it can do.

    Raises FileNotFoundError where the installation lacks the weights.
    """
    if not (_DIRECTORY / "model.safetensors").is_file():
        raise FileNotFoundError(f"this installation has no bundled model at {_DIRECTORY}; install sam3-hf again")
    return str(_DIRECTORY)
