"""TIFF decoder: a file in, decoded image out; gray, RGB or palette, strips or tiles, all common compressions.

It exists because OpenCV reads some layouts wrongly (separate planes, tiles of gray with alpha, associated alpha). Here
tifffile decodes segment by segment, from a rewritten directory that contains only values checked by `tiff_directory`.
"""

from __future__ import annotations

import io
import struct
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding import jpeg, webp
from cxr_edge.decoding.decoded_image import DAMAGED, DecodedImage
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag, first_orientation, xmp_orientation
from cxr_edge.decoding.tiff_directory import (
    FLOAT,
    JPEG,
    NONE,
    PALETTE,
    WEBP,
    WHITE_IS_ZERO,
    TiffLayout,
    read_layout,
)
from cxr_edge.errors import InputError
from cxr_edge.records import Flag

__all__ = ["decode"]

_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha


def decode(data: bytes, limits: Limits) -> DecodedImage:
    """Decode a TIFF file of one image. Raises InputError."""
    layout = read_layout(data)
    limits.check_size(layout.width_px, layout.height_px)
    limits.check_memory(layout.width_px, layout.height_px, _decoder_bytes_per_pixel(layout))
    samples, flags = _decode_segments(data, layout)
    alpha, more = _alpha_use(layout)
    orientation = layout.orientation if layout.orientation is not None and layout.orientation <= 8 else None
    return DecodedImage(
        samples=samples,
        bits=layout.bits,
        used_bits=layout.bits if samples.ndim == 2 else None,  # tifffile does not widen them
        orientation=first_orientation((orientation, xmp_orientation(layout.xmp))),
        white_is_zero=layout.photometric == WHITE_IS_ZERO,
        alpha=alpha,
        flags=flags + more + aspect_flag(*layout.resolution),
    )


def _decoder_bytes_per_pixel(layout: TiffLayout) -> float:
    """Return the memory of decoding in bytes per pixel: samples, gray, and one decoded segment, at most the full image."""
    sample = _dtype(layout).itemsize
    image_px = layout.width_px * layout.height_px
    # Twice: decompressed, and with the predictor undone.
    segment_px = 2 * layout.segment_width * layout.segment_height if layout.compression != NONE else 0
    full = sample * (layout.samples if layout.photometric != PALETTE else 3)
    return full + min(sample, 2) + segment_px / image_px * sample * layout.samples


def _dtype(layout: TiffLayout) -> np.dtype[Any]:
    if layout.sample_format == FLOAT:
        return np.dtype(f"f{layout.bits // 8}")
    return np.dtype(np.uint8 if layout.bits <= 8 else np.uint16)


def _decode_segments(data: bytes, layout: TiffLayout) -> tuple[npt.NDArray[Any], tuple[Flag, ...]]:
    """Return samples (height, width) or (height, width, 2 to 4), as in `DecodedImage`, and the flags of JPEG segments."""
    out = np.empty((layout.height_px, layout.width_px, layout.samples), _dtype(layout))
    view, page = memoryview(data), _tifffile_page(layout)
    flags: tuple[Flag, ...] = ()
    for index, (start, size) in enumerate(layout.segments):
        encoded = bytes(view[start : start + size])
        flags = flags or _check_segment(encoded, layout)
        try:
            decoded, position, shape = page.decode(encoded, index, jpegtables=layout.jpeg_tables or None)
        except Exception:  # types of tifffile and imagecodecs, ValueError, struct.error, RuntimeError
            raise InputError(f"the TIFF data cannot be decoded: {DAMAGED}") from None
        _copy_segment(out, decoded, position, shape)
    if layout.photometric == PALETTE:
        return _palette_to_rgb(out[..., 0], layout.color_map), flags
    return out[..., 0] if layout.samples == 1 else out, flags


def _copy_segment(
    out: npt.NDArray[Any], decoded: npt.NDArray[Any], position: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    """Copy a decoded segment (depth, height, width, samples) to its position in `out`; tiles are clipped at the edges."""
    plane, _, top, left, _ = position
    target = out[top : top + shape[1], left : left + shape[2]]
    if decoded.ndim != 4 or shape[3] not in (1, out.shape[2]):
        raise InputError(f"the TIFF data cannot be decoded: {DAMAGED}")
    visible = decoded[0, : target.shape[0], : target.shape[1]]
    if shape[3] == out.shape[2]:
        target[...] = visible
    else:
        target[..., plane] = visible[..., 0]


def _check_segment(encoded: bytes, layout: TiffLayout) -> tuple[Flag, ...]:
    """Reject a JPEG or WEBP segment that is damaged or larger than its strip or tile; return the flags of a JPEG segment."""
    if layout.compression == WEBP:
        width, height = webp.image_size(encoded)
    elif layout.compression == JPEG:
        tables = layout.jpeg_tables
        stream = encoded[:2] + tables[2:-2] + encoded[2:] if tables else encoded
        frame = jpeg.read_frame_header(stream)
        width, height = frame.width_px, frame.height_px
    else:
        return ()
    if width > layout.segment_width or height > layout.segment_height:
        raise InputError(f"a strip or tile of this TIFF contains an image of {width}x{height} px: {DAMAGED}")
    return jpeg.decode_8_bit(stream, frame)[1] if layout.compression == JPEG else ()


def _alpha_use(layout: TiffLayout) -> tuple[Literal["straight", "premultiplied", "ignored"], tuple[Flag, ...]]:
    """Return the use of the extra sample (TIFF 6.0 section 18)."""
    if layout.extra is None or layout.extra == _UNASSOCIATED:
        return "straight", ()
    if layout.extra == _ASSOCIATED:
        return "premultiplied", ()
    message = "the file has an extra sample per pixel of unspecified meaning; it was ignored"
    return "ignored", (Flag(code="extra_sample_ignored", message=message),)


def _palette_to_rgb(indices: npt.NDArray[Any], color_map: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return the colours of palette indices, (height, width, 3), red first."""
    red_green_blue = np.array(color_map, np.uint16).reshape(3, -1)
    # Entries have 16 bits; some writers fill only the lower eight.
    table = (red_green_blue >> 8 if red_green_blue.max() > 255 else red_green_blue).astype(np.uint8).T
    return np.ascontiguousarray(table[indices])


def _tifffile_page(layout: TiffLayout) -> Any:
    """Return tifffile's page of a file with one directory and no pixels; its `decode` takes the bytes of a segment."""
    import tifffile

    try:
        return tifffile.TiffFile(io.BytesIO(_directory_file(layout))).pages[0]
    except Exception:
        raise InputError(f"the TIFF header cannot be read: {DAMAGED}") from None


def _directory_file(layout: TiffLayout) -> bytes:
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
    """Return a classic TIFF file of one directory; values have 32 bits, those of tags 258, 320, 338, 339 and 530 have 16."""
    head = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
    entries, values = [], []
    offset = 8 + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        kind, code = (3, "H") if tag in (258, 320, 338, 339, 530) else (4, "I")
        packed = struct.pack(f"{order}{len(tags[tag])}{code}", *tags[tag])
        if len(packed) <= 4:
            entries.append(struct.pack(order + "HHI", tag, kind, len(tags[tag])) + packed.ljust(4, b"\0"))
        else:
            entries.append(struct.pack(order + "HHII", tag, kind, len(tags[tag]), offset))
            values.append(packed)
            offset += len(packed)
    return b"".join([head, struct.pack(order + "H", len(tags)), *entries, bytes(4), *values])
