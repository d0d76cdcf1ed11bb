"""Standard input of the process: one image (PATH `-`), read whole and with the size limit of a file.

Takes the limits; returns the bytes as an `EncodedFile`, or a failure. It reads the descriptor itself: a thread that waits in
Python's stream would keep its lock, and the interpreter could not end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Failure
from cxr_edge.screening.folder import EncodedFile

__all__ = ["DESCRIPTOR", "NAME", "StandardInput", "read_blocks", "reject_terminal"]

NAME = "-"  # the argument, and the name in results
DESCRIPTOR = 0
_BLOCK_BYTES = 1 << 16


def read_blocks(descriptor: int) -> Iterator[bytes]:
    """Yield what the descriptor holds, as it arrives. Raises OSError."""
    while block := os.read(descriptor, _BLOCK_BYTES):
        yield block


def reject_terminal() -> None:
    """Raise InputError if standard input is a terminal, where the program would wait and look as if it hung."""
    if os.isatty(DESCRIPTOR):
        raise InputError(
            "standard input is a terminal, expected an image or a list: send it by a pipe (cat FILE | cxr-edge screen -)"
        )


@dataclass(frozen=True, kw_only=True)
class StandardInput:
    """The image on standard input, not yet read."""

    limits: Limits

    def read(self) -> EncodedFile | Failure:
        """Return the bytes, or the failure if there are none, too many, or they cannot be read."""
        blocks, size = [], 0
        try:
            for block in read_blocks(DESCRIPTOR):
                blocks.append(block)
                size += len(block)
                if size > self.limits.max_file_bytes:
                    return _failure(
                        f"too large for an image of at most {self.limits.max_pixels:,} pixels: check what it is"
                    )
        except OSError as error:
            return _failure(f"standard input cannot be read ({error.strerror}): send one image by a pipe")
        if not size:
            return _failure("standard input is empty or closed: check the command that should write the image to it")
        return EncodedFile(source=NAME, data=b"".join(blocks))


def _failure(reason: str) -> Failure:
    return Failure(source=NAME, reason=reason)
