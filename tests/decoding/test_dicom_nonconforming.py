"""DICOM files that deviate from the standard, as vendors write them: accepted with a flag, or rejected by name."""

from __future__ import annotations

import copy
import struct
import tempfile
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.records import Image
from tests.builders.dicom_files import dataset, encapsulated_file, file_bytes, jpeg_baseline, jpeg_lossless, xray_pixels
from tests.decoding.results import error_message, flag_codes, read
from tests.decoding.test_dicom import stretch, window_reference

STORED = xray_pixels(12)
WINDOW = {"WindowCenter": 1800, "WindowWidth": 2500}
ROTATED = np.rot90(STORED)


def nonconforming_note(image: Image) -> str:
    """Return the message of the flag `nonconforming`, which must exist."""
    return next(flag.message for flag in image.flags if flag.code == "nonconforming")


def raw_element(data: Dataset, tag: int, vr: str, value: bytes) -> bytes:
    """Return a file with an element that pydicom would not write, with its value unchanged."""
    value += b" " * (len(value) % 2)
    marker = b"\x09\0\x10\0LO\x04\0MARK"
    data.add_new(0x00090010, "LO", "MARK")
    plain = file_bytes(data)
    at = plain.index(marker)
    element = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value)) + value
    return plain[:at] + element + plain[at + len(marker) :]


# File structure ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "magic",
    [b"II*\0\x08\0\0\0", b"MM\0*", b"II+\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP", b"BM", b"%PDF-1.7",
     b"GIF89a", b"PK\x03\x04", b"<html>", b"\0" * 8, b"\xff" * 128],
    ids=repr,
)  # fmt: skip
def test_the_preamble_may_contain_anything(magic) -> None:
    data = magic.ljust(128, b"\0") + file_bytes(dataset(STORED, **WINDOW))[128:]
    image = read(data)
    assert image.format == "dicom"
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    other = magic.ljust(128, b"\0") + file_bytes(dataset(STORED, Modality="CT"))[128:]
    assert "computed tomography" in error_message(other)


def test_a_dicomdir_is_rejected_by_name() -> None:
    data = dataset(STORED, PixelData=None)
    data.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    data.SOPClassUID = uid.MediaStorageDirectoryStorage
    assert "this is a DICOMDIR" in error_message(file_bytes(data))
    records = Dataset()
    records.DirectoryRecordSequence = Sequence([Dataset()])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "DICOMDIR")
        pydicom.dcmwrite(path, records, implicit_vr=False, little_endian=True, enforce_file_format=False)
        bare = path.read_bytes()
    assert "screen the files that it lists" in error_message(b"\0" * 128 + b"DICM" + bare)


# Bits -------------------------------------------------------------------------------------------------------------------


def streams(values: np.ndarray, bits: int) -> dict[str, bytes]:
    """Return the image as lossless JPEG, JPEG-LS and JPEG 2000 of `bits` bits, by transfer syntax."""
    samples = values.astype(np.uint8 if bits <= 8 else np.uint16)
    j2k = imagecodecs.jpeg2k_encode(samples, level=0, codecformat="j2k", bitspersample=bits, reversible=True)
    return {
        uid.JPEGLosslessSV1: jpeg_lossless(values, bits=bits),
        uid.JPEGLossless: jpeg_lossless(values, bits=bits, predictor=4),
        uid.JPEGLSLossless: jpeg_ls(samples, bits),
        uid.JPEG2000Lossless: j2k,
    }


def jpeg_ls(samples: np.ndarray, bits: int) -> bytes:
    """Encode JPEG-LS, with pyjpegls except for 8 or 16 bits: thresholds depend on the precision (T.87 C.2.4.1.1)."""
    import jpeg_ls as pyjpegls

    encoded = pyjpegls.encode_array(samples)
    return (
        bytes(encoded)
        if bits in (8, 16)
        else bytes(
            pyjpegls.encode_buffer(
                samples.tobytes(),
                rows=samples.shape[0],
                columns=samples.shape[1],
                samples_per_pixel=1,
                bits_stored=bits,
            )
        )
    )


