"""Files of own data: a folder in, its images out; a cell of a table in, the file that it names out."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.decoding.formats import identify_format
from cxr_edge.errors import InputError
from training.data.faults import Fault
from training.data.records import IMAGE_SUFFIXES

__all__ = ["Finder", "Images", "find_images", "is_dicom", "key_below"]

_DICOM = frozenset({".dcm", ".dicom", ".ima"})
_START = 2048  # bytes that identify a format
# Files beside images that are never opened.
_OTHERS = frozenset(
    {
        *(".csv", ".tsv", ".txt", ".md", ".json", ".toml", ".yaml", ".yml", ".xml", ".html", ".pdf", ".doc", ".docx"),
        *(".xls", ".xlsx", ".parquet", ".py", ".zip", ".gz", ".tar", ".onnx", ".npy", ".npz", ".log", ".ini", ".db"),
    }
)
_HIDDEN = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "DICOMDIR"})


@dataclass(frozen=True)
class Images:
    """Images below a folder."""

    paths: list[str] = field(default_factory=list)  # sorted
    faults: list[Fault] = field(default_factory=list)  # links that lead nowhere, folders that cannot be read
    ignored: Counter[str] = field(default_factory=Counter)  # reason -> files


def find_images(root: Path) -> Images:
    """Return the images below `root`, by suffix, or by content where the suffix is unknown; hidden files are left out."""
    found = Images()
    for path in sorted(_walk(str(root), found, set())):
        suffix = os.path.splitext(path)[1].lower()
        if suffix in IMAGE_SUFFIXES or suffix in _DICOM or (suffix not in _OTHERS and _format(path)):
            found.paths.append(path)
        else:
            found.ignored[f"no image ({suffix or 'without a suffix'})"] += 1
    return found


def _walk(folder: str, found: Images, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yield files below a folder, also through links to folders, each folder once."""
    try:
        at = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda e: e.name)
    except OSError as error:
        found.faults.append(Fault(where=folder, reason=f"the folder cannot be read ({error.strerror})"))
        return
    if (at.st_dev, at.st_ino) in seen:
        return
    seen.add((at.st_dev, at.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _HIDDEN:
            found.ignored["hidden"] += 1
        elif entry.is_dir():
            yield from _walk(entry.path, found, seen)
        elif entry.is_file():
            yield entry.path
        elif entry.is_symlink():
            reason = f"the link leads to {os.readlink(entry.path)}, which is not there: mend or delete it"
            found.faults.append(Fault(where=entry.path, reason=reason))


def _format(path: str) -> str:
    """Return the name of a file's format, by its content; empty if it is no image."""
    try:
        with open(path, "rb") as file:
            return identify_format(file.read(_START)).name
    except (OSError, InputError):
        return ""


def is_dicom(path: str) -> bool:
    """Return whether a file is DICOM, by suffix, or by content where the suffix is unknown."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in _DICOM or (suffix not in IMAGE_SUFFIXES and _format(path) == "dicom")


def key_below(path: str, root: str) -> str:
    """Return the path below `root` with forward slashes; the path itself if it is elsewhere."""
    start = root.rstrip(os.sep) + os.sep
    return path[len(start) :] if path.startswith(start) else path


class Finder:
    """Files that cells name: as they are, below one of `folders`, or by name anywhere below these.

    The last serves tables with paths of another machine, or with names alone, also without a suffix.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [os.path.abspath(folder) for folder in folders]
        self._names: dict[str, list[str]] | None = None

    def find(self, cell: str) -> str:
        """Return the path of the file. Raises InputError if there is none, or more than one."""
        text = cell.strip()
        for name in dict.fromkeys((text, text.replace("\\", "/"))):
            for folder in self._folders:
                path = os.path.normpath(os.path.join(folder, name))
                if os.path.isfile(path):
                    return path
        return self._by_name(text)

    def _by_name(self, text: str) -> str:
        parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        matches = self._index().get(parts[-1], []) if parts else []
        best = max((_tail(path, parts) for path in matches), default=0)
        closest = [path for path in matches if _tail(path, parts) == best]
        if len(closest) == 1:
            return closest[0]
        if closest:
            raise InputError(f"{text!r} may be {closest[0]} or {closest[1]}: give the path below the folder")
        raise InputError(f"there is no file {text!r} in {' or '.join(self._folders)}: mend the path, or give --root")

    def _index(self) -> dict[str, list[str]]:
        """Return file name, with and without its suffix -> paths, of all files below the folders."""
        if self._names is None:
            names = defaultdict(list)
            for path in dict.fromkeys(p for folder in self._folders for p in _walk(folder, Images(), set())):
                name = os.path.basename(path)
                for key in {name, os.path.splitext(name)[0]}:
                    names[key].append(path)
            self._names = dict(names)
        return self._names


def _tail(path: str, parts: Sequence[str]) -> int:
    """Return how many parts before the file name agree, from the end."""
    same = 0
    for own, named in zip(path.split(os.sep)[-2::-1], parts[-2::-1], strict=False):
        if own != named:
            break
        same += 1
    return same
