"""The bytes of one image file: a path or an open binary file in, its bytes out; InputError for what cannot be read.

It exists because the size must be checked before anything is read, and because a path may be a folder, a device or a pipe,
and an open file a text file, a stream at its end, or one that reads in pieces.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError

__all__ = ["read_path", "read_stream"]

_CHUNK_BYTES = 1 << 20
_BINARY = 'open it in binary mode (open(path, "rb")), or pass its bytes'


def read_path(path: Path, limits: Limits) -> bytes:
    """Return the bytes of the file. Raises InputError if it is missing, unreadable, no regular file or too large."""
    try:
        if path.is_dir():
            raise InputError("this is a folder, expected one image file: name the files in it")
        if path.exists() and not path.is_file():
            raise InputError("this is not a regular file: copy the image to a file and use that")
        _check_bytes(path.stat().st_size, limits)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such file: check the path") from None
    except PermissionError:
        raise InputError("no permission to read the file: change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise InputError(f"the file cannot be read ({reason}): check the path and the disk") from None


def read_stream(stream: Any, limits: Limits) -> bytes:
    """Return the rest of an open binary file, from its position on. Raises InputError.

    stream: anything with `read(size)` that returns bytes, and an empty value at the end.
    """
    if isinstance(stream, io.TextIOBase):
        raise InputError(f"this file is open in text mode: {_BINARY}")
    data = bytearray()
    while chunk := _read_chunk(stream):
        data += chunk
        _check_bytes(len(data), limits)
    if not data and _position(stream):
        raise InputError("the file object is at its end: seek(0) first, so that it is read from its start")
    return bytes(data)


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_file_bytes:
        raise InputError(
            f"the file is too large for an image of at most {limits.max_pixels:,} pixels: check what it is"
        )


def _read_chunk(stream: Any) -> bytes:
    try:
        chunk = stream.read(_CHUNK_BYTES)
    except Exception as error:  # of any library: sockets, archives, closed files
        raise InputError(f"the file object cannot be read ({type(error).__name__}): open it again") from None
    if isinstance(chunk, bytes | bytearray | memoryview):
        return bytes(chunk)
    if hasattr(chunk, "close"):
        chunk.close()  # a coroutine, which would warn that it was never awaited
    raise InputError(f"read() of the file object returned {type(chunk).__name__}, expected bytes: {_BINARY}")


def _position(stream: Any) -> int:
    try:
        return int(stream.tell())
    except Exception:  # a stream without positions, as a socket
        return 0