@pytest.mark.parametrize("stream_bits", range(2, 17))
@pytest.mark.parametrize("allocated", [8, 16, 32])
def test_the_bits_of_the_stream_are_used(stream_bits, allocated) -> None:
    """Every precision of a stream in every header: GDCM wrapped the pixels or ended the process on many of these."""
    values = xray_pixels(stream_bits)
    for stored in sorted({2, 7, 8, 10, 12, 16, allocated} & set(range(2, allocated + 1))):
        data = dataset(values, bits=16, BitsAllocated=allocated, BitsStored=stored, HighBit=stored - 1)
        for syntax, stream in streams(values, stream_bits).items():
            image = read(encapsulated_file(data, stream, syntax))
            top = 255 if image.stored_bits <= 8 else 65535
            plain = image.stored_bits == 8 and top == 255
            expected = values if plain else stretch(values, top)
            np.testing.assert_array_equal(image.pixels, expected)
            wraps = int(values.max()) >= 1 << stored
            assert ("nonconforming" in flag_codes(image)) == wraps, (stored, syntax)
            assert image.stored_bits == (stream_bits if wraps else min(stream_bits, stored))
            if wraps:
                assert (
                    f"the compressed stream has {stream_bits} bits, Bits Stored (0028,0101) is {stored}"
                    in nonconforming_note(image)
                )


def test_a_signed_stream_under_an_unsigned_header() -> None:
    signed = STORED.astype(np.int16) - 2048
    stream = imagecodecs.jpeg2k_encode(signed, level=0, codecformat="j2k", bitspersample=12, reversible=True)
    image = read(encapsulated_file(dataset(STORED), stream, uid.JPEG2000Lossless))
    np.testing.assert_array_equal(image.pixels, stretch(signed))
    assert "by Pixel Representation (0028,0103) they are unsigned" in nonconforming_note(image)


def test_a_wider_stream_with_the_headers_sign_bit() -> None:
    signed = STORED.astype(int) - 2048
    for words in (signed & 0xFFF, signed & 0xFFFF):  # sign bit 11 alone, or extended to the stream's 16 bits
        stream = jpeg_lossless(words.astype(np.uint16), bits=16)
        image = read(encapsulated_file(dataset(STORED, PixelRepresentation=1), stream, uid.JPEGLosslessSV1))
        np.testing.assert_array_equal(image.pixels, stretch(signed))
        assert flag_codes(image) == {"no_window"}


def test_values_beyond_bits_stored() -> None:
    few = STORED.copy() // 4
    few[0, :3] |= 0x400
    image = read(dataset(few, BitsStored=10, HighBit=9, **WINDOW))
    assert flag_codes(image) == {"bits_beyond_stored"}
    np.testing.assert_array_equal(image.pixels, window_reference(few & 0x3FF, 1800, 2500))
    message = error_message(file_bytes(dataset(STORED, BitsStored=10, HighBit=9)))
    assert "of the pixel values do not fit into Bits Stored (0028,0101) = 10" in message


def test_an_overlay_in_the_unused_bits_is_removed() -> None:
    words = STORED | (np.arange(STORED.size).reshape(STORED.shape) % 2 << 15).astype(np.uint16)
    data = dataset(words, **WINDOW)
    data.add_new(0x60000102, "US", 15)
    image = read(data)
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    assert flag_codes(image) == {"bits_beyond_stored"}


def test_padding_beyond_bits_stored_is_conforming() -> None:
    words = STORED.copy()
    words[:8] = 0xF000
    image = read(dataset(words, PixelPaddingValue=0xF000, **WINDOW))
    np.testing.assert_array_equal(image.pixels[8:], window_reference(STORED[8:], 1800, 2500))
    assert not image.pixels[:8].any()
    assert flag_codes(image) == {"padding"}


# Geometry ---------------------------------------------------------------------------------------------------

