"""Tables of own images: paths, labels, findings, oddities of spreadsheets, and faults with row and column."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr_edge.errors import InputError
from tests.builders.own_data import write_folder, write_table
from training.data.own import tables
from training.data.own.options import Options
from training.data.own.records import OwnData
from training.data.own.source import read_source

ROWS = [
    {"Image": "a.png", "Diagnosis": "tb", "MRN": "7.0", "Age": "043Y", "Sex": "f", "Hospital": "north", "Set": "train"},
    {"Image": "b.png", "Diagnosis": "normal", "MRN": "8", "Age": "", "Sex": "", "Hospital": "", "Set": ""},
    {"Image": "c.png", "Diagnosis": "", "MRN": "7", "Age": "60", "Sex": "M", "Hospital": "north", "Set": "test"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data", ["a.png", "b.png", "c.png"])


def _reasons(data: OwnData) -> list[str]:
    return [str(fault) for fault in data.faults]


@pytest.mark.parametrize(
    "how", [{}, {"mark": ";"}, {"mark": "\t"}, {"encoding": "utf-8-sig"}, {"encoding": "utf-16"}], ids=str
)
def test_a_table_with_any_columns(folder: Path, how: dict[str, str]) -> None:
    data = read_source(write_table(folder / "table.csv", ROWS, **how))
    a, b, c = data.records
    assert (a.key, a.present, a.age_years, a.sex, a.site, a.split) == ("a.png", ("tb",), 43, "F", "north", "train")
    assert (b.present, b.age_years, b.sex, b.site, b.split) == (("normal",), None, "", "", None)
    assert a.patient == c.patient != b.patient, "7.0 and 7 are one patient"
    assert c.findings == {"normal": None, "tb": None}, "an empty label is unknown, not a negative"
    assert data.exclusive
    assert not data.faults
    assert any("label = 'Diagnosis'" in line and "patient = 'MRN'" in line for line in data.understood)


def test_a_table_at_the_top_of_a_folder_is_read(folder: Path) -> None:
    write_table(folder / "table.csv", ROWS)
    assert read_source(folder).findings == ("normal", "tb")
    write_table(folder / "other.csv", ROWS)
    data = read_source(folder)
    assert any("2 tables beside the images are not read" in line for line in data.understood)
    assert data.findings == ()


def test_paths_are_relative_to_the_table_then_to_the_root(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"path": "../data/a.png", "label": "x"},
        {"path": str(folder / "b.png"), "label": "y"},
        {"path": "c.png", "label": "y"},
    ]
    table = write_table(tmp_path / "tables" / "t.csv", rows)
    data = read_source(table, Options(root=folder))
    assert [r.key for r in data.records] == ["a.png", "b.png", "c.png"]
    data = read_source(table)
    assert [Path(r.path).name for r in data.records] == ["a.png", "b.png"]
    assert "row 4, column 'path': there is no file 'c.png' in " in _reasons(data)[0]
    assert "give --root" in _reasons(data)[0]


def test_windows_paths_names_alone_and_names_without_a_suffix_are_found(tmp_path: Path) -> None:
    write_folder(tmp_path, ["x/1.png", "y/1.png", "y/2.png", "y/3.png"])
    rows = [("x\\1.png", "a"), ("C:\\data\\y\\1.png", "b"), ("2.png", "a"), ("3", "b"), ("1.png", "b")]
    data = read_source(write_table(tmp_path / "t.csv", [{"path": p, "label": v} for p, v in rows]))
    assert [r.key for r in data.records] == ["x/1.png", "y/1.png", "y/2.png", "y/3.png"]
    assert "row 6, column 'path': '1.png' may be" in _reasons(data)[0]


def test_no_file_at_all_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", [{"id": "1", "path": "p.png", "label": "x"}])
    with pytest.raises(InputError, match=r"no row names a file that is there, .*row 2.*--path-column NAME.*--root"):
        read_source(table)


def test_rows_of_one_file_are_one_if_they_agree_and_a_fault_if_not(folder: Path) -> None:
    rows = [
        {"path": "a.png", "label": "x", "age": "40"},
        {"path": "./a.png", "label": "x", "age": "40"},
        {"path": "b.png", "label": "x", "age": "50"},
        {"path": "b.png", "label": "y", "age": "51"},
    ]
    data = read_source(write_table(folder / "t.csv", rows))
    assert [r.key for r in data.records] == ["a.png"]
    assert data.ignored == {"row twice": 1}
    (reason,) = _reasons(data)
    assert "row 4: row 5 names the same" in reason
    assert "with another value in 'label', 'age': keep one row" in reason


def test_empty_paths_and_rows_with_too_many_cells_are_faults_and_blank_lines_keep_the_numbers(folder: Path) -> None:
    (folder / "t.csv").write_text("path,label\n\na.png,x\n,y\nb.png,nodule, left\nc.png,y\n")
    data = read_source(folder / "t.csv")
    assert [r.key for r in data.records] == ["a.png", "c.png"]
    reasons = "\n".join(_reasons(data))
    assert "row 4, column 'path': it is empty" in reasons
    assert "row 5: 3 cells, the first line has 2" in reasons


def test_findings_of_which_unknown_is_no_negative(folder: Path) -> None:
    rows = [
        {"path": "a.png", "Nodule": "1", "Effusion": "yes", "Mass": ""},
        {"path": "b.png", "Nodule": "0", "Effusion": "no", "Mass": "-1"},
        {"path": "c.png", "Nodule": "-1", "Effusion": "", "Mass": "1"},
    ]
    data = read_source(write_table(folder / "t.csv", rows))
    assert data.findings == ("Nodule", "Effusion", "Mass")
    assert not data.exclusive
    assert [tuple(r.findings.values()) for r in data.records] == [
        (True, True, None), (False, False, None), (None, None, True),
    ]  # fmt: skip


def test_several_findings_in_one_cell(folder: Path) -> None:
    rows = [("a.png", "Nodule|Mass"), ("b.png", "No Finding"), ("c.png", "Mass")]
    data = read_source(write_table(folder / "t.csv", [{"path": p, "labels": v} for p, v in rows]))
    assert data.findings == ("Mass", "Nodule")
    assert [r.present for r in data.records] == [("Mass", "Nodule"), (), ("Mass",)]
    assert data.records[1].findings == {"Mass": False, "Nodule": False}


def test_cells_that_are_not_understood_are_doubts_with_row_and_column(folder: Path) -> None:
    rows = [{"path": "a.png", "label": "x", "Age": "old", "Sex": "1", "Mask": "m.png", "split": "fold 1"}]
    data = read_source(write_table(folder / "t.csv", rows))
    assert [(r.age_years, r.sex, r.mask, r.split) for r in data.records] == [(None, "", None, None)]
    doubts = "\n".join(map(str, data.doubts))
    for text in (
        "row 2, column 'Age': the age 'old'",
        "column 'Sex'",
        "column 'Mask': there is no file",
        "column 'split'",
    ):
        assert text in doubts


def test_a_mask_is_found(folder: Path) -> None:
    write_folder(folder, ["masks/m.png"])
    data = read_source(write_table(folder / "t.csv", [{"path": "a.png", "label": "x", "mask": "masks/m.png"}]))
    assert data.records[0].mask == folder / "masks" / "m.png"


def test_one_name_of_all_images_names_nobody(tmp_path: Path) -> None:
    write_folder(tmp_path, [f"{i}.png" for i in range(20)])
    rows = [{"path": f"{i}.png", "label": "xy"[i % 2], "patient": "export"} for i in range(20)]
    data = read_source(write_table(tmp_path / "t.csv", rows))
    assert {r.patient for r in data.records} == {""}
    assert any("all 20 images have the same patient's name" in line for line in data.understood)


def test_labels_of_folders_with_a_table_of_patients(tmp_path: Path) -> None:
    write_folder(tmp_path, ["tb/a.png", "normal/b.png"])
    rows = [
        {"path": "tb/a.png", "patient": "1", "Height": "3"},
        {"path": "normal/b.png", "patient": "2", "Height": "4"},
    ]
    write_table(tmp_path / "t.csv", rows)
    data = read_source(tmp_path)
    assert [(r.present, bool(r.patient)) for r in data.records] == [(("tb",), True), (("normal",), True)]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("t.xlsx", "is a spreadsheet: save it as CSV"),
        ("t.json", "expected a folder, or a table in .csv, .tsv, .parquet"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=says):
        read_source(tmp_path / name)


def test_a_table_that_names_no_image_is_an_error(folder: Path) -> None:
    write_table(folder / "t.csv", [{"height": "3", "label": "x"}])
    with pytest.raises(InputError, match=r"no column names the images; .*--path-column.*--layout"):
        read_source(folder)
    assert len(read_source(folder, Options(layout="label")).records) == 3


class _Frame:
    """What pandas returns, as far as it is used."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = list(columns)
        self._values = columns

    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(tolist=lambda: self._values[name])


