"""A site's own cases: a folder with a sub-folder per label, or a CSV file, in; cases with label, patient and site out.

Reading is strict, since a wrong label becomes a wrong promise: all faults are named at once, by row and column.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.errors import InputError
from cxr_edge.names import printable

__all__ = ["COLUMNS", "Case", "Reading", "cases_digest_line", "listed", "read_cases"]

# Role -> names of columns, in lower case without blanks, hyphens and underscores. The first is the role's own.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "filepath", "image", "imagepath", "imagefile"),
    "label": ("label", "class", "diagnosis", "finding", "groundtruth"),
    "patient": ("patient", "patientid", "subject", "subjectid", "person"),
    "site": ("site", "hospital", "source", "institution", "clinic"),
}
_OPTIONAL = ("patient", "site")
_SHOWN = 10  # faults in a message


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image with its true label."""

    path: Path
    label: str  # of the bundle
    patient: str  # the file's own name if the cases do not name patients
    site: str = ""  # empty if the cases do not name sites
    where: str = ""  # row or file, for messages


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Columns and labels, where the cases do not name them in the usual way."""

    columns: Mapping[str, str] = field(default_factory=dict)  # role -> name of the column; "": none
    renamed: Mapping[str, str] = field(default_factory=dict)  # label of the cases -> label of the bundle


def read_cases(source: Path, labels: Sequence[str], reading: Reading) -> list[Case]:
    """Return the cases of a folder or CSV file.

    labels: of the bundle. In a folder, LABEL/FILE is a patient of its own, and all of LABEL/PATIENT/ are one.

    Raises InputError for a label that the bundle lacks, a patient under two labels, a file twice, and a table that cannot be
    read; all faults are named.
    """
    if source.is_dir():
        found, faults = _read_folder(source, labels, reading)
    elif source.is_file():
        found, faults = _read_table(source, labels, reading)
    else:
        raise InputError(f"there is no folder or file {printable(source)}: give a folder per label, or a CSV file")
    faults += [*_two_labels(found), *_twice(found)]
    if faults:
        raise InputError(f"the cases of {printable(source)} cannot be used: {listed(faults)}")
    if not found:
        raise InputError(
            f"{printable(source)} holds no cases: expected a sub-folder per label ({', '.join(labels)}) with images in it, or "
            "a CSV file with the columns path and label"
        )
    return found


def listed(faults: Sequence[str]) -> str:
    """Return faults as one text, the first of them if there are many."""
    rest = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return "; ".join(faults[:_SHOWN]) + rest


def cases_digest_line(case: Case, sha256: str) -> str:
    """Return what the digest of the cases is made of, for one case: no name of a file or patient."""
    return f"{sha256} {case.label}\n"


def _read_folder(root: Path, labels: Sequence[str], reading: Reading) -> tuple[list[Case], list[str]]:
    cases, faults = [], []
    for folder in sorted(p for p in root.iterdir() if not p.name.startswith(".")):
        if not folder.is_dir():
            continue
        label, fault = _label(folder.name, labels, reading)
        if fault:
            faults.append(f"folder {printable(folder.name)}: {fault}")
            continue
        cases += [
            Case(path=f, label=label, patient=_folder_patient(f, folder), where=printable(f)) for f in _files(folder)
        ]
    return cases, faults


def _files(folder: Path) -> Iterator[Path]:
    hidden = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return (p for p in hidden if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _folder_patient(file: Path, folder: Path) -> str:
    inner = file.relative_to(folder).parts
    return inner[0] if len(inner) > 1 else f"{folder.name}/{file.name}"


def _label(name: str, labels: Sequence[str], reading: Reading) -> tuple[str, str]:
    """Return the bundle's label of a name, and the fault if there is none."""
    wanted = reading.renamed.get(name, name)
    same = [label for label in labels if _plain(label) == _plain(wanted)]
    if len(same) == 1:
        return same[0], ""
    return "", (
        f"the label {wanted!r} is none of the bundle's, {', '.join(labels)}: rename it with --label-name {wanted}=LABEL, or "
        "leave these cases out"
    )


def _read_table(file: Path, labels: Sequence[str], reading: Reading) -> tuple[list[Case], list[str]]:
    rows = _rows(file)
    if not rows or not any(rows[0]):
        raise InputError(f"{printable(file)} is empty: expected a first line with the columns path and label")
    columns = _columns(rows[0], reading)
    cases, faults = [], []
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cells):
            continue
        case, fault = _row(file.parent, number, cells, columns, labels, reading)
        if case is None:
            faults.append(f"row {number}: {fault}")
        else:
            cases.append(case)
    return cases, faults


def _rows(file: Path) -> list[list[str]]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{printable(file)} cannot be read as CSV in UTF-8: {error}") from None
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    try:
        return [
            [cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
        ]
    except csv.Error as error:
        raise InputError(f"{printable(file)} cannot be read as CSV: {error}") from None


def _columns(names: Sequence[str], reading: Reading) -> dict[str, int]:
    """Return the column of each role. Raises InputError for a missing or ambiguous one."""
    found = {role: _column(names, role, reading) for role in COLUMNS}
    if missing := [role for role, column in found.items() if column is None and role not in _OPTIONAL]:
        raise InputError(
            f"the first line has no column {' and '.join(missing)}: expected path and label, optional patient and site; it has "
            f"{', '.join(names)}. Name it with --{missing[0]}-column NAME"
        )
    return {role: column for role, column in found.items() if column is not None}


def _column(names: Sequence[str], role: str, reading: Reading) -> int | None:
    wanted = reading.columns.get(role)
    if wanted == "":
        return None
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"--{role}-column: there is no column {wanted!r}; the columns are {', '.join(names)}")
        return names.index(wanted)
    found = [i for i, name in enumerate(names) if _plain(name) in COLUMNS[role]]
    found = [i for i in found if _plain(names[i]) == role] or found
    if len(found) > 1:
        both = " and ".join(repr(names[i]) for i in found)
        raise InputError(f"the columns {both} may both be the {role}: say which with --{role}-column NAME")
    return found[0] if found else None


def _row(
    root: Path, number: int, cells: Sequence[str], columns: Mapping[str, int], labels: Sequence[str], reading: Reading
) -> tuple[Case | None, str]:
    if len(cells) <= max(columns.values()):
        return None, f"{len(cells)} cells, expected {max(columns.values()) + 1} or more"
    values = {role: cells[column] for role, column in columns.items()}
    for role in values:
        if not values[role]:
            return None, f"the {role} is empty"
    label, fault = _label(values["label"], labels, reading)
    if fault:
        return None, fault
    path = root / values["path"]
    patient = values.get("patient", values["path"])
    return Case(path=path, label=label, patient=patient, site=values.get("site", ""), where=f"row {number}"), ""


def _two_labels(cases: Sequence[Case]) -> list[str]:
    """Return a fault for each patient with more than one label, without the patient's name."""
    first: dict[str, Case] = {}
    faults = []
    for case in cases:
        known = first.setdefault(case.patient, case)
        if known.label != case.label:
            here = f"{case.where}: a patient with the label {case.label} here and {known.label} at {known.where}"
            faults.append(f"{here} (two patients need two names)")
    return faults


def _twice(cases: Sequence[Case]) -> list[str]:
    first: dict[Path, Case] = {}
    return [
        f"{case.where}: the file of {known.where} again"
        for case in cases
        if (known := first.setdefault(case.path, case)) is not case
    ]


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