TURNS = {
    "L\\F": STORED,
    "R\\F": STORED[:, ::-1],
    "L\\H": STORED[::-1],
    "R\\H": STORED[::-1, ::-1],
    "F\\L": STORED.T,
    "F\\R": STORED[:, ::-1].T,
    "H\\L": STORED[::-1].T,
    "H\\R": STORED[::-1, ::-1].T,
    "LF\\FR": STORED,
    "RH\\FL": STORED[:, ::-1],
}


@pytest.mark.parametrize("orientation", TURNS)
def test_patient_orientation(orientation) -> None:
    image = read(
        dataset(np.ascontiguousarray(TURNS[orientation]), **WINDOW, PatientOrientation=orientation.split("\\"))
    )
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    assert flag_codes(image) == (
        set() if orientation.startswith("L") and "F" in orientation.split("\\")[1] else {"patient_orientation"}
    )
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", [["A", "F"], ["P", "F"], ["AL", "F"]])
def test_a_lateral_orientation_is_flagged(orientation) -> None:
    image = read(dataset(STORED, **WINDOW, ViewPosition="", PatientOrientation=orientation))
    assert flag_codes(image) == {"lateral_view"}
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))


@pytest.mark.parametrize("orientation", [["", ""], ["L"], ["X", "Y"], ["L", "L"], ["LE", "CD"], ["L", "F", "R"]])
def test_other_orientations_change_nothing(orientation) -> None:
    image = read(dataset(STORED, **WINDOW, PatientOrientation=orientation))
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))


@pytest.mark.parametrize(
    ("elements", "size"),
    [
        ({"PixelAspectRatio": ["2", "1"]}, (80, 33)),
        ({"PixelAspectRatio": ["1", "2"]}, (40, 66)),
        ({"PixelAspectRatio": ["1", "1"]}, None),
        ({"PixelAspectRatio": ["100", "100"]}, None),
        ({"ImagerPixelSpacing": ["0.3", "0.2"]}, (60, 33)),
        ({"PixelSpacing": ["0.2", "0.4"]}, (40, 66)),
        ({"ImagerPixelSpacing": ["0.143", "0.143"]}, None),
        ({"ImagerPixelSpacing": ["0.1", "0.1"], "PixelAspectRatio": ["3", "2"]}, (60, 33)),
    ],
)
def test_pixels_that_are_not_square(elements, size) -> None:
    image = read(dataset(STORED, **WINDOW, **elements))
    expected = window_reference(STORED, 1800, 2500)
    if size is None:
        np.testing.assert_array_equal(image.pixels, expected)
        assert flag_codes(image) == set()
        return
    assert image.pixels.shape == size
    assert flag_codes(image) == {"pixel_aspect"}
    back = cv2.resize(image.pixels, expected.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(back.astype(int) - expected).mean() < 0.03 * 65535


def test_an_extreme_aspect_is_rejected_and_an_invalid_one_noted() -> None:
    message = error_message(file_bytes(dataset(STORED, PixelAspectRatio=["100", "1"])))
    assert "by PixelAspectRatio (0028,0034) a pixel is 100 times as high as wide" in message
    image = read(dataset(STORED, **WINDOW, PixelAspectRatio=["0", "1"]))
    assert "PixelAspectRatio (0028,0034) does not contain two positive numbers" in nonconforming_note(image)


@pytest.mark.parametrize(
    ("photometric", "shape", "contradicts"),
    [
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME2", "", False),
    ],
)
def test_a_presentation_lut_that_contradicts_is_flagged(photometric, shape, contradicts) -> None:
    image = read(dataset(STORED, **WINDOW, PhotometricInterpretation=photometric, PresentationLUTShape=shape))
    assert ("presentation_lut_contradicts" in flag_codes(image)) == contradicts
    expected = window_reference(STORED, 1800, 2500)
    np.testing.assert_array_equal(image.pixels, 65535 - expected if photometric == "MONOCHROME1" else expected)


def test_an_image_too_small_is_rejected() -> None:
    small = xray_pixels(12, rows=31, columns=40)
    assert "40x31 px are too small: each side must have at least 32 px" in error_message(file_bytes(dataset(small)))
    assert read(dataset(small), limits=Limits(min_side_px=31)).height_px == 31


# Encapsulation ----------------------------------------------------------------------------------------------------------


def items(*fragments: bytes, table: bytes | None = b"", delimiter: bool = True) -> bytes:
    """Return encapsulated pixel data. table: the bytes of the offset table, None for no table."""
    parts = ([table] if table is not None else []) + [f + b"\0" * (len(f) % 2) for f in fragments]
    body = b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(part)) + part for part in parts)
    return body + (b"\xfe\xff\xdd\xe0\0\0\0\0" if delimiter else b"")


