"""Shows the way from a picture to masks in seconds: `python -m sam3_hf.quickstart [--output DIR]`.

Draws a sample picture and runs `sam3-hf segment` on it with the bundled model.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .bundled import SAMPLE_PHRASES, SAMPLE_SCENE

__all__ = ["PHRASES", "draw_sample_picture", "main"]

PHRASES = SAMPLE_PHRASES

NOTICE = """
The bundled model knows drawn shapes (docs/tiny_model.md); for photos give trained weights of full size:
    sam3-hf segment photo.jpg --text "yellow school bus" --model facebook/sam3 --output DIR"""


def draw_sample_picture(image_size: int = 448) -> Image.Image:
    """Returns an RGB picture of coloured shapes, the same each time."""
    from .data import concept_scene

    picture = concept_scene(SAMPLE_SCENE, "val", image_size=image_size, max_objects=8).image
    assert isinstance(picture, np.ndarray)  # scenes are drawn, not read
    return Image.fromarray(picture)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of the segmentation of the sample picture (0 when all is well)."""
    parser = argparse.ArgumentParser(prog="python -m sam3_hf.quickstart", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"), help="default: %(default)s")
    output: Path = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "sample.png"
    draw_sample_picture().save(picture)
    phrases = [word for phrase in PHRASES for word in ("--text", phrase)]
    command = ["segment", str(picture), *phrases, "--output", str(output), "--overwrite"]
    command += ["--device", "cpu"]
    print("sam3-hf", shlex.join(command), "\n")
    from .cli import main as run_command

    code = run_command(command)
    print(f"\nwrote {output}/sample_annotated.png and {output}/annotations.json")
    print(NOTICE)
    return code


if __name__ == "__main__":
    sys.exit(main())
