"""Synthetic images for the benchmarks: pixels of any size, and the bytes of X-ray files.

They have the size and noise of X-rays, because both affect decoding and caches, but no medical content.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.records import GrayPixels

__all__ = ["dicom_bytes", "enlarge", "jpeg_bytes", "png_bytes", "speckled_image"]


def speckled_image(side_px: int, dtype: npt.DTypeLike, *, seed: int) -> GrayPixels:
    """Return a square image of soft blobs with noise of about 1 % of full scale, deterministic per seed."""
    rng = np.random.default_rng(seed)
    blobs = rng.uniform(0.15, 0.85, (12, 12)).astype(np.float32)
    picture = cv2.resize(blobs, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    picture += rng.standard_normal(picture.shape, dtype=np.float32) * 0.01
    scaled: GrayPixels = (np.clip(picture, 0, 1) * np.iinfo(dtype).max).astype(dtype)
    return scaled


def enlarge(pixels: GrayPixels, side_px: int) -> npt.NDArray[np.uint16]:
    """Resize gray pixels to 16-bit pixels of side_px x side_px and add a little noise, as a detector does."""
    top = np.iinfo(pixels.dtype).max
    large = cv2.resize(pixels.astype(np.float32) / top, (side_px, side_px), interpolation=cv2.INTER_CUBIC)
    large += np.random.default_rng(side_px).standard_normal(large.shape, dtype=np.float32) * 0.003
    return np.asarray(np.clip(large, 0, 1) * 65535, dtype=np.uint16)


def jpeg_bytes(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Encode as 8-bit JPEG of quality 90."""
    return _encode(".jpg", (pixels >> 8).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])


def png_bytes(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Encode as 16-bit PNG."""
    return _encode(".png", pixels, [])


def _encode(suffix: str, pixels: GrayPixels, options: list[int]) -> bytes:
    encoded, data = cv2.imencode(suffix, pixels, options)
    if not encoded:
        raise RuntimeError(f"OpenCV could not encode a benchmark image as {suffix}")
    return data.tobytes()


def dicom_bytes(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Encode as DICOM digital X-ray, 12 bits stored, uncompressed (explicit VR little endian), MONOCHROME2."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    image = Dataset()
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage, for presentation
    image.SOPInstanceUID = generate_uid(entropy_srcs=["cxr-edge benchmark"])
    image.Modality, image.BodyPartExamined = "DX", "CHEST"
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.WindowCenter, image.WindowWidth = 2048, 4096  # full range, so that other implementations need not apply it
    image.PixelData = (pixels >> 4).tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