def with_pixels(value: bytes, syntax: str, **elements) -> bytes:
    """Return a file with `value` as encapsulated pixel data, valid or not."""
    data = encapsulated_file(dataset(STORED, **elements), b"\xff\xd8\xff\xd9", syntax)
    return data[: data.rindex(b"\xe0\x7f\x10\0OB")] + b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + value


ENCAPSULATED = {
    "JPEG lossless": (uid.JPEGLosslessSV1, lambda: jpeg_lossless(STORED, bits=12)),
    "JPEG-LS": (uid.JPEGLSLossless, lambda: jpeg_ls(STORED, 12)),
    "JPEG 2000": (uid.JPEG2000Lossless, lambda: streams(STORED, 12)[uid.JPEG2000Lossless]),
    "RLE": (uid.RLELossless, lambda: rle(STORED)),
}


def rle(values: np.ndarray) -> bytes:
    """Encode RLE (PS3.5 annex G): two byte planes, each as literal runs."""
    planes = [values >> 8, values & 255]
    coded = []
    for plane in planes:
        flat = plane.astype(np.uint8).tobytes()
        runs = b"".join(bytes([len(flat[i : i + 128]) - 1]) + flat[i : i + 128] for i in range(0, len(flat), 128))
        coded.append(runs + b"\0" * (len(runs) % 2))
    return struct.pack("<16I", 2, 64, 64 + len(coded[0]), *[0] * 13) + b"".join(coded)


@pytest.mark.parametrize("kind", ENCAPSULATED)
def test_encapsulation_as_vendors_write_it(kind) -> None:
    syntax, encode = ENCAPSULATED[kind]
    stream = encode()
    half = len(stream) // 4 * 2
    conforming = {
        "empty table": items(stream),
        "table of zero": items(stream, table=bytes(4)),
        "two fragments": items(stream[:half], stream[half:]),
        "table of two fragments": items(stream[:half], stream[half:], table=struct.pack("<II", 0, half + 8)),
    }
    noted = {
        "wrong table": (items(stream, table=struct.pack("<I", 4444)), "basic offset table"),
        "no table": (items(stream, table=None), "no basic offset table"),
        "no delimiter": (items(stream, delimiter=False), "no sequence delimiter"),
        "zeros for a delimiter": (items(stream, delimiter=False) + bytes(10), "no sequence delimiter"),
        "no table, no delimiter": (items(stream, table=None, delimiter=False), "no sequence delimiter"),
    }
    for value in conforming.values():
        image = read(with_pixels(value, syntax))
        np.testing.assert_array_equal(image.pixels, stretch(STORED))
        assert flag_codes(image) == {"no_window"}
    for value, message in noted.values():
        image = read(with_pixels(value, syntax))
        np.testing.assert_array_equal(image.pixels, stretch(STORED))
        assert message in nonconforming_note(image)
    if kind != "RLE":
        for padding in (b"\xff", b"\xff\xff\xff", b"\0", b"\0\0\0\0", b"\xff\0\xff"):
            np.testing.assert_array_equal(read(with_pixels(items(stream + padding), syntax)).pixels, stretch(STORED))


@pytest.mark.parametrize("kind", ENCAPSULATED)
def test_a_truncated_frame_is_rejected_with_and_without_a_delimiter(kind) -> None:
    syntax, encode = ENCAPSULATED[kind]
    stream = encode()
    for share in (0.2, 0.5, 0.9):
        cut = stream[: int(len(stream) * share)]
        error_message(with_pixels(items(cut), syntax))
        error_message(with_pixels(items(cut, delimiter=False), syntax))
        error_message(with_pixels(items(stream, delimiter=False)[: int(len(stream) * share)], syntax))


