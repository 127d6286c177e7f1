"""`Visitors`: what the demo keeps of each user, apart from all others, until they leave or stay away for long."""

import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from .image_session import ImageSession
from .video_job import VideoJob

__all__ = ["Visitor", "Visitors"]


@dataclass(eq=False)
class Visitor:
    """One open page.

    Attributes:
        folder: for files that this user takes away.
        model: the name of the chosen model; None: the default.
        image: the picture in hand.
        compared: the same picture, as the comparison asks about it.
        video: the video in hand.
        seen: when the user last did something, on a clock that only runs forward.
    """

    folder: Path
    model: str | None = None
    image: ImageSession | None = None
    compared: ImageSession | None = None
    video: VideoJob | None = None
    seen: float = field(default_factory=time.monotonic)

    def take_image(self, session: ImageSession | None) -> None:
        """Works on another picture from now on, or on none."""
        self.image, self.compared = session, None

    def take_video(self, job: VideoJob | None) -> None:
        """Works on another video from now on, or on none; the one before is stopped."""
        if self.video is not None:
            self.video.close()
        self.video = job

    def close(self) -> None:
        """Frees everything."""
        self.take_image(None)
        self.take_video(None)
        shutil.rmtree(self.folder, ignore_errors=True)


class Visitors:
    """All users with an open page.

    Args:
        most_pictures: how many users' picture features are kept (132 MB each at released size); of those who have been
            away longest they go, and are made again when they come back.
        idle_seconds: a user who does nothing for so long is forgotten.
    """

    def __init__(self, most_pictures: int = 8, idle_seconds: float = 3600.0) -> None:
        self.most_pictures, self.idle_seconds = most_pictures, idle_seconds
        self._visitors: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visitors)

    def of(self, key: str | None) -> Visitor:
        """The user with this key, new where they were not here before or were forgotten."""
        key = key or ""
        with self._lock:
            self._forget_idle()
            if key not in self._visitors:
                self._visitors[key] = Visitor(Path(tempfile.mkdtemp(prefix="sam3-hf-demo-")))
            visitor = self._visitors[key]
            visitor.seen = time.monotonic()
            self._visitors.move_to_end(key)
            self._trim()
            return visitor

    def leave(self, key: str | None) -> None:
        """Forgets a user and frees all that was kept."""
        with self._lock:
            visitor = self._visitors.pop(key or "", None)
        if visitor is not None:
            visitor.close()

    def close(self) -> None:
        """Forgets everybody."""
        for key in list(self._visitors):
            self.leave(key)

    def _forget_idle(self) -> None:
        limit = time.monotonic() - self.idle_seconds
        for key in [key for key, visitor in self._visitors.items() if visitor.seen < limit]:
            self._visitors.pop(key).close()

    def _trim(self) -> None:
        with_features = [one for one in self._visitors.values() if one.image is not None and one.image.is_encoded]
        for visitor in with_features[: max(0, len(with_features) - self.most_pictures)]:
            for session in (visitor.image, visitor.compared):
                if session is not None:
                    session.forget_features()
