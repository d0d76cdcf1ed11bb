"""Decoded files of a bundle: small drawn X-rays in every supported format, with the digest of their decoded pixels.

Training and `cxr-edge import` call `add_decoded_files`, `python -m training.decoded_files` adds them to a finished bundle. Each
file is drawn once and then kept, since encoders differ from version to version and decoders may not. Lossless files must give
the pixels that were drawn, so that no digest is that of a faulty library. Lossy JPEG 2000 is left out: its wavelet is computed
in floating point, which differs between processors (docs/decisions/0026-decode-parity.md).
"""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.bundle.decoded_file import DecodedFile
from cxr_edge.decoding.decode import decode_bytes
from cxr_edge.errors import ContractError
from cxr_edge.phantoms import make_phantom
from cxr_edge.records import GrayPixels, Image

__all__ = ["DRAWN_FILES", "DrawnFile", "add_decoded_files"]

_FOLDER = "decoded"
_SIZE_PX = (80, 64)  # height and width, which differ, so that a transposed image is noticed
_BITS = 12
_TOP = (1 << _BITS) - 1
_WINDOW = (1800, 3000)  # centre and width, which cut off both ends
_JPEG_QUALITY = 90


@dataclass(frozen=True, kw_only=True)
class DrawnFile:
    """A file that is drawn by a program."""

    name: str
    content: str  # in words, for reports
    draw: Callable[[], bytes]  # its bytes
    pixels: Callable[[], GrayPixels] | None  # what decoding must give; None: lossy


def add_decoded_files(bundle: Bundle) -> Bundle:
    """Write the drawn files into the bundle's folder and their decoded pixels' digests into its manifest.

    Raises ContractError if a lossless file does not give the pixels that were drawn here.
    """
    folder = bundle.root / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    entries = tuple(_write(bundle, drawn) for drawn in DRAWN_FILES)
    return write_bundle(bundle.root, replace(bundle.manifest, decoded_files=entries))


def _write(bundle: Bundle, drawn: DrawnFile) -> DecodedFile:
    name, data = f"{_FOLDER}/{drawn.name}", drawn.draw()
    image = decode_bytes(data, source=name)
    _check(drawn, image)
    with (bundle.root / name).open("wb") as file:  # the manifest, which is written last, has its SHA-256
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return DecodedFile.of_image(file_ref(bundle.root, name), image)


def _check(drawn: DrawnFile, image: Image) -> None:
    if drawn.pixels is not None and not np.array_equal(image.pixels, drawn.pixels()):
        raise ContractError(
            f"{drawn.name} ({drawn.content}) is lossless and does not give the pixels that were drawn: a library that encodes "
            "or decodes it here is faulty; install the versions of constraints.txt"
        )


@functools.cache
def _drawn(bits: int) -> Any:
    pixels = make_phantom("bacterial", size_px=_SIZE_PX, seed=3, bits=bits).pixels
    pixels.flags.writeable = False  # every file is of the same pixels
    return pixels


def _stored() -> npt.NDArray[np.uint16]:
    """Return the stored values of the DICOM files, 12 bits in 16, white is low."""
    return np.asarray(_TOP - (_drawn(16) >> 4), np.uint16)


def _displayed() -> npt.NDArray[np.uint16]:
    """Return what the stored values are shown as: the window (PS3.3 C.11.2.1.2.1), then inverted, over 16 bits."""
    centre, width = _WINDOW
    linear = ((_stored() - (centre - 0.5)) / (width - 1) + 0.5).clip(0, 1)
    return np.asarray(65535 - np.rint(linear * 65535), np.uint16)


def _encoded(suffix: str, pixels: npt.NDArray[Any], *options: int) -> bytes:
    return cv2.imencode(suffix, pixels, list(options))[1].tobytes()


def _jpeg(pixels: npt.NDArray[Any], *options: int) -> bytes:
    return _encoded(".jpg", pixels, cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY, *options)


def _jpeg_of_colour() -> bytes:
    """Return a file in three colours, with a tint that is too weak to be flagged, so that chroma is upsampled."""
    gray = _drawn(8)
    return _jpeg(np.stack([gray, gray, cv2.add(gray, 6)], axis=-1), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


def _tiff() -> bytes:
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, _drawn(16), photometric="minisblack", compression="zlib", predictor=True)
    return stream.getvalue()


def _dicom() -> bytes:
    """Return an uncompressed file: 12 bits stored in 16, white is low, with a window."""
    return _dicom_file(_dataset(_stored(), bits=_BITS))


def _dicom_rle() -> bytes:
    from pydicom.uid import RLELossless

    data = _dataset(_stored(), bits=_BITS)
    data.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    return _dicom_file(data)


