"""Reader of the public COVID-19 collection (CCX): metadata.csv and images, frontal radiographs by default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import read_rows
from training.data.findings import FRONTAL_VIEWS, FindingTable, label_of_finding, projection
from training.data.records import Record, record_of, require_images

__all__ = ["covid_collection"]


def reason_left_out(view: str, modality: str, views: Collection[str] | None, modalities: Collection[str]) -> str | None:
    """Why an image is not taken: its modality or its view; None if it is."""
    if modality not in modalities:
        return f"modality {modality or 'not stated'}"
    if views is None or view in views or projection(view) in views:
        return None
    return f"view {view or 'not stated'}"


def covid_collection(
    folder: Path,
    *,
    masks: Path | None = None,
    views: Collection[str] = FRONTAL_VIEWS,
    modalities: Collection[str] = ("X-ray",),
    findings: FindingTable = "full",
) -> list[Record]:
    """The COVID-19 image collection (CCX): metadata.csv, old or new, + the folders that it names (images/, volumes/).

    masks: folder of lung masks named as the images; images without one stay in the table. Rows of other views or
    modalities (lateral, CT), and rows whose image is not there, are left out. findings: as `collect` takes it. Raises
    InputError for another layout.
    """
    return read_covid_collection(folder, masks, views, modalities, findings)[0]


def read_covid_collection(
    folder: Path,
    masks: Path | None,
    views: Collection[str],
    modalities: Collection[str],
    findings: FindingTable,
) -> tuple[list[Record], Counter[str]]:
    table = folder / "metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} holds no metadata.csv: expected the layout of the public COVID-19 image collection")
    rows = read_rows(table, {"patientid", "finding", "view", "modality", "filename"})
    reasons = [reason_left_out(r["view"].strip(), r["modality"].strip(), views, modalities) for r in rows]
    dropped = Counter(f"ccx: {reason}" for reason in reasons if reason is not None)
    taken = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    records = dict.fromkeys(_covid_record(folder, row, masks, findings) for row in taken)
    present = [r for r in records if r.path.is_file()]
    dropped += Counter(
        {"ccx: file not there": len(records) - len(present), "ccx: row twice": len(taken) - len(records)}
    )
    for path, count in Counter(r.path for r in present).items():
        if count > 1:
            raise InputError(
                f"{table} names {path} {count} times and says different things of it: keep one of its rows"
            )
    require_images(
        [r.path for r in present], folder, f"images/ with the files that metadata.csv names, of views {tuple(views)}"
    )
    return present, dropped


def _covid_record(folder: Path, row: dict[str, str], masks: Path | None, findings: FindingTable) -> Record:
    path = folder / (row.get("folder") or "images") / row["filename"]
    # Spreadsheets turn a column of numbers into 97.0; later tables also hold numbers such as 324a.
    patient = row["patientid"].strip().removesuffix(".0")
    if not patient:
        raise InputError(
            f"{folder / 'metadata.csv'}: {row['filename']} has no patientid: give every image its patient's"
        )
    mask = None if masks is None else masks / f"{path.stem}.png"
    record = record_of(
        path,
        f"ccx/{patient}",
        label_of_finding(row["finding"], findings),
        source="ccx",
        view=row["view"].strip(),
        finding=row["finding"],
        adult=True,
        mask=mask if mask is not None and mask.is_file() else None,
    )
    return replace(record, modality=row["modality"].strip())
