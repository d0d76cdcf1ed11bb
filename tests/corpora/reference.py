"""Independent decoder: the bytes of a file in, its image as documented by cxr_edge out: gray, black low, 0..1.

The reference for `run`: pydicom with its plugins, Pillow and tifffile decode, and the few lines of display arithmetic are written
from the standards, not from cxr_edge. Any exception means that it rejects the file.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import tifffile
from PIL import Image as Pillow
from PIL import ImageOps
from pydicom.pixels import pixel_array

Reals = npt.NDArray[np.float64]

_PLUGINS = ("pylibjpeg", "pyjpegls", "gdcm", "pydicom", "pillow")
_LOSSY_SYNTAXES = (".4.50", ".4.51", ".4.91", ".4.93")  # JPEG baseline and extended, JPEG 2000, multi-component 2000
_LOSSY_TIFF = (6, 7, 33003, 33005, 34712, 34892, 50001)
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\W{1,3}(\d)")
_LUMA = (0.299, 0.587, 0.114)  # BT.601, as JPEG and OpenCV


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A decoded image."""

    pixels: Reals  # 0..1
    lossy: bool  # decoders of its compression may differ a little
    steps: float  # 1 / steps is one stored value


def decode_reference(data: bytes, *, stored_bits: int | None) -> Reference:
    """Decode by content. stored_bits: the depth that cxr_edge used for samples with fewer bits than their type."""
    if data[128:132] == b"DICM" or data[:2] in (b"\x08\0", b"\x02\0"):
        return _dicom(data)
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(data, stored_bits)
    return _picture(data, stored_bits)


def _dicom(data: bytes) -> Reference:
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    samples = _samples(dataset)
    syntax = str(getattr(dataset.file_meta, "TransferSyntaxUID", ""))
    lossy = syntax.endswith(_LOSSY_SYNTAXES)
    steps = float(2 ** int(dataset.BitsStored) - 1)
    shown, gain = (_luma(samples / steps), 1.0) if samples.ndim == 3 else _apply_display(dataset, samples)
    square = _resample_square(dataset, shown)
    return Reference(pixels=_upright(dataset, square), lossy=lossy or square is not shown, steps=steps / gain)


def _samples(dataset: Any) -> npt.NDArray[Any]:
    """Return the samples from the first plugin that can decode them, colour as RGB."""
    if not getattr(dataset.file_meta, "TransferSyntaxUID", None):
        explicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            "1.2.840.10008.1.2" if not explicit else f"1.2.840.10008.1.2.{1 if little else 2}"
        )
    if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        return pixel_array(dataset)
    errors = []
    for plugin in _PLUGINS:
        try:
            return pixel_array(dataset, decoding_plugin=plugin)
        except Exception as error:
            errors.append(f"{plugin}: {error}")
    raise ValueError("; ".join(errors))


