"""What the tests of decoding ask of a file's bytes: its image, the codes of its flags, or the words of its refusal."""

from __future__ import annotations

import pytest

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.errors import InputError
from cxr_edge.records import Image

__all__ = ["codes", "read", "refusal"]


def read(data: bytes, **options: int) -> Image:
    """The decoded image. options: of `decode_bytes`."""
    return decode_bytes(data, source="x", **options)


def codes(image: Image) -> set[str]:
    """The codes of its flags."""
    return {flag.code for flag in image.flags}


def refusal(data: bytes) -> str:
    """The message with which the bytes are refused."""
    with pytest.raises(InputError) as raised:
        read(data)
    return str(raised.value)
