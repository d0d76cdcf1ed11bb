"""TIFF layouts: files written by tifffile and Pillow are decoded exactly, or rejected by the unsupported tag."""

from __future__ import annotations

import io
import itertools
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from cxr_edge.records import Image
from tests.builders.dicom_files import xray_pixels
from tests.decoding.results import error_message, flag_codes, read

ROWS, COLUMNS = 75, 53  # no multiples of a tile
GRAY = xray_pixels(8, rows=ROWS, columns=COLUMNS).astype(np.uint8)
DEEP = xray_pixels(16, rows=ROWS, columns=COLUMNS)
LOSSLESS = [None, "lzw", "zlib", "packbits", "zstd", "lzma"]


def tiff_file(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    options.setdefault("photometric", "rgb" if pixels.ndim == 3 and pixels.shape[-1] in (3, 4) else "minisblack")
    tifffile.imwrite(stream, pixels, metadata=None, **options)
    return stream.getvalue()


def with_value(data: bytes, tag: int, value: int, *, order: str = "<") -> bytes:
    """Return the classic TIFF with the first word of one tag's inline value changed."""
    at = struct.unpack_from(order + "I", data, 4)[0]
    for start in range(at + 2, at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0], 12):
        found, kind = struct.unpack_from(order + "HH", data, start)
        if found == tag:
            changed = bytearray(data)
            struct.pack_into(order + ("H" if kind == 3 else "I"), changed, start + 8, value)
            return bytes(changed)
    raise AssertionError(f"no tag {tag}")


# Pixels -----------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": ROWS},
    "tiles": {"tile": (32, 16)},
}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", LOSSLESS)
def test_gray_of_every_layout(compression, layout, bigtiff, byteorder) -> None:
    for pixels, predictor in itertools.product((GRAY, DEEP), (False, True)):
        if predictor and compression not in ("lzw", "zlib", "zstd", "lzma"):
            continue
        data = tiff_file(
            pixels,
            compression=compression,
            predictor=predictor,
            bigtiff=bigtiff,
            byteorder=byteorder,
            **LAYOUTS[layout],
        )
        image = read(data)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.flags == ()


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", LOSSLESS)
def test_gray_stored_as_colour(compression, layout, planar, byteorder) -> None:
    for pixels in (GRAY, DEEP):
        colour = np.stack([pixels] * 3, axis=0 if planar == "separate" else -1)
        data = tiff_file(
            colour,
            photometric="rgb",
            planarconfig=planar,
            compression=compression,
            byteorder=byteorder,
            **LAYOUTS[layout],
        )
        np.testing.assert_array_equal(read(data).pixels, pixels)


ALPHA = np.full((ROWS, COLUMNS), 255, np.uint8)
ALPHA[:20], ALPHA[20:40] = 0, 128


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("deep", [False, True])
def test_alpha(layout, planar, colours, deep) -> None:
    pixels, alpha = (DEEP, ALPHA.astype(np.uint16) * 257) if deep else (GRAY, ALPHA)
    photometric = "minisblack" if colours == 1 else "rgb"
    full = np.iinfo(pixels.dtype).max
    laid = np.rint(pixels * (alpha / full)).astype(pixels.dtype)

    def image(gray: np.ndarray, a: np.ndarray, meaning: str) -> Image:
        stacked = np.stack([gray] * colours + [a], axis=0 if planar == "separate" else -1)
        return read(
            tiff_file(stacked, photometric=photometric, planarconfig=planar, extrasamples=[meaning], **LAYOUTS[layout])
        )

    straight = image(pixels, alpha, "unassalpha")
    np.testing.assert_array_equal(straight.pixels, laid)
    assert flag_codes(straight) == {"alpha_composited"}
    premultiplied = image(laid, alpha, "assocalpha")
    np.testing.assert_array_equal(premultiplied.pixels, laid)
    assert flag_codes(premultiplied) == {"alpha_composited"}
    opaque = image(pixels, np.full_like(alpha, full), "unassalpha")
    np.testing.assert_array_equal(opaque.pixels, pixels)
    assert flag_codes(opaque) == set()
    unknown = image(pixels, alpha, "unspecified")
    np.testing.assert_array_equal(unknown.pixels, pixels)
    assert flag_codes(unknown) == {"extra_sample_ignored"}