def test_parquet_is_read_by_pandas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "t.parquet").write_bytes(b"PAR1")
    values = {"path": ["a.png", "b.png"], "patient": [61.0, float("nan")], "Nodule": [True, None], "age": [40.5, 60]}
    pandas = SimpleNamespace(read_parquet=lambda _: _Frame(values))
    monkeypatch.setattr(tables, "import_module", lambda _: pandas)
    a, b = read_source(folder / "t.parquet").records
    assert (a.findings, a.age_years, b.findings, b.patient) == ({"Nodule": True}, 40.5, {"Nodule": None}, "")


def test_parquet_without_its_packages_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    (folder / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(tables, "import_module", missing)
    with pytest.raises(InputError, match="pip install pandas pyarrow; or save it as CSV"):
        read_source(folder / "t.parquet")


def test_a_hundred_thousand_rows_are_read_in_seconds(folder: Path) -> None:
    """Processor time, as other processes may take the cores. Nearly all rows name a few files again, and agree."""
    names = [f"{'abc'[i % 3]}.png,{i % 3 % 2},0,1,,1,-1,,{i % 3}" for i in range(100_000)]
    (folder / "t.csv").write_text("\n".join(["path,A,B,C,D,E,F,G,patient", *names]) + "\n")
    start = time.process_time()
    data = read_source(folder / "t.csv")
    assert len(data.records) == 3
    assert data.ignored == {"row twice": 99_997}
    assert time.process_time() - start < 15
