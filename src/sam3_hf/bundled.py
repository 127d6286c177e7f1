"""The small trained model that comes with the package."""

from pathlib import Path

__all__ = [
    "NOTICE",
    "SAMPLE_NEW_THRESHOLD",
    "SAMPLE_PHRASES",
    "SAMPLE_SCENE",
    "bundled_model",
]

_FOLDER = Path(__file__).with_name("assets") / "sam3-hf-tiny"

# A picture and phrases that the model finds in it: the quickstart and the web demo take them from here.
SAMPLE_SCENE = 7  # of the val split: the bundled model was not trained on it
SAMPLE_PHRASES = ("cyan shape", "red shape")
SAMPLE_NEW_THRESHOLD = 0.5  # in videos, of a detection that starts an object

NOTICE = (
    "no model given: using the bundled sam3-hf-tiny. It finds drawn shapes by colour, texture, size and noun, on "
    "photos little (docs/tiny_model.md); for those name a model such as facebook/sam3."
)


def bundled_model() -> str:
    """The directory of `sam3-hf-tiny`, for `from_pretrained`: the whole graph made small, trained for hours on a CPU.

    It is there to try things out, to test and to teach: it finds drawn shapes, roughly, not the objects of photos.
    What it can and cannot do: docs/tiny_model.md.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    if not (_FOLDER / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{_FOLDER} has no model.safetensors: this installation lacks the bundled model; reinstall it"
        )
    return str(_FOLDER)
