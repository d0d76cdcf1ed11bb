"""Builders of small synthetic collections in the published layouts, for tests that read or train on folders."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tests.builders.dicom_files import dataset, file_bytes
from training.phantoms import Phantom, make_phantom

__all__ = ["METADATA_HEAD", "RSNA_CLASSES", "write_collections", "write_rsna"]

METADATA_HEAD = "patientid,finding,view,modality,folder,filename"

RSNA_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")


def write_collections(data: Path, *, patients: int, size_px: int = 128) -> Path:
    """Write `patients` patients of every kind, one image each. Returns the data folder."""
    for i in range(patients):
        _paediatric(data / "chest_xray", i, patients, size_px)
        _tuberculosis(data / "lung-masks", i, size_px)
        _write(data / "twitter-covid" / f"EX{i}.jfif", _phantom("covid-19", 500 + i, size_px).pixels)
    _covid(data / "covid-chestxray-dataset", data / "lung-masks" / "covid-chestxray-masks", patients, size_px)
    return data


def write_rsna(folder: Path, *, patients: int) -> Path:
    """Write `patients` patients of each of RSNA_CLASSES: p0, p1, ... in turn, DICOM files and the two tables.

    Opacities have two rows in the table of labels. Views are AP and PA in turn. Ages: p1 not stated, p2 12 years, p3 30
    months, p4 a bare "9". Returns the folder.
    """
    labels, details = ["patientId,x,y,width,height,Target"], ["patientId,class"]
    for i in range(3 * patients):
        kind = RSNA_CLASSES[i % 3]
        age = {1: "", 2: "012Y", 3: "030M", 4: "9"}.get(i, "043Y")
        # No phantoms: blocks are drawn at once, and no two patients' are taken for the same image.
        pixels = np.kron(np.random.default_rng(i).integers(0, 256, (8, 8)), np.ones((4, 4))).astype(np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ages as bare numbers, which RSNA has
            header = dataset(pixels, bits=8, ViewPosition="PA" if i % 2 else "AP", PatientAge=age)
            _bytes(folder / "stage_2_train_images" / f"p{i}.dcm", file_bytes(header))
        labels += [f"p{i},1.0,2.0,3.0,4.0,1", f"p{i},5.0,2.0,3.0,4.0,1"] if i % 3 == 2 else [f"p{i},,,,,0"]
        details += [f"p{i},{kind}"] * (2 if i % 3 == 2 else 1)
    (folder / "stage_2_train_labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "stage_2_detailed_class_info.csv").write_text("\n".join(details) + "\n")
    return folder


@cache
def _phantom(label: str, seed: int, size_px: int) -> Phantom:
    """Return a phantom with a random framing: without it, the duplicate search takes most of them for one patient."""
    rng = np.random.default_rng(seed)
    phantom = make_phantom(label, seed=seed, size_px=size_px * 5 // 4)
    y, x = rng.integers(0, size_px // 4, 2)
    window = np.s_[y : y + size_px, x : x + size_px]
    pixels = np.ascontiguousarray(phantom.pixels[window])
    return replace(phantom, pixels=pixels, lung_mask=phantom.lung_mask[window])


def _write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    suffix = {".jpeg": ".jpg", ".jfif": ".jpg"}.get(path.suffix, path.suffix)
    _bytes(path, cv2.imencode(suffix, pixels)[1].tobytes())


def _bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _paediatric(folder: Path, i: int, patients: int, size_px: int) -> None:
    names = {
        "normal": f"NORMAL/IM-{i:04d}-0001.jpeg",
        "bacterial": f"PNEUMONIA/person{i}_bacteria_{i}.jpeg",
        "viral": f"PNEUMONIA/person{patients + i}_virus_{i}.jpeg",
    }
    for label, name in names.items():
        _write(folder / "train" / name, _phantom(label, 100 + i, size_px).pixels)


def _tuberculosis(folder: Path, i: int, size_px: int) -> None:
    for k, (site, sick) in enumerate((("CHNCXR", 0), ("CHNCXR", 1), ("MCUCXR", 0))):
        name = f"{site}_{10 * i + k:04d}_{sick}"
        phantom = _phantom("bacterial" if sick else "normal", 200 + 10 * i + k, size_px)
        _write(folder / "CXR_png" / f"{name}.png", phantom.pixels)
        _write(folder / "masks" / f"{name}.png", phantom.lung_mask.astype(np.uint8) * 255)


def _covid(folder: Path, masks: Path, patients: int, size_px: int) -> None:
    lines = [METADATA_HEAD]
    for i in range(patients):
        phantom = _phantom("covid-19", 300 + i, size_px)
        _write(folder / "images" / f"covid-{i}.png", phantom.pixels)
        _write(masks / f"covid-{i}.png", phantom.lung_mask.astype(np.uint8) * 255)
        lines.append(f"{i},COVID-19,PA,X-ray,images,covid-{i}.png")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
