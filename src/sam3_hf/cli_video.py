"""The command `sam3-hf video`. Heavy modules are imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["add_video_command"]

_DESCRIPTION = """Find every object of each phrase in a video and follow it. Writes annotated.mp4, tracks.json
(YouTube-VIS: a mask of each object on each frame) and, with --mots, tracks.txt into the output directory."""
_EPILOG = """exit codes: 0 done; 1 the video could not be read to its end (what was read is written); 2 wrong usage, or
the model or video cannot be opened; 130 interrupted: the same command with --resume goes on."""

_DONE, _CUT_SHORT, _WRONG, _INTERRUPTED = 0, 1, 2, 130
JOURNAL, STATE = "journal.jsonl", "session.pt"


def add_video_command(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `video` to the commands and returns its parser, whose default `run` gives an exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "video", help="follow the objects of a video", description=_DESCRIPTION, epilog=_EPILOG
    )
    add = parser.add_argument
    add("video", metavar="VIDEO", help="a video file, or a folder of pictures")
    add("--text", action="append", default=[], metavar="PHRASE", help="what to find; may be repeated")
    add("--output", required=True, type=Path, metavar="DIR", help="directory to write to; made if it does not exist")
    add("--model", metavar="PATH_OR_ID", help="directory, or repository on the hub (default: the small bundled model)")
    add("--threshold", type=float, help="least score of a detection, 0..1 (default: the model's, 0.5 as released)")
    add("--new-threshold", type=float, help="least score that starts an object (default: the model's, 0.7 as released)")
    add("--max-objects", type=int, metavar="N", help="follow at most N objects at a time, the best")
    add("--stride", type=int, default=1, metavar="N", help="use every Nth frame")
    add("--start", type=_moment, metavar="WHEN", help="first frame: a number, or seconds with a point (12.5)")
    add("--end", type=_moment, metavar="WHEN", help="where to stop, exclusive; as --start")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: an accelerator if there is one)")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="default: the checkpoint's")
    add("--offload", action="store_true", help="keep the objects' memories in main memory")
    add("--mots", action="store_true", help="also write tracks.txt")
    add("--no-video", action="store_true", help="do not write annotated.mp4")
    add("--save-minutes", type=float, default=2.0, metavar="M", help="save the state every M minutes, for --resume")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    existing.add_argument("--overwrite", action="store_true", help="replace files that are already there")
    parser.set_defaults(run=_video)
    return parser


def _moment(text: str) -> int | float:
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a frame number or seconds, got {text!r}") from error


def _say(message: str, code: int) -> int:
    print(f"sam3-hf video: {' '.join(message.split())}", file=sys.stderr)
    return code


def _video(arguments: argparse.Namespace) -> int:
    if not arguments.text or not all(phrase.strip() for phrase in arguments.text):
        return _say('error: nothing to find; give --text "a phrase"', _WRONG)
    from .video.frames import VideoReadError, open_video

    try:
        _prepare(arguments)
        frames = open_video(arguments.video, stride=arguments.stride, start=arguments.start, end=arguments.end)
    except (OSError, ValueError, TypeError, ModuleNotFoundError) as error:
        return _say(f"error: {error}", _WRONG)
    code = _DONE
    with frames:
        try:
            _follow(arguments, frames)
        except VideoReadError as error:
            code = _say(f"{error}; writing what was read", _CUT_SHORT)
        except KeyboardInterrupt:
            return _say("interrupted; --resume goes on", _INTERRUPTED)
        except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
            return _say(f"error: {error}", _WRONG)
        try:
            _write(arguments, frames)
        except OSError as error:  # the disk is full, say; the journal has all that was found
            return _say(f"error: {error}; what was found is kept, --resume writes it again", _WRONG)
    return code


def _prepare(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    names = ("annotated.mp4", "tracks.json", "tracks.txt", JOURNAL, STATE)
    there = [name for name in names if (output / name).exists()]
    if arguments.overwrite:
        for name in there:
            (output / name).unlink()
    elif there and not arguments.resume:
        what = "--resume, " if JOURNAL in there else ""
        raise ValueError(f"{output / there[0]} is already there; give {what}--overwrite or another --output")


def _header(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("video", "text", "model", "threshold", "new_threshold", "max_objects", "stride", "start", "end")
    return {name: getattr(arguments, name) for name in names}


def _follow(arguments: argparse.Namespace, frames: Any) -> None:
    """Tracks the video into the journal; the session is saved now and then."""
    from .video import propagate
    from .video.session import VideoSession
    from .video.writers import ResultJournal

    model, processor = _open_model(arguments)
    state = arguments.output / STATE
    storage = "cpu" if arguments.offload else None
    with ResultJournal(arguments.output / JOURNAL, _header(arguments)) as journal:
        if state.exists():
            session = VideoSession.load(state, frames, model.device, storage_device=storage)
        else:
            session = processor.init_video_session(frames, model.device, storage, rules=_rules(arguments, model.config))
            processor.add_text_prompt(session, list(dict.fromkeys(arguments.text)))
        start = 0 if session.last_frame is None else session.last_frame + 1
        if frames.num_frames is not None and start >= frames.num_frames:
            return
        saved = time.monotonic()
        done = journal.frames_done()
        for output in propagate(model, session, start_frame_idx=start, show_progress_bar=sys.stderr.isatty()):
            if output.frame_idx not in done:
                journal.append(output.frame_idx, _objects(processor.postprocess_outputs(session, output)))
            if time.monotonic() - saved > 60 * arguments.save_minutes:
                session.save(state)
                saved = time.monotonic()


def _rules(arguments: argparse.Namespace, config: Any) -> Any:
    """The model's own rules, with what the command line says instead."""
    from .video.settings import VideoRules

    return VideoRules.from_config(
        config,
        detection_threshold=arguments.threshold,
        new_object_threshold=arguments.new_threshold,
        max_objects=arguments.max_objects,
    )


