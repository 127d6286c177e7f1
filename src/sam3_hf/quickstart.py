"""Shows the way from a picture to masks in seconds: `python -m sam3_hf.quickstart [--output DIR]`.

Draws a sample picture, saves a tiny model with random weights, and runs `sam3-hf segment` on both.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

__all__ = ["draw_sample_picture", "main"]

PHRASES = ("red circle", "blue square")
SUPERSAMPLING = 2  # drawn larger and scaled down, for smooth edges

NOTICE = """
The weights of this model are RANDOM: its masks, boxes and scores mean nothing. The run shows only that everything is
installed and how the parts fit together. For masks that mean something give trained weights:
    sam3-hf segment {picture} --text "{phrase}" --model DIRECTORY_OR_HUB_ID --output DIR"""


def draw_sample_picture(width: int = 640, height: int = 480) -> Image.Image:
    """Returns an RGB picture of coloured shapes with soft shadows on a pale gradient, the same each time."""
    size = (width * SUPERSAMPLING, height * SUPERSAMPLING)
    gradient = Image.linear_gradient("L").resize(size, Image.Resampling.BILINEAR)
    picture = Image.composite(
        Image.new("RGB", size, (205, 219, 232)), Image.new("RGB", size, (250, 244, 233)), gradient
    )
    shapes = Image.new("RGBA", size, (0, 0, 0, 0))
    _draw_shapes(ImageDraw.Draw(shapes), *size)
    shadow = shapes.getchannel("A").point(lambda value: value * 0.35).filter(ImageFilter.GaussianBlur(size[0] / 90))
    offset = round(size[0] / 80)
    picture.paste((60, 60, 80), (offset, offset), shadow)
    picture.paste(shapes, (0, 0), shapes)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _draw_shapes(draw: ImageDraw.ImageDraw, width: int, height: int) -> None:
    unit = min(width, height) / 100

    def at(x: float, y: float) -> tuple[float, float]:
        return x / 100 * width, y / 100 * height

    draw.circle(at(20, 30), 14 * unit, fill=(214, 69, 65, 255))
    draw.circle(at(78, 74), 11 * unit, fill=(224, 102, 84, 255))
    draw.regular_polygon((at(48, 28), 15 * unit), 4, fill=(52, 108, 178, 255))
    draw.regular_polygon((at(24, 75), 13 * unit), 4, rotation=20, fill=(78, 140, 200, 255))
    draw.regular_polygon((at(78, 30), 17 * unit), 3, fill=(238, 178, 62, 255))
    center_x, center_y = at(51, 72)
    star = [
        (
            center_x + radius * unit * math.sin(math.pi * step / 5),
            center_y - radius * unit * math.cos(math.pi * step / 5),
        )
        for step, radius in enumerate([17, 7.5] * 5)
    ]
    draw.polygon(star, fill=(84, 160, 110, 255))


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of the segmentation of the sample picture (0 when all is well)."""
    parser = argparse.ArgumentParser(prog="python -m sam3_hf.quickstart", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("quickstart_output"), help="default: %(default)s")
    output: Path = parser.parse_args(argv).output
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "sample.png"
    draw_sample_picture().save(picture)
    model = output / "random_model"
    _save_random_model(model)
    # a random model is sure of nothing, so any score will do
    options = ["--threshold", "0", "--top-k", "4", "--overwrite", "--device", "cpu"]
    phrases = [word for phrase in PHRASES for word in ("--text", phrase)]
    command = ["segment", str(picture), *phrases, "--model", str(model), "--output", str(output), *options]
    print("sam3-hf", shlex.join(command), "\n")
    from .cli import main as run_command

    code = run_command(command)
    print(f"\nwrote {output}/sample_annotated.png and {output}/annotations.json")
    print(NOTICE.format(picture=picture, phrase=PHRASES[0]))
    return code


def _save_random_model(directory: Path) -> None:
    import torch
    import transformers

    from .configuration import tiny_config
    from .modeling import Sam3Model
    from .processing import Sam3Processor

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = tiny_config()
    Sam3Model(config).save_pretrained(directory)
    Sam3Processor(size={"height": config.image_size, "width": config.image_size}).save_pretrained(directory)


if __name__ == "__main__":
    sys.exit(main())
