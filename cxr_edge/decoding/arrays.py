"""Pixels in memory: a NumPy array, or a tensor or other object that NumPy can view as one, in; a `DecodedImage` out.

It exists so that a program that holds pixels already gets the screening of the file with the same pixels: after this module
they take the steps of a file. An array does not name the values of black and white, so only full-range uint8 and uint16 are
read without them.
"""

from __future__ import annotations

import hashlib
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.decoded_image import DecodedImage
from cxr_edge.decoding.gray import row_bands
from cxr_edge.decoding.limits import Limits
from cxr_edge.errors import InputError
from cxr_edge.names import printable

__all__ = ["Scale", "as_array", "decode_array", "sha256_of"]

_LAYOUTS = "(height, width), or (height, width, 3 or 4) with red first and alpha last"
_CHANNELS = (1, 2, 3, 4)
_INVERTED = ". For low values that are white use inverted=True"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The meaning of the values, as the caller states it."""

    range: tuple[float, float] | None = None  # lowest and highest possible value; None: those of uint8 or uint16
    inverted: bool = False  # the lowest value is white

    def __post_init__(self) -> None:
        if not isinstance(self.inverted, bool | np.bool_):
            raise InputError(f"inverted is True or False, got {self.inverted!r}")
        if self.range is not None and not _is_range(self.range):
            raise InputError(
                "range is two finite numbers, the lowest and the highest possible value, as in range=(0.0, 1.0); got "
                f"{printable(repr(self.range)[:60])}{_INVERTED if _is_descending(self.range) else ''}"
            )

    @property
    def stated(self) -> bool:
        return self.range is not None or bool(self.inverted)


def as_array(pixels: Any) -> npt.NDArray[Any]:
    """Return the array of an object that NumPy can view as one. Raises InputError for masked pixels, tensors on a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(pixels, torch.Tensor):
        return _tensor_array(pixels, torch)
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(pixels, masked.MaskedArray) and masked.is_masked(pixels):
        raise InputError("some pixels are masked: give them a value, as in pixels.filled(0)")
    try:
        return np.asarray(pixels)
    except Exception as error:  # of any library with __array__
        raise InputError(
            f"NumPy cannot view this {type(pixels).__name__} as an array ({type(error).__name__}): convert it to a NumPy "
            "array first"
        ) from None


def decode_array(array: npt.NDArray[Any], scale: Scale, limits: Limits) -> DecodedImage:
    """Check pixels and bring them to uint8 or uint16; `array` is only read. Raises InputError.

    array: (height, width), or with 1 to 4 channels last: gray; gray, alpha; red, green, blue; the same with alpha. Any memory
    layout and byte order.
    """
    _check_layout(array)
    limits.check_size(array.shape[1], array.shape[0])
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if scale.range is not None:
        samples, bits = _scaled(array, *scale.range)
        # `significant_bits` is the full width: the depth is stated and must not be derived from the largest value.
        return DecodedImage(
            samples=samples, bits=bits, significant_bits=8 * samples.itemsize, white_is_zero=bool(scale.inverted)
        )
    native = array.dtype.newbyteorder("=")
    if native not in (np.uint8, np.uint16):
        raise _no_range(array)
    # A copy of gray, since later steps work in place; a copy of colour only where OpenCV needs the machine's byte order.
    samples = array.astype(native, order="C", copy=array.ndim == 2)
    return DecodedImage(samples=samples, bits=8 * samples.itemsize, white_is_zero=bool(scale.inverted))


def sha256_of(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of `array.tobytes()`, in hexadecimal, without that copy."""
    digest = hashlib.sha256()
    for rows in row_bands(array):
        digest.update(np.ascontiguousarray(array[rows]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _tensor_array(tensor: Any, torch: Any) -> npt.NDArray[Any]:
    if tensor.device.type != "cpu":
        raise InputError(f"the tensor is on the device {tensor.device}, expected the CPU: pass tensor.cpu()")
    if tensor.layout != torch.strided:
        raise InputError(f"the tensor has the layout {tensor.layout}, expected a dense one: pass tensor.to_dense()")
    plain = tensor.detach().resolve_conj().resolve_neg()
    try:
        array: npt.NDArray[Any] = (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (TypeError, RuntimeError):
        raise InputError(f"NumPy has no counterpart of the tensor's type {tensor.dtype}: pass tensor.float()") from None
    return array


def _check_layout(array: npt.NDArray[Any]) -> None:
    if array.dtype.kind not in "uifb":
        raise InputError(f"the pixels have the type {array.dtype}, expected uint8, uint16 or other real numbers")
    if array.dtype.kind == "b":
        raise InputError("the pixels are True and False, a mask: expected gray values, uint8 or uint16")
    if array.size == 0:
        raise InputError(f"the array is empty (shape {array.shape}): expected {_LAYOUTS}")
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] in _CHANNELS):
        return
    raise InputError(f"the array has shape {array.shape}, expected {_LAYOUTS}{_remedy(array.shape)}")


def _remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[0] == 1:
        return ": pass pixels[0]"
    if len(shape) == 3 and shape[0] in _CHANNELS:
        return ": move the channels to the end, as in numpy.moveaxis(pixels, 0, -1)"
    if len(shape) > 3 and sum(side > 1 for side in shape) <= 2:
        return ": pass pixels.squeeze()"
    return ": pass the images one by one" if len(shape) > 3 else ""


def _no_range(array: npt.NDArray[Any]) -> InputError:
    low, high = _ends(array)
    return InputError(
        f"the pixels are {array.dtype} from {low:.9g} to {high:.9g}, which does not say what is black and white: state the "
        "lowest and the highest possible value, as in range=(0.0, 1.0) or range=(0, 4095)"
    )


def _ends(array: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the lowest and the highest value. Raises InputError for NaN and infinity."""
    low, high = array.min(), array.max()  # both are NaN if there is one
    if array.dtype.kind in "ui":
        return int(low), int(high)
    if not (math.isfinite(float(low)) and math.isfinite(float(high))):
        raise InputError("the pixels contain numbers that are not finite (NaN or infinity): replace them first")
    return float(low), float(high)


def _scaled(array: npt.NDArray[Any], low: float, high: float) -> tuple[npt.NDArray[Any], int]:
    """Return the values low..high on the full range of uint8 (up to 8 bits) or uint16, and their significant bits."""
    (least, most), span = _ends(array), float(high) - float(low)
    if least < low or most > high:
        ends = f"{low:.9g}, {high:.9g}"
        raise InputError(
            f"the pixels are from {least:.9g} to {most:.9g}, outside range=({ends}): state the range that they can have, or "
            f"clip them, as in numpy.clip(pixels, {ends})"
        )
    whole = array.dtype.kind in "ui" and float(low).is_integer() and float(high).is_integer()
    bits = min((int(high) - int(low)).bit_length(), 16) if whole else 16
    out = np.empty(array.shape, np.uint8 if bits <= 8 else np.uint16)
    top = np.iinfo(out.dtype).max
    for rows in row_bands(out):
        out[rows] = np.rint((array[rows].astype(np.float64) - float(low)) / span * top)
    return out, bits


def _is_range(value: Any) -> bool:
    try:
        low, high = value
        numbers = not any(isinstance(v, str | bytes | bool | np.bool_) for v in (low, high))
        return numbers and float(low) < float(high) and math.isfinite(float(high) - float(low))
    except (TypeError, ValueError, OverflowError):
        return False


def _is_descending(value: Any) -> bool:
    try:
        return bool(value[0] > value[1])
    except Exception:  # anything may have been given
        return False
