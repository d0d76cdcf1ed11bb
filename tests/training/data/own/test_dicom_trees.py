"""DICOM trees: facts of headers, labels from folders or from tables by path, SOP Instance UID, study or patient."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.own_data import write_dicom, write_image, write_table
from training.data.own.records import OwnData
from training.data.own.source import read_source

pytestmark = pytest.mark.filterwarnings("ignore")  # of values that do not conform, which files have


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Patients A (two studies, two sites) and B; a CT, a report without an image, a damaged file, and a PNG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        common = {"InstitutionName": "North", "Manufacturer": "Acme", "ManufacturerModelName": "X1", "PatientSex": "F"}
        write_dicom(tmp_path / "A" / "s1" / "IM1", 1, PatientID="A", PatientAge="043Y", **common)
        write_dicom(
            tmp_path / "A" / "s2" / "IM2", 2, PatientID="A", PatientBirthDate="20000701",
            StudyDate="20200630", ViewPosition="AP", **{**common, "InstitutionName": "South"},
        )  # fmt: skip
        write_dicom(tmp_path / "B" / "s3" / "IM3.dcm", 3, PatientID="B", PatientSex="O", StudyInstanceUID="1.2.4.3")
        write_dicom(tmp_path / "B" / "s3" / "CT.dcm", 4, PatientID="B", Modality="CT")
        write_dicom(tmp_path / "C" / "s4" / "IM4", 5, PatientID="C")
    damaged = tmp_path / "C" / "s4" / "IM5.dcm"
    damaged.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    return tmp_path


def _by_key(data: OwnData) -> dict[str, tuple[str, ...]]:
    return {r.key: r.present for r in data.records}


def test_headers_state_patient_age_view_sex_and_site(tree: Path) -> None:
    data = read_source(tree)
    first, second, third, _ = data.records
    assert first.patient == second.patient
    assert len({r.patient for r in data.records}) == 3
    assert (first.age_years, second.age_years) == (43, 19), "from birth date and study date, a day before the birthday"
    assert [r.site for r in data.records] == ["North", "South", "", ""]
    assert (first.scanner, first.view, second.view, first.sex, third.sex) == ("Acme X1", "PA", "AP", "F", "")
    assert not any(name in text for r in data.records for name in ("A", "B") for text in (r.patient, r.study))
    assert data.ignored["DICOM of modality CT"] == 1
    assert [Path(f.where).name for f in data.faults] == ["IM5.dcm"]
    assert data.findings == (), "the folders are one patient each"
    assert any("they name no labels" in line for line in data.understood)


def test_labels_by_sop_instance_uid(tree: Path) -> None:
    rows = [("1.2.3.1", "tb"), ("1.2.3.2", "normal"), ("1.2.3.5", "tb"), ("9.9", "tb")]
    table = write_table(tree / "labels.csv", [{"SOP Instance UID": uid, "label": label} for uid, label in rows])
    data = read_source(tree)
    assert _by_key(data) == {"A/s1/IM1": ("tb",), "A/s2/IM2": ("normal",), "C/s4/IM4": ("tb",)}
    assert data.ignored["image without a row"] == 1
    assert data.ignored["row without an image"] == 1
    assert data.records[0].site == "North", "from the header"
    assert _by_key(read_source(table)) == _by_key(data), "the table alone, beside its files"


def test_labels_by_patient_and_by_study_reach_all_images(tree: Path) -> None:
    write_table(tree / "labels.csv", [{"Patient ID": "A", "TB": "1"}, {"Patient ID": "B", "TB": "0"}])
    assert [r.findings["TB"] for r in read_source(tree).records] == [True, True, False]
    write_table(
        tree / "labels.csv",
        [{"StudyInstanceUID": "1.2.4.1", "label": "tb"}, {"StudyInstanceUID": "1.2.4.2", "label": "x"}],
    )
    assert _by_key(read_source(tree)) == {"A/s1/IM1": ("tb",), "A/s2/IM2": ("x",)}


def test_rows_of_one_patient_that_differ_are_a_fault_that_names_nobody(tree: Path) -> None:
    rows = [("A", "tb"), ("A", "normal"), ("B", "normal")]
    write_table(tree / "labels.csv", [{"Patient ID": p, "label": v} for p, v in rows])
    data = read_source(tree)
    assert _by_key(data) == {"B/s3/IM3.dcm": ("normal",)}
    assert any("row 2: row 3 names the same patient with another value in 'label'" in str(f) for f in data.faults)


def test_labels_by_path_and_what_the_table_states_has_precedence(tree: Path) -> None:
    rows = [
        {"path": "A/s1/IM1", "label": "tb", "age": "50", "site": ""},
        {"path": "C/s4/IM4", "label": "x", "age": "", "site": "Z"},
    ]
    write_table(tree / "labels.csv", rows)
    first, second = read_source(tree).records
    assert (first.age_years, first.site, second.site) == (50, "North", "Z")
    assert first.patient != second.patient


def test_patients_of_headers_with_several_names_in_the_table_are_reported(tree: Path) -> None:
    rows = [{"path": "A/s1/IM1", "label": "x", "patient": "1"}, {"path": "A/s2/IM2", "label": "y", "patient": "2"}]
    write_table(tree / "labels.csv", rows)
    assert any(
        "WARNING: 1 patients of DICOM headers have several names" in line for line in read_source(tree).understood
    )


def test_labels_from_folders(tmp_path: Path) -> None:
    for i, label in enumerate(("tb", "tb", "normal", "normal")):
        write_dicom(tmp_path / label / f"{i}.dcm", i, PatientID=f"P{i}")
    write_image(tmp_path / "normal" / "x.png", 9)
    data = read_source(tmp_path)
    assert data.findings == ("normal", "tb")
    assert [bool(r.patient) for r in data.records] == [True, True, False, True, True]


def test_a_table_of_other_images_is_an_error(tree: Path) -> None:
    write_table(tree / "labels.csv", [{"SOPInstanceUID": "9.9", "label": "tb"}])
    with pytest.raises(InputError, match="no image has one of the names of column 'SOPInstanceUID' as its sop"):
        read_source(tree)


def test_exports_without_names_have_no_patients(tmp_path: Path) -> None:
    for i in range(2):
        write_dicom(tmp_path / "x" / f"{i}.dcm", i, PatientID="ANONYMOUS")
    assert {r.patient for r in read_source(tmp_path).records} == {""}
