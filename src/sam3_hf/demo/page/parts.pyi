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
    "EXPECTED",
    "FORGOTTEN",
    "MODEL_QUEUE",
    "Behind",
    "Tab",
    "Threshold",
    "alert",
    "guarded",
    "guarded_steps",
    "message",
]

MODEL_QUEUE = "model"  # requests that run the model on pictures wait for one another
FORGOTTEN = (
    "There is no {what} yet: upload one, or use an example. If you had one: the server was restarted or you were away "
    "for long, and it is forgotten; please upload it again."
)

_log = logging.getLogger(__name__)
# What users can cause; anything else is a fault of the program, which Gradio reports as such.
EXPECTED = (ValueError, TypeError, OSError, RuntimeError, MemoryError, ImportError)

class Threshold(gr.Slider):
    """A slider whose number may be typed: what is half typed or cleared is no error, but the nearest value."""

    is_template = True  # to the page it is a `gr.Slider`

    def preprocess(self, payload: float | None) -> float:
        """The value, within the slider's range; without one, the value at the start."""
        return min(max(float(self.value if payload is None else payload), self.minimum), self.maximum)
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

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
