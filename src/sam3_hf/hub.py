"""From a name to a directory on this machine, with errors that say what to do."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

__all__ = ["CheckpointNotFoundError", "explain_hub_error", "local_directory"]

# What a checkpoint directory is made of. The original `sam3.pt` in the same repository is left out: it is 3.4 GB more.
_PATTERNS = ["*.json", "*.txt", "*.model", "*.md", "model*.safetensors"]
_HUB_ERRORS = (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError)
_LOCAL_HINT = "or give the path of a local directory that holds config.json and model.safetensors"


class CheckpointNotFoundError(OSError, ValueError):
    """There is no such directory or repository, or it may not be read."""


def explain_hub_error(name: str, error: Exception) -> Exception:
    """An error to raise instead of `error` that says what to do about repository `name`."""
    if isinstance(error, GatedRepoError):
        text = (
            f"{name!r} is gated: accept its licence at https://huggingface.co/{name}, log in with `hf auth login` (or "
            f"pass token=...), {_LOCAL_HINT}"
        )
    elif isinstance(error, RevisionNotFoundError):
        text = f"{name!r} has no such revision; look at https://huggingface.co/{name}/commits/main, {_LOCAL_HINT}"
    elif isinstance(error, (RepositoryNotFoundError, HFValidationError)):
        text = (
            f"{name!r} is neither a local directory nor a repository that can be read: check the spelling; if it is "
            f"private or gated, log in with `hf auth login` (or pass token=...), {_LOCAL_HINT}"
        )
    else:
        text = f"{name!r} could not be fetched from the hub ({type(error).__name__}: {error}); try again, {_LOCAL_HINT}"
    return CheckpointNotFoundError(text)


def local_directory(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    patterns: list[str] | None = None,
) -> Path:
    """The local directory that holds checkpoint `name`, downloaded if it is a repository on the hub.

    Raises:
        CheckpointNotFoundError: (an `OSError` and a `ValueError`) when there is none or it may not be read.
        ValueError: when `name` is a file.
    """
    path = Path(name)
    if path.is_file():
        raise ValueError(
            f"{path} is a file, a checkpoint is a directory with config.json and model.safetensors; make one from an "
            f"original checkpoint with `sam3-hf convert {path} DIRECTORY`"
        )
    if path.is_dir():
        return _existing(path / subfolder)
    if path.is_absolute() or str(name).startswith((".", "~")) or len(path.parts) > 2:
        raise CheckpointNotFoundError(
            f"there is no directory {str(name)!r}; check the path, or name a repository on the hub"
        )
    kwargs: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    kwargs |= {"local_files_only": local_files_only, "force_download": force_download}
    try:
        root = snapshot_download(str(name), allow_patterns=patterns or _PATTERNS, **kwargs)
    except _HUB_ERRORS as error:
        raise explain_hub_error(str(name), error) from error
    return _existing(Path(root) / subfolder)


def _existing(path: Path) -> Path:
    if not path.is_dir():
        raise CheckpointNotFoundError(f"there is no directory {str(path)!r}")
    return path
