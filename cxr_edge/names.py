"""File names as they are shown to people and to programs.

In: a path as the operating system gave it, which may hold bytes that are no text, control characters and escape sequences;
out: text that no terminal acts on, and for JSON the path's bytes besides, so that no name is lost. A name is an attacker's
text as long as it is not shown by this module.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

__all__ = ["json_name", "json_text", "printable", "printable_lines", "shortened"]

# C0, DEL and C1 controls, bidirectional marks and controls (a name that reads backwards), line separators, and surrogates:
# U+DC80..U+DCFF are the bytes that Python could not decode (PEP 383).
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNDECODED = re.compile("[\udc80-\udcff]")
_HASH_LENGTH = 8


def printable(name: str | Path) -> str:
    r"""The name with control characters and undecodable bytes as \xHH or \uHHHH."""
    return _UNSAFE.sub(lambda found: _escaped(found[0]), _decoded(str(name)))


def printable_lines(text: str) -> str:
    """`printable` for text of several lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def json_name(name: str | Path) -> tuple[str, str | None]:
    r"""The name with each undecodable byte as \xHH; and where there was one, the path's bytes, percent-encoded.

    `os.fsdecode(urllib.parse.unquote_to_bytes(encoded))` gives the path back.
    """
    text = _decoded(str(name))
    shown = _UNDECODED.sub(lambda found: _escaped(found[0]), text)
    return shown, None if shown == text else quote_from_bytes(_bytes(str(name)))


def json_text(value: Any) -> str:
    """One line of JSON that is readable, can be encoded in UTF-8 whatever strings it holds, and is safe on a terminal."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def shortened(name: str, limit_bytes: int, *, suffix: str = "") -> str:
    """The name and suffix, in at most limit_bytes of a file system; a cut name ends in a hash that keeps it apart."""
    if len(_bytes(name + suffix)) <= limit_bytes:
        return name + suffix
    suffix = f"-{hashlib.sha256(_bytes(name)).hexdigest()[:_HASH_LENGTH]}{suffix}"
    while len(_bytes(name + suffix)) > limit_bytes:
        name = name[:-1]
    return name + suffix


def _decoded(name: str) -> str:
    """The name read as UTF-8 where the locale could not read it, so that every locale shows the same."""
    return _bytes(name).decode("utf-8", "surrogateescape") if _UNDECODED.search(name) else name


def _bytes(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # no path of this system in this locale
        return name.encode("utf-8", "surrogatepass")


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
