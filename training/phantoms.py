"""Files of synthetic chest X-rays, for the demo and tests: a folder in, DICOM, JPEG and PNG files of drawn X-rays out.

`cxr_edge.phantoms` draws them. Phantoms test the pipeline; predictions of a model trained on patients are meaningless for
them.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from cxr_edge.names import path_argument, printable
from cxr_edge.phantoms import LABELS, Phantom, make_phantom

__all__ = ["LABELS", "Phantom", "copy_radiographs", "make_phantom", "radiograph", "write_dicom", "write_samples"]

# Radiographs of the package pydicom-data (MIT), by the name of their copy.
# The chest has the same pixels uncompressed and in lossless JPEG 2000, and slightly other ones in a lossy file.
_RADIOGRAPHS = {
    "chest.dcm": "RG1_UNCR.dcm",
    "chest-jpeg-2000.dcm": "RG1_J2KR.dcm",
    "chest-jpeg-2000-lossy.dcm": "RG1_J2KI.dcm",
    "leg.dcm": "RG3_UNCR.dcm",
    "leg-jpeg-2000.dcm": "RG3_J2KR.dcm",
}


def write_dicom(path: Path, phantom: Phantom, *, monochrome1: bool) -> None:
    """Write a 16-bit phantom as a DX image with 12 bits stored and a window. monochrome1: white is low."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    stored = phantom.pixels.astype(np.uint16) >> 4
    data = Dataset()
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = generate_uid(entropy_srcs=[path.name, str(phantom.seed)])
    data.PatientID = data.PatientName = "SYNTHETIC"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "DX", "CHEST", "PA"
    data.Rows, data.Columns = stored.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    data.WindowCenter, data.WindowWidth = 2048, 4096
    data.PixelData = (4095 - stored if monochrome1 else stored).astype("<u2").tobytes()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def write_samples(folder: Path, *, count: int = 8, seed: int = 0, size_px: int = 2000) -> list[Path]:
    """Write `count` phantoms of all labels in turn, as JPEG, 8- and 16-bit PNG and DICOM, marked as synthetic.

    Returns the files. size_px: the height; the width is nine tenths of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_sample(folder, i, seed, size_px) for i in range(count)]


def _write_sample(folder: Path, i: int, seed: int, size_px: int) -> Path:
    label = LABELS[i % len(LABELS)]
    suffix = (".jpg", ".png", ".dcm", ".png")[(i + i // len(LABELS)) % 4]
    bits = 16 if suffix == ".dcm" or i % 3 == 0 else 8
    phantom = make_phantom(
        label, size_px=(size_px, size_px * 9 // 10), seed=seed + i, bits=8 if suffix == ".jpg" else bits
    )
    _burn_in(phantom.pixels, "SYNTHETIC")
    path = folder / f"synthetic-{label}-{i + 1}{suffix}"
    if suffix == ".dcm":
        write_dicom(path, phantom, monochrome1=(i // len(LABELS)) % 2 == 0)
    else:
        path.write_bytes(cv2.imencode(suffix, phantom.pixels)[1].tobytes())  # cv2.imwrite ends the process on odd names
    return path


def radiograph(name: str) -> Path:
    """Return the path of a file of the package pydicom-data. Raises InputError if the package is not installed."""
    package = importlib.util.find_spec("data_store")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "the radiographs are in the package pydicom-data, which is not installed: pip install pydicom-data"
        )
    return Path(package.submodule_search_locations[0]) / "data" / name


def copy_radiographs(folder: Path) -> list[Path]:
    """Copy a chest radiograph and one of a leg from the package pydicom-data into `folder`, in several transfer syntaxes.

    Returns the copies. Raises InputError if the package is not installed.
    """
    sources = {folder / name: radiograph(original) for name, original in _RADIOGRAPHS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copyfile(original, copy)) for copy, original in sources.items()]


def _burn_in(pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], text: str) -> None:
    """Write letters into the upper left corner, at full brightness."""
    letters, scale = np.zeros(pixels.shape, np.uint8), pixels.shape[0] / 1000
    cv2.putText(
        letters, text, (int(20 * scale), int(40 * scale)), cv2.FONT_HERSHEY_SIMPLEX, scale, 1, max(1, int(2 * scale))
    )
    pixels[letters > 0] = np.iinfo(pixels.dtype).max


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.phantoms FOLDER`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.phantoms", description="Write synthetic chest X-rays.")
    parser.add_argument("folder", type=path_argument)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=2000, help="height in pixels (%(default)s)")
    parser.add_argument(
        "--radiographs",
        action="store_true",
        help="add a chest and a leg of pydicom-data, each in several syntaxes",
    )
    args = parser.parse_args(arguments)
    written = write_samples(args.folder, count=args.count, seed=args.seed, size_px=args.size)
    print(f"{len(written)} synthetic X-rays in {printable(args.folder)}", file=sys.stderr)
    if args.radiographs:
        try:
            copied = copy_radiographs(args.folder)
        except InputError as error:
            print(f"training.phantoms: {error}", file=sys.stderr)
            return 2
        print(f"{len(copied)} files of radiographs beside them", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
