"""Synthetic collections in the published layouts: counts of images in, a data folder of drawn X-rays out.

For runs that test the pipeline and measure time without patients' images (`training.papers_smoke`). The images are
`training.phantoms`; names, tables and folders are as published, so that the readers of `training.data.collections` read them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from training.phantoms import Phantom, make_phantom, write_dicom
from training.shared_files import atomic_write, write_text

__all__ = ["Counts", "draw"]

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Number of images of each kind, one per patient.

    The defaults are the smallest with which every label of both papers' stages is in all sides and fills a batch (R20's 16 in
    each stage): a side gets its share of a kind from about eight images on.
    """

    kcx_normal: int = 8
    kcx_bacterial: int = 8
    kcx_viral: int = 5
    ccx: int = 10  # COVID-19, all with lung masks
    twitter: int = 2
    tuberculosis: int = 3  # normal adults of Shenzhen; all but the first have masks
    rsna: int = 10  # normals, and as many opacities; one more that is neither, which the reader drops

    @property
    def images(self) -> int:
        """Number of images that a run reads."""
        counts: list[int] = [getattr(self, f.name) for f in fields(self)]
        return sum(counts) + self.rsna


def draw(data: Path, counts: Counts, *, size_px: int = 512) -> Path:
    """Draw the collections into `data`, atomically. Returns `data`; an existing folder stays unchanged."""
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(data) as beside:
            _kermany(beside / "chest_xray" / "train", counts, size_px)
            _covid(beside, counts.ccx, size_px)
            for i in range(counts.twitter):
                _write(beside / "twitter-covid" / f"EX{i}.jfif", _framed("covid-19", 400 + i, size_px).pixels)
            _tuberculosis(beside / "lung-masks", counts.tuberculosis, size_px)
            _rsna(beside / "rsna", counts.rsna, size_px)
    return data


def _framed(label: str, seed: int, size_px: int, *, bits: int = 8) -> Phantom:
    """Return a phantom with a random framing: without it, the duplicate search takes most of them for one patient."""
    phantom = make_phantom(label, seed=seed, size_px=size_px * 5 // 4, bits=bits)
    y, x = np.random.default_rng(seed).integers(0, size_px // 4, 2)
    window = np.s_[y : y + size_px, x : x + size_px]
    return Phantom(
        pixels=cast(Pixels, np.ascontiguousarray(phantom.pixels[window])),
        lung_mask=phantom.lung_mask[window],
        label=label,
        seed=seed,
    )


def _write(path: Path, pixels: Pixels) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".png" if path.suffix == ".png" else ".jpg"
    path.write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def _kermany(folder: Path, counts: Counts, size_px: int) -> None:
    kinds = {"normal": counts.kcx_normal, "bacterial": counts.kcx_bacterial, "viral": counts.kcx_viral}
    names = {
        "normal": "NORMAL/IM-{:04d}-0001",
        "bacterial": "PNEUMONIA/person{}_bacteria_1",
        "viral": "PNEUMONIA/person{}_virus_1",
    }
    for k, (label, count) in enumerate(kinds.items()):
        for i in range(count):
            number = 100 * (k + 1) + i
            _write(folder / f"{names[label].format(number)}.jpeg", _framed(label, number, size_px).pixels)


def _covid(data: Path, count: int, size_px: int) -> None:
    folder, lines = data / "covid-chestxray-dataset", ["patientid,finding,view,modality,folder,filename"]
    for i in range(count):
        phantom = _framed("covid-19", 500 + i, size_px)
        _write(folder / "images" / f"covid-{i}.png", phantom.pixels)
        _write_mask(data / "lung-masks" / "covid-chestxray-masks" / f"covid-{i}.png", phantom)
        lines.append(f"{i},COVID-19,{'AP' if i % 2 else 'PA'},X-ray,images,covid-{i}.png")
    write_text(folder / "metadata.csv", "\n".join(lines) + "\n")


def _write_mask(path: Path, phantom: Phantom) -> None:
    _write(path, phantom.lung_mask.astype(np.uint8) * 255)


def _tuberculosis(folder: Path, count: int, size_px: int) -> None:
    for i in range(count):
        phantom = _framed("normal", 600 + i, size_px)
        _write(folder / ("CXR_png" if i else "CXR_without_mask") / f"CHNCXR_{i:04d}_0.png", phantom.pixels)
        if i:
            _write_mask(folder / "masks" / f"CHNCXR_{i:04d}_0.png", phantom)


def _rsna(folder: Path, count: int, size_px: int) -> None:
    images = folder / "stage_2_train_images"
    images.mkdir(parents=True)
    labels, details = ["patientId,x,y,width,height,Target"], ["patientId,class"]
    kinds = [("Normal", "normal")] * count + [("Lung Opacity", "bacterial")] * count
    for i, (kind, label) in enumerate([*kinds, ("No Lung Opacity / Not Normal", "viral")]):
        write_dicom(images / f"p{i}.dcm", _framed(label, 700 + i, size_px, bits=16), monochrome1=bool(i % 2))
        labels.append(f"p{i},1.0,2.0,3.0,4.0,1" if kind == "Lung Opacity" else f"p{i},,,,,0")
        details.append(f"p{i},{kind}")
    write_text(folder / "stage_2_train_labels.csv", "\n".join(labels) + "\n")
    write_text(folder / "stage_2_detailed_class_info.csv", "\n".join(details) + "\n")
