"""The command `sam3-hf`: segment pictures, follow videos, convert checkpoints, train, evaluate, serve the demo.

Heavy modules are imported inside the functions that need them, so that `sam3-hf --help` answers at once.
"""

from __future__ import annotations

import argparse
import glob
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .files import written_whole
from .version import __version__

__all__ = ["main"]

ALL_GOOD, SOME_FAILED, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130
ANNOTATIONS = "annotations.json"
SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# What a damaged or unsuitable picture raises on its way from the file through the processor.
PICTURE_ERRORS = (OSError, ValueError, TypeError, MemoryError)

EPILOG = """exit codes: 0 all good; 1 some pictures failed (named on stderr, the others are done); 2 wrong usage, or the
 model cannot be opened; 130 interrupted (what was done until then is written)."""


class UserError(Exception):
    """What the user can put right; its message is shown on one line, without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code of the command with arguments `argv` (default: those of the process)."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return run(arguments)
        except UserError as error:
            _complain(f"error: {error}")
            return USAGE_ERROR
        except KeyboardInterrupt:
            _complain("interrupted")
            return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam3-hf", description="SAM 3: find every object of a phrase in pictures.")
    parser.add_argument("--version", action="version", version=f"sam3-hf {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_segment(commands.add_parser("segment", help="segment pictures", epilog=EPILOG, description=_SEGMENT))
    _add_convert(commands.add_parser("convert", help="convert a checkpoint", description=_CONVERT))
    from .training.cli_train import add_train_command

    add_train_command(commands)
    from .cli_video import add_video_command

    add_video_command(commands)
    from .cli_evaluate import add_evaluate_command

    add_evaluate_command(commands)
    from .cli_demo import add_demo_command

    add_demo_command(commands)
    return parser


_SEGMENT = f"""Find every object of each phrase in each picture. Writes one annotated PNG per picture and {ANNOTATIONS}
(COCO, masks as RLE) into the output directory, and prints how many objects of each phrase each picture has."""

_CONVERT = """Convert a checkpoint between the layout of the reference (sam3.pt) and that of the hub (a directory with
config.json and model.safetensors)."""


def _add_segment(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="a file, a URL, a folder (the pictures in it, not in its subfolders) or a pattern like 'photos/**/*.jpg'",
    )
    add("--text", action="append", default=[], type=_phrase, metavar="PHRASE", help="what to find; may be repeated")
    add(
        "--box",
        action="append",
        default=[],
        type=_box,
        metavar="X0,Y0,X1,Y1[,-]",
        help="example box in pixels, for every phrase and picture; with ,- one of what not to find; may be repeated",
    )
    add("--model", metavar="PATH_OR_ID", help="directory, or repository on the hub (default: the small bundled model)")
    add("--threshold", type=_share, default=0.5, help="least score of an object, 0..1 (default: %(default)s)")
    add("--mask-threshold", type=_share, default=0.5, help="least probability of a mask's pixel (default: %(default)s)")
    add("--top-k", type=_positive, metavar="K", help="at most K objects per picture, the best")
    add("--nms", type=_share, metavar="IOU", help="drop objects whose mask overlaps a better one's by more than this")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: an accelerator if there is one)")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="default: the checkpoint's")
    add("--output", required=True, type=Path, metavar="DIR", help="directory to write to; made if it does not exist")
    add("--overwrite", action="store_true", help="replace files that are already there")
    parser.set_defaults(run=_segment)


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="sam3.pt, or a directory in the hub's layout")
    parser.add_argument(
        "destination", type=Path, metavar="DESTINATION", help="directory (or .pt file with --to original)"
    )
    parser.add_argument("--config", type=Path, help="config.json of the model, where it is not of the released size")
    parser.add_argument("--to", default="hf", choices=("hf", "original"), help="layout to write (default: %(default)s)")
    parser.set_defaults(run=_convert)


# ---- arguments ----


def _phrase(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a phrase must not be empty")
    return text


def _share(text: str) -> float:
    value = _number(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return value


def _box(text: str) -> tuple[list[float], int]:
    """Corners and label (1 positive, 0 negative) of `x0,y0,x1,y1` or `x0,y0,x1,y1,-`."""
    parts = [part.strip() for part in text.split(",")]
    label = 1
    if len(parts) == 5 and parts[4] in ("-", "+"):
        label = int(parts.pop() == "+")
    if len(parts) != 4:
        raise argparse.ArgumentTypeError(f"expected x0,y0,x1,y1 or x0,y0,x1,y1,- but got {text!r}")
    x0, y0, x1, y1 = (_number(part) for part in parts)
    if x1 <= x0 or y1 <= y0:
        raise argparse.ArgumentTypeError(f"{text!r} covers no area: x1 must be above x0 and y1 above y0")
    return [x0, y0, x1, y1], label


# ---- pictures in, files out ----


def _find_pictures(arguments: Sequence[str]) -> list[str]:
    """The pictures that files, URLs, folders and patterns name, each once, in that order."""
    found: dict[str, None] = {}
    for argument in arguments:
        if os.path.isdir(argument):
            inside = [os.path.join(argument, name) for name in sorted(os.listdir(argument))]
        elif glob.has_magic(argument) and not os.path.exists(argument):
            inside = sorted(glob.glob(argument, recursive=True))
        else:  # also a file that does not exist: it is reported with the pictures that cannot be read
            found.setdefault(argument)
            continue
        pictures = [name for name in inside if os.path.isfile(name) and Path(name).suffix.lower() in SUFFIXES]
        if not pictures:
            _complain(f"warning: no pictures in {argument}")
        found |= dict.fromkeys(pictures)
    if not found:
        raise UserError(f"no pictures found in {', '.join(arguments)}; known endings: {', '.join(SUFFIXES)}")
    return list(found)


def _output_names(pictures: Sequence[str]) -> list[str]:
    """A file name for each annotated picture, all different, also where upper and lower case are the same."""
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        stem = Path(picture.split("?")[0]).stem or "picture"
        name, number = f"{stem}_annotated.png", 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}_annotated.png", number + 1
        taken.add(name.lower())
        names.append(name)
    return names


def _prepare_output(directory: Path, names: Sequence[str], overwrite: bool) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output directory {directory}: {error.strerror or error}") from error
    existing = [name for name in (*names, ANNOTATIONS) if (directory / name).exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more" if len(existing) > 1 else ""
        raise UserError(f"{directory / existing[0]}{more} already there; give --overwrite or another --output")


@dataclass
class _Report:
    """What was found so far, as the COCO file and the table need it."""

    phrases: list[str]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def add(self, picture: str, size: tuple[int, int], found: Sequence[dict[str, Any]]) -> None:
        image_id = len(self.images) + 1
        name = Path(picture).as_posix() if "://" not in picture else picture
        self.images.append({"id": image_id, "file_name": name, "width": size[0], "height": size[1]})
        for entry in found:
            box = entry["box"]
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": self.phrases.index(entry["label"]) + 1,
                    "segmentation": entry["mask"],
                    "bbox": [box["xmin"], box["ymin"], box["xmax"] - box["xmin"], box["ymax"] - box["ymin"]],
                    "area": _rle_area(entry["mask"]),
                    "score": round(entry["score"], 6),
                    "iscrowd": 0,
                }
            )

    def coco(self) -> dict[str, Any]:
        categories = [{"id": index + 1, "name": phrase} for index, phrase in enumerate(self.phrases)]
        info = {"description": f"sam3-hf {__version__}"}
        return {"info": info, "images": self.images, "annotations": self.annotations, "categories": categories}

    def table(self) -> str:
        """Objects per picture and phrase, aligned, with sums."""
        rows = [["picture", *self.phrases, "total"]]
        counts = {image["id"]: [0] * len(self.phrases) for image in self.images}
        for annotation in self.annotations:
            counts[annotation["image_id"]][annotation["category_id"] - 1] += 1
        for image in self.images:
            row = counts[image["id"]]
            rows.append([image["file_name"], *map(str, row), str(sum(row))])
        rows += [[picture, *["-"] * len(self.phrases), "failed"] for picture in self.failed]
        sums = [sum(row[index] for row in counts.values()) for index in range(len(self.phrases))]
        rows.append(["total", *map(str, sums), str(sum(sums))])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        )


def _rle_area(rle: dict[str, Any]) -> int:
    from .ops.masks import rle_decode

    return int(rle_decode(rle).sum())


# ---- commands ----


def _segment(arguments: argparse.Namespace) -> int:
    if not arguments.text and not arguments.box:
        raise UserError('nothing to find: give --text "a phrase" or --box x0,y0,x1,y1')
    pictures = _find_pictures(arguments.pictures)
    names = _output_names(pictures)
    _prepare_output(arguments.output, names, arguments.overwrite)
    pipe = _open_pipeline(arguments)
    report = _Report(phrases=list(dict.fromkeys(arguments.text)) or ["visual"])
    interrupted = False
    try:
        _segment_all(pipe, pictures, names, arguments, report)
    except KeyboardInterrupt:
        interrupted = True
        _complain(f"interrupted after {len(report.images)} of {len(pictures)} pictures; writing what is done")
    finally:
        with written_whole(arguments.output / ANNOTATIONS) as path:
            path.write_text(json.dumps(report.coco()), encoding="utf-8")
    print(report.table())
    if interrupted:
        return INTERRUPTED
    return SOME_FAILED if report.failed else ALL_GOOD


def _segment_all(
    pipe: Any, pictures: Sequence[str], names: Sequence[str], arguments: argparse.Namespace, report: _Report
) -> None:
    from PIL import Image
    from tqdm import tqdm

    from .processing.images import load_image
    from .visualization import draw_instances

    text = list(dict.fromkeys(arguments.text)) or None
    boxes, box_labels = [list(column) for column in zip(*arguments.box, strict=True)] if arguments.box else (None, None)
    # disable=None: no bar where stderr is not a terminal
    bar = tqdm(list(zip(pictures, names, strict=True)), unit="picture", disable=None)
    for picture, name in bar:
        try:
            image = Image.fromarray(load_image(picture, "picture").permute(1, 2, 0).contiguous().numpy())
            found = pipe(image, text=text, boxes=boxes, box_labels=box_labels)
            with written_whole(arguments.output / name) as path:
                draw_instances(image, found).save(path, format="PNG")
        except PICTURE_ERRORS as error:
            report.failed.append(picture)
            with bar.external_write_mode(file=sys.stderr):
                _complain(f"skipped {picture}: {error}")
            continue
        report.add(picture, image.size, found)


def _open_pipeline(arguments: argparse.Namespace) -> Any:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    from .bundled import NOTICE, bundled_model
    from .modeling import AutoConceptModel
    from .pipelines import ConceptSegmentationPipeline

    try:
        if arguments.model is None:
            _complain(NOTICE)
            arguments.model = bundled_model()
        model = AutoConceptModel.from_pretrained(arguments.model, dtype=arguments.dtype)
        return ConceptSegmentationPipeline(
            model=model,
            device=arguments.device,
            threshold=arguments.threshold,
            mask_threshold=arguments.mask_threshold,
            top_k=arguments.top_k,
            nms_threshold=arguments.nms,
            mask_format="rle",
        )
    # RuntimeError and AssertionError are torch's, for a device that does not exist or has no room
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise UserError(f"cannot open the model {arguments.model}: {error}") from error


def _convert(arguments: argparse.Namespace) -> int:
    from .conversion import convert

    try:
        written = convert(arguments.source, arguments.destination, config=arguments.config, to=arguments.to)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    print(f"wrote {written}")
    return ALL_GOOD


def _complain(message: str) -> None:
    print(f"sam3-hf: {' '.join(message.split())}", file=sys.stderr)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _complain(f"warning: {message}")
