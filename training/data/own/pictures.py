"""Pictures of a report: records in, JPEG bytes of contact sheets and pairs out. Files that cannot be read are left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError
from training.data.own.records import OwnRecord

__all__ = ["contact_sheet", "sampled"]

_CELL_PX = 160
_PER_ROW = 6
_QUALITY = 80

Gray = npt.NDArray[np.uint8]


def sampled(records: Iterable[OwnRecord], count: int) -> list[OwnRecord]:
    """Return `count` of the records, spread over the patients, the same in every run."""
    ordered = sorted(records, key=lambda r: sha256(r.key.encode("utf-8", "surrogateescape")).digest())
    first = list({r.unit: r for r in reversed(ordered)}.values())[::-1]
    chosen = {r.key: r for r in [*first, *ordered]}
    return list(chosen.values())[:count]


def contact_sheet(records: Sequence[OwnRecord], *, cell_px: int = _CELL_PX, per_row: int = _PER_ROW) -> bytes:
    """Return a JPEG of the images, each within a square of `cell_px`; empty if none can be read."""
    cells = [cell for r in records if (cell := _cell(r, cell_px)) is not None]
    if not cells:
        return b""
    width = min(per_row, len(cells))
    cells += [np.zeros((cell_px, cell_px), np.uint8)] * (-len(cells) % width)
    rows = [np.hstack(cells[i : i + width]) for i in range(0, len(cells), width)]
    return cv2.imencode(".jpg", np.vstack(rows), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


def _cell(record: OwnRecord, side_px: int) -> Gray | None:
    """Return an image in the middle of a square; None if it cannot be read."""
    try:
        pixels = decode(record.path).pixels
    except CxrEdgeError:
        return None
    gray = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels.astype(np.uint8)
    height, width = gray.shape
    scale = (side_px - 4) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(gray, size, interpolation=cv2.INTER_AREA)
    cell = np.zeros((side_px, side_px), np.uint8)
    top, left = (side_px - size[1]) // 2, (side_px - size[0]) // 2
    cell[top : top + size[1], left : left + size[0]] = small
    return cell
