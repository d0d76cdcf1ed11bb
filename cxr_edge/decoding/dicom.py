"""DICOM decoder: the bytes of a file, or a data set, in, an upright gray image out; InputError unless it is one
projection X-ray.

It exists because a DICOM file defines the display of its values, and all its steps must be applied in order: stored values,
modality LUT or rescale, VOI LUT or window, MONOCHROME1 inverted last (PS3.3 C.7.6.3.1.2, C.11.1, C.11.2), then square pixels
and the patient's orientation. Up to 8 significant bits give uint8, more give uint16. Only this module and its parts import
pydicom. docs/dicom.md lists what is supported, flagged and rejected.

Accepted modalities are CR, DX, DR (used for DX by some vendors) and RG; OT and a missing modality are accepted with a
flag, since secondary captures and anonymised files have them. All others are rejected, such as panoramic teeth (PX),
mammography, fluoroscopy, angiography, CT and MR.
"""

from __future__ import annotations

import re
import warnings

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxr_edge.decoding.decoded_image import GrayImage
from cxr_edge.decoding.dicom_dataset import dataset_elements
from cxr_edge.decoding.dicom_display import Display, read_display
from cxr_edge.decoding.dicom_elements import HEADER_TRUNCATED, Elements, read_elements
from cxr_edge.decoding.dicom_facts import acquisition_facts
from cxr_edge.decoding.dicom_geometry import lateral_view_flags, resample_square, rotate_upright
from cxr_edge.decoding.dicom_header import Header
from cxr_edge.decoding.dicom_pixels import PixelLayout, StoredValues, read_pixel_layout, read_stored_values
from cxr_edge.decoding.gray import reject_constant, row_bands, to_gray
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Flag, GrayPixels

__all__ = ["decode", "decode_dataset"]

_PROJECTION = ("CR", "DX", "DR", "RG")
_UNSPECIFIC = ("OT", "")
# Only values in these lists appear in messages, since free text may name a patient.
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
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)


def decode(data: bytes, limits: Limits) -> GrayImage:
    """Decode one projection X-ray from the bytes of a DICOM file, with or without preamble. Raises InputError.

    limits: checked against the header before any pixel is decoded.
    """
    _silence_pydicom()
    return _decode_elements(read_elements(data), limits)


def decode_dataset(dataset: Dataset, limits: Limits) -> tuple[GrayImage, bytes]:
    """Decode a data set as its file; also return the bytes of its pixel data, for the digest. Raises InputError.

    The values of `dataset` stay as they are; pydicom may convert some from bytes, as it does when they are read.
    """
    _silence_pydicom()
    elements = dataset_elements(dataset)
    return _decode_elements(elements, limits), elements.file


def _decode_elements(elements: Elements, limits: Limits) -> GrayImage:
    header = Header(elements)
    kind = _kind_flags(header)
    layout = read_pixel_layout(header, limits)
    stored = read_stored_values(header, layout)
    pixels, display = _to_gray_pixels(header, stored, layout)
    pixels, aspect = resample_square(pixels, header, limits)
    pixels, orientation = rotate_upright(pixels, header)
    return GrayImage(
        pixels=pixels,
        stored_bits=stored.bits,
        flags=(*kind, *stored.flags, *display, *aspect, *orientation, *header.flags()),
        facts=acquisition_facts(header),
    )


def _silence_pydicom() -> None:
    """Keep pydicom's warnings off stderr: real files often have invalid values, and the warnings quote them.

    A filter and not `catch_warnings`, which is not safe with several decoding threads. Checked at each call, since tests
    and host applications reset the filters.
    """
    if not any(entry[0] == "ignore" and entry[3] == _PYDICOM for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=_PYDICOM.pattern)


def _kind_flags(header: Header) -> tuple[Flag, ...]:
    """Return flags on view, body part and origin; raise InputError unless the file is one projection X-ray."""
    modality = header.code("Modality")
    if len(header) == 0:
        raise InputError(HEADER_TRUNCATED)
    if modality not in _PROJECTION + _UNSPECIFIC:
        actual = f"{modality} ({_OTHER_MODALITIES[modality]})" if modality in _OTHER_MODALITIES else "another one"
        raise InputError(
            f"expected a projection X-ray (modality {', '.join(_PROJECTION)}), the modality is {actual}: use the chest X-ray"
        )
    _check_pixel_data(header)
    flags = []
    if modality in _UNSPECIFIC:
        flags.append(Flag(code="unknown_modality", message="the file has no modality of a projection X-ray"))
    flags += lateral_view_flags(header)
    part = header.code("BodyPartExamined")
    if part and not any(word in part for word in _CHEST_WORDS):
        actual = f"the body part is {part}" if part in _OTHER_PARTS else "the file has another body part"
        flags.append(Flag(code="other_body_part", message=f"{actual}, not the chest"))
    if header.code("PresentationIntentType") == "FOR PROCESSING":
        flags.append(Flag(code="for_processing", message="raw detector values, before the vendor's processing"))
    return tuple(flags)


