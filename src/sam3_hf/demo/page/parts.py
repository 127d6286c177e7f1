"""What the tabs share: the models and users behind the page, messages, and a net under every handler."""

import functools
import html
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..engine import SCORE_FLOOR, Engine
from ..messages import explain_error
from ..models import ModelShelf
from ..visitors import Visitor, Visitors

__all__ = [
    "EVERY_PHRASE",
    "EXPECTED",
    "FORGOTTEN",
    "MODEL_QUEUE",
    "Behind",
    "Tab",
    "alert",
    "guarded",
    "guarded_steps",
    "message",
    "score_slider",
]

EVERY_PHRASE = "every phrase"  # what boxes count for, unless for one
MODEL_QUEUE = "model"  # requests that run the model on pictures wait for one another
FORGOTTEN = (
    "There is no {what} yet: upload one, or use an example. If you had one: the server was restarted or you were away "
    "for long, and it is forgotten; please upload it again."
)

_log = logging.getLogger(__name__)
# What users can cause; anything else is a fault of the program, which Gradio reports as such.
EXPECTED = (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError)


def score_slider(value: float, label: str, **options: Any) -> gr.Slider:
    """A slider for a score whose number may be typed: what is half typed or cleared is no error, but the nearest value.

    A method of one slider is replaced: for a subclass Gradio would write a stub file into this package. So it may be
    given new values, but no new properties, for which Gradio would make another component.
    """
    slider = gr.Slider(SCORE_FLOOR, 0.99, value, step=0.01, label=label, **options)

    def nearest(payload: float | None) -> float:
        return min(max(float(value if payload is None else payload), slider.minimum), slider.maximum)

    slider.preprocess = nearest
    return slider


@dataclass
class Behind:
    """The models that are offered and the users that are here."""

    shelf: ModelShelf
    visitors: Visitors

    def visitor(self, request: gr.Request) -> Visitor:
        """The user who sent a request."""
        return self.visitors.of(request.session_hash)

    def engine(self, visitor: Visitor) -> Engine:
        """The model that a user has chosen, opened."""
        return self.shelf.open(visitor.model)


class Tab:
    """A tab of the page: components in `__init__`, handlers as methods; `status` shows messages."""

    status: gr.HTML

    def __init__(self, behind: Behind) -> None:
        self.behind = behind


def message(text: str | None) -> str:
    """A message for the status line; empty for None."""
    return f'<p class="s3-message" role="status">{html.escape(text)}</p>' if text else ""


def alert(text: str) -> str:
    """A message that something cannot be done as it was asked."""
    return f'<p class="s3-message s3-alert" role="alert">{html.escape(text)}</p>'


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler of a tab, whose errors become messages; everything else on the page stays as it is."""

    @functools.wraps(handler)
    def safe(tab: Tab, *arguments: Any) -> Any:
        try:
            return handler(tab, *arguments)
        except EXPECTED as error:
            return {tab.status: alert(_told(error))}

    return safe


def guarded_steps(handler: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The same for handlers that yield."""

    @functools.wraps(handler)
    def safe(tab: Tab, *arguments: Any) -> Iterator[Any]:
        try:
            yield from handler(tab, *arguments)
        except EXPECTED as error:
            yield {tab.status: alert(_told(error))}

    return safe


def _told(error: Exception) -> str:
    text = explain_error(error)
    if text is None:
        raise error
    _log.info("told a user: %s", text, exc_info=error)
    return text
