"""Expand the PATH arguments of `screen` to the files to screen, in a stable order.

Takes files, folders, glob patterns and `-` as the user typed them, and the list of `--files-from`; returns a `Selection` of
files and skipped entries. A named file is always selected, so that it is screened or reported as failed; so is a folder or
pattern without a file, unless nothing else is given. In a folder, entries without an image file name or that are not regular
files are skipped and listed; links to folders are followed, each folder once.
"""

from __future__ import annotations

import errno
import glob
import os
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from cxr_edge.cli import standard_input
from cxr_edge.cli.file_list import listed_files
from cxr_edge.cli.output import print_message
from cxr_edge.cli.standard_input import StandardInput
from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Failure
from cxr_edge.report import Skipped
from cxr_edge.screening.folder import Item

__all__ = ["Selection", "report_skipped", "select"]

_MAX_SKIPPED = 20  # skipped files listed on stderr

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
    """Expanded PATH arguments, and the list."""

    # To screen, each once; a failure in place of an argument without a file.
    files: tuple[Path | StandardInput | Failure, ...]
    skipped: tuple[Skipped, ...]  # entries of folders that are not screened
    hidden: int = 0  # number of hidden files and folders, skipped as well
    listed: Iterator[Path | Failure] | None = None  # files of --files-from, after the others, as they arrive

    @property
    def count(self) -> int | None:
        """Number of files; None where a list does not say it in advance."""
        return len(self.files) if self.listed is None else None

    @property
    def images(self) -> int:
        """Number of images to decode, at least 1; very large where a list does not say it in advance."""
        return sys.maxsize if self.listed is not None else sum(not isinstance(f, Failure) for f in self.files)

    def items(self) -> Iterator[Item]:
        """Yield what is to be screened; standard input is read when its turn comes. To be called once."""
        for file in chain(self.files, self.listed or ()):
            yield file.read() if isinstance(file, StandardInput) else file


def select(arguments: Sequence[str], files_from: str | None = None, *, limits: Limits = DEFAULT_LIMITS) -> Selection:
    """Expand the arguments and open the list. A path that does not exist or cannot be read is selected, and fails as a row.

    files_from: the list of further files, `-` for standard input. limits: of the image on standard input.

    Raises InputError if an argument is empty, the list cannot be used, standard input is named twice, or there is nothing to
    screen: no file in any folder, for any pattern or in the list.
    """
    _check_standard_input(arguments, files_from)
    found = _join(part for argument in arguments for part in _expand(argument, limits))
    if files_from is not None:
        return replace(found, listed=listed_files(files_from, alone=not found.files))
    if all(isinstance(file, Failure) for file in found.files):
        raise InputError("; ".join(f"{printable(f.source)}: {f.reason}" for f in found.files if isinstance(f, Failure)))
    return found


def report_skipped(selection: Selection) -> None:
    """Print the skipped entries of folders, up to a limit."""
    skipped = selection.skipped
    if skipped:
        print_message(f"{len(skipped)} files or folders skipped:")
    for entry in skipped[:_MAX_SKIPPED]:
        print_message(f"  {printable(entry.path)}: {entry.reason}")
    if len(skipped) > _MAX_SKIPPED:
        print_message(f"  and {len(skipped) - _MAX_SKIPPED} more, listed with --json or --html")
    if selection.hidden:
        print_message(f"{selection.hidden} hidden files or folders skipped (names that begin with a dot)")


def _check_standard_input(arguments: Sequence[str], files_from: str | None) -> None:
    readers = [*arguments, files_from].count(standard_input.NAME)
    if readers > 1:
        raise InputError("standard input can be read once: give one `-`, as PATH or to --files-from")
    if readers:
        standard_input.reject_terminal()


def _join(parts: Iterable[Selection]) -> Selection:
    """Return all parts in order, each file and each skipped entry once."""
    files: dict[Path | StandardInput | Failure, None] = {}
    skipped: dict[Path, Skipped] = {}
    hidden = 0
    for part in parts:
        files.update(dict.fromkeys(part.files))
        skipped.update({s.path: s for s in part.skipped})
        hidden += part.hidden
    return Selection(files=tuple(files), skipped=tuple(skipped.values()), hidden=hidden)


def _expand(argument: str, limits: Limits) -> Iterator[Selection]:
    """Yield the files of one argument, or one failure if it has none."""
    if not argument:
        raise InputError("an empty PATH: expected a file, a folder or a pattern; is a shell variable unset?")
    if argument == standard_input.NAME:
        yield Selection(files=(StandardInput(limits=limits),), skipped=())
    elif os.path.exists(argument) or not glob.has_magic(argument) or "\0" in argument:
        yield _file_or_folder(Path(argument))
    else:
        yield from map(_file_or_folder, paths := _matches(argument))
        if not paths:
            reason = "the pattern matches no file: correct it, or quote it so that the shell does not expand it"
            yield Selection(files=(Failure(source=argument, reason=reason),), skipped=())


def _matches(pattern: str) -> list[Path]:
    """Return what the pattern matches, each file once, although `**` follows loops of links."""
    found: dict[tuple[str, str], str] = {}
    for name in sorted(glob.glob(pattern, recursive=True), key=lambda name: (name.count(os.sep), name)):
        found.setdefault((os.path.realpath(os.path.dirname(name)), os.path.basename(name)), name)
    return [Path(name) for name in sorted(found.values())]


def _file_or_folder(path: Path) -> Selection:
    return _walk(path) if os.path.isdir(path) else Selection(files=(path,), skipped=())


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
        reason = f"the folder has no image to screen{example}{more}: give a folder with X-ray files"
        return Selection(files=(Failure(source=str(root), reason=reason),), skipped=skipped, hidden=walk.hidden)
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
