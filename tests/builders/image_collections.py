"""Builders of small synthetic collections in the published layouts, for tests that read or train on folders."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from tests.builders.dicom_files import dataset, file_bytes
from training.phantoms import Phantom, make_phantom

__all__ = [
    "ADULT_LABELS",
    "METADATA_HEAD",
    "NIH_FINDINGS",
    "RSNA_CLASSES",
    "SIIM_APPEARANCES",
    "csv_text",
    "write_adults",
    "write_collections",
    "write_nih",
    "write_rsna",
    "write_siim",
]

METADATA_HEAD = "patientid,finding,view,modality,folder,filename"

RSNA_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")

# Source of `adults` -> prefix of its patients' numbers, and the labels that it has.
ADULT_LABELS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "siim": ("SIIM-study-a", ("normal", "covid-19", "pneumonia")),
    "nih": ("NIH-000", ("normal", "pneumonia")),
    "armiro": ("CXNET-", ("covid-19",)),
    "ccx-june": ("CCX-", ("covid-19", "pneumonia", "bacterial", "viral", "other", "normal")),
    "tbx11k": ("TBX-tb00", ("tuberculosis",)),
}
NIH_FINDINGS = ("No Finding", "Pneumonia", "Effusion|Pneumonia", "Infiltration|Pleural_Thickening")
SIIM_APPEARANCES = (
    "Negative for Pneumonia",
    "Typical Appearance",
    "Indeterminate Appearance",
    "Atypical Appearance",
)


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
    months, p4 a bare "9". Sexes: F and M in turn, p5 O. Returns the folder.
    """
    labels, details = ["patientId,x,y,width,height,Target"], ["patientId,class"]
    for i in range(3 * patients):
        kind = RSNA_CLASSES[i % 3]
        age = {1: "", 2: "012Y", 3: "030M", 4: "9"}.get(i, "043Y")
        pixels = _blocks(i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of ages as bare numbers, which RSNA has
            view, sex = "PA" if i % 2 else "AP", "O" if i == 5 else "FM"[i % 2]
            header = dataset(pixels, bits=8, ViewPosition=view, PatientAge=age, PatientSex=sex)
            _bytes(folder / "stage_2_train_images" / f"p{i}.dcm", file_bytes(header))
        labels += [f"p{i},1.0,2.0,3.0,4.0,1", f"p{i},5.0,2.0,3.0,4.0,1"] if i % 3 == 2 else [f"p{i},,,,,0"]
        details += [f"p{i},{kind}"] * (2 if i % 3 == 2 else 1)
    (folder / "stage_2_train_labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "stage_2_detailed_class_info.csv").write_text("\n".join(details) + "\n")
    return folder


def csv_text(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a table with the columns of the first row."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_adults(folder: Path, *, patients: int) -> Path:
    """Write `patients` patients of every source and label of ADULT_LABELS: 11, 12, ... within a source. Returns the folder."""
    rows = []
    for source, (prefix, labels) in ADULT_LABELS.items():
        for i in range(patients * len(labels)):
            label, name = labels[i % len(labels)], f"{source}/image-{i}.jpg"
            row = {"file": name, "source": source, "source_commit": "1a2b", "site": f"{source}'s site", "label": label}
            row |= {"detail": f"{label} in words", "label_basis": f"{source}'s basis", "age": ("", "71.0", "18")[i % 3]}
            row |= {"sex": ("", "F", "M")[i % 3], "view": ("", "AP", "PA")[i % 3], "patient_id": f"{prefix}{11 + i}"}
            rows.append(row | {"original_width": "256", "sha256": "0" * 64})
            _write(folder / name, _blocks(1000 + len(rows)))
    (folder / "manifest.csv").write_text(csv_text(rows), encoding="utf-8")
    return folder


def write_nih(folder: Path, *, patients: int) -> Path:
    """Write `patients` patients of each of NIH_FINDINGS: 1, 2, ... in two archives, and the table. Returns the folder."""
    rows = []
    for i in range(len(NIH_FINDINGS) * patients):
        name = f"{i + 1:08d}_{i % 3:03d}.png"
        row = {"Image Index": name, "Finding Labels": NIH_FINDINGS[i % len(NIH_FINDINGS)], "Follow-up #": i % 3}
        row |= {"Patient ID": i + 1, "Patient Age": f"{20 + i:03d}Y", "Patient Gender": "MF"[i % 2]}
        rows.append(row | {"View Position": ("PA", "AP")[i % 2], "OriginalImage[Width": 2682, "Height]": 2749})
        _write(folder / f"images_{1 + i % 2:03d}" / "images" / name, _blocks(2000 + i))
    (folder / "Data_Entry_2017.csv").write_text(csv_text(rows))
    return folder


def write_siim(folder: Path, *, patients: int, dicom: bool = False) -> Path:
    """Write `patients` studies of each of SIIM_APPEARANCES: s0, s1, ... with one image, i0, i1, ... Returns the folder.

    dicom: DICOM files of patients q0, q1, ..., two studies each, instead of resized images.
    """
    studies, images = [], []
    for i in range(len(SIIM_APPEARANCES) * patients):
        name = SIIM_APPEARANCES[i % len(SIIM_APPEARANCES)]
        studies.append({"id": f"s{i}_study", **{n: int(n == name) for n in SIIM_APPEARANCES}})
        images.append({"id": f"i{i}_image", "boxes": "", "label": "none 1 0 0 1 1", "StudyInstanceUID": f"s{i}"})
        pixels, header = _blocks(3000 + i), {"ViewPosition": "AP", "PatientID": f"q{i // 2}", "PatientSex": "F"}
        if dicom:
            content = file_bytes(dataset(pixels, bits=8, **header, PatientAge=f"{17 + i:03d}Y"))
            _bytes(folder / "train" / f"s{i}" / "series" / f"i{i}.dcm", content)
        else:
            _write(folder / "train" / f"i{i}.png", pixels)
    (folder / "train_study_level.csv").write_text(csv_text(studies))
    (folder / "train_image_level.csv").write_text(csv_text(images))
    return folder


def _blocks(seed: int) -> npt.NDArray[np.uint8]:
    """Return an image of 32 px that is drawn at once; no two seeds' are taken for the same image."""
    return np.kron(np.random.default_rng(seed).integers(0, 256, (8, 8)), np.ones((4, 4))).astype(np.uint8)


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
