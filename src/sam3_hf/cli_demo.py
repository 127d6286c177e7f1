"""The command `sam3-hf demo`. Heavy modules are imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from typing import Any

__all__ = ["add_demo_command"]

_DESCRIPTION = """Serve the web demo on this machine: phrases, boxes and clicks on pictures, objects followed through
videos. Needs the extra "demo"."""
_DONE, _WRONG = 0, 2


def add_demo_command(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `demo` to the commands and returns its parser, whose default `run` gives an exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser("demo", help="serve the web demo", description=_DESCRIPTION)
    add = parser.add_argument
    add("--model", metavar="PATH_OR_ID", help="directory, or repository on the hub (default: the small bundled model)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: an accelerator if there is one)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all (default: %(default)s)")
    add("--port", type=int, help="default: the first free one from 7860 on")
    add("--open", action="store_true", help="open the page in the browser")
    add("--fixed-models", action="store_true", help="users may not name directories and repositories (public servers)")
    parser.set_defaults(run=_demo)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from .demo import BUNDLED, ModelShelf
        from .demo.page import build_page, serve
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("gradio"):
            raise
        return _say('the demo needs Gradio; install it with: pip install "sam3-hf[demo]"')
    try:
        shelf = ModelShelf(arguments.model or BUNDLED, arguments.device, any_name=not arguments.fixed_models)
        page = build_page(shelf)
    # RuntimeError and AssertionError are torch's, for a device that does not exist or has no room
    except (OSError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        return _say(f"cannot open the model {arguments.model or BUNDLED}: {error}")
    try:
        serve(page, server_name=arguments.host, server_port=arguments.port, inbrowser=arguments.open)
    except OSError as error:  # the port is taken
        return _say(str(error))
    return _DONE


def _say(message: str) -> int:
    print(f"sam3-hf demo: {' '.join(message.split())}", file=sys.stderr)
    return _WRONG
