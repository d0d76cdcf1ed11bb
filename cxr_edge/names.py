"""Safe display of file names for people and programs.

A path from the operating system may contain undecodable bytes, control characters and escape sequences. This module turns
it into text without terminal side effects; for JSON it also returns the path's bytes, so that no name is lost. Treat every
name as untrusted text and print it only through this module. It also has the types of command-line options for paths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

__all__ = ["json_name", "json_text", "not_empty", "path_argument", "printable", "printable_lines", "shorten_name"]

# C0, DEL and C1 controls, bidirectional marks and controls (a name that reads backwards), line separators, and surrogates:
# U+DC80..U+DCFF are the bytes that Python could not decode (PEP 383).
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNDECODED = re.compile("[\udc80-\udcff]")
_HASH_LENGTH = 8


def printable(name: str | Path) -> str:
    r"""Return the name with control characters and undecodable bytes escaped as \xHH or \uHHHH."""
    return _UNSAFE.sub(lambda match: _escape(match[0]), _decode(str(name)))


def printable_lines(text: str) -> str:
    """Apply `printable` to each line of a text."""
    return "\n".join(printable(line) for line in text.split("\n"))


def json_name(name: str | Path) -> tuple[str, str | None]:
    r"""Return the name with undecodable bytes as \xHH, and the path's bytes, percent-encoded (None if it had no such byte).

    `os.fsdecode(urllib.parse.unquote_to_bytes(encoded))` restores the path.
    """
    text = _decode(str(name))
    shown = _UNDECODED.sub(lambda match: _escape(match[0]), text)
    return shown, None if shown == text else quote_from_bytes(_bytes(str(name)))


def json_text(value: Any) -> str:
    """Return one line of readable JSON that can be encoded in UTF-8 for any strings and is safe on a terminal."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def shorten_name(name: str, limit_bytes: int, *, suffix: str = "") -> str:
    """Return name and suffix in at most limit_bytes in the file system; a truncated name ends in a distinguishing hash."""
    if len(_bytes(name + suffix)) <= limit_bytes:
        return name + suffix
    suffix = f"-{hashlib.sha256(_bytes(name)).hexdigest()[:_HASH_LENGTH]}{suffix}"
    while len(_bytes(name + suffix)) > limit_bytes:
        name = name[:-1]
    return name + suffix


def not_empty(text: str) -> str:
    """Parse text that is not empty (argparse type).

    An unset shell variable gives an empty text, which as a path would be the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one: is a shell variable unset?")
    return text


def path_argument(text: str) -> Path:
    """Parse a path that is not empty (argparse type)."""
    return Path(not_empty(text))


def _decode(name: str) -> str:
    """Decode the name as UTF-8 where the locale could not decode it, so that every locale shows the same text."""
    return _bytes(name).decode("utf-8", "surrogateescape") if _UNDECODED.search(name) else name


def _bytes(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # not a valid path of this system in this locale
        return name.encode("utf-8", "surrogatepass")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
