"""Expand the PATH arguments of `screen` to the files to screen, in a stable order.

Takes files, folders and glob patterns as the user typed them; returns a `Selection` of files and skipped entries. A named
file is always selected, so that it is screened or reported as failed. In a folder, entries without an image file name or
that are not regular files are skipped and listed; links to folders are followed, each folder once.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.report import Skipped

__all__ = ["Selection", "select"]

# Companion files of image collections. Every other file in a folder is opened, whatever its name: content decides.
_NOT_IMAGE_SUFFIXES = frozenset((
    ".csv", ".tsv", ".txt", ".md", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".xml", ".html", ".htm", ".pdf", ".doc",
    ".docx", ".xls", ".xlsx", ".py", ".sh", ".zip", ".gz", ".tar", ".onnx", ".npy", ".npz", ".log", ".ini", ".db",
))  # fmt: skip
_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Expanded PATH arguments."""

    files: tuple[Path, ...]  # to screen, each once
    skipped: tuple[Skipped, ...]  # entries of folders that are not screened
    hidden: int = 0  # number of hidden files and folders, skipped as well


def select(arguments: Sequence[str]) -> Selection:
    """Expand the arguments. A path that does not exist or cannot be read is selected too, and fails as its own row.

    Raises InputError if an argument is empty, a folder has no file to screen, or a pattern matches nothing.
    """
    files: dict[Path, None] = {}
    skipped: dict[Path, Skipped] = {}
    hidden = 0
    for argument in arguments:
        for path in _expand(argument):
            if os.path.isdir(path):
                found = _walk(path)
                files.update(dict.fromkeys(found.files))
                skipped.update({s.path: s for s in found.skipped})
                hidden += found.hidden
            else:
                files[path] = None
    return Selection(files=tuple(files), skipped=tuple(skipped.values()), hidden=hidden)


def _expand(argument: str) -> Iterable[Path]:
    if not argument:
        raise InputError("an empty PATH: expected a file, a folder or a pattern; is a shell variable unset?")
    if os.path.exists(argument) or not glob.has_magic(argument) or "\0" in argument:
        return [Path(argument)]
    found: dict[tuple[str, str], str] = {}
    for name in sorted(glob.glob(argument, recursive=True), key=lambda name: (name.count(os.sep), name)):
        found.setdefault((os.path.realpath(os.path.dirname(name)), os.path.basename(name)), name)  # `**` follows loops
    if not found:
        raise InputError(
            f"the pattern '{printable(argument)}' matches no file: correct it, or quote it so that the shell does not "
            "expand it"
        )
    return [Path(name) for name in sorted(found.values())]


@dataclass(kw_only=True)
class _Walk:
    """State of the walk through one folder."""

    folders: deque[Path] = field(default_factory=deque)  # still to be searched
    links: deque[Path] = field(default_factory=deque)  # links to folders, searched after all folders
    files: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    hidden: int = 0

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(path=path, reason=reason))

    def add(self, path: Path) -> None:
        """Add one entry of a folder to the matching list."""
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            broken = error.errno == errno.ENOENT and path.is_symlink()
            return self.skip(path, "a broken link" if broken else f"it cannot be read ({error.strerror})")
        if stat.S_ISDIR(mode):
            (self.links if path.is_symlink() else self.folders).append(path)
        elif not stat.S_ISREG(mode):
            kind = next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a special file")
            self.skip(path, f"{kind}, not a regular file")
        elif path.suffix.lower() in _NOT_IMAGE_SUFFIXES or path.name == "DICOMDIR":
            self.skip(path, "not an image file name")
        else:
            self.files.append(path)


def _walk(root: Path) -> Selection:
    walk = _Walk(folders=deque([root]))
    seen: dict[tuple[int, int], Path] = {}
    while walk.folders or walk.links:
        _search(walk, (walk.folders or walk.links).popleft(), seen)
    skipped = tuple(sorted(walk.skipped, key=lambda s: s.path))
    if not walk.files:
        example = "".join(f"; skipped: {printable(s.path)} ({s.reason})" for s in skipped[:1])
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        raise InputError(
            f"the folder {printable(root)} has no image to screen{example}{more}: give a folder with X-ray files"
        )
    return Selection(files=tuple(sorted(walk.files)), skipped=skipped, hidden=walk.hidden)


def _search(walk: _Walk, folder: Path, seen: dict[tuple[int, int], Path]) -> None:
    """Add the entries of a folder, unless it was already searched under another path."""
    try:
        status = os.stat(folder)
        first = seen.setdefault((status.st_dev, status.st_ino), folder)
        names = os.listdir(folder) if first is folder else []
    except OSError as error:
        return walk.skip(folder, f"the folder cannot be read ({error.strerror})")
    if first is not folder:
        return walk.skip(folder, f"the same folder as {printable(first)}")
    for name in sorted(names):
        if name.startswith("."):
            walk.hidden += 1
        else:
            walk.add(folder / name)
