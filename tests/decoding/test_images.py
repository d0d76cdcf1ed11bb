"""Metadata and damage of JPEG, PNG, WEBP and BMP: orientation in every form, transparency, truncation, decoder warnings."""

from __future__ import annotations

import io
import logging
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cxr_edge.decoding.limits import Limits
from tests.builders.dicom_files import xray_pixels
from tests.decoding.image_files import pillow_file
from tests.decoding.results import error_message, flag_codes, read
from tests.fuzz.image_seeds import png_chunk

GRAY = xray_pixels(8, rows=75, columns=53).astype(np.uint8)
DEEP = xray_pixels(16, rows=75, columns=53)
TURNED = {3: GRAY[::-1, ::-1], 6: np.rot90(GRAY, -1), 8: np.rot90(GRAY)}


# Blocks of metadata -----------------------------------------------------------------------------------------------------


def exif(orientation: int | None, *, order: str = "<", kind: int = 3) -> bytes:
    """Return a TIFF directory with the orientation, or only with the vendor."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    if orientation is None:
        return head + struct.pack(order + "HHHI", 1, 271, 2, 4) + b"abc\0" + bytes(4)
    value = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], orientation).ljust(4, b"\0")
    return head + struct.pack(order + "HHHI", 1, 274, kind, 1) + value + bytes(4)


def xmp(orientation: int, *, element: bool = False) -> bytes:
    inside = (
        f"><tiff:Orientation>{orientation}</tiff:Orientation>" if element else f' tiff:Orientation="{orientation}">'
    )
    return f"<x:xmpmeta><rdf:RDF><rdf:Description{inside}</rdf:Description></rdf:RDF></x:xmpmeta>".encode()


def profile(block: bytes, name: str = "exif") -> bytes:
    """Return ImageMagick's text form: name, length, hexadecimal digits in lines of 72."""
    digits = block.hex()
    lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
    return f"\n{name}\n{len(block):8d}\n{lines}\n".encode()


def png_with(kind: bytes, body: bytes, data: bytes | None = None) -> bytes:
    data = data or pillow_file(GRAY, "PNG")
    return data[:33] + png_chunk(kind, body) + data[33:]


def jpeg_with(*segments: bytes) -> bytes:
    data = pillow_file(GRAY, "JPEG", quality=98)
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments) + data[2:]


