"""`ModelShelf`: the models that the demo offers, opened when first wanted; few at a time."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from ..bundled import SAMPLE_NEW_THRESHOLD, bundled_model
from .engine import Engine, Wrapper

__all__ = ["BUNDLED", "RELEASED", "ModelShelf", "Settings", "model_note", "settings_for"]

BUNDLED = "bundled"
RELEASED = "facebook/sam3"


@dataclass(frozen=True)
class Settings:
    """What suits a model.

    Attributes:
        threshold: least score of an object.
        new_threshold: in videos, least score of a detection that starts an object.
        nms: overlap above which the worse of two masks of a phrase goes.
    """

    threshold: float = 0.5
    new_threshold: float = 0.7
    nms: float = 0.7


def settings_for(name: str) -> Settings:
    """The settings to start with for a model that users call `name`."""
    if name == BUNDLED:
        return Settings(new_threshold=SAMPLE_NEW_THRESHOLD)
    return Settings()


def model_note(name: str) -> str:
    """What users should know of a model before they open it."""
    if name == BUNDLED:
        return (
            "The bundled model is small, knows drawn shapes only, and is there to try things out. For photos choose "
            f"{RELEASED}."
        )
    if name == RELEASED:
        return (
            f"{RELEASED} (3.4 GB) is gated and under a licence of its own, the SAM License: accept it at "
            f"https://huggingface.co/{RELEASED}, then log in with `hf auth login` (on a Space: secret HF_TOKEN)."
        )
    return f"{name}: a directory with config.json and model.safetensors, or a repository on the hub in that layout."


class ModelShelf:
    """Opened models by name, for all users together; the one that was used longest ago makes room for the next.

    Args:
        default: what a new user gets: `BUNDLED`, a directory or a hub repository.
        device: cpu, cuda, ...; None: an accelerator if there is one.
        wrapper: see `Engine`.
        any_name: whether users may name directories and repositories themselves; False for a public server.
        capacity: models that are held at a time.
    """

    def __init__(
        self,
        default: str = BUNDLED,
        device: str | None = None,
        wrapper: Wrapper | None = None,
        any_name: bool = True,
        capacity: int = 2,
    ) -> None:
        self.default, self.device, self.wrapper = default, device, wrapper
        self.any_name, self.capacity = any_name, capacity
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def choices(self) -> list[str]:
        """The names that are offered, the default first."""
        return list(dict.fromkeys((self.default, BUNDLED, RELEASED)))

    def open(self, name: str | None = None) -> Engine:
        """The engine of a model, opened if it is not yet.

        Raises:
            ValueError: an empty name, or one that is not offered where users may not name their own; a file that is no
                checkpoint.
            OSError: there is no such model, or it is gated; the message says what to do.
        """
        name = (self.default if name is None else name).strip()
        if not name:
            raise ValueError("No model is named: choose one of the list, or type a directory or a hub repository.")
        if not self.any_name and name not in self.choices:
            raise ValueError(f"This server offers {', '.join(self.choices)} only, not {name!r}; run the demo yourself.")
        with self._lock:
            if name not in self._engines:
                self._engines[name] = self._opened(name)
                while len(self._engines) > self.capacity:
                    self._engines.popitem(last=False)
            self._engines.move_to_end(name)
            return self._engines[name]

    def _opened(self, name: str) -> Engine:
        source = bundled_model() if name == BUNDLED else name
        engine = Engine(source, self.device, settings_for(name).nms, self.wrapper)
        engine.name = name
        return engine
