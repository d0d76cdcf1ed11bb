"""Decoding of ordinary image files: pixels of each format, flags, and every error message."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFile

from cxr_edge.decoding.decode import decode, decode_bytes
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.records import Image
from tests.builders.dicom_files import dataset, file_bytes, jpeg_lossless, xray_pixels
from tests.decoding.image_files import pillow_file
from tests.decoding.results import error_message, flag_codes, read
from tests.fuzz.image_seeds import png_chunk

GRAY = xray_pixels(8, rows=53, columns=41).astype(np.uint8)
DEEP = xray_pixels(16, rows=53, columns=41)


def encode(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def rgb(gray: np.ndarray) -> np.ndarray:
    return np.dstack([gray] * 3)


def with_png_chunk(data: bytes, kind: bytes, body: bytes) -> bytes:
    """Return the PNG with a chunk after its header."""
    return data[:33] + png_chunk(kind, body) + data[33:]


# Formats --------------------------------------------------------------------------------------------------------------

EXACT = {
    "png": lambda p: encode(".png", p),
    "tiff": lambda p: encode(".tiff", p, cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "tiff lzw": lambda p: encode(".tiff", p, cv2.IMWRITE_TIFF_COMPRESSION, 5),
}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("pixels", [GRAY, DEEP], ids=["8 bit", "16 bit"])
def test_lossless_gray_is_decoded_exactly(kind, pixels) -> None:
    data = EXACT[kind](pixels)
    image = read(data)
    assert (image.format, image.stored_bits) == (kind.split()[0], pixels.dtype.itemsize * 8)
    assert image.pixels.dtype == pixels.dtype
    assert image.flags == ()
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp"])
def test_gray_stored_as_colour_becomes_gray(kind) -> None:
    image = read(encode(f".{kind}", rgb(GRAY)))
    assert (image.format, image.flags) == (kind, ())
    np.testing.assert_array_equal(image.pixels, GRAY)
    if kind != "bmp":
        np.testing.assert_array_equal(read(encode(f".{kind}", rgb(DEEP))).pixels, DEEP)


def test_lossless_webp() -> None:
    image = read(encode(".webp", rgb(GRAY), cv2.IMWRITE_WEBP_QUALITY, 101))
    assert (image.format, image.stored_bits, image.flags) == ("webp", 8, ())
    np.testing.assert_array_equal(image.pixels, GRAY)


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
@pytest.mark.parametrize("pixels", [GRAY, rgb(GRAY)], ids=["gray", "colour"])
def test_jpeg(pixels, options) -> None:
    image = read(pillow_file(pixels, "JPEG", quality=95, **options))
    assert (image.format, image.stored_bits, image.flags) == ("jpeg", 8, ())
    assert np.abs(image.pixels.astype(int) - GRAY).max() <= 12


def test_lossy_webp() -> None:
    image = read(pillow_file(rgb(GRAY), "WEBP", quality=95))
    assert np.abs(image.pixels.astype(int) - GRAY).mean() <= 3


def test_sixteen_bit_rgba_png() -> None:
    opaque = np.dstack([DEEP, DEEP, DEEP, np.full_like(DEEP, 65535)])
    image = read(encode(".png", opaque))
    assert (image.pixels.dtype, image.stored_bits, image.flags) == (np.uint16, 16, ())
    np.testing.assert_array_equal(image.pixels, DEEP)


def test_transparency_is_blended_with_black_and_flagged() -> None:
    alpha = np.full_like(GRAY, 255)
    alpha[:10], alpha[10:20] = 0, 51
    image = read(encode(".png", np.dstack([GRAY, GRAY, GRAY, alpha])))
    assert flag_codes(image) == {"alpha_composited"}
    np.testing.assert_array_equal(image.pixels, np.rint(GRAY * (alpha / 255)))


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_sixteen_are_scaled_and_flagged(bits) -> None:
    stored = xray_pixels(bits)
    image = read(encode(".png", stored))
    assert (image.stored_bits, flag_codes(image)) == (bits, {"assumed_bits"})
    np.testing.assert_array_equal(image.pixels, np.rint(stored * (65535 / ((1 << bits) - 1))))


def test_significant_bits_of_a_png_are_used() -> None:
    stored = xray_pixels(12) // 8
    image = read(with_png_chunk(encode(".png", stored), b"sBIT", b"\x0c"))
    assert image.stored_bits == 12
    np.testing.assert_array_equal(image.pixels, np.rint(stored * (65535 / 4095)))


def test_white_is_zero_tiff_is_inverted() -> None:
    stream = io.BytesIO()
    Pillow.fromarray(GRAY).save(stream, "TIFF")
    plain = stream.getvalue()
    at = plain.index(struct.pack("<HHI", 262, 3, 1))
    image = read(plain[: at + 8] + b"\0\0" + plain[at + 10 :])
    assert flag_codes(image) == {"inverted"}
    np.testing.assert_array_equal(image.pixels, 255 - GRAY)


def test_floating_point_tiff_is_stretched() -> None:
    values = DEEP.astype(np.float32) / 7 - 1000
    image = read(encode(".tiff", values))
    assert (image.pixels.dtype, flag_codes(image)) == (np.uint16, {"float_range"})
    expected = (values.astype(float) - values.min()) * 65535 / (float(values.max()) - values.min())
    assert np.abs(image.pixels - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_orientation(kind, orientation) -> None:
    def exif(value: int) -> Pillow.Exif:
        tags = Pillow.Exif()
        tags[274] = value
        return tags

    plain = pillow_file(GRAY if kind != "WEBP" else rgb(GRAY), kind, **({"lossless": True} if kind == "WEBP" else {}))
    options = {"lossless": True} if kind == "WEBP" else {}
    turned = pillow_file(GRAY if kind != "WEBP" else rgb(GRAY), kind, exif=exif(orientation), **options)
    p = read(plain).pixels
    # EXIF 2.32, tag 274: which edges of the scene the 0th row and the 0th column are.
    upright = {
        1: p, 2: p[:, ::-1], 3: p[::-1, ::-1], 4: p[::-1], 5: p.T, 6: np.rot90(p, -1), 7: p[::-1, ::-1].T, 8: np.rot90(p),
    }[orientation]  # fmt: skip
    image = read(turned)
    np.testing.assert_array_equal(image.pixels, upright)
    assert flag_codes(image) == (set() if orientation == 1 else {"exif_rotated"})
    assert image.pixels.flags.c_contiguous


@pytest.mark.parametrize("name", ["film.png", "film.dcm", "film", "film.JFIF", "film.txt"])
def test_the_format_is_identified_by_content_not_by_name(tmp_path, name) -> None:
    path = tmp_path / name
    path.write_bytes(encode(".jpg", GRAY))
    image = decode(path)
    assert (image.format, image.source) == ("jpeg", str(path))
    path.write_bytes(file_bytes(dataset(xray_pixels(12))))
    assert decode(path).format == "dicom"


# Colour ---------------------------------------------------------------------------------------------------------------


def test_a_colour_photograph_is_rejected() -> None:
    y, x = np.mgrid[:60, :60]
    photo = np.dstack([x * 4, y * 4, 255 - x * 4]).astype(np.uint8)
    for suffix in (".png", ".jpg", ".webp", ".tiff"):
        message = error_message(encode(suffix, photo))
        assert "this is a colour image" in message
        assert "of its pixels are coloured" in message
        assert "Use the X-ray itself, without overlay" in message
    deep = photo.astype(np.uint16) * 257
    assert "this is a colour image" in error_message(encode(".png", deep))


def test_coloured_marks_are_flagged() -> None:
    marked = rgb(GRAY)
    marked[2:5, 2:8] = (0, 0, 255)
    image = read(encode(".png", marked))
    assert flag_codes(image) == {"coloured_marks"}
    np.testing.assert_array_equal(image.pixels[10:], GRAY[10:])


def test_a_tinted_film_is_flagged() -> None:
    tinted = rgb(GRAY // 2 + 40)
    tinted[..., 0] += 15
    assert flag_codes(read(encode(".png", tinted))) == {"tinted"}


# Rejected files -------------------------------------------------------------------------------------------------------------


def test_missing_files_folders_and_special_files_are_rejected(tmp_path) -> None:
    def message(path) -> str:
        with pytest.raises(InputError) as raised:
            decode(path)
        assert str(raised.value).startswith(f"{printable(path)}: ")
        return str(raised.value)

    assert "there is no such file: check the path" in message(tmp_path / "missing.png")
    assert "this is a folder, expected one image file" in message(tmp_path)
    assert "the path is not valid" in message("a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "this is not a regular file" in message(tmp_path / "pipe")


def test_a_file_too_large_for_its_limit_is_not_read(tmp_path) -> None:
    path = tmp_path / "huge.tiff"
    with open(path, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="the file is too large for an image of at most 100,000,000 pixels"):
        decode(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty (0 bytes): copy or export it again"),
        (bytes(500), "the file contains only zero bytes"),
        (b"just some words of text, no image", "the content is not an image in a supported format"),
        (
            b"%PDF-1.7 ...",
            "a PDF document file is not supported: export the image as DICOM, JPEG, PNG, TIFF, WEBP or BMP",
        ),
        (b"PK\x03\x04....", "a ZIP archive"),
        (b"\0\0\0\x1cftypheic", "a HEIC photograph"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a bare JPEG 2000"),
        (b'{"a": 1}', "text (XML, HTML or JSON)"),
        (b"<!DOCTYPE html><html>", "text (XML, HTML or JSON)"),
        (pillow_file(GRAY, "GIF"), "a GIF file is not supported"),
    ],
)
def test_other_content_is_rejected_by_name(data, message) -> None:
    assert message in error_message(data)


def test_several_images_in_one_file_are_rejected() -> None:
    frames = [Pillow.fromarray(rgb(GRAY)), Pillow.fromarray(rgb(255 - GRAY))]
    for kind, message in (
        ("TIFF", "this TIFF contains several pages"),
        ("WEBP", "an animated WEBP contains several images"),
        ("PNG", "an animated PNG contains several images"),
    ):
        stream = io.BytesIO()
        frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
        text = error_message(stream.getvalue())
        assert message in text
        assert "one image per file" in text or "one per file" in text


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_constant_images_are_rejected(suffix) -> None:
    flat = np.full((40, 40, 3), 90, np.uint8)
    assert "all pixels have the same value, the image is empty: check the export" in error_message(encode(suffix, flat))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_rejected(value) -> None:
    values = DEEP.astype(np.float32)
    values[3, 4] = value
    assert "samples that are not finite numbers (NaN or infinity)" in error_message(encode(".tiff", values))


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    # The header gives 60000 x 60000 pixels, and there are no image data.
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    message = error_message(png)
    assert "60000x60000 px exceed the limit of 100,000,000 pixels" in message
    assert "raise the limit (--max-pixels, in Python max_pixels)" in message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_the_pixel_limit_is_exact(suffix) -> None:
    data = encode(suffix, rgb(GRAY))
    assert read(data, limits=Limits(max_pixels=GRAY.size)).pixels.size == GRAY.size
    assert f"41x53 px exceed the limit of {GRAY.size - 1:,} pixels" in error_message(
        data, limits=Limits(max_pixels=GRAY.size - 1)
    )


def test_unusual_layouts_are_rejected() -> None:
    lossless = jpeg_lossless(xray_pixels(12), bits=12)
    assert "a lossless JPEG is supported only inside DICOM" in error_message(lossless)
    signed = bytearray(encode(".tiff", DEEP, cv2.IMWRITE_TIFF_COMPRESSION, 1))
    at = signed.index(struct.pack("<HHI", 339, 3, 1))
    signed[at + 8] = 2
    assert "a TIFF with 16-bit signed samples is not supported" in error_message(bytes(signed))


# Damage ---------------------------------------------------------------------------------------------------------------

COMPLETE = {
    "jpeg": pillow_file(GRAY, "JPEG", quality=95),
    "progressive jpeg": pillow_file(rgb(GRAY), "JPEG", quality=95, progressive=True),
    "png": encode(".png", GRAY),
    "16-bit png": encode(".png", DEEP),
    "tiff": encode(".tiff", GRAY, cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "tiff lzw": encode(".tiff", DEEP, cv2.IMWRITE_TIFF_COMPRESSION, 5),
    "webp": encode(".webp", rgb(GRAY), cv2.IMWRITE_WEBP_QUALITY, 90),
    "lossless webp": encode(".webp", rgb(GRAY), cv2.IMWRITE_WEBP_QUALITY, 101),
    "bmp": encode(".bmp", GRAY),
}


@pytest.mark.parametrize("kind", COMPLETE)
def test_truncated_files_are_rejected(kind) -> None:
    data = COMPLETE[kind]
    read(data)
    lengths = {*np.linspace(0, len(data) - 2, 120).astype(int), *range(0, min(60, len(data) - 1))}
    decoded = []
    for cut in sorted(lengths):
        try:
            read(data[:cut])
        except InputError as error:
            assert "again" in str(error) or "export the image" in str(error)  # noqa: PT017
        else:
            decoded.append(cut)
    assert decoded == []


@pytest.mark.parametrize("kind", COMPLETE)
def test_mutated_files_give_an_image_or_an_input_error(kind) -> None:
    data, rng = COMPLETE[kind], np.random.default_rng(len(kind))
    for _ in range(150):
        mutated = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 5)):
            mutated[at] = rng.integers(0, 256)
        try:
            assert isinstance(read(bytes(mutated), limits=Limits(max_pixels=10_000)), Image)
        except InputError:
            continue


def test_a_truncated_jpeg_with_an_end_marker_is_rejected() -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (200, 160)).astype(np.uint8)
    data = encode(".jpg", noisy)
    for share in (0.3, 0.6, 0.9):
        message = error_message(data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9")
        assert "the JPEG data are damaged or truncated" in message
        assert "premature end of data segment" in message


def test_a_progressive_jpeg_without_its_last_scans_is_rejected() -> None:
    data = COMPLETE["progressive jpeg"]
    last_scan = data.rindex(b"\xff\xda")
    assert "scans of this JPEG are missing" in error_message(
        data[: data.rindex(b"\xff\xda", 0, last_scan)] + b"\xff\xd9"
    )


def test_a_wrong_png_checksum_is_rejected() -> None:
    data = bytearray(COMPLETE["png"])
    data[data.index(b"IDAT") + 20] ^= 1
    assert "a checksum in this PNG does not match" in error_message(bytes(data))


def test_nothing_is_printed_to_stderr(capfd) -> None:
    for kind in ("jpeg", "png", "tiff", "webp"):
        data = COMPLETE[kind]
        error_message(data[: len(data) // 2])
    assert capfd.readouterr() == ("", "")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_limits_by_name_as_version_0_1_had_them(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    file.write_bytes(encode(".png", GRAY))
    assert decode(file, max_pixels=GRAY.size).pixels.size == GRAY.size
    with pytest.raises(InputError, match="exceed the limit"):
        decode(file, max_pixels=GRAY.size - 1)
    with pytest.raises(InputError, match="side"):
        decode_bytes(file.read_bytes(), source="x", min_side_px=max(GRAY.shape) + 1)