def test_coded_data_that_end_before_the_image_are_rejected() -> None:
    """Truncated, with an end marker added: the decoder fills the rest with zero bits."""
    noisy = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
    smooth = np.full((64, 48), 700, np.uint16)
    smooth[:20] += np.arange(48, dtype=np.uint16) * 9
    for values in (noisy, smooth):
        for predictor in (1, 2, 3, 4):
            stream = jpeg_lossless(values, bits=12, predictor=predictor)
            whole = encapsulated_file(dataset(values), stream, uid.JPEGLossless)
            np.testing.assert_array_equal(read(whole).pixels, stretch(values))
            for share in (0.5, 0.8, 0.97):
                cut = stream[: int(len(stream) * share)].rstrip(b"\xff") + b"\xff\xd9"
                error_message(encapsulated_file(dataset(values), cut, uid.JPEGLossless))


def test_twelve_bit_data_that_end_before_the_image_are_rejected() -> None:
    values = xray_pixels(12, rows=120, columns=90)
    stream = imagecodecs.jpeg8_encode(values, level=95, bitspersample=12)
    assert read(encapsulated_file(dataset(values), stream, uid.JPEGExtended12Bit)).stored_bits == 12
    for share in (0.3, 0.6, 0.9, 0.99):
        cut = stream[: int(len(stream) * share)].rstrip(b"\xff") + b"\xff\xd9"
        error_message(encapsulated_file(dataset(values), cut, uid.JPEGExtended12Bit))


def test_lossless_data_that_end_in_zeros_are_rejected() -> None:
    """Result of an interrupted transfer that allocated the full file first."""
    values = xray_pixels(12, rows=120, columns=90)
    stream = jpeg_lossless(values, bits=12)
    for share in (0.3, 0.6, 0.9):
        keep = int(len(stream) * share)
        zeroed = stream[:keep] + bytes(len(stream) - 2 - keep) + b"\xff\xd9"
        assert "end in zeros" in error_message(encapsulated_file(dataset(values), zeroed, uid.JPEGLosslessSV1))
    ends_in_zeros = 0
    for rows in range(32, 64):  # a complete image may end in zeros too: its last pixels are equal
        flat = np.full((120, 90), 9, np.uint16)
        flat[:rows] = values[:rows]
        whole = jpeg_lossless(flat, bits=12)
        ends_in_zeros += whole[-10:-2] == bytes(8)
        np.testing.assert_array_equal(
            read(encapsulated_file(dataset(flat), whole, uid.JPEGLosslessSV1)).pixels, stretch(flat)
        )
    assert ends_in_zeros


def test_a_codestream_in_jp2_boxes() -> None:
    boxed = imagecodecs.jpeg2k_encode(STORED, level=0, codecformat="jp2", bitspersample=12, reversible=True)
    assert boxed[4:8] == b"jP  "
    np.testing.assert_array_equal(read(with_pixels(items(boxed), uid.JPEG2000Lossless)).pixels, stretch(STORED))


def test_encapsulated_pixels_with_an_uncompressed_syntax_are_rejected() -> None:
    data = with_pixels(items(jpeg_lossless(STORED, bits=12)), uid.JPEGLosslessSV1)
    wrong = data.replace(
        uid.JPEGLosslessSV1.encode(), uid.ExplicitVRLittleEndian.encode().ljust(len(uid.JPEGLosslessSV1), b"\0")
    )
    assert "the pixel data are uncompressed, but they are encapsulated" in error_message(wrong)


def test_too_many_pixel_bytes_are_noted() -> None:
    image = read(dataset(STORED, **WINDOW, PixelData=STORED.tobytes() + bytes(100)))
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    assert "the pixel data have 2,740 bytes and 2,640 are needed" in nonconforming_note(image)


