"""Surrogate of a gate set: a small model of training frames and its draws in; gray images out, the same on every machine.

An image is the mean frame plus components times the draw's coefficients, on a coarse grid, plus grain of several sizes whose
strength the label's maps give, through a tone curve. All are whole numbers: sums of products are exact in float64 (below 2**53),
whatever the order in which a processor adds them, and the grain comes from a hash of the pixel's number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.specs.json_fields import field_names, require, require_integer, require_keys

__all__ = ["MEAN_UNIT", "TEXTURE_UNIT", "SurrogateModel", "SurrogateSize", "draw_images", "grain", "grain_sd"]

MEAN_UNIT = 32  # of a gray level; a component has one of 1, a coefficient the standard deviation 32
TEXTURE_UNIT = 8  # of a gray level, in the maps
_GRAIN_SD = 148  # of the sum of four bytes: sqrt(4 * (256**2 - 1) / 12), rounded
_CURVE = 256  # entries of a tone curve
_MOST_SIDE_PX, _MOST_COMPONENTS, _MOST_DRAWS, _MOST_LABELS, _MOST_OCTAVES = 512, 1024, 2000, 64, 4

Signed = npt.NDArray[np.int8]
Bytes = npt.NDArray[np.uint8]
Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class SurrogateSize:
    """Sizes of a surrogate, from which those of its arrays follow."""

    side_px: int  # of an image
    grid_px: int  # of mean and components; divides side_px
    map_px: int  # of the texture's maps; divides side_px
    components: int
    octaves: int  # grain of 1, 2, 4 and 8 px
    labels: int
    tones: int  # tone curves
    draws: int
    seed: int  # of the grain

    def __post_init__(self) -> None:
        most = {
            "side_px": _MOST_SIDE_PX,
            "grid_px": _MOST_SIDE_PX,
            "map_px": _MOST_SIDE_PX,
            "components": _MOST_COMPONENTS,
            "octaves": _MOST_OCTAVES,
            "labels": _MOST_LABELS,
            "tones": _CURVE,
            "draws": _MOST_DRAWS,
            "seed": 2**32 - 1,
        }
        for key, limit in most.items():
            value = getattr(self, key)
            require_integer(value, key, least=0 if key in ("octaves", "seed") else 1)
            require(value <= limit, key, f"at most {limit}", value)
        for key, value in (("grid_px", self.grid_px), ("map_px", self.map_px), ("octaves", 1 << self.octaves)):
            require(self.side_px % value == 0, key, f"a divisor of side_px, {self.side_px}", value)

    @property
    def shapes(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """Name, type and shape of each array, in the order of the file; whole numbers of two bytes are little-endian."""
        grid, own = self.grid_px**2, self.map_px**2
        return (
            ("mean", "<i2", (grid,)),
            ("components", "i1", (self.components, grid)),
            ("coefficients", "i1", (self.draws, self.components)),
            ("tones", "u1", (self.draws,)),
            ("texture", "u1", (self.labels, self.octaves, own)),
            ("curves", "u1", (self.tones, _CURVE)),
        )

    @property
    def bytes(self) -> int:
        """Number of bytes of all arrays."""
        return sum(np.dtype(kind).itemsize * int(np.prod(shape)) for _, kind, shape in self.shapes)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> SurrogateSize:
        return cls(**require_keys(value, field_names(cls)))


@dataclass(frozen=True, kw_only=True, eq=False)
class SurrogateModel:
    """Arrays of a surrogate."""

    size: SurrogateSize
    mean: npt.NDArray[np.int16]  # (grid,), MEAN_UNIT
    components: Signed  # (components, grid), gray levels for a coefficient of 32
    coefficients: Signed  # (draws, components), 32 is one standard deviation of the training frames
    tones: Bytes  # (draws,), index of the tone curve
    texture: Bytes  # (labels, octaves, map), standard deviation of the grain, TEXTURE_UNIT
    curves: Bytes  # (tones, 256), gray level -> gray level

    def __post_init__(self) -> None:
        for name, kind, shape in self.size.shapes:
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.dtype(kind):
                raise ValueError(f"{name} must be {kind} {shape}, got {array.dtype} {array.shape}")
        require(int(self.tones.max()) < self.size.tones, "surrogate.tones", "of its curves", int(self.tones.max()))

    def as_bytes(self) -> bytes:
        """Return all arrays, one after the other; `of_bytes` reads them."""
        return b"".join(np.ascontiguousarray(getattr(self, name)).tobytes() for name, _, _ in self.size.shapes)

    @classmethod
    def of_bytes(cls, content: bytes, size: SurrogateSize) -> SurrogateModel:
        """Read what `as_bytes` returned, `size.bytes` of it."""
        arrays, at = {}, 0
        for name, kind, shape in size.shapes:
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(content, kind, count, at).reshape(shape)
            at += count * np.dtype(kind).itemsize
        return cls(size=size, **arrays)


def draw_images(model: SurrogateModel, labels: Sequence[int]) -> Iterator[Bytes]:
    """Yield the image (side, side) of each draw. labels: index of each draw's label, for its texture."""
    size = model.size
    up = _upsampling(size.grid_px, size.side_px)
    maps = [[_enlarged(own, size.map_px, size.side_px) for own in of_label] for of_label in model.texture]
    components = model.components.astype(np.float64)
    for draw, (own, label) in enumerate(zip(model.coefficients, labels, strict=True)):
        # At most 1024 * 128 * 128 + 2**15, times (2 * 512)**2: below 2**53, so exact in float64.
        grid = own.astype(np.float64) @ components + model.mean
        enlarged = up @ grid.reshape(size.grid_px, size.grid_px) @ up.T
        level = _divided(enlarged.astype(np.int64), _denominator(size.grid_px, size.side_px))
        for octave, strength in enumerate(maps[label]):
            level = level + _grained(size, draw, octave, strength)
        gray = np.clip(_divided(level, MEAN_UNIT), 0, _CURVE - 1)
        yield model.curves[model.tones[draw]][gray]


