"""From the PATH arguments of `screen` to the files to answer, in a stable order.

In: files, folders and glob patterns as the user typed them; out: a `Selection` of files and of what was left out. A file
that was named is always answered or refused; only in a folder are files left out that say by their name that they are
no image, and those are listed.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.errors import InputError

__all__ = ["Selection", "select"]

# Companions of image collections. Everything else in a folder is tried, whatever its name: content decides.
_NO_IMAGE = frozenset(
    f".{name}"
    for name in (
        *(
            "csv",
            "tsv",
            "txt",
            "md",
            "json",
            "jsonl",
            "toml",
            "yaml",
            "yml",
            "xml",
            "html",
            "htm",
            "pdf",
            "doc",
            "docx",
        ),
        *("xls", "xlsx", "py", "sh", "zip", "gz", "tar", "onnx", "npy", "npz", "log", "ini", "db"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """files: to be screened, each once. skipped: left out of folders because their name says they are no image."""

    files: tuple[Path, ...]
    skipped: tuple[Path, ...]


def select(arguments: Sequence[str]) -> Selection:
    """Expand the arguments. A path that does not exist stays in, to be refused as its own row.

    Raises InputError if a folder holds no file to screen or a pattern matches nothing.
    """
    files: dict[Path, None] = {}
    skipped: dict[Path, None] = {}
    for argument in arguments:
        for path in _expand(argument):
            if path.is_dir():
                found, left = _walk(path)
                files.update(dict.fromkeys(found))
                skipped.update(dict.fromkeys(left))
            else:
                files[path] = None
    return Selection(files=tuple(files), skipped=tuple(skipped))


def _expand(argument: str) -> Iterable[Path]:
    path = Path(argument)
    if path.exists() or not glob.has_magic(argument):
        return [path]
    found = sorted(glob.glob(argument, recursive=True))
    if not found:
        raise InputError(
            f"the pattern {argument!r} matches no file: quote it so that the shell leaves it alone, or fix it"
        )
    return [Path(f) for f in found]


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    inside = (p for p in sorted(folder.rglob("*")) if p.is_file())
    visible = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    left = [p for p in visible if p.suffix.lower() in _NO_IMAGE or p.name == "DICOMDIR"]
    refused = set(left)
    found = [p for p in visible if p not in refused]
    if not found:
        raise InputError(f"the folder {folder} holds no image to screen: give a folder with X-ray files")
    return found, left
