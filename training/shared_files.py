"""Files shared by several processes: atomic writes, a file lock and a comparison of recorded settings.

`atomic_write` yields a path to write to and renames it at the end, so that a file is complete or absent also after a kill.
`exclusive_lock` protects a file that one process creates and others read: they wait, then find it complete. The kernel
releases the lock with its process, so a killed process blocks no other.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from training.parallel import World, broadcast

__all__ = ["atomic_write", "exclusive_lock", "require_same_settings", "write_text"]

_POLL_S = 0.2
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, linux/fcntl.h and linux/fs.h
_LEFTOVER_S = 3600.0  # a temporary file that was not written to for so long is left over from a killed process


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a hidden path in the same folder with the same suffix, for a file or a folder; rename it to `file` afterwards.

    The path is unique, so two writers do not collide and a reader sees the old file or the new one. An error leaves nothing
    behind; a kill leaves the hidden file, which a later write of the same file removes after an hour. An existing folder is
    exchanged for the new one; if the file system cannot exchange, the folder is absent for a moment.
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


def require_same_settings(before: Mapping[str, Any], now: Mapping[str, Any], subject: str, remedy: str) -> None:
    """Raise InputError `SUBJECT NAME BEFORE, not NOW; ...: REMEDY` if a setting of `now` differs from the recorded one."""
    if changed := [
        f"{name} {before.get(name)}, not {value}" for name, value in now.items() if before.get(name) != value
    ]:
        raise InputError(f"{subject} {'; '.join(changed)}: {remedy}")


@contextmanager
def exclusive_lock(file: Path, process: World | None = None) -> Iterator[None]:
    """Lock `file` against other processes until the end of the block; wait while another process holds the lock.

    process: under torchrun, where all processes enter together and the main one holds the lock; None for a single process.
    The lock is `.NAME.lock` beside the file, which is not deleted. On a file system without locks nobody waits: a file that
    is created twice is still complete, because it is written by `atomic_write`.
    """
    lock = _open_lock(file) if process is None or process.is_main else None
    try:
        waiting = False
        while not _from_main(lock is not None and _try_lock(lock), process):
            if lock is not None and not waiting:
                print(f"waiting for the process that writes {file}", file=sys.stderr, flush=True)
            waiting = True
            time.sleep(_POLL_S)
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _open_lock(file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _from_main(locked: bool, process: World | None) -> bool:
    """Return whether the main process has locked the file."""
    return locked if process is None else broadcast({"locked": float(locked)}, process)["locked"] == 1


def _exchange(new: Path, old: Path) -> None:
    """Swap two paths: rename(2) does not replace a folder that holds files, and Python has no renameat2."""
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
        except OSError:  # just renamed by its writer
            continue
        if old:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