def _check_pixel_data(header: Header) -> None:
    pixels = header.elements.pixels
    if pixels is not None and pixels.tag in _FLOAT_PIXELS:
        raise InputError("the pixel data are floating-point numbers, expected integers: export the X-ray as CR or DX")
    if pixels is None or pixels.length == 0:
        if "Rows" in header:
            raise InputError(f"the header describes an image but there are no pixel data: {HEADER_TRUNCATED}")
        raise InputError(
            "there are no pixel data (a report, a presentation state or a truncated file): use the X-ray itself"
        )
    frames = header.number("NumberOfFrames", 1)
    if frames != 1:
        raise InputError(
            f"the file contains {frames:g} frames, expected one image: export the frame as a separate file"
        )


def _to_gray_pixels(header: Header, stored: StoredValues, layout: PixelLayout) -> tuple[GrayPixels, tuple[Flag, ...]]:
    if stored.values.ndim == 3:
        gray, flags = _colour_to_gray(stored)
        reject_constant(gray)
        return gray, flags
    layout = layout.with_values(bits=stored.bits, signed=stored.signed)
    return _apply_display(stored.values, layout, read_display(header, layout), header)


def _apply_display(
    values: npt.NDArray[np.integer], layout: PixelLayout, display: Display, header: Header
) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Convert stored values (rows, columns) to gray pixels, black is low."""
    ends = display.stored_range(values)
    if ends is None:
        raise InputError("all pixels are marked as padding, the image is empty: check the export")
    low, high = ends
    if low == high:
        reject_constant(np.zeros((1, 1), np.uint8))
    bits = 8 if layout.bits_stored <= 8 else 16
    pixels, flags = display.apply(values, low=low, high=high, bits=bits, stored_bits=layout.bits_stored)
    lowest, highest, _, _ = cv2.minMaxLoc(pixels)
    if lowest == highest:
        raise InputError("the file's window or lookup table maps all pixels to one value: export it again without")
    inverted = layout.photometric == "MONOCHROME1"
    flags += _presentation_flags(header, layout.photometric)
    if inverted:
        pixels ^= pixels.dtype.type(np.iinfo(pixels.dtype).max)
        flags += (Flag(code="monochrome1_inverted", message="low values are white (MONOCHROME1); inverted last"),)
    return pixels, flags + _blacken_padding(pixels, values, display)


def _presentation_flags(header: Header, photometric: str) -> tuple[Flag, ...]:
    """Return a flag unless IDENTITY is with MONOCHROME2 and INVERSE with MONOCHROME1 (PS3.3 C.8.11.3.1.2)."""
    shape = header.code("PresentationLUTShape")
    if (photometric, shape) not in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        return ()
    message = (
        f"Presentation LUT Shape {shape} contradicts the photometric interpretation {photometric}, which was used: black "
        "and white may be swapped"
    )
    return (Flag(code="presentation_lut_contradicts", message=message),)


def _blacken_padding(pixels: GrayPixels, values: npt.NDArray[np.integer], display: Display) -> tuple[Flag, ...]:
    """Set padding to black, in place."""
    if display.padding is None:
        return ()
    count = 0
    for rows in row_bands(values):
        mask = display.padding_mask(values[rows])
        count += int(np.count_nonzero(mask))
        pixels[rows][mask] = 0
    if not count:
        return ()
    message = f"{count / values.size:.1%} of the pixels are marked as padding and were set to black"
    return (Flag(code="padding", message=message),)


def _colour_to_gray(stored: StoredValues) -> tuple[GrayPixels, tuple[Flag, ...]]:
    """Convert (rows, columns, 3), red or Y first, to gray; windows do not apply to colour (PS3.3 C.11.2.1)."""
    top, dtype = (255, np.uint8) if stored.bits <= 8 else (65535, np.uint16)
    stored_top = (1 << stored.bits) - 1

    def as_rgb(band: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        scaled = ((band.astype(np.uint32) * top + stored_top // 2) // stored_top).clip(0, top).astype(dtype)
        if not stored.ybr:
            return scaled
        # OpenCV's order is Y, Cr, Cb; the arithmetic is the standard's (PS3.3 C.7.6.3.1.2, ITU-R BT.601).
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(scaled[..., [0, 2, 1]]), cv2.COLOR_YCrCb2RGB))

    return to_gray(stored.values, as_rgb, dtype)