def _dicom_jpeg_lossless() -> bytes:
    import imagecodecs

    return _encapsulated(imagecodecs.jpeg8_encode(_stored(), lossless=True, bitspersample=_BITS), ".4.70")


def _dicom_jpeg_ls() -> bytes:
    import imagecodecs

    return _encapsulated(imagecodecs.jpegls_encode(_stored()), ".4.80")


def _dicom_jpeg_2000() -> bytes:
    import imagecodecs

    frame = imagecodecs.jpeg2k_encode(_stored(), codecformat="j2k", bitspersample=_BITS, level=0, reversible=True)
    return _encapsulated(frame, ".4.90")


def _dicom_jpeg_extended() -> bytes:
    import imagecodecs

    return _encapsulated(imagecodecs.jpeg8_encode(_stored(), level=_JPEG_QUALITY, bitspersample=_BITS), ".4.51")


def _dicom_jpeg_baseline() -> bytes:
    return _encapsulated(_jpeg(255 - _drawn(8)), ".4.50", data=_dataset(255 - _drawn(8), bits=8))


def _dataset(stored: npt.NDArray[Any], *, bits: int) -> Any:
    """Return a data set of stored values, with a window if they have 12 bits."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = generate_uid(entropy_srcs=["cxr-edge decoded file"])
    data.PatientID = data.PatientName = "SYNTHETIC"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated = 8 * stored.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PhotometricInterpretation = "MONOCHROME1"
    if bits == _BITS:
        data.WindowCenter, data.WindowWidth = _WINDOW
    data.PixelData = stored.astype(f"<u{stored.dtype.itemsize}").tobytes()
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def _encapsulated(frame: bytes | bytearray, syntax: str, *, data: Any = None) -> bytes:
    """Return the file with a compressed frame. syntax: the end of the transfer syntax's UID."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    data = _dataset(_stored(), bits=_BITS) if data is None else data
    data.PixelData = encapsulate([bytes(frame)])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.file_meta.TransferSyntaxUID = UID(f"1.2.840.10008.1.2{syntax}")
    return _dicom_file(data)


def _dicom_file(data: Any) -> bytes:
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _lossless(name: str, content: str, draw: Callable[[], bytes], pixels: Callable[[], GrayPixels]) -> DrawnFile:
    return DrawnFile(name=name, content=content, draw=draw, pixels=pixels)


def _lossy(name: str, content: str, draw: Callable[[], bytes]) -> DrawnFile:
    return DrawnFile(name=name, content=content, draw=draw, pixels=None)


DRAWN_FILES: tuple[DrawnFile, ...] = (
    _lossy("jpeg-baseline.jpg", "JPEG, baseline, gray", lambda: _jpeg(_drawn(8))),
    _lossy("jpeg-progressive.jpg", "JPEG, progressive, gray stored as colour with a weak tint", _jpeg_of_colour),
    _lossless("png-16.png", "PNG, 16 bits", lambda: _encoded(".png", _drawn(16)), lambda: _drawn(16)),
    _lossless("tiff-16.tif", "TIFF, 16 bits, Deflate", _tiff, lambda: _drawn(16)),
    _lossless(
        "webp-lossless.webp",
        "WEBP, lossless",
        lambda: _encoded(".webp", _drawn(8), cv2.IMWRITE_WEBP_QUALITY, 101),  # above 100: lossless
        lambda: _drawn(8),
    ),
    _lossless("bmp-8.bmp", "BMP, 8 bits", lambda: _encoded(".bmp", _drawn(8)), lambda: _drawn(8)),
    _lossless("dicom-uncompressed.dcm", "DICOM, uncompressed, 12 bits, MONOCHROME1, window", _dicom, _displayed),
    _lossless("dicom-rle.dcm", "DICOM, RLE", _dicom_rle, _displayed),
    _lossless("dicom-jpeg-lossless.dcm", "DICOM, JPEG lossless", _dicom_jpeg_lossless, _displayed),
    _lossless("dicom-jpeg-ls.dcm", "DICOM, JPEG-LS lossless", _dicom_jpeg_ls, _displayed),
    _lossless("dicom-jpeg-2000.dcm", "DICOM, JPEG 2000 lossless", _dicom_jpeg_2000, _displayed),
    _lossy("dicom-jpeg-baseline.dcm", "DICOM, JPEG baseline, 8 bits", _dicom_jpeg_baseline),
    _lossy("dicom-jpeg-extended.dcm", "DICOM, JPEG extended, 12 bits", _dicom_jpeg_extended),
)
