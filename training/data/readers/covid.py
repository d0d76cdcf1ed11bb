"""Reader of the public COVID-19 image collection (CCX): metadata.csv and image folders; frontal radiographs by default."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from cxr_edge.errors import InputError
from training.data.csv_tables import read_rows
from training.data.demographics import stated_age, stated_sex
from training.data.faults import each
from training.data.findings import FRONTAL_VIEWS, FindingTable, label_of_finding
from training.data.readers.named_files import contradictions, is_file, path_below
from training.data.records import CollectedRecords, Record, Selection, make_record, require_images

__all__ = ["read_covid"]

MASKS = Path("lung-masks/covid-chestxray-masks")  # beside the collection's folder; masks are named as the images


def read_covid(folder: Path, selection: Selection | None = None) -> CollectedRecords:
    """Read metadata.csv, old or new layout, and the folders that it names (images/, volumes/).

    selection: default frontal X-rays. Rows of other views or modalities (lateral, CT) and rows without an image file are
    dropped and counted; images without a mask stay. The site is the table's location. Raises InputError for another layout.
    """
    selection = selection or Selection()
    if selection.views is None:
        selection = replace(selection, views=FRONTAL_VIEWS)
    table = folder / "metadata.csv"
    if not table.is_file():
        raise InputError(f"{folder} holds no metadata.csv: expected the layout of the public COVID-19 image collection")
    rows = read_rows(table, {"patientid", "finding", "view", "modality", "filename"})
    reasons = [selection.drop_reason(r["view"].strip(), r["modality"].strip()) for r in rows]
    selected = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
    made, faults = each(selected, lambda row: _record(folder, row, selection.findings), partial(_name, table))
    records = _once(made)
    present = [r for r in records if is_file(r.path)]
    if not faults:
        layout = f"images/ with the files that metadata.csv names, of views {tuple(selection.views or ())}"
        require_images([r.path for r in present], folder, layout)
    dropped = Counter(f"ccx: {reason}" for reason in reasons if reason is not None)
    dropped += Counter({"ccx: file not there": len(records) - len(present), "ccx: row twice": len(made) - len(records)})
    return CollectedRecords(
        records=present, dropped=dropped, faults=[*faults, *contradictions((r.path for r in present), table)]
    )


def _name(table: Path, row: Mapping[str, str]) -> str:
    return f"{table}, {row['filename']}"


def _once(records: Iterable[Record]) -> list[Record]:
    """Return the first of the records that differ in nothing, or in site, age and sex alone."""
    first: dict[Record, Record] = {}
    for record in records:
        first.setdefault(replace(record, site="", age_years=None, sex=""), record)
    return list(first.values())


def _record(folder: Path, row: dict[str, str], findings: FindingTable) -> Record:
    # Spreadsheets turn a column of numbers into 97.0; later tables also hold numbers such as 324a.
    patient = row["patientid"].strip().removesuffix(".0")
    if not patient:
        raise InputError("the image has no patientid: give every image its patient's")
    path = path_below(folder, row.get("folder") or "images", row["filename"])
    mask = folder.parent / MASKS / f"{path.stem}.png"
    record = make_record(
        path,
        f"ccx/{patient}",
        label_of_finding(row["finding"], findings),
        source="ccx",
        view=row["view"].strip(),
        finding=row["finding"],
        adult=True,  # also of the few children: all published results count this collection as adults
        mask=mask if is_file(mask) else None,
    )
    return replace(
        record,
        modality=row["modality"].strip(),
        site=row.get("location", "").strip(),
        age_years=stated_age(row.get("age", "")),
        sex=stated_sex(row.get("sex", "")),
    )
