"""Files of a run folder: atomic writes, reading back, a file lock and a comparison of recorded settings.

`atomic_write` yields a path to write to and renames it at the end, so that a file is complete or absent also after a kill or
a power cut. `reading` and `read_json` turn what a damaged file raises into a sentence with the file and the remedy.
`exclusive_lock` protects a file that one process creates and others read: they wait, then find it complete. The kernel
releases the lock with its process, so a killed process blocks no other.
"""

from __future__ import annotations

import csv
import ctypes
import errno
import fcntl
import glob
import json
import os
import pickle
import secrets
import shutil
import sys
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError, OutputError

if TYPE_CHECKING:
    from training.parallel import World

try:
    from safetensors import SafetensorError
except ImportError:  # data is read and checked without training's packages

    class SafetensorError(Exception):  # type: ignore[no-redef]
        """Exception that nothing raises: without safetensors none of its files is read."""


__all__ = [
    "REPEAT",
    "atomic_write",
    "exclusive_lock",
    "read_arrays",
    "read_json",
    "reading",
    "require_same_settings",
    "try_lock",
    "write_text",
]

REPEAT = "delete it and start the same command again, which makes it again"

_POLL_S = 0.2
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # Linux, linux/fcntl.h and linux/fs.h
_LEFTOVER_S = 3600.0  # a temporary file that was not written to for so long is left over from a killed process


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a hidden path in the same folder with the same suffix, for a file or a folder; rename it to `file` afterwards.

    The path is unique, so two writers do not collide and a reader sees the old file or the new one. The content is on the disk
    before the new name is. An error leaves nothing behind; a kill leaves the hidden file, which a later write of the same file
    removes after an hour. An existing folder is exchanged for the new one; if the file system cannot exchange, the folder is
    absent for a moment. Raises OutputError if the disk is full.
    """
    _remove_leftovers(file)
    beside = file.with_name(f".{file.stem}.{secrets.token_hex(6)}.unfinished{file.suffix}")
    try:
        yield beside
        _to_disk(beside)
        if beside.is_dir() and file.is_dir():
            _exchange(beside, file)
            _remove(beside)
        else:
            beside.replace(file)
        _sync(file.parent)
    except BaseException as error:
        _remove(beside)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise OutputError(
                f"{file} cannot be written ({error.strerror}): free space on its disk, then start the same command again"
            ) from error
        raise


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _to_disk(path: Path) -> None:
    """Wait until a file, or all files of a folder, are on the disk: a name may get there before the content (ext4, XFS)."""
    for each in (*path.rglob("*"), path) if path.is_dir() else (path,):
        _sync(each)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.EACCES,
            errno.EBADF,
            errno.EROFS,
        ):  # file systems that have no fsync of folders
            raise
    finally:
        os.close(descriptor)


def write_text(file: Path, text: str) -> None:
    """Write `text` (UTF-8) to `file` by `atomic_write`."""
    with atomic_write(file) as beside:
        beside.write_text(text, encoding="utf-8")


# What json, csv, numpy, zipfile, safetensors and torch raise for a file that is cut, altered or of another version.
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    pickle.UnpicklingError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
    SafetensorError,
)
_ZEROS = 64  # so many at the end are no content: a power cut left a length without its blocks


@contextmanager
def reading(file: Path, remedy: str = REPEAT) -> Iterator[None]:
    """Raise InputError with `file`, what is wrong with it and `remedy` if the block cannot read it.

    The block reads `file` and does nothing else.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{file} is missing: run the stages in order, or all of them") from error
    except PermissionError as error:
        raise InputError(f"{file} cannot be read, no permission: change its permissions") from error
    except _UNREADABLE as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, a RuntimeError that says nothing about the file
            raise
        raise InputError(f"{file} cannot be read, {_damage(file)}: {remedy}") from error


def read_json(file: Path, remedy: str = REPEAT) -> dict[str, Any]:
    """Return the object of a JSON file. Raises InputError with the file and `remedy` for any other content."""
    with reading(file, remedy):
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
        return values


def read_arrays(file: Path, names: Iterable[str], remedy: str = REPEAT) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays of an .npz file. Raises InputError with the file and `remedy` for any other content."""
    with reading(file, remedy), file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names}


def _damage(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        return (error.strerror or "no access").lower()
    if not data:
        return "it is empty"
    if not data[-_ZEROS:].strip(b"\0"):
        return "its end is filled with zeros, as after a power cut"
    return f"it is cut, altered or of another version ({len(data):,} bytes)"


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
        while not _from_main(lock is not None and _lock(lock), process):
            if lock is not None and not waiting:
                print(f"waiting for the process that writes {file}", file=sys.stderr, flush=True)
            waiting = True
            time.sleep(_POLL_S)
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def try_lock(file: Path) -> Iterator[bool]:
    """Lock `file` as `exclusive_lock` until the end of the block, without waiting. Yields whether this process has it."""
    lock = _open_lock(file)
    try:
        yield _lock(lock)
    finally:
        os.close(lock)


def _open_lock(file: Path) -> int:
    file.parent.mkdir(parents=True, exist_ok=True)
    return os.open(file.with_name(f".{file.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)


def _lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _from_main(locked: bool, process: World | None) -> bool:
    """Return whether the main process has locked the file."""
    if process is None:
        return locked
    from training.parallel import broadcast  # imports torch, which reading and checking data does not need

    return broadcast({"locked": float(locked)}, process)["locked"] == 1


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
