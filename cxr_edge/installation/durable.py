"""Files that are whole after a power cut: written, moved and linked in one step each, and waited for until they are on the disk.

Every change of an installation to the disk goes through these functions, so that tests can stop it at each of them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

__all__ = [
    "REMOVED",
    "append_line",
    "copy_file",
    "link",
    "remove_link",
    "remove_tree",
    "sync_folder",
    "sync_tree",
    "write_file",
]

REMOVED = ".removing-"  # a folder that is being removed is never taken for a version


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Wait until every file and name below a folder, and its own name, are on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            _sync_file(path)
    sync_folder(folder)
    sync_folder(folder.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, and its folder if there is none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    _sync_file(target)


def write_file(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    _sync_file(unfinished)
    os.replace(unfinished, path)
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file; what an earlier power cut left of a line becomes a line of its own."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        begun = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        os.write(descriptor, (("\n" if begun else "") + line + "\n").encode("utf-8"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(path: Path, target: str) -> None:
    """Let the symbolic link `path` lead to `target`, in one step from where it led before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    os.symlink(target, unfinished)
    os.replace(unfinished, path)
    sync_folder(path.parent)


def remove_link(path: Path) -> None:
    """Remove a symbolic link."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder, whose name is gone in one step."""
    hidden = folder if folder.name.startswith(REMOVED) else folder.with_name(f"{REMOVED}{folder.name}")
    if hidden != folder:
        if hidden.exists():
            shutil.rmtree(hidden)
        os.rename(folder, hidden)
    shutil.rmtree(hidden)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
