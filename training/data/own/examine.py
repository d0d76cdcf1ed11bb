"""Examination of pixels: records in, what each file holds out: hashes, size, format and bits, or why it cannot be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tqdm import tqdm

from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError, InputError
from training.data.duplicates import Fingerprint, fingerprint
from training.data.faults import Fault, each, reason_of
from training.data.own.records import OwnRecord

__all__ = ["Examination", "Examined", "examine", "size_class"]

_SIZES = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)


@dataclass(frozen=True, kw_only=True)
class Examined:
    """One image, decoded once; pixels are not kept."""

    print: Fingerprint
    width_px: int
    height_px: int
    format: str
    bits: int


Examination = tuple[list[Examined | None], list[Fault]]  # a result for each record, None where there is a fault


def examine(records: Sequence[OwnRecord], threads: int) -> Examination:
    """Decode every image with `threads` threads. Returns a result for each, None where there is a fault, and the faults."""
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(partial(each, make=_examine, where=_path), ([r] for r in records))
        bar = tqdm(results, "images", len(records), leave=False, disable=not sys.stderr.isatty())
        pairs = list(bar)
    return [made[0] if made else None for made, _ in pairs], [fault for _, faults in pairs for fault in faults]


def _path(record: OwnRecord) -> object:
    return record.path


def _examine(record: OwnRecord) -> Examined:
    try:
        image = decode(record.path)
    except CxrEdgeError as error:
        raise InputError(reason_of(error, record.path)) from error
    return Examined(
        print=fingerprint(image.pixels),
        width_px=image.width_px,
        height_px=image.height_px,
        format=image.format,
        bits=image.stored_bits,
    )


def size_class(found: Examined) -> str:
    """Return the class of a size, such as `long side up to 1024 px, square`."""
    longest = max(found.width_px, found.height_px)
    limit = next((f"up to {size} px" for size in _SIZES if longest <= size), f"above {_SIZES[-1]} px")
    return f"long side {limit}{', square' if found.width_px == found.height_px else ''}"
