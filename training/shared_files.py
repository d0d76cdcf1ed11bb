"""Files that several processes, and kills, have in common: each is complete or absent, and one process at a time makes it.

`atomic_write` gives a path to write to and renames it to the file at the end. `one_at_a_time` is a lock for what is made
once and read by all: the others wait, then find it made. The kernel drops it with its process, so a kill blocks nobody.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.parallel import World, everywhere

__all__ = ["atomic_write", "one_at_a_time", "write_text"]

_POLL_S = 0.2
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, linux/fcntl.h and linux/fs.h
_LEFTOVER_S = 3600.0  # what nobody has written to for so long was left by a killed process


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Give a hidden path in the same folder, of the same suffix, to write a file or a folder to; rename it to `file` after.

    The path is this writer's own, so that two writers do not meet and a reader finds the old file or the new one. An error
    leaves nothing behind; a kill leaves the hidden file, which a later write of the same file removes after an hour. A folder
    that is there is exchanged for the new one; where the file system cannot, there is none for a moment.
    """
    _remove_leftovers(file)
    beside = file.with_name(f".{file.stem}.{secrets.token_hex(6)}.unfinished{file.suffix}")
    try:
        yield beside
        if beside.is_dir() and file.is_dir():
            _exchange(beside, file)
            _remove(beside)
        else:
            beside.replace(file)
    except BaseException:
        _remove(beside)
        raise


def write_text(file: Path, text: str) -> None:
    """Write `text` (UTF-8) to `file` by `atomic_write`."""
    with atomic_write(file) as beside:
        beside.write_text(text, encoding="utf-8")


@contextmanager
def one_at_a_time(file: Path, here: World | None = None) -> Iterator[None]:
    """Wait until no other process makes `file`, then hold the others back until the end of the block.

    here: the processes of a torchrun, which enter together, their first holding the lock; None for this process by itself.
    The lock is `.NAME.lock` beside the file, which stays. Where the file system has no locks, nobody waits: what is made
    twice is still complete, since it is written by `atomic_write`.
    """
    lock = _opened(file) if here is None or here.first else None
    try:
        waits = False
        while not _agreed(lock is not None and _taken(lock), here):
            if lock is not None and not waits:
                print(f"waiting for the process that makes {file}", file=sys.stderr, flush=True)
            waits = True
            time.sleep(_POLL_S)
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _opened(file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _agreed(taken: bool, here: World | None) -> bool:
    return taken if here is None else everywhere({"taken": float(taken)}, here)["taken"] == 1


def _exchange(new: Path, old: Path) -> None:
    """Give two paths each other's names: rename(2) replaces no folder that holds files, and Python has no renameat2."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    if call is None or call(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(old), _RENAME_EXCHANGE):
        aside = new.with_name(f".{old.stem}.{secrets.token_hex(6)}.unfinished{old.suffix}")
        old.rename(aside)
        new.rename(old)
        aside.rename(new)


def _remove_leftovers(file: Path) -> None:
    for path in file.parent.glob(f".{glob.escape(file.stem)}.*.unfinished{glob.escape(file.suffix)}"):
        try:
            old = time.time() - path.stat().st_mtime > _LEFTOVER_S
        except OSError:  # its writer has just renamed it
            continue
        if old:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
