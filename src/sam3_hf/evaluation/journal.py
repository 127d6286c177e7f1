"""`PredictionJournal`: answers that outlive a kill, pair by pair, written by one process or by several.

Each process appends to a file of its own, one line of JSON for each pair, handed to the operating system at once.  What
is known is the union of all files of the folder; a last line that a kill has torn is not there.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["PredictionJournal"]

_PATTERN = "journal-*.jsonl"


class PredictionJournal:
    """The journal of a folder, as one process sees it; a context manager.

    Args:
        folder: made if it does not exist.
        header: what the answers depend on; going on with other settings is an error.
        rank: number of this process.

    Raises ValueError where a file of the folder has another header.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = folder
        self.header: dict[str, Any] = json.loads(json.dumps(dict(header)))
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _PATTERN.replace("*", f"{rank:05d}")
        end = self._checked_end(self._path) if self._path.exists() else 0
        self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - kept open
        self._file.truncate(end)
        if end == 0:
            self._write({"header": self.header})

    def append(self, index: int, **record: Any) -> None:
        """Writes what is known of pair `index`: `results` (and `count`), or `asked=False`, or `failed="why"`."""
        self._write({"pair": index, **record})

    def read(self) -> dict[int, dict[str, Any]]:
        """What all processes have written, by pair; an answer counts more than a failure, the first of several wins."""
        known: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob(_PATTERN)):
            self._checked_end(path)
            for line in path.read_bytes().split(b"\n")[1:-1]:
                record = json.loads(line)
                if record["pair"] not in known or "failed" in known[record["pair"]]:
                    known[record["pair"]] = record
        return known

    def close(self) -> None:
        """Closes this process's file."""
        self._file.close()

    def __enter__(self) -> "PredictionJournal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def remove(folder: Path) -> None:
        """Deletes the files of a folder's journal."""
        for path in folder.glob(_PATTERN):
            path.unlink()

    def _checked_end(self, path: Path) -> int:
        """Length in bytes of the whole lines of a file; ValueError where it is not of this run."""
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end == 0:
            return 0
        there = json.loads(content[: content.index(b"\n")]).get("header")
        if there != self.header:
            other = [name for name in self.header if there is None or there.get(name) != self.header[name]]
            raise ValueError(
                f"{path} is of an interrupted run with another {', '.join(other) or 'version'}; give the same "
                "arguments to go on with it, --overwrite to begin anew, or another --output."
            )
        return end

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        rest = memoryview(line)
        while rest:  # a disk that is nearly full takes a part
            rest = rest[os.write(self._file.fileno(), rest) :]
