"""File names from a list: the argument of `screen --files-from`, a file or standard input.

The list's name comes in; paths come out as they arrive, so that a list of any length, or a pipe that never ends, needs no
memory. Names end in a newline or, as `find -print0` writes them, in a zero byte; they are taken literally, never expanded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from cxr_edge.cli import standard_input
from cxr_edge.decoding.formats import identify_format
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Failure

__all__ = ["listed_files"]

_LONGEST_NAME_BYTES = 1 << 20  # far above every system's limit; more without an end is no list of names
_EMPTY = "the list has no file name: check the command or the script that writes it"
_UTF_8_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_CONTROL = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f]")
_HEADER_BYTES = 256


def listed_files(source: str, *, alone: bool) -> Iterator[Path | Failure]:
    """Return the files that the list names; `source` is its path, or `-` for standard input.

    A list that breaks off ends in a failure with the list's name. alone: whether nothing else is screened. Raises
    InputError if the list cannot be opened or is no list, or, if it is alone, if it is empty.
    """
    names = _names(source)
    first = next(names, None)
    if first is None and alone:
        raise InputError(f"{_shown(source)}: {_EMPTY}")
    return chain(
        [first if first is not None else Failure(source=source, reason=_EMPTY)], _until_it_breaks(source, names)
    )


def _until_it_breaks(source: str, names: Iterator[Path]) -> Iterator[Path | Failure]:
    try:
        yield from names
    except InputError as error:
        yield Failure(source=source, reason=str(error).removeprefix(f"{_shown(source)}: "))


def _names(source: str) -> Iterator[Path]:
    """Yield the names. Raises InputError."""
    try:
        descriptor = standard_input.DESCRIPTOR if source == standard_input.NAME else os.open(source, os.O_RDONLY)
        try:
            for record in _records(source, standard_input.read_blocks(descriptor)):
                yield Path(os.fsdecode(record))
        finally:
            if descriptor != standard_input.DESCRIPTOR:
                os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise InputError(f"{_shown(source)}: the list cannot be read ({reason}): give a file of file names") from None


def _records(source: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the names that are not empty. The first block that ends a name decides between newline and zero byte."""
    rest, end = b"", b""
    for block in blocks:
        rest = rest + block if rest or end else _checked_start(source, block)
        end = end or (b"\0" if b"\0" in rest else b"\n" if b"\n" in rest else b"")
        if end:
            *names, rest = rest.split(end)
            yield from filter(None, (_without_return(name, end) for name in names))
        if len(rest) > _LONGEST_NAME_BYTES:
            raise InputError(f"{_shown(source)}: a name of over a million bytes: this is no list of file names")
    if last := _without_return(rest, end):
        yield last


def _without_return(name: bytes, end: bytes) -> bytes:
    """Return the name without the carriage return of a line that was written on Windows."""
    return name if end == b"\0" else name.removesuffix(b"\r")


def _checked_start(source: str, block: bytes) -> bytes:
    """Return the first block without a UTF-8 byte order mark. Raises InputError if it is an image or UTF-16."""
    if block.startswith(_UTF_16_MARKS):
        raise InputError(
            f"{_shown(source)}: the list is UTF-16: save it as UTF-8 (PowerShell: Out-File -Encoding utf8)"
        )
    if _CONTROL.search(block[:_HEADER_BYTES]):
        try:
            label = identify_format(block).label
        except InputError:
            return block
        raise InputError(
            f"{_shown(source)}: this is a {label} file, expected a list of file names: to screen it, give it as PATH"
        )
    return block.removeprefix(_UTF_8_MARK)


def _shown(source: str) -> str:
    return "standard input" if source == standard_input.NAME else printable(source)
