"""Columns of a table of own data: names and cells in, the role of each column out.

A column has a role by its name (SYNONYMS; case, spaces, underscores and hyphens do not matter) or by an option. Without a column
of labels, the columns whose cells are all 1, 0, -1, yes, no, true, false or empty are findings. What could be either is refused
with the option that decides; nothing is guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from cxr_edge.errors import InputError
from training.data.csv_tables import Sheet
from training.data.own.cells import is_finding
from training.data.own.options import ROLES, Options

__all__ = ["SYNONYMS", "Columns", "normalised", "recognise"]

# Role -> names of columns in `normalised` form. The first, the role's own name, has precedence over the others.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "path": (
        *("path", "file", "filename", "filepath", "image", "imagepath", "imagefile", "imagename", "imagefilename"),
        *(
            "imageindex",
            "imageid",
            "img",
            "imgpath",
            "imgname",
            "dicom",
            "dicompath",
            "dicomfile",
            "dcmpath",
            "fullpath",
        ),
        *("relativepath", "jpgpath", "pngpath"),
    ),
    "label": (
        *("label", "labels", "class", "classname", "diagnosis", "finding", "findings", "findinglabel", "findinglabels"),
        *("target", "category", "groundtruth", "disease"),
    ),
    "patient": (
        *("patient", "patientid", "patientnumber", "patientno", "patientname", "patientkey", "subject", "subjectid"),
        *("subjectnumber", "mrn", "medicalrecordnumber", "person", "personid", "participant", "participantid"),
    ),
    "study": (
        *("study", "studyid", "studyuid", "studyinstanceuid", "accession", "accessionnumber", "exam", "examid"),
        *("examination", "visit", "visitid"),
    ),
    "sop": ("sop", "sopinstanceuid", "sopuid", "instanceuid", "imageuid"),
    "site": (
        *("site", "siteid", "sitename", "source", "hospital", "hospitalid", "hospitalname", "institution", "center"),
        *("institutionname", "centre", "clinic", "location", "facility", "dataset"),
    ),
    "scanner": ("scanner", "device", "machine", "manufacturermodelname", "scannermodel", "modelname", "manufacturer"),
    "view": ("view", "viewposition", "viewcode", "projection", "appa", "frontallateral"),
    "age": ("age", "ageyears", "ageinyears", "patientage", "ageatstudy", "ageatexam"),
    "sex": ("sex", "gender", "patientsex", "patientgender"),
    "mask": ("mask", "maskpath", "maskfile", "maskname", "lungmask", "segmentation"),
    "split": ("split", "side", "set", "subset", "partition", "phase"),
}

_MOSTLY = 0.9  # share of cells from which a column with others is refused as a damaged finding


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns that are used, by index."""

    roles: Mapping[str, int]  # role -> column
    findings: Mapping[str, int]  # finding -> column, in their order
    names: tuple[str, ...]  # of all columns
    unused: tuple[str, ...]  # names of columns that have no role

    @property
    def has_labels(self) -> bool:
        """True if a column has labels or findings."""
        return "label" in self.roles or bool(self.findings)

    def described(self) -> list[str]:
        """Return sentences for people."""
        roles = ", ".join(f"{role} = {self.names[i]!r}" for role, i in self.roles.items()) or "none"
        lines = [f"columns: {roles}"]
        if self.findings:
            lines.append(f"findings, one column each: {', '.join(self.findings)}")
        if self.unused:
            lines.append(f"columns that are not used: {', '.join(map(repr, self.unused))}")
        return lines


def normalised(name: str) -> str:
    """Return letters and digits of a column's name in lower case."""
    return "".join(c for c in name.casefold() if c.isalnum())


def recognise(sheet: Sheet, options: Options) -> Columns:
    """Return the role of each column. Raises InputError for an ambiguous, repeated or unknown one."""
    _refuse_repeated(sheet.columns)
    roles = {role: _index(sheet.columns, name, f"--{role}-column") for role, name in options.columns.items() if name}
    findings = {name: _index(sheet.columns, name, "--findings") for name in options.findings}
    ignored = {_index(sheet.columns, name, "--ignore") for name in options.ignore}
    taken = {*roles.values(), *findings.values(), *ignored}
    for role in ROLES:
        if role not in options.columns and not (role == "label" and findings):
            found = _by_name(sheet.columns, role, taken)
            roles |= {} if found is None else {role: found}
    if "label" in roles and findings:
        raise InputError("--label-column and --findings are two ways to name the labels: give one of them")
    taken |= set(roles.values())
    if "label" not in roles and not findings:
        findings = _by_cells(sheet, taken)
    used = {*roles.values(), *findings.values()}
    unused = tuple(name for i, name in enumerate(sheet.columns) if name and i not in used)
    return Columns(
        roles={role: roles[role] for role in ROLES if role in roles},
        findings=findings,
        names=sheet.columns,
        unused=unused,
    )


def _refuse_repeated(names: Sequence[str]) -> None:
    if repeated := [name for name, n in Counter(filter(None, names)).items() if n > 1]:
        raise InputError(f"the first line has the columns {', '.join(repeated)} more than once: rename all but one")


def _index(names: Sequence[str], name: str, option: str) -> int:
    """Return the column with a name, word for word, else in normalised form."""
    if name in names:
        return names.index(name)
    same = [i for i, own in enumerate(names) if normalised(own) == normalised(name)]
    if len(same) == 1:
        return same[0]
    near = get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(f"{option}: there is no column {name!r}{hint}; the columns are {_listed(names)}")


def _by_name(names: Sequence[str], role: str, taken: Iterable[int]) -> int | None:
    """Return the column whose name is the role's or a synonym. Raises InputError if there are several."""
    known = {i: normalised(name) for i, name in enumerate(names) if i not in set(taken)}
    found = [i for i, name in known.items() if name == role]
    found = found or [i for i, name in known.items() if name in SYNONYMS[role]]
    if len(found) > 1:
        raise InputError(
            f"the columns {' and '.join(repr(names[i]) for i in found)} may both be the {role}: say which with "
            f"--{role}-column NAME, or --{role}-column '' for none"
        )
    return found[0] if found else None


def _by_cells(sheet: Sheet, taken: Iterable[int]) -> dict[str, int]:
    """Return the columns whose cells are findings. Raises InputError for a column that is one but for a few cells."""
    found = {}
    for i, name in enumerate(sheet.columns):
        if name and i not in set(taken) and _is_of_findings(sheet, i):
            found[name] = i
    return found


def _is_of_findings(sheet: Sheet, column: int) -> bool:
    cells = Counter(cells[column] for _, cells in sheet.rows if column < len(cells))
    kinds: Counter[bool | None] = Counter()
    for cell, n in cells.items():
        kinds[is_finding(cell)] += n
    if not kinds[True]:
        return False
    if kinds[False] and kinds[True] >= _MOSTLY * (kinds[True] + kinds[False]):
        row, cell = next((n, c[column]) for n, c in sheet.rows if column < len(c) and is_finding(c[column]) is False)
        name = sheet.columns[column]
        raise InputError(
            f"row {row}, column {name!r}: {cell!r} among {kinds[True]} cells of 1, 0, yes or no: mend it, or say what the "
            f"column is, with --findings or --ignore {name!r}"
        )
    return not kinds[False]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, filter(None, names)))[:500]
