"""Synthetic pictures for the benchmarks: pixels of any size, and the bytes of X-ray files.

They are as large and as noisy as X-rays, because decoding and caches care for that; they show nothing.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels

__all__ = ["dicom_bytes", "enlarged", "jpeg_bytes", "png_bytes", "speckled"]


def speckled(side_px: int, dtype: npt.DTypeLike, *, seed: int) -> GrayPixels:
    """A square of soft blobs with noise of about 1 % of full scale, deterministic by seed."""
    rng = np.random.default_rng(seed)
    blobs = rng.uniform(0.15, 0.85, (12, 12)).astype(np.float32)
    picture = cv2.resize(blobs, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * 0.01
    scaled: GrayPixels = (np.clip(picture, 0, 1) * np.iinfo(dtype).max).astype(dtype)
    return scaled


def enlarged(pixels: GrayPixels, side_px: int) -> npt.NDArray[np.uint16]:
    """Gray pixels of any size as 16-bit pixels of side_px x side_px, with a little noise, as a detector gives them."""
    top = np.iinfo(pixels.dtype).max
    large = cv2.resize(pixels.astype(np.float32) / top, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    large += np.random.default_rng(side_px).standard_normal(large.shape, dtype=np.float32) * 0.003
    return np.asarray(np.clip(large, 0, 1) * 65535, dtype=np.uint16)


def jpeg_bytes(pixels: npt.NDArray[np.uint16]) -> bytes:
    """An 8-bit JPEG of quality 90."""
    return _encoded(".jpg", (pixels >> 8).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])


def png_bytes(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A 16-bit PNG."""
    return _encoded(".png", pixels, [])


def _encoded(suffix: str, pixels: GrayPixels, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a benchmark picture as {suffix}")
    return data.tobytes()


def dicom_bytes(pixels: npt.NDArray[np.uint16]) -> bytes:
    """A digital X-ray, 12 bits stored, uncompressed (explicit VR little endian), MONOCHROME2."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    image = Dataset()
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage, for presentation
    image.SOPInstanceUID = generate_uid(entropy_srcs=["cxr-edge benchmark"])
    image.Modality, image.BodyPartExamined = "DX", "CHEST"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = 2048, 4096  # the whole range, so that peers need not apply it
    image.PixelData = (pixels >> 4).tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
