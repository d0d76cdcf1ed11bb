"""Seed files of all formats except DICOM: small synthetic images in every layout that the decoders distinguish.

`Seed`s of JPEG, PNG, TIFF, WEBP and BMP. They exist so that mutations start from files that decode, in
every branch of every header parser. Images have 40x48 px: small files are mutated and decoded quickly.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from tests.builders.dicom_files import xray_pixels

ROWS, COLUMNS = 48, 40
DEEP = xray_pixels(16, rows=ROWS, columns=COLUMNS)
GRAY = (DEEP >> 8).astype(np.uint8)
RGB = np.dstack([GRAY] * 3)
ALPHA = np.where(np.arange(COLUMNS) < 20, 255, 90).astype(np.uint8) * np.ones((ROWS, 1), np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A file to mutate."""

    format: str  # as in `Image.format`
    name: str  # layout
    data: bytes
    unpacked: bool = False  # the data set (DICOM) or pixel data (PNG) are inflated for mutations; to be deflated last


def jpeg_seeds() -> Iterator[Seed]:
    """Baseline, progressive, restart intervals, subsampling, EXIF, XMP, APP segments, arithmetic coding, 12 bits."""
    options: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
        "gray": (GRAY, {}),
        "colour 420": (RGB, {"subsampling": 2}),
        "colour 444 rgb": (RGB, {"subsampling": 0, "keep_rgb": True}),
        "progressive": (RGB, {"progressive": True}),
        "gray progressive": (GRAY, {"progressive": True}),
        "restart": (GRAY, {"restart_marker_blocks": 3}),
        "exif": (GRAY, {"exif": exif(6)}),
        "big endian exif": (GRAY, {"exif": b"Exif\0\0" + exif(8, order=">")[6:]}),
        "xmp": (GRAY, {"xmp": XMP}),
        "icc and comment": (GRAY, {"icc_profile": b"\0" * 200, "comment": b"remark"}),
    }
    for name, (pixels, extra) in options.items():
        yield Seed(format="jpeg", name=name, data=_pillow(pixels, "JPEG", quality=85, **extra))
    yield Seed(format="jpeg", name="12 bits", data=imagecodecs.jpeg8_encode(DEEP >> 4, bitspersample=12))
    yield Seed(format="jpeg", name="cmyk", data=_pillow(np.dstack([RGB, ALPHA]), "JPEG", mode="CMYK"))


def png_seeds() -> Iterator[Seed]:
    """Each layout, as encoded and with its pixel data inflated."""
    for name, data in _png_layouts():
        yield Seed(format="png", name=name, data=data)
        yield Seed(format="png", name=f"{name}, inflated", data=_inflate(data), unpacked=True)


def _inflate(data: bytes) -> bytes:
    """Return the PNG with all its pixel data inflated in one chunk."""
    parts = list(png_parts(data))
    raw = zlib.decompress(b"".join(body for kind, body in parts if kind == b"IDAT"))
    first = next(i for i, (kind, _) in enumerate(parts) if kind == b"IDAT")
    parts = [*parts[:first], (b"IDAT", raw), *(part for part in parts[first:] if part[0] != b"IDAT")]
    return data[:8] + b"".join(png_chunk(kind, body) for kind, body in parts)


