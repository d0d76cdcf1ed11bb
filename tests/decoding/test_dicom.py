"""DICOM decoding: every transfer syntax and display step against plain references, and every error message."""

from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
import threading

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.sequence import Sequence

from cxr_edge.decoding import dicom_elements
from cxr_edge.decoding.decode import decode, decode_bytes
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Image
from tests.builders.dicom_files import (
    PATIENT,
    compressed_file,
    dataset,
    encapsulated_file,
    file_bytes,
    jpeg_baseline,
    jpeg_lossless,
    xray_pixels,
)
from tests.decoding.results import error_message, flag_codes, read

LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.RLELossless,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]
ALL_SYNTAXES = [*LOSSLESS, uid.JPEG2000, uid.JPEGBaseline8Bit]
WINDOW = {"WindowCenter": 1800, "WindowWidth": 2500}


def syntax_name(syntax: uid.UID) -> str:
    return syntax.name


def apply_window(x: float, center: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with ymin = 0 and ymax = 1, as printed there."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(min(-4 * (x - center) / width, 700)))
    if function == "LINEAR_EXACT":
        if x <= center - width / 2:
            return 0
        return 1 if x > center + width / 2 else (x - center) / width + 0.5
    if x <= center - 0.5 - (width - 1) / 2:
        return 0
    if x > center - 0.5 + (width - 1) / 2:
        return 1
    return (x - (center - 0.5)) / (width - 1) + 0.5


def window_reference(
    values: np.ndarray, center: float, width: float, function: str = "LINEAR", top: int = 65535
) -> np.ndarray:
    return np.array([[round(apply_window(float(v), center, width, function) * top) for v in row] for row in values])


def stretch(values: np.ndarray, top: int = 65535) -> np.ndarray:
    values = values.astype(float)
    return np.rint((values - values.min()) * top / (values.max() - values.min()))


# Transfer syntaxes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=syntax_name)
def test_lossless_syntaxes_keep_every_bit(syntax, bits) -> None:
    stored = xray_pixels(bits)
    data = compressed_file(dataset(stored, bits=bits), syntax)
    image = decode_bytes(data, source="chest.dcm")
    assert (image.source, image.format, image.stored_bits) == ("chest.dcm", "dicom", bits)
    assert image.sha256 == hashlib.sha256(data).hexdigest()
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, stretch(stored))
    assert flag_codes(image) == {"no_window"}


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=syntax_name)
def test_signed_values(syntax, bits) -> None:
    signed = xray_pixels(bits).astype(int) - (1 << (bits - 1))
    words = (signed & 0xFFFF).astype(np.uint16)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        words &= (1 << bits) - 1  # the stream has only these bits
    image = read(compressed_file(dataset(words, bits=bits, PixelRepresentation=1), syntax))
    np.testing.assert_array_equal(image.pixels, stretch(signed))


def test_jpeg_baseline_and_lossy_jpeg_2000_are_close() -> None:
    eight = xray_pixels(8)
    image = read(compressed_file(dataset(eight, bits=8), uid.JPEGBaseline8Bit))
    assert (image.pixels.dtype, image.stored_bits, image.flags) == (np.uint8, 8, ())
    assert np.abs(image.pixels.astype(int) - eight).max() <= 12
    twelve = xray_pixels(12)
    image = read(compressed_file(dataset(twelve, **WINDOW), uid.JPEG2000))
    assert np.abs(image.pixels - window_reference(twelve, 1800, 2500)).max() <= 1000


def test_a_frame_in_several_fragments() -> None:
    stored = xray_pixels(12)
    data = encapsulated_file(dataset(stored), jpeg_lossless(stored, bits=12), uid.JPEGLosslessSV1, fragments=4)
    np.testing.assert_array_equal(read(data).pixels, stretch(stored))


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian], ids=syntax_name)
def test_files_without_preamble_and_without_file_meta(syntax) -> None:
    stored = xray_pixels(12)
    data = file_bytes(dataset(stored, **WINDOW), syntax)
    with_meta = data[132:]
    bare = data[144 + int.from_bytes(data[140:144], "little") :]
    for headless in (with_meta, bare):
        np.testing.assert_array_equal(read(headless).pixels, window_reference(stored, 1800, 2500))