def _open_model(arguments: argparse.Namespace) -> tuple[Any, Any]:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    from .bundled import NOTICE, bundled_model
    from .modeling import Sam3Model
    from .processing import Sam3Processor

    source = arguments.model
    if source is None:
        print(f"sam3-hf: {NOTICE}", file=sys.stderr)
        source = bundled_model()
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = arguments.device or accelerator or "cpu"
    model = Sam3Model.from_pretrained(source, dtype=arguments.dtype).eval().to(device)
    return model, Sam3Processor(size=model.config.image_size)


def _objects(found: dict[str, Any]) -> list[dict[str, Any]]:
    from .ops.masks import rle_encode

    columns = (found["object_ids"], found["labels"], found["scores"], found["boxes"], rle_encode(found["masks"]))
    return [
        {"id": int(number), "label": label, "score": float(score), "box": box.tolist(), "mask": mask}
        for number, label, score, box, mask in zip(*columns, strict=True)
    ]


def _write(arguments: argparse.Namespace, frames: Any) -> None:
    """The files that users want, from the journal."""
    from tqdm import tqdm

    from .video.frames import VideoReadError
    from .video.writers import ResultJournal, VideoWriter, draw_tracks, write_mots, write_youtube_vis

    output: Path = arguments.output
    with ResultJournal(output / JOURNAL) as journal:
        phrases = list(dict.fromkeys(arguments.text))
        ids = {found["id"]: found["label"] for _, objects in journal for found in objects}
        write_youtube_vis(
            journal, output / "tracks.json", size=frames.size, name=Path(arguments.video).name, categories=phrases
        )
        if arguments.mots:
            write_mots(journal, output / "tracks.txt", categories=phrases)
        if not arguments.no_video:
            rate = frames.fps or 25.0
            with VideoWriter(output / "annotated.mp4", rate, frames.size) as writer:
                pairs = zip(journal, frames, strict=False)  # both in the order of frames; the journal may end first
                bar = tqdm(pairs, total=len(journal), desc="writing", unit="frame", disable=not sys.stderr.isatty())
                try:
                    for (_, objects), frame in bar:
                        columns = ([one[key] for one in objects] for key in ("mask", "id", "label", "score"))
                        writer.write(draw_tracks(frame.image, *columns))
                except VideoReadError:
                    pass  # it was reported when the frames were followed
        counts = {phrase: sum(label == phrase for label in ids.values()) for phrase in phrases}
        print(f"{len(journal)} frames; " + ", ".join(f"{phrase}: {count}" for phrase, count in counts.items()))
    for name in (JOURNAL, STATE):
        (output / name).unlink(missing_ok=True)
