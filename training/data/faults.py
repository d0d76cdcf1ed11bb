"""Faults of collections: files and rows that cannot be used in, one error that names all of them out.

A person who mends a collection of ten thousand images wants to know of all damaged ones at once, not of one with each start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cxr_edge.errors import CxrEdgeError, InputError
from training.shared_files import write_text

__all__ = ["Fault", "each", "foreign_content", "one_value", "reason_of", "refuse"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A file, or a row of a table, that cannot be used."""

    where: str  # path, and row if it is one of a table
    reason: str  # without the path, so that equal reasons can be counted

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}" if self.where else self.reason


def each(
    items: Iterable[Item], make: Callable[[Item], Result], where: Callable[[Item], object] = str
) -> tuple[list[Result], list[Fault]]:
    """Return `make` of each item, and a fault for each item of which it raises InputError. where: of the item, for messages."""
    made, faults = [], []
    for item in items:
        try:
            made.append(make(item))
        except InputError as error:
            faults.append(Fault(where=str(where(item)), reason=str(error)))
    return made, faults


def one_value(
    pairs: Iterable[tuple[str, str]], fault: Callable[[str, Sequence[str]], Fault]
) -> tuple[dict[str, str], list[Fault]]:
    """Return name -> value, the first in order of text, and the fault of each name with several values.

    fault: of a name and its values.
    """
    found: dict[str, set[str]] = {}
    for name, value in pairs:
        found.setdefault(name, set()).add(value)
    faults = [fault(name, sorted(values)) for name, values in found.items() if len(values) > 1]
    return {name: min(values) for name, values in found.items()}, faults


def refuse(faults: Sequence[Fault], listing: Path | None = None) -> None:
    """Raise InputError if there are faults: counted by reason, the first by name, all of them in the file `listing`."""
    if listing is not None:
        listing.unlink(missing_ok=True)  # of an earlier start
    if not faults:
        return
    if listing is not None and len(faults) > 1:
        listing.parent.mkdir(parents=True, exist_ok=True)
        write_text(listing, "".join(f"{fault}\n" for fault in faults))
    raise InputError(str(faults[0]) if len(faults) == 1 else _summary(faults, listing))


def _summary(faults: Sequence[Fault], listing: Path | None) -> str:
    counts = Counter(fault.reason for fault in faults)
    lines = [f"{len(faults)} files or rows of the collections cannot be used:"]
    lines += [f"  {fault}" for fault in faults[:_LISTED]]
    if len(faults) > _LISTED:
        lines.append(f"  and {len(faults) - _LISTED} more")
    lines += [f"{n} times: {reason}" for reason, n in counts.most_common() if n > 1]
    lines.append(f"{'' if listing is None else f'All are listed in {listing}. '}Mend or delete them, then start again")
    return "\n".join(lines)


_FOREIGN = (
    (rb"\s*version https://git-lfs", "a Git LFS pointer, not the file: run `git lfs pull` in its folder"),
    (
        rb"\s*(?:\S*/)?\.?git/annex/objects|\s*/annex/objects",
        "a git-annex pointer, not the file: run `git annex get` for it",
    ),
    (rb"\s*(?:<!doctype html|<html|<head|<\?xml)", "a web page, not the file: the download failed; download it again"),
)


def foreign_content(data: bytes) -> str | None:
    """Return what stands in a file in place of its content after a failed download or clone, and the remedy, or None."""
    start = data[:1000].removeprefix(b"\xef\xbb\xbf")
    return next((text for pattern, text in _FOREIGN if re.match(pattern, start, re.IGNORECASE)), None)


def reason_of(error: CxrEdgeError, path: Path) -> str:
    """Return why a file cannot be read: what stands in it instead, or the decoder's message without the path."""
    try:
        with path.open("rb") as file:
            foreign = foreign_content(file.read(1000))
    except OSError:
        foreign = None
    return str(error).removeprefix(f"{path}: ") if foreign is None else f"this is {foreign}"