def test_decode_reads_a_dicom_file_with_any_name(tmp_path) -> None:
    path = tmp_path / "chest.jpg"
    path.write_bytes(file_bytes(dataset(xray_pixels(12), **WINDOW)))
    assert decode(path).format == "dicom"


@pytest.mark.parametrize(
    "syntax",
    [uid.MPEG2MPML, uid.HTJ2KLossless, uid.JPEG2000MC, uid.UID("1.2.3.4.5")],
    ids=syntax_name,
)
def test_other_syntaxes_are_rejected_by_name(syntax) -> None:
    message = error_message(encapsulated_file(dataset(xray_pixels(8), bits=8), b"\0" * 64, syntax))
    assert f"({syntax})" in message
    assert "is not supported, expected uncompressed, deflated, RLE, JPEG baseline" in message
    assert "export the file in one of these" in message
    assert ("unknown or private" if syntax == "1.2.3.4.5" else syntax.name) in message


def test_twelve_bit_extended_jpeg() -> None:
    stored = xray_pixels(12)
    frame = imagecodecs.jpeg8_encode(stored, level=98, bitspersample=12)
    image = read(encapsulated_file(dataset(stored, **WINDOW), frame, uid.JPEGExtended12Bit))
    assert image.stored_bits == 12
    assert np.abs(image.pixels - window_reference(stored, 1800, 2500)).max() <= 300
    assert image.flags == ()


def test_without_imagecodecs_uncompressed_files_are_read(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    message = error_message(compressed_file(dataset(xray_pixels(12)), uid.JPEGLosslessSV1))
    assert "install the package imagecodecs, or export uncompressed" in message
    assert read(dataset(xray_pixels(12))).stored_bits == 12


# Display --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1800, 900), (2000.5, 2), (100, 1), (-300, 5000)])
def test_windows_follow_the_standard(function, center, width) -> None:
    stored = xray_pixels(12)
    data = dataset(stored, WindowCenter=center, WindowWidth=width, VOILUTFunction=function)
    expected = window_reference(stored, center, width, function) if width > 1 or function != "LINEAR" else None
    if expected is None or expected.min() == expected.max():
        assert "window or lookup table maps all pixels to one value" in error_message(file_bytes(data))
        return
    image = read(data)
    np.testing.assert_array_equal(image.pixels, expected)
    assert image.flags == ()


def test_a_linear_window_of_width_one_is_a_step() -> None:
    stored = xray_pixels(12)
    image = read(dataset(stored, WindowCenter=2000, WindowWidth=1))
    np.testing.assert_array_equal(image.pixels, np.where(stored > 1999.5, 65535, 0))


def test_the_first_of_several_windows_is_used() -> None:
    stored = xray_pixels(12)
    image = read(dataset(stored, WindowCenter=[1500, 3000], WindowWidth=[2000, 10]))
    np.testing.assert_array_equal(image.pixels, window_reference(stored, 1500, 2000))


def test_eight_bit_window_gives_eight_bits() -> None:
    stored = xray_pixels(8)
    image = read(dataset(stored, bits=8, WindowCenter=100, WindowWidth=120))
    assert (image.pixels.dtype, image.stored_bits) == (np.uint8, 8)
    np.testing.assert_array_equal(image.pixels, window_reference(stored, 100, 120, top=255))


def test_eight_bits_without_window_are_unchanged() -> None:
    stored = xray_pixels(8)
    image = read(dataset(stored, bits=8))
    assert image.flags == ()
    np.testing.assert_array_equal(image.pixels, stored)


@pytest.mark.parametrize("width", [0, 0.5, -100])
def test_a_window_that_is_not_valid_is_flagged(width) -> None:
    stored = xray_pixels(12)
    image = read(dataset(stored, WindowCenter=2000, WindowWidth=width))
    assert flag_codes(image) == {"window_ignored"}
    np.testing.assert_array_equal(image.pixels, stretch(stored))


def test_an_unknown_function_is_rejected() -> None:
    message = error_message(file_bytes(dataset(xray_pixels(12), **WINDOW, VOILUTFunction="CUBIC")))
    assert "not one of LINEAR, LINEAR_EXACT, SIGMOID" in message


def test_rescale_comes_before_the_window() -> None:
    stored = xray_pixels(12)
    image = read(dataset(stored, RescaleSlope="2.5", RescaleIntercept="-1000", WindowCenter=3000, WindowWidth=4000))
    np.testing.assert_array_equal(image.pixels, window_reference(stored * 2.5 - 1000, 3000, 4000))


def test_a_negative_slope_inverts_the_values() -> None:
    stored = xray_pixels(12)
    image = read(dataset(stored, RescaleSlope="-1", RescaleIntercept="4095"))
    np.testing.assert_array_equal(image.pixels, stretch(4095 - stored.astype(int)))


def lut(entries: np.ndarray, *, first: int, bits: int, packed: str) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first % 65536, bits])
    if packed == "US":
        item.add_new("LUTData", "US", [int(v) for v in entries])
    else:
        item.add_new("LUTData", "OW", entries.astype(packed).tobytes())
    return Sequence([item])


