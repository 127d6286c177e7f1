"""Pictures and clips of the demo: what users give, made to fit, and what we draw ourselves for a first try."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..bundled import SAMPLE_PHRASES, SAMPLE_SCENE
from ..data import concept_clip, concept_scene
from ..processing.images import ImageInput, load_image

__all__ = ["MAX_PIXELS", "Example", "example_clip", "example_pictures", "open_picture"]

MAX_PIXELS = 4_000_000  # masks of all objects are made at this size at most, and the model sees far fewer pixels
_SIDE = 448
_SCENES = (SAMPLE_SCENE, 11, 23, 42)  # of the val split, on which the bundled model was not trained
_CLIP, _CLIP_FRAMES, _CLIP_RATE = 3, 24, 8.0


@dataclass(frozen=True)
class Example:
    """A drawn picture, with phrases that name something in it."""

    image: Image.Image
    phrases: tuple[str, ...]


def open_picture(source: ImageInput) -> tuple[Image.Image, str | None]:
    """The upright RGB picture, of at most `MAX_PIXELS`, and what to tell the user if it had to be made smaller.

    Raises:
        ValueError: it cannot be read as a picture.
        FileNotFoundError: there is no such file.
    """
    if isinstance(source, str | Path) and not str(source).startswith(("http://", "https://")):
        source = _opened(Path(source))
    rgb = load_image(source, "the picture")
    image = Image.fromarray(rgb.permute(1, 2, 0).contiguous().numpy())
    width, height = image.size
    if width * height <= MAX_PIXELS:
        return image, None
    share = (MAX_PIXELS / (width * height)) ** 0.5
    size = max(1, int(width * share)), max(1, int(height * share))
    message = (
        f"The picture has {width * height / 1e6:.0f} megapixels ({width} x {height}); it was made smaller, to "
        f"{size[0]} x {size[1]}, and boxes, areas and downloads are in pixels of that size."
    )
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0), message


def _opened(path: Path) -> Image.Image:
    """The decoded file, under the name that its owner knows."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no file “{path.name}”.")
    try:
        image = Image.open(path)
        image.load()
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"The picture “{path.name}” has far too many pixels ({error}); make it smaller first."
        ) from error
    # a damaged file may fail anywhere in PIL's decoders: SyntaxError (PNG), struct.error, EOFError, OSError, ...
    except Exception as error:
        raise ValueError(
            f"The file “{path.name}” cannot be read as a picture; expected PNG, JPEG, WebP or another common kind. Try "
            "another file."
        ) from error
    return image


@cache
def example_pictures() -> tuple[Example, ...]:
    """The pictures of the gallery; the first one is the picture of `sam3_hf.quickstart`."""
    examples = []
    for seed in _SCENES:
        scene = concept_scene(seed, "val", image_size=_SIDE, max_objects=8)
        assert isinstance(scene.image, np.ndarray)  # scenes are drawn, not read
        phrases = SAMPLE_PHRASES if seed == SAMPLE_SCENE else _short_phrases(scene.present())
        examples.append(Example(Image.fromarray(scene.image), phrases))
    return tuple(examples)


def _short_phrases(present: list[str]) -> tuple[str, ...]:
    """Two phrases of two words, such as people type first: a colour and what it is."""
    short = [phrase for phrase in present if len(phrase.split()) == 2 and phrase.endswith(" shape")]
    return tuple((short or present)[:2])


def example_clip(path: Path) -> tuple[str, ...]:
    """Phrases for a drawn clip, which is written to `path`, whole or not at all.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
    """
    from ..video.writers import VideoWriter

    clip = concept_clip(_CLIP, _CLIP_FRAMES, 224, "val", max_objects=4)
    with VideoWriter(path, _CLIP_RATE) as writer:
        for frame in clip.frames:
            writer.write(frame)
    return _short_phrases([phrase for phrase, objects in clip.concepts.items() if objects])
