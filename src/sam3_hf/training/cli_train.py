"""The command `sam3-hf train`. Heavy modules are imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["add_train_command"]

_DESCRIPTION = """Train or fine-tune a model from a YAML configuration, flags, or both (flags win). Writes checkpoints,
logs and the trained model into the output directory. With several GPUs: accelerate launch -m sam3_hf train ..."""
_EPILOG = """A source of pictures is a JSON file (COCO or SA-Co), a folder with images/ and masks/, or scenes:NUMBER for
drawn pictures. exit codes: 0 done; 1 training stopped (loss not finite, out of memory); 2 wrong usage or data that
cannot be used; 130 interrupted: --resume goes on from the last checkpoint."""

_DONE, _STOPPED, _WRONG, _INTERRUPTED = 0, 1, 2, 130
# Flag → setting of the configuration, or of its `training` part.
_SETTINGS = ("model", "train", "val", "output", "recipe", "image_size", "mine", "merge", "resume")
_TRAINING = {
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "accumulate": "gradient_accumulation_steps",
    "learning_rate": "learning_rate",
    "freeze": "freeze",
    "ema_decay": "ema_decay",
    "workers": "dataloader_num_workers",
    "seed": "seed",
    "bf16": "bf16",
    "cpu": "use_cpu",
    "checkpointing": "activation_checkpointing",
}


def add_train_command(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `train` to the commands and returns its parser, whose default `run` gives an exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train", help="train or fine-tune a model", description=_DESCRIPTION, epilog=_EPILOG
    )
    add = parser.add_argument
    add("config", nargs="?", type=Path, metavar="CONFIG.yaml", help="configuration; see examples/train.yaml")
    add("--model", metavar="PATH_OR_ID", help="model to start from")
    add("--train", action="append", metavar="SOURCE", help="training pictures; may be repeated")
    add("--val", action="append", metavar="SOURCE", help="pictures to evaluate on after each epoch; may be repeated")
    add("--output", metavar="DIR", help="directory for checkpoints and the trained model")
    add("--recipe", choices=("full", "frozen_towers", "lora"), help="what is trained (default: full)")
    add("--lora-rank", type=int, metavar="R", help="rank of the adapters; means --recipe lora")
    add("--merge", action="store_true", default=None, help="with LoRA, also save the merged model in DIR/merged")
    add("--image-size", type=int, metavar="PIXELS", help="side of the square that the model sees")
    add("--mine", action="store_true", default=None, help="mine phrases that the model wrongly accepts each epoch")
    add("--epochs", type=float, metavar="N")
    add("--steps", type=int, metavar="N", help="optimizer steps, in place of epochs")
    add("--batch-size", type=int, metavar="N", help="pictures of each process at once")
    add("--accumulate", type=int, metavar="N", help="batches for each optimizer step")
    add("--learning-rate", type=float, metavar="RATE")
    add("--freeze", choices=("none", "vision", "text", "towers", "detector"), help="what is not trained")
    add("--ema-decay", type=float, metavar="D", help="evaluate and save an average of the weights, e.g. 0.999")
    add("--workers", type=int, metavar="N", help="processes that load data")
    add("--seed", type=int, metavar="N")
    add("--bf16", action="store_true", default=None, help="mixed precision")
    add("--checkpointing", action="store_true", default=None, help="less memory, more time")
    add("--cpu", action="store_true", default=None, help="do not use an accelerator")
    add("--resume", nargs="?", const=True, metavar="CHECKPOINT", help="go on from the last checkpoint, or from this")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other argument of transformers' TrainingArguments, e.g. --set save_total_limit=1; may be repeated",
    )
    parser.set_defaults(run=_train)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    """Runs the training and returns the exit code."""
    try:
        from .run import run_training
        from .train_config import load_config

        config = load_config(arguments.config, _flags(arguments), _training_flags(arguments))
        metrics = run_training(config)
    except KeyboardInterrupt:
        return _say("interrupted; --resume goes on from the last checkpoint", _INTERRUPTED)
    except FloatingPointError as error:
        return _say(str(error), _STOPPED)
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _say(f"error: {error}", _WRONG)
    for name, value in sorted(metrics.items()):
        print(f"{name:32} {value:.4f}")
    print(f"wrote {config.output}")
    return _DONE


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    found = {name: getattr(arguments, name) for name in _SETTINGS if getattr(arguments, name) is not None}
    if arguments.lora_rank is not None:
        found |= {"recipe": "lora", "lora": {"rank": arguments.lora_rank}}
    return found


def _training_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {target: getattr(arguments, flag) for flag, target in _TRAINING.items()}
    found = {name: value for name, value in given.items() if value is not None}
    for entry in arguments.set:
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise ValueError(f"--set takes NAME=VALUE, got {entry!r}")
        found[name] = _parsed(value)
    return found


def _parsed(text: str) -> Any:
    """A number, true, false or a list as JSON has them; all else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _say(message: str, code: int) -> int:
    print(f"sam3-hf: {' '.join(message.split())}", file=sys.stderr)
    return code