def apply_lut(values: np.ndarray, entries: np.ndarray, first: int) -> np.ndarray:
    last = len(entries) - 1
    return np.array([[entries[min(max(int(v) - first, 0), last)] for v in row] for row in values])


@pytest.mark.parametrize("packed", ["US", "<u2"])
def test_voi_lut(packed) -> None:
    stored = xray_pixels(12)
    entries = (np.linspace(0, 1, 3000) ** 2 * 16383).astype(int)
    image = read(dataset(stored, VOILUTSequence=lut(entries, first=500, bits=14, packed=packed), **WINDOW))
    np.testing.assert_array_equal(image.pixels, np.rint(apply_lut(stored, entries, 500) * (65535 / 16383)))
    assert image.flags == ()


def test_voi_lut_of_packed_bytes() -> None:
    stored = xray_pixels(12)
    entries = np.arange(4096) // 16
    image = read(dataset(stored, VOILUTSequence=lut(entries, first=0, bits=8, packed="u1")))
    np.testing.assert_array_equal(image.pixels, apply_lut(stored, entries, 0) * 257)


def test_voi_lut_that_starts_below_zero() -> None:
    stored = xray_pixels(12)
    entries = np.arange(4096) * 16
    data = dataset(stored, RescaleSlope="1", RescaleIntercept="-1000")
    data.VOILUTSequence = lut(entries, first=-1000, bits=16, packed="<u2")
    np.testing.assert_array_equal(read(data).pixels, stored * 16)


def test_modality_lut_then_window() -> None:
    stored = xray_pixels(12)
    entries = 4095 - np.arange(4096)
    image = read(dataset(stored, ModalityLUTSequence=lut(entries, first=0, bits=12, packed="<u2"), **WINDOW))
    np.testing.assert_array_equal(image.pixels, window_reference(4095 - stored.astype(int), 1800, 2500))


def test_lut_in_a_big_endian_file() -> None:
    stored = xray_pixels(12)
    entries = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(int)
    data = dataset(stored, VOILUTSequence=lut(entries, first=0, bits=16, packed=">u2"))
    image = read(file_bytes(data, uid.ExplicitVRBigEndian))
    np.testing.assert_array_equal(image.pixels, apply_lut(stored, entries, 0))


def test_a_short_lut_is_rejected() -> None:
    data = dataset(xray_pixels(12), VOILUTSequence=lut(np.arange(100), first=0, bits=16, packed="<u2"))
    data.VOILUTSequence[0].LUTDescriptor = [4096, 0, 16]
    assert "a lookup table of VOILUTSequence has 100 of 4096 entries" in error_message(file_bytes(data))


