"""The bytes of a DICOM file in, an upright gray `Image` out; what is no single projection X-ray is an InputError.

It exists because a DICOM file says how its numbers are to be seen, and every step of that must be taken, in order:
stored values, modality LUT or rescale, VOI LUT or window, MONOCHROME1 inverted last (PS3.3 C.7.6.3.1.2, C.11.1, C.11.2).
Up to 8 stored bits give uint8, more give uint16. pydicom is imported only when this module is used. Nothing that
identifies a patient is read into messages or results: only the elements named in `_TAGS` are parsed at all.

Accepted modalities are CR, DX, DR (used for DX by some makers) and RG; OT and a missing modality are accepted with a
flag, since secondary captures and anonymised files come so. Panoramic teeth (PX), mammography, fluoroscopy,
angiography, CT, MR and all else are refused.

Flags (stable codes) besides those in `decode`:
    monochrome1_inverted   low values mean white; inverted after the window
    no_window              the file has no window; the range of its values was taken
    window_ignored         the file's window cannot be used (width too small); the range of its values was taken
    lateral_view           the file says this is a lateral view
    other_body_part        the file names a body part that is not the chest
    unknown_modality       the file does not say that it is a projection X-ray
    for_processing         detector values before the maker's processing
    padding                pixels marked as padding were set to black
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge._dicom_display import Display, read_display
from cxr_edge._dicom_pixels import Layout, read_layout, stored_values
from cxr_edge._gray import refuse_constant, to_gray
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels, Image

__all__ = ["decode_dicom"]

_CUT = "the file ends before its pixel data do (truncated copy or transfer), or is damaged: copy or export it again"
_PROJECTION = ("CR", "DX", "DR", "RG")
_UNSPECIFIC = ("OT", "")
# Only values from these lists are repeated in messages: free text may name a patient.
_OTHER_MODALITIES = {
    "CT": "computed tomography",
    "ES": "endoscopy",
    "IO": "intra-oral X-ray",
    "KO": "a key object note",
    "MG": "mammography",
    "MR": "magnetic resonance",
    "NM": "nuclear medicine",
    "PR": "a presentation state",
    "PT": "positron emission tomography",
    "PX": "panoramic X-ray",
    "RF": "fluoroscopy",
    "SEG": "a segmentation",
    "SM": "slide microscopy",
    "SR": "a report",
    "US": "ultrasound",
    "XA": "angiography",
    "XC": "photography",
}
_OTHER_PARTS = (
    *("ABDOMEN", "ANKLE", "ARM", "BREAST", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT"),
    *("FOREARM", "HAND", "HEAD", "HIP", "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "NECK", "PELVIS", "SHOULDER"),
    *("SKULL", "SPINE", "SSPINE", "TIBIA", "TOE", "TSPINE", "WRIST"),
)
_CHEST_WORDS = ("CHEST", "THORA", "TORAX", "LUNG", "PULMO", "HEART", "RIB", "THX", "CXR")
_PYDICOM = re.compile(r"pydicom\b")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_EXPLICIT = b"1.2.840.10008.1.2.1\0\0\0"

_TAGS = [
    "SOPClassUID",
    "Modality",
    "PresentationIntentType",
    "BodyPartExamined",
    "ViewPosition",
    "ViewCodeSequence",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleIntercept",
    "RescaleSlope",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
]


def decode_dicom(data: bytes, *, source: str, max_pixels: int) -> Image:
    """Decode one projection X-ray from the bytes of a DICOM file, with or without preamble.

    max_pixels: the most pixels (rows times columns) to accept, checked before any pixel is decoded. Raises InputError,
    without the file's name in the message.
    """
    _silence_pydicom()
    dataset = _parse(data, max_pixels)
    flags = _check_kind(dataset)
    layout = read_layout(dataset, max_pixels=max_pixels)
    values = stored_values(dataset, layout)
    if values.ndim == 3:
        pixels, more = _colour(values, layout)
    else:
        pixels, more = _displayed(values, layout, _read(read_display, dataset, layout))
    return Image(
        pixels=pixels,
        source=source,
        format="dicom",
        stored_bits=layout.bits_stored,
        sha256=hashlib.sha256(data).hexdigest(),
        flags=flags + more,
    )


def _silence_pydicom() -> None:
    """Keep pydicom's remarks off stderr: real files break rules of values all the time, and the remarks quote values.

    A filter and not `catch_warnings`, which is not safe with the threads that decode. Looked for each time, since tests
    and hosts reset the filters.
    """
    if not any(entry[0] == "ignore" and entry[3] == _PYDICOM for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PYDICOM.pattern)


def _parse(data: bytes, max_pixels: int) -> Any:
    """The data set, only with the elements in `_TAGS`."""
    import pydicom

    data = _inflated(data, max_pixels)
    try:
        return pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(_TAGS))
    except Exception:  # pydicom raises a dozen types on damaged files, and its messages quote values
        raise InputError(f"the DICOM elements cannot be read: {_CUT}") from None


def _inflated(data: bytes, max_pixels: int) -> bytes:
    """A deflated data set unpacked, with a limit that pydicom does not have; other bytes as they are."""
    if data[128:132] != b"DICM" or data[132:140] != b"\2\0\0\0UL\4\0":
        return data
    start = 144 + int.from_bytes(data[140:144], "little")
    if _DEFLATED not in data[132:start]:
        return data
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(data[start:], 8 * max_pixels + (64 << 20))
    except zlib.error:
        raise InputError(f"the deflated data set is damaged: {_CUT}") from None
    if not unpacker.eof:
        raise InputError(f"the deflated data set is cut off or larger than any picture accepted here: {_CUT}")
    return data[:start].replace(_DEFLATED, _EXPLICIT) + plain


def _read(reader: Any, *arguments: Any) -> Any:
    """Call a reader of elements; values that cannot be converted are the file's fault."""
    try:
        return reader(*arguments)
    except InputError:
        raise
    except Exception:  # lazily converted elements raise like the parser does
        raise InputError("an element of the DICOM header holds an invalid value: export the file again") from None