def webp_with(kind: bytes, body: bytes) -> bytes:
    plain = pillow_file(np.dstack([GRAY] * 3), "WEBP", lossless=True)
    flags = {b"EXIF": 8, b"XMP ": 4}[kind]
    size = (GRAY.shape[1] - 1).to_bytes(3, "little") + (GRAY.shape[0] - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + size
    extra = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    riff = b"WEBP" + extended + plain[12:] + extra
    return b"RIFF" + struct.pack("<I", len(riff)) + riff


TEXT = b"Raw profile type exif\0"
XMP_KEY = b"XML:com.adobe.xmp\0"
APP1 = b"http://ns.adobe.com/xap/1.0/\0"
ORIENTED = {
    "png eXIf": png_with(b"eXIf", exif(6)),
    "png eXIf, big endian": png_with(b"eXIf", exif(6, order=">")),
    "png eXIf, long": png_with(b"eXIf", exif(6, kind=4)),
    "png eXIf, byte": png_with(b"eXIf", exif(6, kind=1)),
    "png eXIf with prefix": png_with(b"eXIf", b"Exif\0\0" + exif(6)),
    "png tEXt profile": png_with(b"tEXt", TEXT + profile(exif(6))),
    "png zTXt profile": png_with(b"zTXt", TEXT + b"\0" + zlib.compress(profile(exif(6)))),
    "png iTXt profile": png_with(b"iTXt", TEXT + b"\0\0\0\0" + profile(exif(6))),
    "png zTXt profile with prefix": png_with(b"zTXt", TEXT + b"\0" + zlib.compress(profile(b"Exif\0\0" + exif(6)))),
    "png zTXt APP1 profile": png_with(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(profile(exif(6), "APP1"))),
    "png zTXt XMP profile": png_with(b"zTXt", b"Raw profile type xmp\0\0" + zlib.compress(profile(xmp(6), "xmp"))),
    "png iTXt XMP": png_with(b"iTXt", XMP_KEY + b"\0\0\0\0" + xmp(6)),
    "png iTXt XMP, element": png_with(b"iTXt", XMP_KEY + b"\0\0\0\0" + xmp(6, element=True)),
    "png iTXt XMP, compressed": png_with(b"iTXt", XMP_KEY + b"\1\0en\0\0" + zlib.compress(xmp(6))),
    "png eXIf before XMP": png_with(b"iTXt", XMP_KEY + b"\0\0\0\0" + xmp(3), png_with(b"eXIf", exif(6))),
    "png eXIf without orientation, then XMP": png_with(
        b"iTXt", XMP_KEY + b"\0\0\0\0" + xmp(6), png_with(b"eXIf", exif(None))
    ),
    "jpeg EXIF": jpeg_with(b"Exif\0\0" + exif(6)),
    "jpeg EXIF twice, the second without": jpeg_with(b"Exif\0\0" + exif(6), b"Exif\0\0" + exif(None)),
    "jpeg EXIF twice, the first without": jpeg_with(b"Exif\0\0" + exif(None), b"Exif\0\0" + exif(6)),
    "jpeg EXIF twice, both": jpeg_with(b"Exif\0\0" + exif(6), b"Exif\0\0" + exif(3)),
    "jpeg XMP": jpeg_with(APP1 + xmp(6)),
    "jpeg XMP before EXIF without": jpeg_with(APP1 + xmp(6), b"Exif\0\0" + exif(None)),
    "jpeg XMP before EXIF": jpeg_with(APP1 + xmp(3), b"Exif\0\0" + exif(6)),
    "webp EXIF": webp_with(b"EXIF", exif(6)),
    "webp EXIF with prefix": webp_with(b"EXIF", b"Exif\0\0" + exif(6)),
    "webp XMP": webp_with(b"XMP ", xmp(6)),
}


@pytest.mark.parametrize("kind", ORIENTED)
def test_orientation_in_every_kind_of_block(kind) -> None:
    image = read(ORIENTED[kind])
    assert flag_codes(image) == {"exif_rotated"}
    assert np.abs(image.pixels.astype(int) - TURNED[6]).max() <= (8 if kind.startswith("jpeg") else 0)


DAMAGED_BLOCKS = [
    b"", b"II*\0", b"II*\0\xff\xff\xff\xff", exif(6)[:15], exif(9), exif(0), exif(6).replace(b"II*", b"II+"), bytes(60),
    b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
]  # fmt: skip


@pytest.mark.parametrize("block", DAMAGED_BLOCKS, ids=range(len(DAMAGED_BLOCKS)))
def test_an_invalid_block_is_ignored(block) -> None:
    for data in (
        png_with(b"eXIf", block),
        png_with(b"zTXt", TEXT + b"\0" + zlib.compress(profile(block))),
        png_with(b"zTXt", TEXT + b"\0" + block),
        png_with(b"iTXt", XMP_KEY + b"\1\0\0\0" + block),
        png_with(b"iTXt", XMP_KEY),
        png_with(b"tEXt", TEXT + b"\nexif\n  9\nzz"),
        webp_with(b"EXIF", block),
    ):
        image = read(data)
        assert image.flags == ()
        np.testing.assert_array_equal(image.pixels, GRAY)
    assert read(jpeg_with(b"Exif\0\0" + block)).flags == ()


# Transparency -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_gray_value(bits) -> None:
    values = xray_pixels(16, rows=75, columns=53) >> (16 - bits)
    named = int(np.median(values))
    data = png_with(b"tRNS", struct.pack(">H", named), gray_png(values, bits))
    image = read(data)
    top = 65535 if bits == 16 else 255
    expected = np.rint(np.where(values == named, 0, values) * (top / ((1 << bits) - 1)))
    np.testing.assert_array_equal(image.pixels, expected)
    assert flag_codes(image) == {"alpha_composited"}
    assert "transparent" in image.flags[0].message
    unused = next(v for v in range(1 << bits) if not (values == v).any()) if bits > 4 else None
    if unused is not None:
        assert read(png_with(b"tRNS", struct.pack(">H", unused), gray_png(values, bits))).flags == ()


def gray_png(values: np.ndarray, bits: int) -> bytes:
    rows = []
    for row in values:
        bit_values = np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :].ravel()
        rows.append(b"\0" + np.packbits(bit_values).tobytes())
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + png_chunk(b"IEND", b"")
    )


def test_transparency_of_palettes_and_colours() -> None:
    source = Pillow.fromarray(GRAY).quantize(16)
    plain = np.asarray(source.convert("L"))
    stream = io.BytesIO()
    source.save(stream, "PNG", transparency=3)
    image = read(stream.getvalue())
    np.testing.assert_array_equal(image.pixels, np.where(np.asarray(source) == 3, 0, plain))
    assert flag_codes(image) == {"alpha_composited"}
    value = int(np.median(GRAY))
    image = read(pillow_file(np.dstack([GRAY] * 3), "PNG", transparency=(value, value, value)))
    np.testing.assert_array_equal(image.pixels, np.where(value == GRAY, 0, GRAY))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_of_png(mode) -> None:
    source = Pillow.fromarray(GRAY).convert(mode)
    alpha = np.full_like(GRAY, 255)
    alpha[:20], alpha[20:40] = 0, 100
    source.putalpha(Pillow.fromarray(alpha))
    stream = io.BytesIO()
    source.save(stream, "PNG")
    image = read(stream.getvalue())
    np.testing.assert_array_equal(image.pixels, np.rint(GRAY * (alpha / 255)))
    assert flag_codes(image) == {"alpha_composited"}


