"""Columns of own tables: roles by name and by option, findings by their cells, and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest

from cxr_edge.cli.check_data import COLUMN_ROLES
from cxr_edge.errors import InputError
from training.data.csv_tables import Sheet
from training.data.own.cells import age_years, label_text, patient_text, presence, sex, side
from training.data.own.columns import SYNONYMS, normalised, recognise
from training.data.own.options import ROLES, Options


def _sheet(text: str, *rows: str) -> Sheet:
    lines = [row.split(",") for row in rows] or [["1"] * len(text.split(","))]
    return Sheet(columns=tuple(text.split(",")), rows=list(enumerate(lines, 2)))


def _roles(sheet: Sheet, options: Options | None = None) -> dict[str, str]:
    found = recognise(sheet, options or Options())
    return {role: sheet.columns[i] for role, i in found.roles.items()}


def test_every_role_has_synonyms_and_no_name_has_two_roles() -> None:
    assert set(SYNONYMS) == set(ROLES) == set(COLUMN_ROLES)
    assert [n for n, count in Counter(name for names in SYNONYMS.values() for name in names).items() if count > 1] == []
    assert all(name == normalised(name) for names in SYNONYMS.values() for name in names)
    assert all(names[0] == role for role, names in SYNONYMS.items())


@pytest.mark.parametrize(
    ("columns", "roles"),
    [
        (
            "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position",
            {"path": "Image Index", "label": "Finding Labels", "patient": "Patient ID", "age": "Patient Age"}
            | {"sex": "Patient Gender", "view": "View Position"},
        ),
        (
            "FILE_NAME,diagnosis,mrn,Accession-Number,hospital,lung_mask,set",
            {"path": "FILE_NAME", "label": "diagnosis", "patient": "mrn", "study": "Accession-Number"}
            | {"site": "hospital", "mask": "lung_mask", "split": "set"},
        ),
        ("SOPInstanceUID,Label", {"sop": "SOPInstanceUID", "label": "Label"}),
        ("path,image,label", {"path": "path", "label": "label"}),  # the role's own name has precedence
    ],
)  # fmt: skip
def test_columns_are_recognised_by_name(columns: str, roles: dict[str, str]) -> None:
    assert _roles(_sheet(columns)) == roles


def test_options_say_what_a_column_is() -> None:
    sheet = _sheet("img,Truth,MRN,Subject")
    with pytest.raises(InputError, match=r"'MRN' and 'Subject' may both be the patient: .*--patient-column NAME"):
        recognise(sheet, Options(columns={"label": "truth"}))
    assert _roles(sheet, Options(columns={"label": "truth", "patient": "mrn"}))["patient"] == "MRN"
    assert "patient" not in _roles(sheet, Options(columns={"label": "Truth", "patient": ""}))
    assert recognise(sheet, Options(columns={"label": "Truth"}, ignore=("Subject",))).unused == ("Subject",)


@pytest.mark.parametrize(
    ("columns", "options", "says"),
    [
        (
            "path,label",
            {"columns": {"label": "lable"}},
            r"--label-column: there is no column 'lable' \(did you mean 'label'",
        ),
        (
            "path,label",
            {"findings": ("Nodule",)},
            "--findings: there is no column 'Nodule'; the columns are 'path', 'label'",
        ),
        ("path,label,path", {}, "columns path more than once"),
        ("path,label,x", {"columns": {"label": "label"}, "findings": ("x",)}, "two ways to name the labels"),
    ],
)
def test_columns_that_are_not_there_or_twice_are_named(columns: str, options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        recognise(_sheet(columns), Options(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"columns": {"patients": "x"}}, "a column cannot be patients"),
        ({"layout": "label/hospital"}, "has the level 'hospital'"),
        ({"patient_pattern": "("}, "is no regular expression"),
    ],
)
def test_options_that_cannot_work_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Options(**values)  # type: ignore[arg-type]


def test_columns_of_findings_are_recognised_by_their_cells() -> None:
    rows = ("a.png,1,Yes,,7,", "b.png,0,no,-1,12,", "c.png,,NA,1.0,3,")
    found = recognise(_sheet("path,Nodule,Effusion,Mass,Height,Blank", *rows), Options())
    assert list(found.findings) == ["Nodule", "Effusion", "Mass"]
    assert found.unused == ("Height", "Blank")
    named = recognise(_sheet("path,Nodule,Effusion,Mass,Height,Blank", *rows), Options(findings=("mass",)))
    assert list(named.findings) == ["mass"]


def test_a_column_of_findings_with_a_few_other_cells_is_named_with_row_and_column() -> None:
    rows = [f"{i}.png,{i % 2}" for i in range(20)]
    rows[7] = "7.png,maybe"
    with pytest.raises(InputError, match=r"row 9, column 'Nodule': 'maybe' among 19 cells"):
        recognise(_sheet("path,Nodule", *rows), Options())
    assert recognise(_sheet("path,Nodule", *rows), Options(findings=("Nodule",))).findings == {"Nodule": 1}


def test_cells_of_findings() -> None:
    assert [presence(c) for c in ("1", "1.0", " Yes", "TRUE", "pos")] == [True] * 5
    assert [presence(c) for c in ("0", "0.0", "N", "false", "Absent")] == [False] * 5
    assert [presence(c) for c in ("", "-1", "-1.0", "NaN", "uncertain", "?")] == [None] * 6
    with pytest.raises(InputError, match=r"the finding '0.5': expected 1, 0"):
        presence("0.5")


def test_cells_of_labels_patients_sides_ages_and_sexes() -> None:
    assert [label_text(c) for c in (" Nodule  left ", "1.0", "unknown", "-1")] == ["Nodule left", "1", "", ""]
    assert [patient_text(c) for c in ("61.0", "0", "ANONYMOUS", "Anonymous^", "n/a")] == ["61", "0", "", "", ""]
    assert [side(c) for c in ("Train", "val", "holdout", "")] == ["train", "validation", "test", None]
    assert [age_years(c) for c in ("43", "043Y", "18M", "60 years", "unknown", "")] == [43, 43, 1.5, 60, None, None]
    assert [sex(c) for c in ("f", "Male", "O", "")] == ["F", "M", "", ""]
    for parse, cell in ((side, "fold 3"), (age_years, "old"), (age_years, "414"), (sex, "1")):
        with pytest.raises(InputError, match=cell):
            parse(cell)
