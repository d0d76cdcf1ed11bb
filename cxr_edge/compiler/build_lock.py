"""One build at a time in an engines folder, and what a build that ends early leaves there.

The folder comes in; the block of a `with` statement has it for itself, so that of two builds one wins whole. The lock is
the kernel's, on the folder itself: it ends with its process, however that ends, so that no lock can become stale and no file
is left. On a file system without locks (some network shares) builds are not kept apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType

from cxr_edge.engines import BUILD_FILE
from cxr_edge.errors import BackendError, OutputError
from cxr_edge.names import printable

__all__ = ["SCRATCH_PREFIX", "build_lock", "mark_owner", "uninterrupted", "unwritable"]

SCRATCH_PREFIX = ".building-"
_OWNER_FILE = "owner"  # inside a scratch folder, for the message of those who wait
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

State = dict[Path, tuple[int, int]]


@contextmanager
def build_lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Create the engines folder and keep other builds out of it; wait while there is one. Not reentrant.

    Scratch folders of builds that were killed are removed first. say: takes lines of progress; if the block is interrupted,
    also what is in the folder then. Raises BackendError if the folder cannot be written, OutputError if its disk is full.
    """
    descriptor = _open(folder)
    try:
        if _acquire(descriptor, folder, say):
            _clear_scratch(folder)
        before = _state(folder)
        try:
            yield
        except KeyboardInterrupt:
            say(f"the build was stopped: {_left(folder, before)}")
            raise
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            raise OutputError(
                f"the engines could not be written to {printable(folder)}, or files of the build to the temporary folder "
                f"({error.strerror}): {_left(folder, before)}"
            ) from None
    finally:
        os.close(descriptor)


def unwritable(folder: Path, error: OSError) -> BackendError:
    """Return the error of a folder that cannot be written, with the remedy."""
    return BackendError(
        f"engines cannot be written into {printable(folder)} ({error.strerror}): give a folder that can be written with "
        f"--engines DIR, to build-engine and to screen alike"
    )


def mark_owner(scratch: Path) -> None:
    """Write into a scratch folder whose it is."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    (scratch / _OWNER_FILE).write_text(f"process {os.getpid()} on {os.uname().nodename}, since {now}", encoding="utf-8")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back until the block has ended: the short one that moves finished files into place."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signal handlers run in the main thread only
        return
    arrived: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        arrived.append(number)

    handlers = {number: signal.getsignal(number) for number in _ENDING_SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}
    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


def _open(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise unwritable(folder, error) from None


def _acquire(descriptor: int, folder: Path, say: Callable[[str], None]) -> bool:
    """Lock the folder. Returns False on a file system without locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another build in {printable(folder)}: {_owner(folder)}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _scratch_folders(folder: Path) -> Iterator[Path]:
    """Yield the scratch folders of a bundle's engines (one level down, beside each backend's) and of a single network's."""
    yield from folder.glob(f"{SCRATCH_PREFIX}*")
    yield from folder.glob(f"*/{SCRATCH_PREFIX}*")


def _clear_scratch(folder: Path) -> None:
    for scratch in _scratch_folders(folder):
        shutil.rmtree(scratch, ignore_errors=True)


def _owner(folder: Path) -> str:
    for scratch in _scratch_folders(folder):
        try:
            return printable((scratch / _OWNER_FILE).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return "it has just begun"


def _state(folder: Path) -> State:
    """Return size and time of the files that end a build: build.json of each backend, side-cars of a single network."""
    found = [*folder.glob(f"*/{BUILD_FILE}"), *folder.glob("*.json")]
    return {p: (s.st_size, s.st_mtime_ns) for p in found for s in [p.stat()]}


def _left(folder: Path, before: State) -> str:
    after, name = _state(folder), printable(folder)
    if after != before:
        return f"the engines in {name} are those of this build, complete"
    return f"the engines in {name} are those of before" if before else f"{name} has no engines yet"
