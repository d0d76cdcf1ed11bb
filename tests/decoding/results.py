"""Helpers of the decoding tests: an image in; the decoded image, the codes of its flags, or the error message out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.decoding.limits import DEFAULT_LIMITS, Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Image
from tests.builders.dicom_files import PATIENT, file_bytes

__all__ = ["assert_same", "error_message", "flag_codes", "read", "refusal"]

_SOURCE = "film.png"


def read(data: bytes | Dataset, *, limits: Limits = DEFAULT_LIMITS) -> Image:
    """Decode the bytes of a file, or of the file of a DICOM data set."""
    return decode_bytes(data if isinstance(data, bytes) else file_bytes(data), source=_SOURCE, limits=limits)


def flag_codes(image: Image) -> set[str]:
    """Return the codes of the flags of an image."""
    return {flag.code for flag in image.flags}


def error_message(data: bytes, *, limits: Limits = DEFAULT_LIMITS) -> str:
    """Return the message of the InputError that the bytes must raise; check that it names the file, not the patient."""
    with pytest.raises(InputError) as raised:
        read(data, limits=limits)
    message = str(raised.value)
    assert message.startswith(f"{_SOURCE}: ")
    assert not any(name in message for name in PATIENT.split("^"))
    assert raised.value.__cause__ is None
    return message


def assert_same(image: Image, of_file: Image) -> None:
    """Check everything that a screening depends on; name, format and digest differ by the kind of input."""
    assert image.pixels.dtype == of_file.pixels.dtype
    np.testing.assert_array_equal(image.pixels, of_file.pixels)
    assert (image.stored_bits, image.flags) == (of_file.stored_bits, of_file.flags)


def refusal(pixels: object, **options: Any) -> str:
    """Return the message of the InputError that an image in memory must raise."""
    with pytest.raises(InputError) as raised:
        Image.from_array(pixels, **options)
    assert raised.value.__cause__ is None
    return str(raised.value)