def png_parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (type, body) of each chunk, up to the first with a length beyond the file."""
    at = 8
    while at + 12 <= len(data) and (end := at + 12 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
        yield data[at + 4 : at + 8], data[at + 8 : end - 4]
        at = end


def _png_layouts() -> Iterator[tuple[str, bytes]]:
    """1 to 16 bits, palette, alpha, interlace, transparency, and the chunks with text, EXIF and profiles."""
    for bits in (1, 2, 4, 8, 16):
        yield f"gray {bits}", png(DEEP >> (16 - bits), bits=bits)
        yield f"interlaced {bits}", _interlaced(DEEP >> (16 - bits), bits)
    for name, pixels in {"rgb": RGB, "rgba": np.dstack([RGB, ALPHA]), "rgb16": np.dstack([DEEP] * 3)}.items():
        yield name, cv2.imencode(".png", pixels)[1].tobytes()
    deep_alpha = np.dstack([DEEP] * 3 + [ALPHA.astype(np.uint16) * 257])
    yield "rgba16", cv2.imencode(".png", deep_alpha)[1].tobytes()
    yield "gray alpha", _pillow(np.dstack([GRAY, ALPHA]), "PNG", mode="LA")
    yield "palette", _palette()
    yield "palette trns", _palette(transparency=3)
    text = PngInfo()
    text.add_text("Comment", "remark " * 9)
    text.add_text("Raw profile type exif", _raw_profile(exif(6)), zip=True)
    text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
    yield "text", _pillow(GRAY, "PNG", pnginfo=text)
    yield "exif", _pillow(GRAY, "PNG", exif=exif(6)[6:], icc_profile=b"\0" * 150)
    chunks = (
        (b"sBIT", b"\x0c"),
        (b"tRNS", b"\0\7"),
        (b"pHYs", struct.pack(">IIB", 2, 1, 0)),
        (b"gAMA", b"\0\0\xb1\x8f"),
    )
    for kind, body in chunks:
        yield kind.decode(), png(DEEP, bits=16, chunks=((kind, body),))


def png(pixels: npt.NDArray[Any], *, bits: int, chunks: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    """Return a gray PNG of any depth. chunks: (type, body) between header and pixels."""
    rows, columns = pixels.shape
    header = struct.pack(">IIBBBBB", columns, rows, bits, 0, 0, 0, 0)
    raw = zlib.compress(_filtered_rows(pixels, bits))
    parts = ((b"IHDR", header), *chunks, (b"IDAT", raw), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in parts)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _filtered_rows(pixels: npt.NDArray[Any], bits: int) -> bytes:
    if bits == 16:
        packed = pixels.astype(">u2").view(np.uint8).reshape(len(pixels), -1)
    else:
        unpacked = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(unpacked.reshape(len(pixels), -1), axis=1)
    return np.hstack([np.zeros((len(pixels), 1), np.uint8), packed]).tobytes()


def _interlaced(pixels: npt.NDArray[Any], bits: int) -> bytes:
    """PNG 8.2: seven passes over an 8x8 pattern."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    raw = b"".join(_filtered_rows(pixels[y::dy, x::dx], bits) for y, x, dy, dx in passes)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, 0, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in parts)


def _palette(**options: Any) -> bytes:
    image = Pillow.fromarray(GRAY >> 2).convert("P")
    image.putpalette([level for gray in range(64) for level in (gray * 4,) * 3])
    stream = io.BytesIO()
    image.save(stream, "PNG", **options)
    return stream.getvalue()


def _raw_profile(block: bytes) -> str:
    """ImageMagick's text form of an EXIF block."""
    return f"\nexif\n{len(block):8d}\n{block.hex()}\n"


def exif(orientation: int, *, order: str = "<") -> bytes:
    """An EXIF block with an orientation, a text, a resolution and a separate IFD."""
    entries = ((0x10F, 2, 8, 62), (0x112, 3, 1, orientation), (0x11A, 5, 1, 70), (0x8769, 4, 1, 78))
    start = b"II*\0" if order == "<" else b"MM\0*"
    block = start + struct.pack(order + "IH", 8, len(entries))
    for tag, kind, count, value in entries:
        short = kind == 3
        block += struct.pack(order + "HHI" + ("HH" if short else "I"), tag, kind, count, value, *([0] if short else []))
    block += struct.pack(order + "I", 0)
    inner = struct.pack(order + "HHHIII", 1, 0x9003, 2, 4, 0, 0)
    return b"Exif\0\0" + block + b"maker\0\0\0" + struct.pack(order + "II", 72, 1) + inner


def webp_seeds() -> Iterator[Seed]:
    """Lossy and lossless, with alpha, EXIF, XMP and an animation."""
    rgba = np.dstack([RGB, ALPHA])
    options: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
        "lossy": (RGB, {}),
        "lossless": (RGB, {"lossless": True}),
        "lossy alpha": (rgba, {}),
        "lossless alpha": (rgba, {"lossless": True}),
        "exif": (RGB, {"exif": exif(6)[6:]}),
        "xmp": (RGB, {"xmp": XMP, "lossless": True}),
    }
    for name, (pixels, extra) in options.items():
        yield Seed(format="webp", name=name, data=_pillow(pixels, "WEBP", method=0, **extra))
    frames = [Pillow.fromarray(255 - RGB)]
    yield Seed(format="webp", name="animated", data=_pillow(RGB, "WEBP", save_all=True, append_images=frames))


def bmp_seeds() -> Iterator[Seed]:
    """1, 8, 24 and 32 bits, and run-length coded."""
    yield Seed(format="bmp", name="gray", data=_pillow(GRAY, "BMP"))
    yield Seed(format="bmp", name="rgb", data=_pillow(RGB, "BMP"))
    yield Seed(format="bmp", name="rgba", data=_pillow(np.dstack([RGB, ALPHA]), "BMP"))
    yield Seed(format="bmp", name="1 bit", data=_pillow(GRAY > 120, "BMP"))
    yield Seed(
        format="bmp", name="run length", data=bmp_run_length(bytes([40, 9, 0, 0]) * ROWS + b"\0\1", COLUMNS, ROWS)
    )


