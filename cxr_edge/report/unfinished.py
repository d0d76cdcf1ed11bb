"""A report file that is complete or absent: written to a hidden file beside it, which replaces it in one step.

A path comes in; bytes are written; `finish` or `discard` ends it. The hidden file is locked while its process lives, so
that the next run can remove those of processes that were killed, and only those.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from io import BufferedWriter
from pathlib import Path

__all__ = ["UnfinishedFile", "clear_unfinished"]

_PREFIX, _SUFFIX = ".cxr-edge-", ".unfinished"


class UnfinishedFile:
    """The hidden file for `target`. Every method raises OSError."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path, self._file = _create(target.parent)

    def write(self, data: bytes) -> None:
        """Append."""
        self._file.write(data)

    def finish(self) -> None:
        """Replace the target, which keeps its permissions."""
        self._file.flush()
        with suppress(FileNotFoundError):
            shutil.copymode(self._target, self._path)
        self._path.replace(self._target)
        self._file.close()

    def discard(self) -> None:
        """Remove the hidden file; after `finish` there is none. Raises nothing."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes have left in the folder. Raises nothing."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.startswith(_PREFIX) and name.endswith(_SUFFIX):
                _clear(folder / name)


def _create(folder: Path) -> tuple[Path, BufferedWriter]:
    while True:
        path = folder / f"{_PREFIX}{secrets.token_hex(6)}{_SUFFIX}"
        file = path.open("xb")
        with suppress(OSError):  # a file system without locks, on which nothing is cleared either
            fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():
            return path, file
        file.close()  # cleared by another process before it was locked


def _clear(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
