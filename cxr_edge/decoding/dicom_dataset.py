"""Elements of a data set in memory: a pydicom `Dataset` in, the same `Elements` as of its file out.

It exists so that a data set from pydicom or pynetdicom takes the steps of a DICOM file. Elements that pydicom has not converted
yet stay as they are stored, so that deviations from the standard are noted as they are for a file.
"""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset

from cxr_edge.decoding.dicom_elements import (
    DIRECTORY_CLASS,
    DIRECTORY_RECORDS,
    OVERLAY_BIT_POSITION,
    PIXELS,
    TAGS,
    Elements,
    PixelElement,
    directory_error,
    element_name,
)
from cxr_edge.decoding.dicom_syntaxes import BIG_ENDIAN, COMPRESSED
from cxr_edge.errors import InputError

__all__ = ["dataset_elements"]

_SEQUENCE_END, _UNDEFINED = b"\xfe\xff\xdd\xe0\0\0\0\0", 0xFFFFFFFF


def dataset_elements(dataset: Dataset) -> Elements:
    """Return the elements that decoding needs. Raises InputError for a data set without an image."""
    meta = getattr(dataset, "file_meta", None) or Dataset()
    if DIRECTORY_RECORDS in dataset or _uid(meta, "MediaStorageSOPClassUID") == DIRECTORY_CLASS:
        raise directory_error()
    syntax = _uid(meta, "TransferSyntaxUID")
    implicit, little = dataset.original_encoding
    little = syntax != BIG_ENDIAN if syntax or little is None else little
    value, pixels = _pixels(dataset, syntax)
    return Elements(
        file=value,
        # pydicom keeps compressed pixel data without the delimiter that ends them in a file.
        data=value if pixels is None or pixels.length is not None else value + _SEQUENCE_END,
        dataset=_selected(dataset),
        syntax=syntax,
        implicit=bool(implicit),
        little_endian=little,
        pixels=pixels,
        overlay_bits=any(tag & 0xFF00FFFF == OVERLAY_BIT_POSITION for tag in dataset.keys()),  # noqa: SIM118
    )


def _uid(meta: Dataset, keyword: str) -> str:
    try:
        return str(meta.get(keyword) or "")
    except Exception:  # pydicom converts on access, and raises many types for a damaged element
        raise InputError(f"{keyword} of the data set's file_meta cannot be read: set it again") from None


def _selected(dataset: Dataset) -> Dataset:
    """Return a data set of the elements of `KEYWORDS`, not converted where they are not yet."""
    selected = Dataset({tag: _item(dataset, tag) for tag in dataset.keys() if tag in TAGS})  # noqa: SIM118
    if len(selected) == 0:
        raise InputError("the data set has none of the elements of an X-ray image, such as Modality and Rows")
    return selected


def _pixels(dataset: Dataset, syntax: str) -> tuple[bytes, PixelElement | None]:
    """Return the pixel data as the data set has them, and their description, None without an image."""
    tag = next((tag for tag in PIXELS if tag in dataset), None)
    if tag is None or (data := _value_bytes(dataset, tag)) == b"":
        if "Rows" in dataset:
            raise InputError(
                "the data set has no pixel data: read the file without stop_before_pixels, or with PixelData"
            )
        return b"", None
    item = _item(dataset, tag)
    undefined = getattr(item, "is_undefined_length", getattr(item, "length", 0) == _UNDEFINED)
    # Compressed pixel data that were set in memory have no length yet; pydicom writes them with an undefined one.
    undefined |= syntax in COMPRESSED and not getattr(item, "is_raw", False)
    length = None if undefined else len(data)
    return data, PixelElement(tag=tag, vr=str(item.VR or "").encode(), start=0, length=length)


def _value_bytes(dataset: Dataset, tag: int) -> bytes:
    value = _item(dataset, tag).value
    if hasattr(value, "read"):  # a buffer in place of the bytes, since pydicom 3.0
        value.seek(0)
        value = value.read()
    if not isinstance(value, bytes | bytearray | None):
        raise InputError(
            f"{element_name(tag)} of the data set is {type(value).__name__}, expected bytes: set it to array.tobytes()"
        )
    return bytes(value or b"")


def _item(dataset: Dataset, tag: int) -> Any:
    try:
        return dataset.get_item(tag)
    except Exception:  # an element whose reading was deferred, of a file that has gone or changed
        raise InputError(f"{element_name(int(tag))} of the data set cannot be read: read the file again") from None