@pytest.mark.parametrize("allocated", [8, 16, 32])
def test_jpeg_baseline_with_any_bits_allocated(allocated) -> None:
    eight = xray_pixels(8).astype(np.uint8)
    data = dataset(eight, bits=8, BitsAllocated=allocated)
    image = read(encapsulated_file(data, jpeg_baseline(eight), uid.JPEGBaseline8Bit))
    assert np.abs(image.pixels.astype(int) - eight).max() <= 12
    assert (image.stored_bits, flag_codes(image)) == (8, set())


@pytest.mark.parametrize("halved", [False, True])
def test_ybr_full_422_uncompressed(halved) -> None:
    gray = xray_pixels(8, columns=34).astype(np.uint8)
    data = dataset(np.dstack([gray, np.full_like(gray, 128), np.full_like(gray, 128)]), bits=8)
    data.PhotometricInterpretation = "YBR_FULL_422"
    if halved:
        pairs = np.dstack(
            [gray[:, ::2], gray[:, 1::2], np.full_like(gray[:, ::2], 128), np.full_like(gray[:, ::2], 128)]
        )
        data.PixelData = pairs.tobytes()
    image = read(data)
    np.testing.assert_array_equal(image.pixels, gray)
    assert ("nonconforming" in flag_codes(image)) != halved


# Numbers and tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (b"[1800]", 1800), (b"(1800.0)", 1800), (b'"1800"', 1800), (b"1800,5", 1800.5), (b"1800,25", 1800.25),
        (b"[1800, 900]", 1800), (b"[1800\\900]", 1800),
    ],
)  # fmt: skip
def test_numbers_as_vendors_write_them(written, value) -> None:
    image = read(raw_element(dataset(STORED, WindowWidth=2500), 0x00281050, "DS", written))
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, value, 2500))
    assert "WindowCenter (0028,1050) is not in the standard format" in nonconforming_note(image)


@pytest.mark.parametrize("written", [b"1800", b" 1800 ", b"1.8E3", b"+1800.", b"1800\\900", b"1800\0"])
def test_numbers_that_the_standard_allows(written) -> None:
    image = read(raw_element(dataset(STORED, WindowWidth=2500), 0x00281050, "DS", written))
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    assert image.flags == ()


@pytest.mark.parametrize("written", [b"1,800", b"eighteen", b"1800px", b"1.800.000", b"--5", b"1 800", b"Nobody^Knows"])
@pytest.mark.parametrize(
    ("tag", "vr", "name"),
    [
        (0x00281050, "DS", "WindowCenter (0028,1050)"),
        (0x00281053, "DS", "RescaleSlope (0028,1053)"),
        (0x00280008, "IS", "NumberOfFrames (0028,0008)"),
    ],
)
def test_numbers_that_cannot_be_read_are_rejected_by_name(tag, vr, name, written) -> None:
    message = error_message(raw_element(dataset(STORED, WindowWidth=2500), tag, vr, written))
    assert f"{name} of the DICOM header is invalid (expected a number" in message
    assert "Knows" not in message


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel"])
def test_an_element_of_two_values_is_rejected_by_name(keyword) -> None:
    data = dataset(STORED)
    data[keyword].value = [data[keyword].value, 7]
    assert f"{keyword} (0028," in error_message(file_bytes(data))


def table(entries: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [entries, 0, 16])
    item.add_new("LUTData", "OW", (np.arange(entries) * 16).astype("<u2").tobytes())
    return item


def test_items_without_a_table_are_skipped() -> None:
    image = read(dataset(STORED, **WINDOW, VOILUTSequence=Sequence([Dataset()])))
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    assert "an item of VOILUTSequence (0028,3010) has no lookup table" in nonconforming_note(image)
    image = read(dataset(STORED, **WINDOW, VOILUTSequence=Sequence([Dataset(), table(4096)])))
    np.testing.assert_array_equal(image.pixels, STORED * 16)
    half = table(4096)
    del half.LUTData
    image = read(dataset(STORED, **WINDOW, ModalityLUTSequence=Sequence([half])))
    np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))
    assert "ModalityLUTSequence (0028,3000)" in nonconforming_note(image)