def test_the_fourth_byte_of_a_bmp_is_not_alpha() -> None:
    rows = np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])[::-1].tobytes()
    header = struct.pack(
        "<2sIHHIIiiHHIIiiII", b"BM", 54 + len(rows), 0, 0, 54, 40, 53, 75, 1, 32, 0, len(rows), 0, 0, 0, 0
    )
    image = read(header + rows)
    np.testing.assert_array_equal(image.pixels, GRAY)
    assert image.flags == ()


# Damage and warnings -----------------------------------------------------------------------------------------------------


def letterbox_jpeg(rows: int, value: int) -> bytes:
    band = np.full((rows, GRAY.shape[1]), value, np.uint8)
    return pillow_file(np.vstack([GRAY, band]), "JPEG", quality=98)


@pytest.mark.parametrize("rows", [1, 8, 40, 200])
@pytest.mark.parametrize("value", [128, 0, 255])
def test_a_band_of_one_gray_is_not_rejected_as_truncated(rows, value) -> None:
    image = read(letterbox_jpeg(rows, value))
    assert image.flags == ()
    assert np.abs(image.pixels[:75].astype(int) - GRAY).max() <= 12
    assert np.abs(image.pixels[80:].astype(int) - value).max(initial=0) <= 12


def test_truncation_inside_the_band_is_rejected() -> None:
    data = letterbox_jpeg(200, 128)
    scan = data.index(b"\xff\xda")
    for keep in range(scan + 20, len(data) - 8, max(1, (len(data) - scan) // 25)):
        assert "damaged or truncated" in error_message(data[:keep].rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_a_truncated_jpeg_with_an_end_marker_is_rejected(options) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (200, 160)).astype(np.uint8)
    data = pillow_file(noisy, "JPEG", quality=90, **options)
    for share in (0.3, 0.6, 0.9, 0.98):
        error_message(data[: int(len(data) * share)].rstrip(b"\xff") + b"\xff\xd9")


def test_stray_bytes_before_the_end_marker_are_flagged() -> None:
    data = pillow_file(GRAY, "JPEG", quality=95)
    image = read(data[:-2] + b"abc" + data[-2:])
    assert flag_codes(image) == {"jpeg_stray_bytes"}
    np.testing.assert_array_equal(image.pixels, read(data).pixels)
    assert "damaged or truncated" in error_message(data[:-2] + b"abc" * 40 + data[-2:])
    assert read(data + b"trailing" * 10).flags == ()


def test_stray_bytes_between_header_segments_are_flagged() -> None:
    for mode in ("L", "RGB"):
        data = pillow_file(GRAY, "JPEG", mode, quality=95)
        tables = data.index(b"\xff\xdb")
        image = read(data[:tables] + b"stray bytes of a bad editor" + data[tables:])
        assert flag_codes(image) == {"jpeg_stray_bytes"}
        assert "contains 27 stray bytes between its header segments" in image.flags[0].message
        np.testing.assert_array_equal(image.pixels, read(data).pixels)
        cut = data[: len(data) * 3 // 4].rstrip(b"\xff") + b"\xff\xd9"
        assert "damaged or truncated" in error_message(cut[:tables] + b"stray" + cut[tables:])


def test_metadata_with_libjpeg_warnings_are_ignored() -> None:
    data = pillow_file(GRAY, "JPEG", quality=95)
    profile_twice = b"\xff\xe2\0\x14ICC_PROFILE\0\x01\x01abcd" * 2
    image = read(data[:2] + profile_twice + data[2:])
    assert image.flags == ()
    version = data.index(b"JFIF\0") + 5
    image = read(data[:version] + b"\x07" + data[version + 1 :])  # an unknown revision of JFIF
    assert image.flags == ()
    np.testing.assert_array_equal(image.pixels, read(data).pixels)


def test_a_png_with_more_data_than_its_image_needs() -> None:
    data = pillow_file(GRAY, "PNG")
    at = data.index(b"IDAT")
    length = struct.unpack_from(">I", data, at - 4)[0]
    rows = zlib.decompress(data[at + 4 : at + 4 + length])
    for body in (zlib.compress(rows + bytes(500)), data[at + 4 : at + 4 + length] + b"after the stream"):
        longer = data[: at - 4] + png_chunk(b"IDAT", body) + data[at + 8 + length :]
        image = read(longer)
        np.testing.assert_array_equal(image.pixels, GRAY)
        assert image.flags == ()


def test_pixels_that_are_not_square_are_flagged() -> None:
    assert flag_codes(read(pillow_file(GRAY, "JPEG", dpi=(100, 200)))) == {"pixel_aspect"}
    assert flag_codes(read(pillow_file(GRAY, "PNG", dpi=(100, 200)))) == {"pixel_aspect"}
    assert read(pillow_file(GRAY, "JPEG", dpi=(300, 300))).flags == ()
    assert read(pillow_file(GRAY, "PNG", dpi=(300, 300))).flags == ()


@pytest.mark.parametrize("size", [(2, 2), (1, 400), (31, 500), (500, 31)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_small_images_are_rejected(kind, size) -> None:
    small = cv2.resize(GRAY, size[::-1])
    data = pillow_file(np.dstack([small] * 3), kind)
    assert f"{size[1]}x{size[0]} px are too small: each side must have at least 32 px" in error_message(data)
    if min(size) > 1:
        assert read(data, limits=Limits(min_side_px=2)).pixels.shape == size


def test_png_headers() -> None:
    data = pillow_file(GRAY, "PNG")
    header = data[8:33]
    assert "the PNG contains two IHDR chunks" in error_message(data[:33] + header + data[33:])
    assert "does not begin with its IHDR chunk" in error_message(data[:8] + png_chunk(b"tEXt", b"a\0b") + data[8:])
    for colour, bits in ((1, 8), (2, 4), (0, 3), (3, 16), (7, 8)):
        changed = data[:16] + data[16:24] + bytes([bits, colour]) + data[26:29]
        changed += struct.pack(">I", zlib.crc32(changed[12:29])) + data[33:]
        assert f"colour type {colour} with {bits} bits" in error_message(changed)


def test_libpng_warnings_are_captured(capfd, caplog) -> None:
    data = pillow_file(DEEP, "PNG")
    at = data.index(b"IDAT")
    length = struct.unpack_from(">I", data, at - 4)[0]
    body = bytearray(data[at + 4 : at + 4 + length])
    body[-1] ^= 1  # the checksum of the inflated data
    wrong_sum = data[: at - 4] + png_chunk(b"IDAT", bytes(body)) + data[at + 8 + length :]
    assert "IDAT: incorrect data check" in error_message(wrong_sum)
    short = data[: at - 4] + png_chunk(b"IDAT", bytes(body[: length // 2])) + data[at + 8 + length :]
    assert "Not enough image data" in error_message(short)
    bad_transparency = png_with(b"tRNS", b"\0" * 7, data)
    np.testing.assert_array_equal(read(bad_transparency).pixels, DEEP)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    with caplog.at_level(logging.WARNING):
        logging.getLogger("imagecodecs").warning("elsewhere")  # other users of the package keep theirs
    assert [r.getMessage() for r in caplog.records] == ["elsewhere"]


def test_webp_headers() -> None:
    data = webp_with(b"EXIF", exif(1))
    canvas = data.index(b"VP8X") + 12
    wrong = data[:canvas] + b"\xff\xff\x00" + data[canvas + 3 :]
    assert "no image of the size in its header" in error_message(wrong)
    plain = pillow_file(np.dstack([GRAY] * 3), "WEBP", lossless=True)
    twice = plain[12:] * 2
    assert "two images" in error_message(b"RIFF" + struct.pack("<I", 4 + len(twice)) + b"WEBP" + twice)
    none = b"VP8X" + struct.pack("<I", 10) + bytes(10)
    assert "no image" in error_message(b"RIFF" + struct.pack("<I", 4 + len(none)) + b"WEBP" + none)


def test_a_jpeg_of_many_scans_or_segments_is_rejected() -> None:
    data = pillow_file(GRAY, "JPEG", progressive=True)
    end = data.rindex(b"\xff\xda")
    assert "more than 64 scans" in error_message(data[:end] + data[end:-2] * 64 + data[-2:])
    comment = b"\xff\xfe\0\x02"
    assert "more than 20,000 segments" in error_message(data[:2] + comment * 20_001 + data[2:])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_jpegs_of_other_colour_spaces(mode) -> None:
    data = pillow_file(np.dstack([GRAY] * 3), "JPEG", mode, quality=98)
    assert np.abs(read(data).pixels.astype(int) - GRAY).max() <= 12
    cut = data[: len(data) // 2].rstrip(b"\xff") + b"\xff\xd9"
    assert "damaged or truncated" in error_message(cut)


def test_results_in_row_bands_equal_those_of_full_arrays() -> None:
    """Image sizes around the height of a band."""
    for rows in (33, 64, 257):
        deep = xray_pixels(16, rows=rows, columns=2050)
        stream = io.BytesIO()
        tifffile.imwrite(stream, np.dstack([deep] * 3), photometric="rgb", metadata=None)
        np.testing.assert_array_equal(read(stream.getvalue()).pixels, deep)
