"""A TIFF file in, its decoded picture out: gray, RGB or palette, in strips or tiles, any of the usual compressions.

It exists because OpenCV reads some layouts wrongly (separate planes, tiles of gray with alpha, associated alpha). tifffile
decodes segment by segment here, from a rewritten directory that holds only what `tiff_directory` has checked.
"""

from __future__ import annotations

import io
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import jpeg, webp
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag, first_orientation, xmp_orientation
from cxr_edge.decoding.picture import DAMAGED, Picture
from cxr_edge.decoding.tiff_directory import (
    FLOAT,
    JPEG,
    MAGICS,
    NONE,
    PALETTE,
    WEBP,
    WHITE_IS_ZERO,
    Layout,
    read_layout,
)
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["MAGICS", "decode"]

_ASSOCIATED, _UNASSOCIATED = 1, 2


def decode(data: bytes, limits: Limits) -> Picture:
    """Decode a TIFF file of one picture. Raises InputError."""
    layout = read_layout(data)
    limits.check_size(layout.width_px, layout.height_px)
    limits.check_memory(layout.width_px, layout.height_px, _decoder_bytes(layout))
    samples, flags = _samples(data, layout)
    alpha, more = _alpha(layout)
    orientation = layout.orientation if layout.orientation is not None and layout.orientation <= 8 else None
    return Picture(
        format="tiff",
        samples=samples,
        bits=layout.bits,
        orientation=first_orientation((orientation, xmp_orientation(layout.xmp))),
        white_is_zero=layout.photometric == WHITE_IS_ZERO,
        alpha=alpha,
        flags=flags + more + aspect_flag(*layout.resolution),
    )


def _decoder_bytes(layout: Layout) -> float:
    """Bytes per pixel: the samples, the gray, and a decoded segment, which may be the whole picture."""
    sample = _dtype(layout).itemsize
    picture_px = layout.width_px * layout.height_px
    # Decompressed, with the predictor undone, in place.
    segment_px = 2 * layout.segment_width * layout.segment_height if layout.compression != NONE else 0
    whole = sample * (layout.samples if layout.photometric != PALETTE else 3)
    return whole + min(sample, 2) + segment_px / picture_px * sample * layout.samples


def _dtype(layout: Layout) -> np.dtype[Any]:
    if layout.sample_format == FLOAT:
        return np.dtype(f"f{layout.bits // 8}")
    return np.dtype(np.uint8 if layout.bits <= 8 else np.uint16)


def _samples(data: bytes, layout: Layout) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """(height, width) or (height, width, 2 to 4), as `Picture` has them."""
    out = np.empty((layout.height_px, layout.width_px, layout.samples), _dtype(layout))
    view, page = memoryview(data), _tifffile_page(layout)
    flags: tuple[Flag, ...] = ()
    for index, (start, size) in enumerate(layout.segments):
        encoded = bytes(view[start : start + size])
        flags = flags or _check_segment(encoded, layout)
        try:
            decoded, position, shape = page.decode(encoded, index, jpegtables=layout.jpeg_tables or None)
        except Exception:  # tifffile's and imagecodecs' own types, ValueError, struct.error, RuntimeError
            raise InputError(f"the TIFF data cannot be decoded: {DAMAGED}") from None
        _place(out, decoded, position, shape)
    if layout.photometric == PALETTE:
        return _colours(out[..., 0], layout.color_map), flags
    return out[..., 0] if layout.samples == 1 else out, flags


