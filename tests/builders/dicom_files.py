"""DICOM builder: gray arrays in, the bytes of synthetic DICOM X-rays out, in every transfer syntax.

Lossless JPEG is encoded here by the standard (ITU-T T.81 annex H), so that the tests do not depend on the codec under test.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

PATIENT = "Nobody^Knows"


def xray_pixels(bits: int = 12, *, rows: int = 40, columns: int = 33, seed: int = 0) -> np.ndarray:
    """Return (rows, columns) uint16 of smooth shapes with noise, without the lowest and highest values."""
    y, x = np.mgrid[:rows, :columns]
    noise = np.random.default_rng(seed).normal(0, 0.01, (rows, columns))
    shapes = np.clip(0.5 + 0.35 * np.sin(x / 5) * np.cos(y / 7) + noise, 0.02, 0.98)
    return (shapes * ((1 << bits) - 1)).astype(np.uint16)


def dataset(pixels: np.ndarray, *, bits: int = 12, **elements: Any) -> Dataset:
    """Return an uncompressed DX data set.

    pixels: stored values, in 16-bit words, 8-bit for bits <= 8.
    elements: set last, None deletes an element.
    """
    data = Dataset()
    data.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = uid.generate_uid(entropy_srcs=["cxr-edge test"])
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.PatientName = data.PatientID = PATIENT
    data.Rows, data.Columns = pixels.shape[:2]
    data.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    data.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    if pixels.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = 8 if bits <= 8 else 16
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    raw = np.ascontiguousarray(pixels).astype("u1" if bits <= 8 else "<u2").tobytes()
    data.PixelData = raw + b"\0" * (len(raw) % 2)
    data["PixelData"].VR = "OB" if bits <= 8 else "OW"
    for keyword, value in elements.items():
        if value is None:
            del data[keyword]
        else:
            setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    return data


def file_bytes(data: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """Return the file of an uncompressed data set, also deflated or big endian, or of an encapsulated one."""
    if syntax == uid.ExplicitVRBigEndian:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    data.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    private = {"implicit_vr": False, "little_endian": True} if uid.UID(syntax).is_private else {}
    data.save_as(stream, enforce_file_format=True, **private)
    return stream.getvalue()


def encapsulated_file(data: Dataset, frame: bytes, syntax: str, *, fragments: int = 1) -> bytes:
    """Return the file with `frame` as its compressed image."""
    data.PixelData = encapsulate([frame], fragments_per_frame=fragments)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return file_bytes(data, syntax)


def compressed_file(data: Dataset, syntax: str) -> bytes:
    """Return the file of an uncompressed gray data set in any supported transfer syntax."""
    if syntax == uid.RLELossless:
        data.compress(syntax, encoding_plugin="pydicom")
        return file_bytes(data, syntax)
    if syntax in (uid.JPEGLossless, uid.JPEGLosslessSV1):
        frame = jpeg_lossless(_words(data), bits=data.BitsStored, predictor=1 if syntax == uid.JPEGLosslessSV1 else 4)
        return encapsulated_file(data, frame, syntax)
    if syntax == uid.JPEGBaseline8Bit:
        return encapsulated_file(data, jpeg_baseline(_words(data).astype(np.uint8)), syntax)
    if syntax in (uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEG2000):
        return _compress_with_gdcm(data, syntax)
    return file_bytes(data, syntax)


def _words(data: Dataset) -> np.ndarray:
    kind = "u1" if data.BitsAllocated == 8 else "<u2"
    return np.frombuffer(data.PixelData, kind)[: data.Rows * data.Columns].reshape(data.Rows, data.Columns)


def jpeg_baseline(pixels: np.ndarray) -> bytes:
    """Return an 8-bit JPEG, gray, or colour from (rows, columns, 3) with blue first."""
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def _compress_with_gdcm(data: Dataset, syntax: str) -> bytes:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        before, after = str(Path(folder, "before.dcm")), str(Path(folder, "after.dcm"))
        Path(before).write_bytes(file_bytes(data))
        reader = gdcm.ImageReader()
        reader.SetFileName(before)
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(after)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return Path(after).read_bytes()


def jpeg_lossless(pixels: np.ndarray, *, bits: int, predictor: int = 1) -> bytes:
    """Return a lossless JPEG (SOF3) of one component. predictor: 1 left, 2 above, 3 above left, 4 left + above - above left."""
    rows, columns = pixels.shape
    frame = _segment(0xC3, bytes([bits, *rows.to_bytes(2, "big"), *columns.to_bytes(2, "big"), 1, 1, 0x11, 0]))
    # One code of five bits for each of the 17 categories of differences.
    codes = _segment(0xC4, bytes([0, 0, 0, 0, 0, 17] + [0] * 11 + list(range(17))))
    scan = _segment(0xDA, bytes([1, 1, 0, predictor, 0, 0]))
    return b"\xff\xd8" + frame + codes + scan + _entropy_coded(pixels.astype(int), bits, predictor) + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body


def _entropy_coded(pixels: np.ndarray, bits: int, predictor: int) -> bytes:
    predicted = np.empty_like(pixels)
    left, above, corner = pixels[1:, :-1], pixels[:-1, 1:], pixels[:-1, :-1]
    predicted[1:, 1:] = {1: left, 2: above, 3: corner, 4: left + above - corner}[predictor]
    predicted[0, 1:] = pixels[0, :-1]
    predicted[1:, 0] = pixels[:-1, 0]
    predicted[0, 0] = 1 << (bits - 1)
    coded = "".join(_difference(int(d)) for d in (pixels - predicted).ravel())
    coded += "1" * (-len(coded) % 8)
    return int(coded, 2).to_bytes(len(coded) // 8, "big").replace(b"\xff", b"\xff\0")


def _difference(value: int) -> str:
    """Return the code of the category and the bits of a difference (T.81 H.1.2.2: modulo 2^16)."""
    value = (value + 32767) % 65536 - 32767
    category = abs(value).bit_length()
    extra = value if value > 0 else value + (1 << category) - 1
    return f"{category:05b}" + (f"{extra:0{category}b}" if 0 < category < 16 else "")