def _check_kind(dataset: Any) -> tuple[Flag, ...]:
    flags: tuple[Flag, ...] = _read(_kind_flags, dataset)
    return flags


def _kind_flags(dataset: Any) -> tuple[Flag, ...]:
    """Refuse what is no single projection X-ray; flags on view, body part and origin."""
    modality = _code(dataset, "Modality")
    if len(dataset) == 0:
        raise InputError(_CUT)  # where an element ends too early pydicom gives none at all
    if modality not in _PROJECTION + _UNSPECIFIC:
        named = f"{modality} ({_OTHER_MODALITIES[modality]})" if modality in _OTHER_MODALITIES else "another one"
        raise InputError(
            f"expected a projection X-ray (modality {', '.join(_PROJECTION)}), the modality is {named}: give the chest X-ray"
        )
    _check_pixel_data(dataset)
    flags = []
    if modality in _UNSPECIFIC:
        flags.append(Flag(code="unknown_modality", message="the file does not say that it is a projection X-ray"))
    if _is_lateral(dataset):
        flags.append(Flag(code="lateral_view", message="the file says lateral view; the models expect a frontal one"))
    part = _code(dataset, "BodyPartExamined")
    if part and not any(word in part for word in _CHEST_WORDS):
        named = f"the body part {part}" if part in _OTHER_PARTS else "another body part"
        flags.append(Flag(code="other_body_part", message=f"the file names {named}, not the chest"))
    if _code(dataset, "PresentationIntentType") == "FOR PROCESSING":
        flags.append(Flag(code="for_processing", message="raw detector values, before the maker's processing"))
    return tuple(flags)


def _check_pixel_data(dataset: Any) -> None:
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise InputError("the pixel data are floating-point numbers, expected integers: export the X-ray as CR or DX")
    if "PixelData" not in dataset or dataset.get_item("PixelData").value in (None, b""):
        if "Rows" in dataset:
            raise InputError(f"the header describes a picture and there are no pixel data: {_CUT}")
        raise InputError(
            "there are no pixel data (a report, a presentation state or a cut file): give the X-ray itself"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"the file holds {frames} frames, expected one picture: export the frame as a file of its own")


def _is_lateral(dataset: Any) -> bool:
    position = _code(dataset, "ViewPosition")
    meanings = [_code(item, "CodeMeaning") for item in dataset.get("ViewCodeSequence") or []]
    # Lateral decubitus is a frontal view of a patient who lies on the side.
    return position in ("LL", "RL", "L", "LAT", "LATERAL") or any("LATERAL" in m and "DECUB" not in m for m in meanings)


def _code(dataset: Any, keyword: str) -> str:
    """A coded value in capitals, at most 32 letters, digits and spaces; empty when missing."""
    value = dataset.get(keyword)
    text = str(value[0] if isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue" else value or "")
    return "".join(c for c in text.upper().strip()[:32] if c.isascii() and (c.isalnum() or c in " _-"))


def _displayed(values: npt.NDArray[Any], layout: Layout, display: Display) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Stored values (rows, columns) to gray pixels, black is low."""
    padding = display.padding_mask(values)
    valid = values if padding is None else values[~padding]
    if valid.size == 0:
        raise InputError("all pixels are marked as padding, there is no picture: check the export")
    low, high = int(valid.min()), int(valid.max())
    if low == high:
        refuse_constant(np.zeros((1, 1), np.uint8))
    bits = 8 if layout.bits_stored <= 8 else 16
    pixels, flags = display.apply(values, low=low, high=high, bits=bits, stored_bits=layout.bits_stored)
    lowest, highest, _, _ = cv2.minMaxLoc(pixels)
    if lowest == highest:
        raise InputError(
            "the file's window or lookup table turns all its pixels into one value: export it again without"
        )
    if layout.photometric == "MONOCHROME1":
        pixels ^= pixels.dtype.type(np.iinfo(pixels.dtype).max)
        flags += (Flag(code="monochrome1_inverted", message="low values mean white (MONOCHROME1); inverted last"),)
    if padding is not None and padding.any():
        pixels[padding] = 0
        share = np.count_nonzero(padding) / padding.size
        flags += (
            Flag(code="padding", message=f"{share:.1%} of the pixels are marked as padding and were set to black"),
        )
    return pixels, flags


def _colour(values: npt.NDArray[Any], layout: Layout) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """(rows, columns, 3), red first, to gray; windows do not apply to colour (PS3.3 C.11.2.1)."""
    top, dtype = (255, np.uint8) if layout.bits_stored <= 8 else (65535, np.uint16)
    stored_top = (1 << layout.bits_stored) - 1
    scaled = ((values.astype(np.uint32) * top + stored_top // 2) // stored_top).astype(dtype)
    gray, flags = to_gray(np.ascontiguousarray(scaled[..., ::-1]))
    refuse_constant(gray)
    return gray, flags
