"""Duplicate search: decoded images in, one group name per record out; patients that share an image are one group.

The same X-ray is published under several names, sizes and patients. Two images count as the same if their decoded pixels
are equal, their perceptual hashes nearly equal, or one is a cropped copy of the other. Groups, not patients, are the unit that
`splits` keeps on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels
from training.data.cropped_copies import Thumbnail, cropped_pairs, thumbnail
from training.data.records import Record

__all__ = ["Fingerprint", "fingerprint", "patient_groups", "same_image_pairs"]

_HASH_SIDE = 16
# Of 256 bits. Chosen by inspecting the closest pairs: above it, different children of one scanner begin to match.
_NEAR_BITS = 10
_BLOCK = 2048


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Exact and perceptual hash of one image, and what the search for cropped copies compares."""

    pixels: str  # SHA-256 of size and decoded pixels
    bits: npt.NDArray[np.bool_]  # difference hash, (256,)
    thumbnail: Thumbnail | None = None  # None for an image that is too small for it


def fingerprint(pixels: GrayPixels) -> Fingerprint:
    """Compute the fingerprint of decoded gray pixels (height, width)."""
    digest = hashlib.sha256(repr((pixels.shape, pixels.dtype.str)).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    small = cv2.resize(pixels, (_HASH_SIDE + 1, _HASH_SIDE), interpolation=cv2.INTER_AREA).astype(np.int32)
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return Fingerprint(pixels=digest.hexdigest(), bits=bits, thumbnail=thumbnail(pixels))


def same_image_pairs(prints: Sequence[Fingerprint], *, near_bits: int = _NEAR_BITS) -> list[tuple[int, int]]:
    """Return index pairs (i < j) of the same image: equal pixels, hashes within `near_bits` bits, or cropped copies."""
    signs = np.where(np.stack([p.bits for p in prints]), 1.0, -1.0).astype(np.float32)
    near = {pair for start in range(0, len(signs), _BLOCK) for pair in _near(signs, start, near_bits)}
    seen: dict[str, int] = {}
    for i, p in enumerate(prints):
        j = seen.setdefault(p.pixels, i)
        if j != i:
            near.add((j, i))
    return sorted(near.union(cropped_pairs([p.thumbnail for p in prints])))


def _near(signs: npt.NDArray[np.float32], start: int, near_bits: int) -> Iterator[tuple[int, int]]:
    """Yield pairs whose first index is in the block that begins at `start`; blocks bound the memory, which else is n x n."""
    rest = signs[start:]
    distance = (signs.shape[1] - rest[:_BLOCK] @ rest.T) / 2
    for i, j in zip(*np.nonzero(np.triu(distance <= near_bits, k=1)), strict=True):
        yield start + int(i), start + int(j)


def patient_groups(records: Sequence[Record], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return the group name of each record: its patient, or the first name among patients joined by shared images.

    Computed by union-find over `pairs`, indices of records with the same image.
    """
    parent = {r.patient: r.patient for r in records}

    def root(patient: str) -> str:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    for i, j in pairs:
        a, b = sorted((root(records[i].patient), root(records[j].patient)))
        parent[b] = a
    return [root(r.patient) for r in records]