def bmp_run_length(coded: bytes, width_px: int, height_px: int) -> bytes:
    """An 8-bit BMP with run-length compression (BI_RLE8) and a gray palette."""
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
    start = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width_px, height_px, 1, 8, 1, len(coded), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(coded), 0, 0, start) + info + palette + coded


def tiff_seeds() -> Iterator[Seed]:
    """Strips, tiles, planes, compressions, predictors, depths, alpha, floats, BigTIFF, both byte orders."""
    rgb16 = np.dstack([DEEP] * 3)
    for code in ("none", "lzw", "deflate", "packbits", "zstd", "lzma", "jpeg", "webp", "jpeg2000"):
        pixels = RGB if code == "webp" else GRAY
        yield _tiff(f"gray {code}", pixels, compression=None if code == "none" else code, rowsperstrip=16)
    layouts: dict[str, tuple[npt.NDArray[Any], dict[str, Any]]] = {
        "gray16 big endian": (DEEP, {"byteorder": ">"}),
        "gray16 predictor": (DEEP, {"compression": "deflate", "predictor": 2}),
        "gray16 lzw predictor": (DEEP, {"compression": "lzw", "predictor": 2, "byteorder": ">"}),
        "tiles": (GRAY, {"tile": (16, 16), "compression": "deflate"}),
        "tiles 16": (DEEP, {"tile": (32, 32), "compression": "lzw"}),
        "big tiff": (GRAY, {"bigtiff": True}),
        "big tiff big endian tiles": (DEEP, {"bigtiff": True, "byteorder": ">", "tile": (16, 32)}),
        "planes": (np.stack([DEEP] * 3), {"planarconfig": "separate", "photometric": "rgb", "compression": "lzw"}),
        "rgb": (RGB, {"photometric": "rgb"}),
        "rgb16 predictor": (rgb16, {"photometric": "rgb", "compression": "deflate", "predictor": 2}),
        "rgba": (np.dstack([RGB, ALPHA]), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "rgba associated": (np.dstack([RGB, ALPHA]), {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        "gray alpha": (np.dstack([GRAY, ALPHA]), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
        "white is zero": (GRAY, {"photometric": "miniswhite"}),
        "float": (DEEP.astype(np.float32), {"compression": "deflate", "predictor": 3}),
        "double": (DEEP.astype(np.float64), {}),
        "signed": (DEEP.view(np.int16), {}),
        "32 bits": (DEEP.astype(np.uint32), {}),
        "1 bit": (GRAY > 120, {}),
        "ycbcr jpeg": (RGB, {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (2, 2)}),
        "palette": (
            GRAY,
            {"photometric": "palette", "colormap": np.tile(np.arange(256, dtype=np.uint16) * 257, (3, 1))},
        ),
        "orientation": (GRAY, {"extratags": [(274, 3, 1, 6, True)]}),
        "xmp and icc": (GRAY, {"extratags": [(700, 1, len(XMP), XMP, True)], "iccprofile": b"\0" * 150}),
    }
    for name, (pixels, extra) in layouts.items():
        yield _tiff(name, pixels, **extra)
    yield Seed(format="tiff", name="2 bits", data=_packed_bits(2))
    yield Seed(format="tiff", name="4 bits", data=_packed_bits(4))
    yield Seed(format="tiff", name="ccitt", data=_pillow(GRAY > 120, "TIFF", compression="group4"))
    yield Seed(
        format="tiff",
        name="two pages",
        data=_pillow(GRAY, "TIFF", save_all=True, append_images=[Pillow.fromarray(GRAY)]),
    )


def _tiff(name: str, pixels: npt.NDArray[Any], **options: Any) -> Seed:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, metadata=None, software=False, datetime=None, **options)
    return Seed(format="tiff", name=name, data=stream.getvalue())


def _packed_bits(bits: int) -> bytes:
    packed = _filtered_rows(DEEP >> (16 - bits), bits)
    body = np.frombuffer(packed, np.uint8).reshape(ROWS, -1)[:, 1:].tobytes()
    entries = (
        (256, COLUMNS),
        (257, ROWS),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, ROWS),
        (279, len(body)),
    )
    table = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + table + b"\0\0\0\0"


def _pillow(pixels: npt.NDArray[Any], kind: str, *, mode: str | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    image = Pillow.fromarray(pixels) if mode is None else Pillow.frombytes(mode, (COLUMNS, ROWS), pixels.tobytes())
    image.save(stream, kind, **options)
    return stream.getvalue()