@pytest.mark.parametrize("descriptor", [[4096, 0], [4096], [4096, 0, 16, 1]])
def test_a_table_with_an_invalid_descriptor_is_rejected_by_name(descriptor) -> None:
    item = table(4096)
    item["LUTDescriptor"].value = descriptor
    assert "LUT Descriptor (0028,3002) of VOILUTSequence is invalid" in error_message(
        file_bytes(dataset(STORED, VOILUTSequence=Sequence([item])))
    )


def test_a_table_of_text_is_rejected_by_name() -> None:
    item = table(4096)
    item.add_new("LUTData", "LT", "no numbers")
    assert "LUT Data (0028,3006) of VOILUTSequence is not numeric" in error_message(
        file_bytes(dataset(STORED, VOILUTSequence=Sequence([item])))
    )


def test_implicit_files_with_words_of_unknown_sign() -> None:
    """In implicit files padding and lookup tables are 'US or SS': by Pixel Representation."""
    words = STORED // 2
    words[:8] = 4095
    data = dataset(words, PixelPaddingValue=4095, VOILUTSequence=Sequence([table(4096)]))
    image = read(file_bytes(data, uid.ImplicitVRLittleEndian))
    np.testing.assert_array_equal(image.pixels[8:], words[8:] * 16)
    assert not image.pixels[:8].any()


# Structure --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["Rows", "BitsStored", "Modality"])
def test_an_element_that_occurs_twice_is_rejected(keyword) -> None:
    data = file_bytes(dataset(STORED))
    start = data.index(
        {"Rows": b"\x28\0\x10\0US", "BitsStored": b"\x28\0\x01\x01US", "Modality": b"\x08\0\x60\0CS"}[keyword]
    )
    assert f"{keyword} (00" in error_message(data[:start] + data[start : start + 10] + data[start:])


def test_sequences_of_undefined_length_are_skipped() -> None:
    inner = Dataset()
    inner.CodeMeaning = "a text"
    icon = Dataset()
    icon.Rows, icon.Columns = 4, 4
    icon.ReferencedImageSequence = Sequence([inner, Dataset()])
    data = dataset(STORED, **WINDOW, IconImageSequence=Sequence([icon, icon]))
    data["IconImageSequence"].is_undefined_length = True
    icon["ReferencedImageSequence"].is_undefined_length = True
    icon.is_undefined_length_sequence_item = True
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        image = read(file_bytes(copy.deepcopy(data), syntax))
        np.testing.assert_array_equal(image.pixels, window_reference(STORED, 1800, 2500))


def test_a_value_that_is_too_long_is_rejected_by_name() -> None:
    many = dataset(STORED, WindowWidth=2500)
    many.WindowCenter = "1800"
    data = file_bytes(many, uid.ImplicitVRLittleEndian)
    at = data.index(struct.pack("<HHI", 0x28, 0x1050, 4))
    value = b"1800\\" * 400_000
    wrong = data[: at + 4] + struct.pack("<I", len(value)) + value + data[at + 12 :]
    assert "WindowCenter (0028,1050) has 2,000,008 bytes, expected at most 1,048,576" in error_message(wrong)


def test_the_encoding_is_that_of_the_elements() -> None:
    """The file meta group has the wrong one of implicit and explicit."""
    for real, named in (
        (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
        (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
    ):
        data = file_bytes(dataset(STORED, **WINDOW), real)
        value = data.index(b"\2\0\x10\0UI") + 8
        old = struct.unpack_from("<H", data, value - 2)[0]
        new = named.encode() + b"\0" * (len(named) % 2)
        length = struct.unpack_from("<I", data, 140)[0] + len(new) - old
        wrong = (
            data[:140]
            + struct.pack("<I", length)
            + data[144 : value - 2]
            + struct.pack("<H", len(new))
            + new
            + data[value + old :]
        )
        np.testing.assert_array_equal(read(wrong).pixels, window_reference(STORED, 1800, 2500))


def test_truncated_headers_are_rejected() -> None:
    data = file_bytes(dataset(STORED, **WINDOW))
    for at in range(0, data.index(b"\xe0\x7f\x10\0"), 3):
        with pytest.raises(InputError):
            read(data[:at])
