"""Checkpoints of a training: tensors and numbers in, a file with its digest out, and back.

`last.pt` is the state after the last finished epoch, `previous.pt` the one before it, for a `last.pt` that a disk or a power
cut damaged. torch compares nothing when it reads a file, so the SHA-256 of its content stands in the comment of the zip
archive that torch writes; torch.load reads it like any other. A file of version 0.1 has no digest and is read without.
"""

from __future__ import annotations

import io
import struct
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from training.shared_files import REPEAT, atomic_write, reading

__all__ = ["LAST", "PREVIOUS", "load_checkpoint", "save_checkpoint"]

LAST, PREVIOUS = "last.pt", "previous.pt"

_MARK = b"sha256 "
_LENGTH = len(_MARK) + 2 * sha256().digest_size
# The archive ends in the length of its comment, of 0 as torch writes it (APPNOTE 4.3.16).
_COMMENT, _NO_COMMENT = struct.pack("<H", _LENGTH), struct.pack("<H", 0)


def save_checkpoint(values: dict[str, Any], file: Path, *, keep_as: Path | None = None) -> None:
    """Write `values` to `file`, atomically. keep_as: what an existing `file` is renamed to."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    data = buffer.getbuffer()
    with atomic_write(file) as beside:
        with beside.open("wb") as out:
            out.write(data[: -len(_NO_COMMENT)])
            out.write(_COMMENT + _MARK + sha256(data).hexdigest().encode())
        if keep_as is not None and file.exists():
            file.replace(keep_as)


def load_checkpoint(file: Path, *, device: torch.device | str = "cpu", remedy: str = REPEAT) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote. Raises InputError with the file and `remedy` if it is damaged."""
    with reading(file, remedy):
        data = file.read_bytes()
        _check_digest(data)
        values = torch.load(io.BytesIO(data), weights_only=True, map_location=device)
        if not isinstance(values, dict):
            raise ValueError("not the values of a checkpoint")
        return values


def _check_digest(data: bytes) -> None:
    archive, comment = data[:-_LENGTH], data[-_LENGTH:]
    if not comment.startswith(_MARK):
        return
    content = archive[: -len(_COMMENT)] + _NO_COMMENT
    if comment != _MARK + sha256(content).hexdigest().encode():
        raise ValueError("the content has another digest")