def packed_tiff(values: np.ndarray, bits: int, *, order: str = "<", fill: int = 1) -> bytes:
    """Return a one-strip TIFF of samples packed bit by bit, each row from a byte's start (TIFF 6.0 section 3)."""
    rows = [np.unpackbits(row.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :].ravel() for row in values]
    data = b"".join(np.packbits(row).tobytes() for row in rows)
    if fill == 2:
        data = np.packbits(np.unpackbits(np.frombuffer(data, np.uint8)), bitorder="little").tobytes()
    tags = [
        (256, values.shape[1]), (257, values.shape[0]), (258, bits), (259, 1), (262, 1), (266, fill),
        (273, 8), (277, 1), (278, values.shape[0]), (279, len(data)),
    ]  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(data) + len(data) % 2)
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    return head + data + bytes(len(data) % 2) + struct.pack(order + "H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("fill", [1, 2])
@pytest.mark.parametrize("bits", [1, 2, 4, 10, 12, 14])
def test_packed_bits(bits, fill) -> None:
    values = xray_pixels(16, rows=ROWS, columns=COLUMNS) >> (16 - bits)
    image = read(packed_tiff(values, bits, fill=fill))
    top = 255 if bits <= 8 else 65535
    assert (image.stored_bits, image.flags) == (bits, ())
    np.testing.assert_array_equal(image.pixels, np.rint(values * (top / ((1 << bits) - 1))))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("compression", "predictor"), [(None, False), ("zlib", False), ("zlib", True)])
def test_floating_point_gray(dtype, compression, predictor) -> None:
    values = (DEEP / 65535 * 50 - 20).astype(dtype)
    image = read(tiff_file(values, compression=compression, predictor=3 if predictor else False))
    plain = values.astype(float)
    expected = (plain - plain.min()) * 65535 / (plain.max() - plain.min())
    assert np.abs(image.pixels - expected).max() <= 1
    assert flag_codes(image) == {"float_range"}


def test_white_is_zero_and_orientation_together() -> None:
    data = tiff_file(DEEP, photometric="miniswhite", extratags=[(274, 3, 1, 6, True)])
    image = read(data)
    np.testing.assert_array_equal(image.pixels, np.rot90(65535 - DEEP, -1))
    assert flag_codes(image) == {"inverted", "exif_rotated"}


def test_orientation_in_xmp() -> None:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    image = read(tiff_file(GRAY, extratags=[(700, 1, len(packet), packet, True)]))
    np.testing.assert_array_equal(image.pixels, np.rot90(GRAY))
    assert flag_codes(image) == {"exif_rotated"}


def test_palette() -> None:
    table = np.stack([np.linspace(0, 65535, 256).astype(np.uint16)] * 3)
    inverse = table[:, ::-1]
    np.testing.assert_array_equal(read(tiff_file(GRAY, photometric="palette", colormap=table)).pixels, GRAY)
    np.testing.assert_array_equal(read(tiff_file(GRAY, photometric="palette", colormap=inverse)).pixels, 255 - GRAY)


@pytest.mark.parametrize("layout", ["strips", "one strip", "tiles"])
@pytest.mark.parametrize("colours", [1, 3])
def test_jpeg_in_tiff(layout, colours) -> None:
    pixels = GRAY if colours == 1 else np.dstack([GRAY] * 3)
    options = {"rowsperstrip": 16} if layout == "strips" else LAYOUTS[layout]
    image = read(tiff_file(pixels, compression="jpeg", compressionargs={"level": 95}, **options))
    assert np.abs(image.pixels.astype(int) - GRAY).max() <= 12
    stream = io.BytesIO()
    Pillow.fromarray(pixels).save(stream, "TIFF", compression="jpeg", quality=95)  # tables in a tag of their own
    assert np.abs(read(stream.getvalue()).pixels.astype(int) - GRAY).max() <= 12


def test_webp_in_tiff() -> None:
    data = tiff_file(np.dstack([GRAY] * 3), compression="webp", compressionargs={"lossless": True}, **LAYOUTS["tiles"])
    np.testing.assert_array_equal(read(data).pixels, GRAY)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "1", "I;16"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_files_of_another_writer(mode, compression) -> None:
    if mode == "I;16":
        source, expected = Pillow.fromarray(DEEP), DEEP
    else:
        source = Pillow.fromarray(GRAY).convert(mode)
        expected = np.asarray(source.convert("L"))
    stream = io.BytesIO()
    source.save(stream, "TIFF", compression=compression)
    np.testing.assert_array_equal(read(stream.getvalue()).pixels, expected)


def test_reduced_copies_and_previews_are_ignored() -> None:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(DEEP, photometric="minisblack", metadata=None)
        writer.write(DEEP[::2, ::2], photometric="minisblack", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read(stream.getvalue()).pixels, DEEP)


def test_pixels_that_are_not_square_are_flagged() -> None:
    assert flag_codes(read(tiff_file(GRAY, resolution=(204, 98)))) == {"pixel_aspect"}
    assert flag_codes(read(tiff_file(GRAY, resolution=(204, 204)))) == set()


