"""A table of images with one site left out: copies planted among the others, predictions and figures on that site.

For `benchmarks.rivals`: rows in; folders and CSV files of predictions between; AUC, sensitivity and specificity out.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.own.options import Options
from training.data.own.records import OwnRecord
from training.data.own.source import read_source
from training.evaluation.metrics import Bootstrap, Figure, auc_figure, proportion

__all__ = ["Row", "figures", "link_images", "plant", "predictions_of_screenings", "read_rows"]

_CROP = 0.04  # of width and height, on each side of a planted copy


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image of the table."""

    path: str
    label: str
    patient: str
    site: str


def read_rows(file: Path) -> list[Row]:
    """Read a table of one label an image. Raises InputError if it is none."""
    data = read_source(file, Options(), salt=None)
    return [_row(r) for r in data.labelled()]


def _row(record: OwnRecord) -> Row:
    if len(record.present) != 1:
        raise InputError(f"{record.key} has {len(record.present)} labels: expected one for each image")
    return Row(
        path=os.path.abspath(record.path), label=record.present[0], patient=record.unit, site=record.site or "unknown"
    )


def plant(inside: Sequence[Row], count: int, folder: Path) -> list[Row]:
    """Return the rows with copies of some of their images, slightly cropped, each of a patient of its own.

    Every second copy has the other label. Raises InputError for an image that OpenCV does not read.
    """
    drawn = np.random.default_rng(0).permutation(len(inside))[:count]
    folder.mkdir(parents=True, exist_ok=True)
    copies: list[Row] = []
    for i in drawn:
        row = inside[i]
        pixels = cv2.imread(row.path, cv2.IMREAD_GRAYSCALE)
        if pixels is None:
            raise InputError(f"{row.path} cannot be read: give images that OpenCV reads")
        dy, dx = (round(_CROP * side) for side in pixels.shape)
        file = folder / f"copy-{len(copies)}.png"
        cv2.imwrite(str(file), pixels[dy : pixels.shape[0] - dy, dx : pixels.shape[1] - dx])
        others = sorted({r.label for r in inside} - {row.label})
        label = others[0] if len(copies) % 2 and others else row.label
        copies.append(Row(path=os.path.abspath(file), label=label, patient=file.stem, site=row.site))
    return [*inside, *copies]


def link_images(rows: Sequence[Row], folder: Path) -> None:
    """Link the images in `folder`, named by their numbers."""
    folder.mkdir(exist_ok=True)
    for i, row in enumerate(rows):
        link = folder / f"{i:05}{Path(row.path).suffix}"
        if not link.is_symlink():
            link.symlink_to(row.path)


def predictions_of_screenings(table: Path, measured: Sequence[Row], target: Path) -> None:
    """Write screenings as predictions: path, then the probability of each label."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = [name.removeprefix("p_") for name in rows[0] if name.startswith("p_")]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", *labels, "decision"])
        for row in rows:
            i = int(Path(row["source"]).stem)
            writer.writerow([measured[i].path, *(row[f"p_{label}"] for label in labels), row["decision"]])


def figures(predictions: Path, measured: Sequence[Row], positive: str) -> dict[str, Figure]:
    """Return AUC, sensitivity and specificity of a CSV of predictions: path, the probability of each label, and the decision if
    there is one; without, the label is decided from 0.5 on.
    """
    with predictions.open(newline="", encoding="utf-8") as file:
        found: Mapping[str, dict[str, str]] = {row["path"]: row for row in csv.DictReader(file)}
    rows = [r for r in measured if r.path in found]
    true: npt.NDArray[np.bool_] = np.array([r.label == positive for r in rows])
    scores = np.array([float(found[r.path][positive]) for r in rows])
    decided = [found[r.path].get("decision") for r in rows]
    called = np.array([s >= 0.5 if d is None else d == positive for s, d in zip(scores, decided, strict=True)])
    patients = np.array([r.patient for r in rows])
    return {
        "auc": auc_figure(scores, true, patients, Bootstrap(seed=1, resamples=2000)),
        "sensitivity": proportion(int(called[true].sum()), int(true.sum())),
        "specificity": proportion(int((~called[~true]).sum()), int((~true).sum())),
    }
