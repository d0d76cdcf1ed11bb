"""The bytes of a DICOM file in, an upright gray `Image` out; what is no single projection X-ray is an InputError.

It exists because a DICOM file says how its numbers are to be seen, and every step of that must be taken, in order:
stored values, modality LUT or rescale, VOI LUT or window, MONOCHROME1 inverted last (PS3.3 C.7.6.3.1.2, C.11.1, C.11.2),
then square pixels and the patient's orientation. Up to 8 significant bits give uint8, more give uint16. pydicom is imported
only when this module is used. docs/dicom.md lists what is answered, flagged and refused.

Accepted modalities are CR, DX, DR (used for DX by some makers) and RG; OT and a missing modality are accepted with a
flag, since secondary captures and anonymised files come so. Panoramic teeth (PX), mammography, fluoroscopy,
angiography, CT, MR and all else are refused.
"""

from __future__ import annotations

import hashlib
import re
import warnings

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.dicom_display import Display, read_display
from cxr_edge.decoding.dicom_elements import CUT, read_elements
from cxr_edge.decoding.dicom_geometry import laterality_flags, square_pixels, upright
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_pixels import Layout, Stored, read_layout, stored_values
from cxr_edge.decoding.gray import bands, refuse_constant, to_gray
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels, Image

__all__ = ["decode_dicom"]

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
_FLOATING = (0x7FE00008, 0x7FE00009)


def decode_dicom(data: bytes, *, source: str, limits: Limits) -> Image:
    """Decode one projection X-ray from the bytes of a DICOM file, with or without preamble.

    limits: checked on the header's word, before any pixel is decoded. Raises InputError, without the file's name in the
    message.
    """
    _silence_pydicom()
    header = Header(read_elements(data))
    flags = _kind_flags(header)
    layout = read_layout(header, limits)
    stored = stored_values(header, layout)
    pixels, more = _gray(header, stored, layout)
    pixels, aspect = square_pixels(pixels, header, limits)
    pixels, turned = upright(pixels, header)
    return Image(
        pixels=pixels,
        source=source,
        format="dicom",
        stored_bits=stored.bits,
        sha256=hashlib.sha256(data).hexdigest(),
        flags=(*flags, *stored.flags, *more, *aspect, *turned, *header.flags()),
    )


def _silence_pydicom() -> None:
    """Keep pydicom's remarks off stderr: real files break rules of values all the time, and the remarks quote values.

    A filter and not `catch_warnings`, which is not safe with the threads that decode. Looked for each time, since tests
    and hosts reset the filters.
    """
    if not any(entry[0] == "ignore" and entry[3] == _PYDICOM for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PYDICOM.pattern)


def _kind_flags(header: Header) -> tuple[Flag, ...]:
    """Refuse what is no single projection X-ray; flags on view, body part and origin."""
    modality = header.code("Modality")
    if len(header) == 0:
        raise InputError(CUT)
    if modality not in _PROJECTION + _UNSPECIFIC:
        named = f"{modality} ({_OTHER_MODALITIES[modality]})" if modality in _OTHER_MODALITIES else "another one"
        raise InputError(
            f"expected a projection X-ray (modality {', '.join(_PROJECTION)}), the modality is {named}: give the chest X-ray"
        )
    _check_pixel_data(header)
    flags = []
    if modality in _UNSPECIFIC:
        flags.append(Flag(code="unknown_modality", message="the file does not say that it is a projection X-ray"))
    flags += laterality_flags(header)
    part = header.code("BodyPartExamined")
    if part and not any(word in part for word in _CHEST_WORDS):
        named = f"the body part {part}" if part in _OTHER_PARTS else "another body part"
        flags.append(Flag(code="other_body_part", message=f"the file names {named}, not the chest"))
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        flags.append(Flag(code="for_processing", message="raw detector values, before the maker's processing"))
    return tuple(flags)


