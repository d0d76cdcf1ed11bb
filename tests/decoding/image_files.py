"""Image files written by Pillow, for the decoding tests: pixels in, the bytes of a file out."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image as Pillow


def pillow_file(pixels: np.ndarray, kind: str, mode: str | None = None, **options: Any) -> bytes:
    """Return a file of the format `kind`. mode: Pillow's pixel format to convert to; options: of Pillow's `save`."""
    stream = io.BytesIO()
    image = Pillow.fromarray(pixels)
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()