# Rejected by tag --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        (259, 50002, "compression 50002 (JPEG XL) is not supported: save it with LZW, deflate or none"),
        (259, 6, "compression 6 (old-style JPEG)"),
        (259, 4, "compression 4 (CCITT fax 4)"),
        (259, 12345, "compression 12345 (an unknown one)"),
        (262, 5, "photometric interpretation 5 (CMYK) is not supported: save it as gray"),
        (262, 6, "photometric interpretation 6 (YCbCr without JPEG)"),
        (262, 32803, "photometric interpretation 32803 (camera raw)"),
        (258, 32, "a TIFF with 32-bit unsigned samples is not supported"),
        (258, 7, "a TIFF with 7-bit unsigned samples"),
        (277, 5, "a TIFF with 5 samples per pixel is not supported"),
        (256, 0, "the TIFF gives a size of 0x75 px"),
        (278, 0, "in segments of 53x0"),
    ],
)
def test_unsupported_layouts_are_rejected_by_their_tag(tag, value, message) -> None:
    text = error_message(with_value(tiff_file(DEEP, rowsperstrip=ROWS), tag, value))
    assert message in text
    if tag in (259, 262, 258, 277):
        assert "damaged" not in text


def test_floating_point_and_unequal_samples() -> None:
    colour = np.dstack([DEEP] * 3).astype(np.float64)
    assert "floating-point colour is not supported" in error_message(tiff_file(colour))
    assert "a TIFF with 16-bit signed samples" in error_message(tiff_file(DEEP.astype(np.int16)))
    assert "complex or unknown" in error_message(tiff_file(DEEP.astype(np.complex64)))
    signed_colour = np.dstack([GRAY // 2] * 3).astype(np.int8)
    assert "a TIFF with 8-bit signed samples" in error_message(tiff_file(signed_colour, photometric="rgb"))


def test_volumes_and_pages_are_rejected() -> None:
    assert "several pages" in error_message(tiff_file(np.stack([GRAY, GRAY])))
    assert "volume of 2 layers" in error_message(tiff_file(np.stack([GRAY, GRAY]), volumetric=True))


def test_a_tag_that_occurs_twice_is_rejected() -> None:
    data = bytearray(tiff_file(GRAY))
    at = struct.unpack_from("<I", data, 4)[0]
    tags = [struct.unpack_from("<H", data, at + 2 + 12 * i)[0] for i in range(struct.unpack_from("<H", data, at)[0])]
    data[at + 2 + 12 * tags.index(257) : at + 2 + 12 * tags.index(257) + 2] = struct.pack("<H", 256)
    assert "tag 256 occurs twice" in error_message(bytes(data))


def test_cyclic_directories_are_rejected() -> None:
    data = bytearray(tiff_file(GRAY))
    at = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, at)[0]
    struct.pack_into("<I", data, at + 2 + 12 * count, at)
    assert "form a cycle" in error_message(bytes(data))


@pytest.mark.parametrize("offset", [2**31, 2**32 - 1])
def test_offsets_beyond_the_file(offset) -> None:
    assert "the file ends before the end of its image" in error_message(
        tiff_file(GRAY)[:4] + struct.pack("<I", offset) + bytes(200)
    )


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 2**64 - 16, 2**62])
def test_offsets_of_64_bits_beyond_the_file(offset) -> None:
    data = bytearray(tiff_file(GRAY, bigtiff=True))
    struct.pack_into("<Q", data, 8, offset)
    assert "the file ends before the end of its image" in error_message(bytes(data))
    data = bytearray(tiff_file(GRAY, bigtiff=True))
    at = struct.unpack_from("<Q", data, 8)[0]
    struct.pack_into("<Q", data, at, offset)
    error_message(bytes(data))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", [*LOSSLESS, "jpeg"])
def test_a_truncated_segment_is_rejected(compression, layout) -> None:
    """The byte count of a segment is smaller than its data."""
    options = {"rowsperstrip": 16} if layout == "strips" else LAYOUTS[layout]
    whole = tiff_file(GRAY, compression=compression, **options)
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        page = file.pages[0]
        tag = page.tags[325 if layout == "tiles" else 279]
        offset, kind, count = tag.valueoffset, tag.dtype, tag.count
        sizes = page.databytecounts
    changed = bytearray(whole)
    code = {3: "H", 4: "I"}[int(kind)]
    struct.pack_into("<" + code, changed, offset + (count - 1) * struct.calcsize(code), sizes[-1] // 2)
    error_message(bytes(changed))
