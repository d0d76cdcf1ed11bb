"""Own data in a run folder: `images.csv`, with a row for each image, its pseudonyms and findings; written and read back.

So that every stage of a training has the same images whatever becomes of the source's table, and without a patient's name.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

from training.data.own.cells import SPLIT_WORDS
from training.data.own.records import Findings, OwnData, OwnRecord
from training.shared_files import atomic_write, read_json, reading

__all__ = ["FILE", "FOLDER", "load", "save"]

FOLDER = "own"  # below the data folder of a run
FILE = "images.csv"
_COLUMNS = ("key", "path", "patient", "study", "site", "scanner", "view", "age_years", "sex", "mask", "split")
_FINDING = "finding:"
_WORDS: Mapping[bool | None, str] = {True: "1", False: "0", None: ""}
_VALUES = {word: value for value, word in _WORDS.items()}
_REMAKE = "read the source again"


def save(data: OwnData, folder: Path) -> Path:
    """Write images.csv and source.json to `folder`, which is made if necessary. Returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_COLUMNS, *(f"{_FINDING}{name}" for name in data.findings)])
    writer.writerows([*_cells(r), *(_WORDS[r.findings[name]] for name in data.findings)] for r in data.records)
    content = {"source": os.path.abspath(data.source), "findings": data.findings, "understood": data.understood}
    _write(folder / FILE, text.getvalue())
    _write(folder / "source.json", json.dumps(content, indent=1) + "\n")
    return folder / FILE


def _write(file: Path, text: str) -> None:
    """Write a text in which bytes of file names may be surrogates (PEP 383)."""
    with atomic_write(file) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")


def _cells(r: OwnRecord) -> list[str]:
    age = "" if r.age_years is None else f"{r.age_years:g}"
    mask = "" if r.mask is None else os.path.abspath(r.mask)
    return [
        r.key,
        os.path.abspath(r.path),
        r.patient,
        r.study,
        r.site,
        r.scanner,
        r.view,
        age,
        r.sex,
        mask,
        r.split or "",
    ]


def load(folder: Path) -> OwnData:
    """Read what `save` wrote. Raises InputError if it is missing or damaged."""
    file = folder / FILE
    with reading(file, _REMAKE):
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        head, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
        if tuple(head[: len(_COLUMNS)]) != _COLUMNS or not text.endswith("\n"):
            raise ValueError("cut, or other columns")
        names = tuple(name.removeprefix(_FINDING) for name in head[len(_COLUMNS) :])
        records = tuple(_record(dict(zip(head, row, strict=True)), names) for row in rows)
    source = read_json(folder / "source.json", _REMAKE)
    return OwnData(
        source=Path(str(source["source"])),
        records=records,
        findings=names,
        exclusive=all(len(r.present) == 1 for r in records if r.is_labelled),
        understood=tuple(source["understood"]),
    )


def _record(row: dict[str, str], names: tuple[str, ...]) -> OwnRecord:
    findings: Findings = {name: _VALUES[row[f"{_FINDING}{name}"]] for name in names}
    return OwnRecord(
        path=Path(row["path"]),
        key=row["key"],
        findings=findings,
        patient=row["patient"],
        study=row["study"],
        site=row["site"],
        scanner=row["scanner"],
        view=row["view"],
        age_years=float(row["age_years"]) if row["age_years"] else None,
        sex=row["sex"],
        mask=Path(row["mask"]) if row["mask"] else None,
        split=SPLIT_WORDS[row["split"]] if row["split"] else None,
    )