def _place(out: npt.NDArray[Any], decoded: npt.NDArray[Any], position: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Put a decoded segment (depth, height, width, samples) where it belongs; edges of tiles are cut off."""
    plane, _, top, left, _ = position
    into = out[top : top + shape[1], left : left + shape[2]]
    if decoded.ndim != 4 or shape[3] not in (1, out.shape[2]):
        raise InputError(f"the TIFF data cannot be decoded: {DAMAGED}")
    inside = decoded[0, : into.shape[0], : into.shape[1]]
    if shape[3] == out.shape[2]:
        into[...] = inside
    else:
        into[..., plane] = inside[..., 0]


def _check_segment(encoded: bytes, layout: Layout) -> tuple[Flag, ...]:
    """Refuse a JPEG or WEBP segment that is damaged or larger than its place, before it is decoded."""
    if layout.compression == WEBP:
        width, height = webp.picture_size(encoded)
    elif layout.compression == JPEG:
        tables = layout.jpeg_tables
        stream = encoded[:2] + tables[2:-2] + encoded[2:] if tables else encoded
        frame = jpeg.read_frame(stream)
        width, height = frame.width_px, frame.height_px
    else:
        return ()
    if width > layout.segment_width or height > layout.segment_height:
        raise InputError(f"a strip or tile of this TIFF holds a picture of {width}x{height} px: {DAMAGED}")
    return jpeg.decoded_8_bit(stream, frame)[1] if layout.compression == JPEG else ()


def _alpha(layout: Layout) -> tuple[Literal["straight", "premultiplied", "ignored"], tuple[Flag, ...]]:
    """How the extra sample is used (TIFF 6.0 section 18)."""
    if layout.extra is None or layout.extra == _UNASSOCIATED:
        return "straight", ()
    if layout.extra == _ASSOCIATED:
        return "premultiplied", ()
    message = "the file has an extra sample per pixel and does not say what it is; it was left out"
    return "ignored", (Flag(code="extra_sample_ignored", message=message),)


def _colours(indices: npt.NDArray[Any], color_map: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Palette indices to (height, width, 3), red first."""
    red_green_blue = np.array(color_map, np.uint16).reshape(3, -1)
    # Entries have 16 bits; some writers fill only the lower eight.
    table = (red_green_blue >> 8 if red_green_blue.max() > 255 else red_green_blue).astype(np.uint8).T
    return np.ascontiguousarray(table[indices])


def _tifffile_page(layout: Layout) -> Any:
    """tifffile's page of a file that holds one directory and no pixels: it decodes the segments it is handed."""
    import tifffile

    try:
        return tifffile.TiffFile(io.BytesIO(_directory_alone(layout))).pages[0]
    except Exception:
        raise InputError(f"the TIFF header cannot be read: {DAMAGED}") from None


def _directory_alone(layout: Layout) -> bytes:
    count = len(layout.segments)
    tags: dict[int, tuple[int, ...]] = {
        256: (layout.width_px,),
        257: (layout.height_px,),
        258: (layout.bits,) * layout.samples,
        259: (layout.compression,),
        262: (layout.photometric,),
        266: (layout.fill_order,),
        277: (layout.samples,),
        284: (2 if layout.planar else 1,),
        317: (layout.predictor,),
        339: (layout.sample_format,) * layout.samples,
    }
    if layout.tiled:
        tags |= {322: (layout.segment_width,), 323: (layout.segment_height,), 324: (8,) * count, 325: (1,) * count}
    else:
        tags |= {273: (8,) * count, 278: (layout.segment_height,), 279: (1,) * count}
    if layout.extra is not None:
        tags[338] = (layout.extra,)
    if layout.photometric == PALETTE:
        tags[320] = layout.color_map
    if layout.subsampling:
        tags[530] = layout.subsampling
    return _classic_tiff(layout.order, tags)


def _classic_tiff(order: str, tags: dict[int, tuple[int, ...]]) -> bytes:
    """A classic TIFF file of one directory; all values are 32-bit words, those of the colour map 16-bit."""
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries, values = [], []
    at = 8 + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, code = (3, "H") if tag in (258, 320, 338, 339, 530) else (4, "I")
        packed = struct.pack(f"{order}{len(tags[tag])}{code}", *tags[tag])
        if len(packed) <= 4:
            entries.append(struct.pack(order + "HHI", tag, kind, len(tags[tag])) + packed.ljust(4, b"\0"))
        else:
            entries.append(struct.pack(order + "HHII", tag, kind, len(tags[tag]), at))
            values.append(packed)
            at += len(packed)
    return b"".join([head, struct.pack(order + "H", len(tags)), *entries, bytes(4), *values])
