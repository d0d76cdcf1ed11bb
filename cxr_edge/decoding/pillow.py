"""Images of Pillow: a `PIL.Image.Image` in, a `DecodedImage` out with the orientation of its EXIF block, not yet applied.

It exists because Pillow's modes say what an array does not: palettes, transparent values, premultiplied alpha. Pillow itself
is imported by the caller or not at all.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr_edge.decoding.arrays import Scale, decode_array
from cxr_edge.decoding.decoded_image import DecodedImage
from cxr_edge.decoding.limits import Limits
from cxr_edge.decoding.metadata import aspect_flag
from cxr_edge.errors import InputError

__all__ = ["decode_pillow", "is_pillow"]

_ORIENTATION = 274  # EXIF 2.32
_DENSITIES = ("dpi", "aspect", "jfif_density")  # keys of `Image.info`, all (horizontal, vertical)
# Modes with the mode to convert to; without and with a transparent value.
_OPAQUE = {"1": "L", "P": "RGB", "PA": "RGBA", "RGBX": "RGB"}
_TRANSPARENT = {"1": "LA", "L": "LA", "P": "RGBA", "RGB": "RGBA"}
_MODES = ("L", "LA", "La", "RGB", "RGBA", "RGBa", "I", "I;16", "I;16B", "I;16L", "I;16N", "F", *_OPAQUE)


def is_pillow(image: object) -> bool:
    """Return whether this is an image of Pillow, without importing it."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def decode_pillow(image: Any, scale: Scale, limits: Limits) -> tuple[DecodedImage, npt.NDArray[Any]]:
    """Return the decoded image and the samples that it was made from. Raises InputError."""
    limits.check_size(*image.size)  # before Pillow decodes the file that it has opened
    frames = _attempt(lambda: getattr(image, "n_frames", 1))
    if frames != 1:
        raise InputError(f"the PIL image has {frames} frames or pages: pass the one to screen, as image.copy()")
    samples = np.asarray(_attempt(lambda: _plain(image)))
    decoded = decode_array(samples, scale, limits)
    alpha: Literal["straight", "premultiplied"] = "premultiplied" if image.mode in ("La", "RGBa") else "straight"
    return replace(
        decoded,
        bits=1 if image.mode == "1" else decoded.bits,
        orientation=_orientation(image),
        alpha=alpha,
        flags=aspect_flag(*_density(image)),
    ), samples


def _plain(image: Any) -> Any:
    """Return the image in a mode of gray, or of colour with red first; its file is decoded here."""
    transparent = "transparency" in image.info
    if image.mode not in _MODES:
        raise InputError(
            f'PIL images of mode {image.mode} are not supported: pass image.convert("RGB"), or the path of its file'
        )
    if transparent and image.mode.startswith("I"):
        raise InputError(f"mode {image.mode} with a transparent value is not supported: pass the path of the file")
    mode = (_TRANSPARENT if transparent else _OPAQUE).get(image.mode, _OPAQUE.get(image.mode, image.mode))
    if mode != image.mode:
        return image.convert(mode)
    image.load()
    return image


def _attempt(action: Any) -> Any:
    try:
        return action()
    except InputError:
        raise
    except Exception as error:  # Pillow decodes late, and each of its plug-ins raises types of its own
        raise InputError(
            f"Pillow cannot decode this image ({type(error).__name__}): the file is damaged or closed, open it again"
        ) from None


def _orientation(image: Any) -> int:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # a damaged block is ignored, as in files
        return 1
    return value if value in (1, 2, 3, 4, 5, 6, 7, 8) else 1


def _density(image: Any) -> tuple[float, float]:
    for key in _DENSITIES:
        try:
            horizontal, vertical = (float(v) for v in image.info[key])
        except Exception:  # missing, or damaged metadata
            continue
        return horizontal, vertical
    return 0.0, 0.0