def _check_pixel_data(header: Header) -> None:
    pixels = header.elements.pixels
    if pixels is not None and pixels.tag in _FLOATING:
        raise InputError("the pixel data are floating-point numbers, expected integers: export the X-ray as CR or DX")
    if pixels is None or pixels.length == 0:
        if "Rows" in header:
            raise InputError(f"the header describes a picture and there are no pixel data: {CUT}")
        raise InputError(
            "there are no pixel data (a report, a presentation state or a cut file): give the X-ray itself"
        )
    frames = header.number("NumberOfFrames", 1)
    if frames != 1:
        raise InputError(
            f"the file holds {frames:g} frames, expected one picture: export the frame as a file of its own"
        )


def _gray(header: Header, stored: Stored, layout: Layout) -> tuple[GrayPixels, tuple[Flag, ...]]:
    if stored.values.ndim == 3:
        gray, flags = _colour(stored)
        refuse_constant(gray)
        return gray, flags
    layout = layout.with_values(bits=stored.bits, signed=stored.signed)
    return _displayed(stored.values, layout, read_display(header, layout), header)


def _displayed(
    values: npt.NDArray[np.integer], layout: Layout, display: Display, header: Header
) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Stored values (rows, columns) to gray pixels, black is low."""
    ends = display.stored_range(values)
    if ends is None:
        raise InputError("all pixels are marked as padding, there is no picture: check the export")
    low, high = ends
    if low == high:
        refuse_constant(np.zeros((1, 1), np.uint8))
    bits = 8 if layout.bits_stored <= 8 else 16
    pixels, flags = display.apply(values, low=low, high=high, bits=bits, stored_bits=layout.bits_stored)
    lowest, highest, _, _ = cv2.minMaxLoc(pixels)
    if lowest == highest:
        raise InputError(
            "the file's window or lookup table turns all its pixels into one value: export it again without"
        )
    inverted = layout.photometric == "MONOCHROME1"
    flags += _presentation_flags(header, layout.photometric)
    if inverted:
        pixels ^= pixels.dtype.type(np.iinfo(pixels.dtype).max)
        flags += (Flag(code="monochrome1_inverted", message="low values mean white (MONOCHROME1); inverted last"),)
    return pixels, flags + _blacken_padding(pixels, values, display)


def _presentation_flags(header: Header, photometric: str) -> tuple[Flag, ...]:
    """IDENTITY goes with MONOCHROME2 and INVERSE with MONOCHROME1 (PS3.3 C.8.11.3.1.2)."""
    shape = header.code("PresentationLUTShape")
    if (photometric, shape) not in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        return ()
    message = (
        f"Presentation LUT Shape {shape} contradicts the photometric interpretation {photometric}, which was followed: black "
        "and white may be exchanged"
    )
    return (Flag(code="presentation_lut_contradicts", message=message),)


def _blacken_padding(pixels: GrayPixels, values: npt.NDArray[np.integer], display: Display) -> tuple[Flag, ...]:
    """Set padding to black, in place."""
    if display.padding is None:
        return ()
    count = 0
    for rows in bands(values):
        mask = display.padding_mask(values[rows])
        count += int(np.count_nonzero(mask))
        pixels[rows][mask] = 0
    if not count:
        return ()
    message = f"{count / values.size:.1%} of the pixels are marked as padding and were set to black"
    return (Flag(code="padding", message=message),)


def _colour(stored: Stored) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """(rows, columns, 3), red or Y first, to gray; windows do not apply to colour (PS3.3 C.11.2.1)."""
    top, dtype = (255, np.uint8) if stored.bits <= 8 else (65535, np.uint16)
    stored_top = (1 << stored.bits) - 1

    def as_rgb(band: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        scaled = ((band.astype(np.uint32) * top + stored_top // 2) // stored_top).clip(0, top).astype(dtype)
        if not stored.ybr:
            return scaled
        # OpenCV's order is Y, Cr, Cb; the arithmetic is the standard's (PS3.3 C.7.6.3.1.2, ITU-R BT.601).
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(scaled[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB))

    return to_gray(stored.values, as_rgb, dtype)
