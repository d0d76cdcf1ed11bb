"""Files that the rows of a table name: a folder and a name in, a path below it out, and faults for a file with several rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.faults import Fault

__all__ = ["contradictions", "is_file", "path_below"]


def path_below(folder: Path, *names: str) -> Path:
    """Return the path of a file below `folder`. Raises InputError for an absolute name, or one with a step upwards."""
    path = folder.joinpath(*names)
    if not path.is_relative_to(folder) or ".." in path.relative_to(folder).parts:
        raise InputError(f"the image would be {path}, outside of the collection: give paths below it")
    return path


def is_file(path: Path) -> bool:
    """Return whether `path` is a file; False for a name that the file system refuses, such as one that is too long."""
    try:
        return path.is_file()
    except OSError:
        return False


def contradictions(paths: Iterable[Path], table: Path) -> list[Fault]:
    """Return a fault for each path that is there several times. paths: of the table's different rows."""
    return [
        Fault(where=str(table), reason=f"names {path} {count} times with different values: keep one of its rows")
        for path, count in Counter(paths).items()
        if count > 1
    ]
