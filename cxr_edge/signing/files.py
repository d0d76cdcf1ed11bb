"""Small files of signatures: read with a limit of size, and written whole and durably or not at all.

A reader sees the old content or the new one, after a power cut too. Raises BundleError for a file that cannot be read,
OutputError for one that cannot be written.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from cxr_edge.errors import BundleError, InputError, OutputError
from cxr_edge.names import printable

__all__ = ["MAX_BYTES", "read_file", "refuse_writable_by_others", "sync_folder", "write_file"]

MAX_BYTES = 4 * 1024 * 1024  # of an envelope or a record; a statement about a thousand files takes 0.2 MB
_FILE_MODE = 0o644


def read_file(path: Path) -> bytes:
    """Return the content of a regular file of at most MAX_BYTES. Raises BundleError."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
            raise BundleError(f"{printable(path)} is no regular file of at most {MAX_BYTES} bytes")
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{printable(path)} cannot be read ({error.strerror})") from None


def write_file(path: Path, data: bytes) -> None:
    """Replace the file in one step, durably; folders are made where they are missing. Raises OutputError."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{printable(path)} could not be written ({error.strerror}): check folder and disk") from None
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_writable_by_others(*paths: Path) -> None:
    """Raise InputError if every user of the machine may change one of the files or folders."""
    for path in paths:
        mode = path.stat().st_mode
        if mode & stat.S_IWOTH:
            raise InputError(
                f"every user may change {printable(path)} (mode {stat.S_IMODE(mode):o}), also after it was checked: "
                f"chmod o-w it, "
                f"after a look at what is in it"
            )