def grain(size: SurrogateSize, draw: int, octave: int) -> Whole:
    """Return grain (side, side) of mean 0, enlarged from one value for each 2**octave pixels; `grain_sd` is its unit."""
    side = size.side_px >> octave
    number = np.arange(side * side, dtype=np.uint32) + np.uint32((draw * 0x9E3779B1 + octave * 0x85EBCA6B) & 0xFFFFFFFF)
    mixed = _hash(_hash(number) ^ np.uint32(size.seed))
    total = sum(((mixed >> np.uint32(8 * i)) & np.uint32(255)).astype(np.int64) for i in range(4))
    up = _upsampling(side, size.side_px)
    centred = np.asarray(total - 510, np.float64).reshape(side, side)
    return np.asarray(up @ centred @ up.T).astype(np.int64)


def grain_sd(size: SurrogateSize, octave: int) -> int:
    """Return the standard deviation of the grain before it is enlarged, in its units."""
    return _GRAIN_SD * _denominator(size.side_px >> octave, size.side_px)


@lru_cache(maxsize=16)
def _upsampling(small: int, large: int) -> npt.NDArray[np.float64]:
    """Return the matrix (large, small) of bilinear enlargement; its rows are whole numbers with the sum 2 * large / small."""
    factor = large // small
    matrix = np.zeros((large, small))
    for row in range(large):
        position = 2 * (row % factor) + 1 - factor  # of 2 * factor: offset from the centre of the small pixel
        near = row // factor
        other = min(max(near + (1 if position > 0 else -1), 0), small - 1)
        matrix[row, near] += 2 * factor - abs(position)
        matrix[row, other] += abs(position)
    matrix.setflags(write=False)
    return matrix


def _grained(size: SurrogateSize, draw: int, octave: int, strength: Whole) -> Whole:
    """Return the grain of one octave in units of MEAN_UNIT. strength: an enlarged map."""
    scale = grain_sd(size, octave) * TEXTURE_UNIT * _denominator(size.map_px, size.side_px)
    return _divided(grain(size, draw, octave) * strength * MEAN_UNIT, scale)


def _enlarged(own: Bytes, small: int, large: int) -> Whole:
    up = _upsampling(small, large)
    return np.asarray(up @ own.astype(np.float64).reshape(small, small) @ up.T).astype(np.int64)


def _denominator(small: int, large: int) -> int:
    return (2 * (large // small)) ** 2


def _divided(value: Whole, by: int) -> Whole:
    """Return the quotient, rounded half up."""
    return (2 * value + by) // (2 * by)


def _hash(x: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Mix 32 bits (lowbias32 of C. Wellons' hash prospector); products wrap."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return np.asarray(x ^ (x >> np.uint32(16)))