@pytest.mark.parametrize("bits", [8, 12])
def test_monochrome1_is_inverted_last(bits) -> None:
    # The window is off centre: inverting before it would give other values.
    stored, window = xray_pixels(bits), {"WindowCenter": 0.3 * (1 << bits), "WindowWidth": 0.5 * (1 << bits)}
    plain = read(dataset(stored, bits=bits, **window))
    inverse = read(dataset(stored, bits=bits, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_array_equal(inverse.pixels, np.iinfo(plain.pixels.dtype).max - plain.pixels)
    assert flag_codes(inverse) == {"monochrome1_inverted"}
    assert plain.flags == ()


def test_high_bit_and_bits_of_an_overlay() -> None:
    stored = xray_pixels(10)
    words = (stored << 4) | (np.arange(stored.size).reshape(stored.shape) % 4 << 14) | 0b1010
    image = read(dataset(words.astype(np.uint16), BitsStored=10, HighBit=13))
    assert image.stored_bits == 10
    np.testing.assert_array_equal(image.pixels, stretch(stored))


def test_thirty_two_bits() -> None:
    stored = xray_pixels(16).astype(np.int64) * 60000
    data = dataset(xray_pixels(16), bits=16, BitsAllocated=32, BitsStored=32, HighBit=31)
    data.PixelData = stored.astype("<u4").tobytes()
    np.testing.assert_allclose(read(data).pixels, stretch(stored), atol=1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("limit", [None, 4000])
def test_padding_is_black_and_excluded_from_the_range(photometric, limit) -> None:
    stored = xray_pixels(12) // 2
    inside = np.ones(stored.shape, bool)
    stored[:5], stored[5:8], inside[:8] = 4095, 4050, False
    if limit is None:
        stored[5:8] = 4095
    more = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    image = read(dataset(stored, PhotometricInterpretation=photometric, PixelPaddingValue=4095, **more))
    expected = stretch(stored[inside])
    if photometric == "MONOCHROME1":
        expected = 65535 - expected
    np.testing.assert_array_equal(image.pixels[inside], expected)
    assert not image.pixels[~inside].any()
    assert "padding" in flag_codes(image)


def test_padding_of_signed_values() -> None:
    signed = xray_pixels(12).astype(int) - 2048
    signed[:4] = -2048
    data = dataset((signed & 0xFFFF).astype(np.uint16), PixelRepresentation=1)
    data.add_new("PixelPaddingValue", "SS", -2048)
    image = read(data)
    np.testing.assert_array_equal(image.pixels[4:], stretch(signed[4:]))
    assert not image.pixels[:4].any()


def test_gray_stored_as_colour() -> None:
    gray = xray_pixels(8).astype(np.uint8)
    image = read(dataset(np.dstack([gray] * 3), bits=8))
    np.testing.assert_array_equal(image.pixels, gray)
    planar = dataset(np.stack([gray] * 3), bits=8, PhotometricInterpretation="RGB", SamplesPerPixel=3)
    planar.Rows, planar.Columns, planar.PlanarConfiguration = *gray.shape, 1
    np.testing.assert_array_equal(read(planar).pixels, gray)
    neutral = np.full_like(gray, 128)
    image = read(dataset(np.dstack([gray, neutral, neutral]), bits=8, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_array_equal(image.pixels, gray)


def test_gray_stored_as_twelve_bit_colour() -> None:
    stored = xray_pixels(12)
    image = read(dataset(np.dstack([stored] * 3)))
    np.testing.assert_array_equal(image.pixels, np.rint(stored * (65535 / 4095)))


def test_colour_is_rejected() -> None:
    gray = xray_pixels(8)
    message = error_message(file_bytes(dataset(np.dstack([gray, 255 - gray, gray // 2]), bits=8)))
    assert "this is a colour image" in message


def test_gray_jpeg_stored_as_colour() -> None:
    gray = xray_pixels(8).astype(np.uint8)
    data = dataset(np.dstack([gray] * 3), bits=8, PhotometricInterpretation="YBR_FULL_422")
    image = read(encapsulated_file(data, jpeg_baseline(np.dstack([gray] * 3)), uid.JPEGBaseline8Bit))
    assert np.abs(image.pixels.astype(int) - gray).max() <= 12


def test_rgb_jpeg_that_is_rgb_only_by_the_dicom_header() -> None:
    # The components of the stream are R, G, B, without a marker for that.
    gray = xray_pixels(8).astype(np.uint8)
    frame = saved_as_components(gray)
    data = encapsulated_file(dataset(np.dstack([gray] * 3), bits=8), frame, uid.JPEGBaseline8Bit)
    image = read(data)
    assert np.abs(image.pixels.astype(int) - gray).max() <= 12


def saved_as_components(gray: np.ndarray) -> bytes:
    """Return a JPEG of three equal components, without JFIF or Adobe markers."""
    stream = io.BytesIO()
    Pillow.fromarray(np.dstack([gray] * 3), "YCbCr").save(stream, "JPEG", quality=95, subsampling=0)
    data = stream.getvalue()
    assert data[2:4] == b"\xff\xe0"
    return data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]


# Flags ----------------------------------------------------------------------------------------------------------------


def view(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "0", "SCT", meaning
    return Sequence([item])


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"ViewPosition": "LL"}, {"lateral_view"}),
        ({"ViewPosition": "RL"}, {"lateral_view"}),
        ({"ViewPosition": "LATERAL"}, {"lateral_view"}),
        ({"ViewPosition": None, "ViewCodeSequence": view("left lateral")}, {"lateral_view"}),
        ({"ViewPosition": "AP", "ViewCodeSequence": view("lateral decubitus")}, set()),
        ({"ViewPosition": "", "BodyPartExamined": ""}, set()),
        ({"BodyPartExamined": "THORAX"}, set()),
        ({"BodyPartExamined": "KNEE"}, {"other_body_part"}),
        ({"Modality": "CR", "BodyPartExamined": None}, set()),
        ({"Modality": "RG"}, set()),
        ({"Modality": "OT"}, {"unknown_modality"}),
        ({"Modality": None}, {"unknown_modality"}),
        ({"PresentationIntentType": "FOR PROCESSING"}, {"for_processing"}),
    ],
)
def test_flags_of_view_part_and_origin(elements, expected) -> None:
    assert flag_codes(read(dataset(xray_pixels(12), **WINDOW, **elements))) == expected


def test_free_text_is_not_repeated() -> None:
    image = read(dataset(xray_pixels(12), **WINDOW, BodyPartExamined="NOBODY KNOWS"))
    assert flag_codes(image) == {"other_body_part"}
    assert "NOBODY" not in image.flags[0].message.upper()
    assert PATIENT not in repr(image)
    assert "another one" in error_message(file_bytes(dataset(xray_pixels(12), Modality="NOBODY")))


# Rejected files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        (
            {"Modality": "CT"},
            "expected a projection X-ray (modality CR, DX, DR, RG), the modality is CT (computed tomogr",
        ),
        ({"Modality": "MR"}, "magnetic resonance"),
        ({"Modality": "US"}, "ultrasound"),
        ({"Modality": "SR", "PixelData": None}, "the modality is SR (a report)"),
        ({"NumberOfFrames": 2}, "the file contains 2 frames, expected one image: export the frame"),
        ({"PixelData": None}, "the header describes an image but there are no pixel data"),
        (
            {"PixelData": None, "Rows": None},
            "there are no pixel data (a report, a presentation state or a truncated file)",
        ),
        ({"PixelData": b"\0" * 100}, "the pixel data have 100 bytes, 33x40 px need 2,640"),
        ({"Rows": None}, "Rows (0028,0010) is missing from the DICOM header: export the file again"),
        ({"PhotometricInterpretation": None}, "the photometric interpretation is missing, expected MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "the photometric interpretation is PALETTE COLOR"),
        ({"PhotometricInterpretation": "RGB"}, "the photometric interpretation is RGB with samples per pixel 1"),
        ({"Columns": 0}, "the header gives a size of 0x40 px"),
        ({"BitsAllocated": 64}, "64 bits allocated"),
        ({"BitsStored": 20}, "bits stored 20, high bit 11 and bits allocated 16 contradict each other"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "all pixels are marked as padding"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "the rescale slope 0 and intercept 0 cannot be used"),
        ({"WindowCenter": 60000, "WindowWidth": 10}, "window or lookup table maps all pixels to one value"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(f"{k}={str(v)[:9]}" for k, v in value.items()),
)
def test_rejected_files(elements, message) -> None:
    assert message in error_message(file_bytes(dataset(xray_pixels(12), **elements)))


def test_floating_point_pixels_are_rejected() -> None:
    data = dataset(xray_pixels(12), PixelData=None, BitsAllocated=32)
    data.FloatPixelData = xray_pixels(12).astype("<f4").tobytes()
    assert "the pixel data are floating-point numbers" in error_message(file_bytes(data))


def test_constant_pixels_are_rejected() -> None:
    assert "all pixels have the same value" in error_message(file_bytes(dataset(np.full((36, 36), 700, np.uint16))))
    assert "all pixels have the same value" in error_message(
        file_bytes(dataset(np.full((36, 36), 70, np.uint8), bits=8))
    )


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    data = dataset(xray_pixels(12), Rows=65535, Columns=65535)  # 8 GB of pixel data are missing
    assert "65535x65535 px exceed the limit of 100,000,000 pixels" in error_message(file_bytes(data))
    small = file_bytes(dataset(xray_pixels(12)))
    assert "33x40 px exceed the limit of 1,319 pixels" in error_message(small, limits=Limits(max_pixels=1319))
    assert read(small, limits=Limits(max_pixels=1320)).stored_bits == 12


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=syntax_name)
def test_a_stream_of_another_size_is_rejected_before_decoding(syntax) -> None:
    data = compressed_file(dataset(xray_pixels(12, rows=50, columns=60)), syntax)
    parsed = pydicom.dcmread(io.BytesIO(data))
    parsed.Rows, parsed.Columns = 40, 40
    parsed["PixelData"].is_undefined_length = True
    message = error_message(file_bytes(parsed, syntax))
    assert "the compressed image is 60x50 px" in message
    assert "the DICOM header gives 40x40" in message


def test_a_deflated_bomb_is_inflated_only_as_far_as_its_header_needs(monkeypatch) -> None:
    # 300 MB of zeros in 300 kB, after an image of 2,640 bytes.
    limits: list[int] = []
    inflate = dicom_elements.inflate
    monkeypatch.setattr(dicom_elements, "inflate", lambda *a: limits.append(a[2]) or inflate(*a))
    stored = xray_pixels(12)
    data = dataset(stored, PixelData=stored.tobytes() + bytes(300_000_000))
    bomb = file_bytes(data, uid.DeflatedExplicitVRLittleEndian)
    assert len(bomb) < 1_000_000
    image = read(bomb)
    np.testing.assert_array_equal(image.pixels, stretch(stored))
    assert flag_codes(image) == {"no_window", "nonconforming"}
    assert max(limits) <= 1 << 20


def test_a_stream_of_another_process_is_rejected() -> None:
    eight = xray_pixels(8).astype(np.uint8)
    wrong = encapsulated_file(dataset(eight, bits=8), jpeg_baseline(eight), uid.JPEGLosslessSV1)
    assert "the JPEG process (SOF0) does not match the transfer syntax" in error_message(wrong)
    wrong = encapsulated_file(dataset(eight, bits=8), jpeg_lossless(eight, bits=8), uid.JPEGBaseline8Bit)
    assert "the JPEG process (SOF3)" in error_message(wrong)


def test_an_invalid_lossless_jpeg_is_rejected_before_decoding(monkeypatch) -> None:
    stored = xray_pixels(12)
    frame = jpeg_lossless(stored, bits=12)
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda *_: pytest.fail("the decoder was called"))
    tables, scan = frame.index(b"\xff\xc4"), frame.index(b"\xff\xda")
    changes = {
        "no marker": (tables, 0x8A),
        "two components": (11, 0x21),
        "predictor 0": (scan + 7, 0),
        "table 1": (scan + 6, 0x10),
        "point transform": (scan + 9, 12),
        "too many codes": (tables + 5, 17),
        "category 200": (tables + 25, 200),
    }
    for at, value in changes.values():
        damaged = bytearray(frame)
        damaged[at] = value
        message = error_message(encapsulated_file(dataset(stored), bytes(damaged), uid.JPEGLosslessSV1))
        assert "copy or export" in message


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.JPEGLSLossless, uid.RLELossless], ids=syntax_name
)
def test_a_truncated_frame_in_a_complete_file_is_rejected(syntax) -> None:
    stored = xray_pixels(12)
    data = compressed_file(dataset(stored), syntax)
    frame = get_frame(pydicom.dcmread(io.BytesIO(data)).PixelData, 0, number_of_frames=1)
    for keep in np.linspace(100, len(frame) - 4, 12).astype(int):
        error_message(encapsulated_file(dataset(stored), frame[:keep], syntax))


# Damage ---------------------------------------------------------------------------------------------------------------


def decode_or_reject(data: bytes) -> Image | None:
    """Return the image, or None for an InputError; anything else fails the test."""
    try:
        image = read(data)
    except InputError as error:
        return pytest.fail("the message names the patient") if "Nobody" in str(error) else None
    assert isinstance(image, Image)
    return image


@pytest.mark.parametrize("syntax", ALL_SYNTAXES, ids=syntax_name)
def test_truncated_files_are_rejected(syntax) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    data = compressed_file(dataset(xray_pixels(bits), bits=bits), syntax)
    for cut in np.linspace(0, len(data) - 20, 100).astype(int):
        assert decode_or_reject(data[:cut]) is None, cut


@pytest.mark.parametrize("syntax", ALL_SYNTAXES, ids=syntax_name)
def test_mutated_files_give_an_image_or_an_input_error(syntax) -> None:
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    data = compressed_file(dataset(xray_pixels(bits), bits=bits), syntax)
    rng = np.random.default_rng(len(syntax))
    for _ in range(200):
        mutated = bytearray(data)
        for at in rng.integers(128, len(data), rng.integers(1, 5)):
            mutated[at] = rng.integers(0, 256)
        decode_or_reject(bytes(mutated))


_DECODE_FILE = """
import sys
from cxr_edge.decoding.decode import decode
decode(sys.argv[1])
"""


@pytest.mark.filterwarnings("ignore:.*VR:UserWarning")  # pydicom warns the writer too
def test_warnings_about_invalid_values_do_not_appear_on_stderr(tmp_path) -> None:
    data = dataset(xray_pixels(12), **WINDOW)
    data.add_new("SOPInstanceUID", "UI", "1.2.03.not-a-uid")
    data.add_new("Modality", "CS", "dx")
    data.add_new("StudyDate", "DA", "yesterday")
    data.add_new("ViewPosition", "CS", "a value of many more letters than are allowed")
    path = tmp_path / "odd.dcm"
    path.write_bytes(file_bytes(data))
    done = subprocess.run([sys.executable, "-c", _DECODE_FILE, str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_threads_decode_equal_pixels() -> None:
    files = [compressed_file(dataset(xray_pixels(12, seed=i)), LOSSLESS[i]) for i in range(len(LOSSLESS))]
    expected = [read(f).pixels for f in files]
    failures: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            if not np.array_equal(read(files[i]).pixels, expected[i]):
                failures.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(files))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