def _apply_display(dataset: Any, stored: npt.NDArray[Any]) -> tuple[Reals, float]:
    """Apply PS3.3 C.11: modality, then VOI, padding to black, MONOCHROME1 last. Also return the maximum gain of a stored step."""
    padding = _padding(dataset, stored)
    if dataset.get("ModalityLUTSequence"):
        values = _apply_table(dataset, dataset.ModalityLUTSequence[0], stored)[0]
    else:
        values = stored * float(dataset.get("RescaleSlope") or 1) + float(dataset.get("RescaleIntercept") or 0)
    valid = values[~padding]
    span = float(valid.max() - valid.min())
    if dataset.get("VOILUTSequence"):
        entries, top = _apply_table(dataset, dataset.VOILUTSequence[0], values)
        shown, gain = entries / top, 1.0
    elif (window := _window(dataset)) is not None:
        shown = _apply_window(values, *window)
        gain = 2.0 ** int(dataset.BitsStored) * abs(float(dataset.get("RescaleSlope") or 1)) / max(window[1], 1)
    elif int(dataset.BitsStored) == 8 and stored.dtype == np.uint8 and np.array_equal(values, stored):
        shown, gain = values / 255, 1.0
    else:
        shown, gain = (values - valid.min()) / span, 2.0 ** int(dataset.BitsStored) / span
    shown = np.clip(shown, 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[padding] = 0
    return shown, max(gain, 1.0)


def _apply_table(dataset: Any, item: Any, values: npt.NDArray[Any]) -> tuple[Reals, float]:
    """Apply a table (PS3.3 C.11.1.1.1). Also return the largest value that its bits or its entries can hold."""
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 1 << 16
    first = first - (1 << 16) if first >= 1 << 15 and values.min() < 0 else first
    data: Any = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.original_encoding[1] else ">"
        data = np.frombuffer(data, np.uint8 if len(data) == count else f"{order}u2")
    table = np.asarray(data, np.float64)[:count]
    return table[np.clip(np.rint(values).astype(int) - first, 0, count - 1)], max(2.0**bits - 1, float(table.max()))


def _padding(dataset: Any, stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    value = dataset.get("PixelPaddingValue")
    if value in (None, ""):
        return np.zeros(stored.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = []
    for end in (value, value if limit in (None, "") else limit):
        bits = int(dataset.BitsStored)
        end = int(end) & (2**bits - 1)
        ends.append(end - 2**bits if dataset.PixelRepresentation and end >= 2 ** (bits - 1) else end)
    return (stored >= min(ends)) & (stored <= max(ends))


def _window(dataset: Any) -> tuple[float, float, str] | None:
    first = [dataset.get(keyword) for keyword in ("WindowCenter", "WindowWidth")]
    numbers = [value[0] if isinstance(value, pydicom.multival.MultiValue) else value for value in first]
    if any(number in (None, "") for number in numbers):
        return None
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    center, width = (float(number) for number in numbers)
    return None if width < (1 if function == "LINEAR" else 1e-300) else (center, width, function)


def _apply_window(values: Reals, center: float, width: float, function: str) -> Reals:
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return (values - (center - 0.5)) / (width - 1) + 0.5


def _resample_square(dataset: Any, pixels: Reals) -> Reals:
    """Resample so that pixels are square (PS3.3 C.7.6.3.1.7, 10.7.1.3): vertical, then horizontal size."""
    found = (dataset.get(keyword) for keyword in ("PixelAspectRatio", "ImagerPixelSpacing", "PixelSpacing"))
    sizes = [tuple(map(float, value)) for value in found if value]
    vertical, horizontal = next((size for size in sizes if min(size) > 0), (1.0, 1.0))
    ratio = vertical / horizontal
    if abs(ratio - 1) <= 0.01:
        return pixels
    rows, columns = pixels.shape
    size = (columns, round(rows * ratio)) if ratio > 1 else (round(columns / ratio), rows)
    return np.asarray(Pillow.fromarray(pixels.astype(np.float32)).resize(size, Pillow.Resampling.BILINEAR), np.float64)


def _upright(dataset: Any, pixels: Reals) -> Reals:
    """Rows to the patient's left, columns to the feet, where Patient Orientation names the frontal plane."""
    directions = "".join(str(code)[:1] for code in dataset.get("PatientOrientation") or ())
    turns: dict[str, Reals] = {
        "LH": pixels[::-1],
        "RF": pixels[:, ::-1],
        "RH": pixels[::-1, ::-1],
        "FL": pixels.T,
        "HL": pixels[:, ::-1].T,
        "FR": pixels[::-1].T,
        "HR": pixels[::-1, ::-1].T,
    }
    return turns.get(directions, pixels)


def _picture(data: bytes, stored_bits: int | None) -> Reference:
    """Decode with Pillow, which gives the upper 8 bits of 16-bit colour."""
    image: Any = Pillow.open(io.BytesIO(data))
    lossy = image.format in ("JPEG", "MPO") or (image.format == "WEBP" and b"VP8 " in data[:64])
    image = ImageOps.exif_transpose(image)
    transparent = image.info.get("transparency")
    if image.mode in ("P", "PA") or (image.mode == "RGB" and transparent is not None):
        image = image.convert("RGBA")
    if image.mode == "CMYK":
        image = image.convert("RGB")
    samples = np.asarray(image)
    if samples.ndim == 2 and isinstance(transparent, int):
        samples = np.where(samples == transparent, 0, samples)
    if image.mode == "1":
        samples = samples.astype(np.uint8) * 255
    if samples.dtype == np.int32:
        samples = samples.astype(np.uint16)
    alpha = image.mode in ("LA", "RGBA")
    return _scale_to_unit(samples, stored_bits, alpha="straight" if alpha else None, lossy=lossy)


def _tiff(data: bytes, stored_bits: int | None) -> Reference:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        samples = page.asarray()
        if page.planarconfig == 2 and samples.ndim == 3:
            samples = np.moveaxis(samples, 0, -1)
        if page.photometric == 3:
            samples = np.take(page.colormap, samples, axis=1).transpose(1, 2, 0)
        if samples.dtype == bool:
            samples = samples.astype(np.uint8) * 255
        elif page.bitspersample in (2, 4):
            samples = np.rint(samples * (255 / (2**page.bitspersample - 1))).astype(np.uint8)
        if page.photometric == 0:
            samples = np.invert(samples)
        extra = {1: "premultiplied", 2: "straight"}.get(int(page.extrasamples[0])) if page.extrasamples else None
        reference = _scale_to_unit(samples, stored_bits, alpha=extra, lossy=int(page.compression) in _LOSSY_TIFF)
        in_xmp = _XMP_ORIENTATION.search(bytes(page.tags.valueof(700, b"")))
        orientation = page.tags.valueof(274, int(in_xmp[1]) if in_xmp else 1)
        upright = _rotate(reference.pixels, int(orientation))
        return Reference(pixels=upright, lossy=reference.lossy, steps=reference.steps)


def _rotate(pixels: Reals, orientation: int) -> Reals:
    """Rotate and mirror by tag 274 (TIFF 6.0): the edges of the image at row 0 and column 0."""
    turns: dict[int, Reals] = {
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.T,
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].T,
        8: np.rot90(pixels),
    }
    return turns.get(orientation, pixels)


def _scale_to_unit(samples: npt.NDArray[Any], stored_bits: int | None, *, alpha: str | None, lossy: bool) -> Reference:
    """Samples to gray in 0..1. alpha: kind of the last channel."""
    if samples.dtype.kind == "f":
        low, high = float(samples.min()), float(samples.max())
        return Reference(
            pixels=_gray((samples.astype(np.float64) - low) / (high - low), None), lossy=lossy, steps=65535
        )
    top = float(np.iinfo(samples.dtype).max)
    if samples.dtype == np.uint16 and samples.ndim == 2 and stored_bits is not None:
        top = 2.0**stored_bits - 1
    return Reference(pixels=_gray(samples / top, alpha), lossy=lossy, steps=top)


def _gray(samples: Reals, alpha: str | None) -> Reals:
    if samples.ndim == 2:
        return samples
    if alpha is None:
        return _luma(samples[..., :3]) if samples.shape[2] >= 3 else samples[..., 0]
    colours = samples[..., :-1]
    gray = _luma(colours) if colours.shape[2] == 3 else colours[..., 0]
    return gray * samples[..., -1] if alpha == "straight" else gray


def _luma(rgb: Reals) -> Reals:
    return rgb @ np.array(_LUMA)
