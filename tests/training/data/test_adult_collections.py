"""Readers of collections with adults, and site, basis, age and sex in all collections that state them."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.image_collections import csv_text, write_adults, write_nih, write_rsna, write_siim
from training.data.collections import COLLECTIONS, read_collections, source_descriptions, source_limits
from training.data.demographics import is_adult, required_age, required_sex, stated_age, stated_sex
from training.data.faults import refuse
from training.data.readers.adults import read_adults
from training.data.readers.covid import read_covid
from training.data.readers.nih import read_nih
from training.data.readers.rsna import read_rsna
from training.data.readers.siim import read_siim
from training.data.records import Record


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("058Y", 58.0),
        ("12M", 1.0),
        ("018m", 1.5),
        ("104W", 1.993),
        ("365D", 0.999),
        ("43", 43.0),
        (" 71.0 ", 71.0),
        ("0", 0.0),
        ("120", 120.0),
        ("", None),
        ("121", None),
        ("414Y", None),
        ("-3", None),
        ("unknown", None),
        ("nan", None),
        ("٤٣", None),
    ],
)
def test_ages(text: str, years: float | None) -> None:
    assert stated_age(text) == (years if years is None else pytest.approx(years, abs=0.001))
    if years is not None or not text:
        assert required_age(text) == stated_age(text)
    else:
        with pytest.raises(InputError, match="expected 0 to 120 years"):
            required_age(text)


@pytest.mark.parametrize(("years", "adult"), [(None, True), (17.9, False), (18.0, True), (0.0, False)])
def test_adults_are_18_or_older(years: float | None, adult: bool) -> None:
    assert is_adult(years) == adult


def test_sexes() -> None:
    assert [stated_sex(t) for t in ("F", "m", " Female ", "male", "", "O", "woman")] == ["F", "M", "F", "M", "", "", ""]
    assert [required_sex(t) for t in ("F", "", " ")] == ["F", "", ""]
    with pytest.raises(InputError, match="the sex 'O': expected F, M or an empty cell"):
        required_sex("O")


def _row(**cells: str) -> dict[str, str]:
    row = {"file": "nih/00000061_012.jpg", "source": "nih", "site": "Bethesda, USA", "label": "pneumonia"}
    row |= {"detail": "Edema|Pneumonia", "label_basis": "text-mined", "age": "77", "sex": "M", "view": "AP"}
    return {**row, "patient_id": "NIH-00061", "split": "test", **cells}


def _adults(folder: Path, *rows: dict[str, str], files: tuple[str, ...] = ("nih/00000061_012.jpg",)) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "manifest.csv").write_text(csv_text(rows), encoding="utf-8")
    return folder


def _stated(record: Record) -> tuple[object, ...]:
    return record.site, record.basis, record.age_years, record.sex, record.adult


def test_a_row_of_adults_with_all_that_it_states(tmp_path: Path) -> None:
    (record,) = read_adults(_adults(tmp_path, _row())).records
    assert (record.path, record.patient) == (tmp_path / "nih/00000061_012.jpg", "nih/61")
    assert (record.label, record.source, record.view, record.finding) == ("pneumonia", "nih", "AP", "Edema|Pneumonia")
    assert _stated(record) == ("Bethesda, USA", "text-mined", 77.0, "M", True)


def test_a_row_of_adults_with_empty_cells(tmp_path: Path) -> None:
    empty = dict.fromkeys(("site", "detail", "label_basis", "age", "sex", "view"), "")
    (record,) = read_adults(_adults(tmp_path, _row(**empty))).records
    assert (record.view, record.finding) == ("unknown", "pneumonia")
    assert _stated(record) == ("", "", None, "", True)


def test_a_child_in_adults_is_no_adult(tmp_path: Path) -> None:
    (record,) = read_adults(_adults(tmp_path, _row(age="17"))).records
    assert _stated(record)[2:] == (17.0, "M", False)


@pytest.mark.parametrize(
    ("source", "number", "patient"),
    [
        ("siim", "SIIM-study-0ab1", "siim/0ab1"),
        ("nih", "NIH-00061", "nih/61"),
        ("armiro", "CXNET-103", "armiro/CXNET-103"),
        ("ccx-june", "CCX-281", "ccx/281"),
        ("tbx11k", "TBX-tb0019", "tbx11k/TBX-tb0019"),
    ],
)
def test_patients_of_adults_have_the_names_of_their_own_collection(
    tmp_path: Path, source: str, number: str, patient: str
) -> None:
    (record,) = read_adults(_adults(tmp_path, _row(source=source, patient_id=number))).records
    assert (record.source, record.patient) == (source, patient)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"source": "padchest"}, "the source 'padchest': expected one of siim, nih, armiro, ccx-june, tbx11k"),
        ({"label": "Pneumonia"}, "the label 'Pneumonia': expected one of bacterial, covid-19, normal"),
        ({"label": ""}, "the label '': expected one of"),
        ({"age": "-1"}, "the age '-1': expected 0 to 120 years"),
        ({"age": "121"}, "the age '121': expected 0 to 120 years"),
        ({"age": "old"}, "the age 'old': expected 0 to 120 years"),
        ({"sex": "X"}, "the sex 'X': expected F, M or an empty cell"),
        ({"file": "../elsewhere.jpg"}, "outside of the collection: give paths below it"),
        ({"file": "nih/../../elsewhere.jpg"}, "outside of the collection: give paths below it"),
        ({"file": "/elsewhere.jpg"}, "outside of the collection: give paths below it"),
        ({"patient_id": " "}, "the patient_id '': give every image its patient's"),
        ({"patient_id": "NIH-"}, "the patient_id 'NIH-': give every image its patient's"),
    ],
)
def test_a_row_of_adults_with_a_fault_is_named_and_the_others_are_read(
    tmp_path: Path, cells: dict[str, str], message: str
) -> None:
    other = _row(file="nih/2.jpg", patient_id="NIH-2")
    faulty = _row(**cells)
    collected = read_adults(_adults(tmp_path, faulty, other, files=("nih/00000061_012.jpg", "nih/2.jpg")))
    assert [r.patient for r in collected.records] == ["nih/2"]
    (fault,) = collected.faults
    assert fault.where == f"{tmp_path / 'manifest.csv'}, {faulty['file']}"
    assert message in fault.reason


def test_a_row_of_adults_without_a_file_is_named_by_its_number(tmp_path: Path) -> None:
    (fault,) = read_adults(_adults(tmp_path, _row(), _row(file=""))).faults
    assert (
        str(fault)
        == f"{tmp_path / 'manifest.csv'}, row 3: the row names no file: give the path of its image below the folder"
    )


def test_contradictory_rows_of_adults_are_a_fault_and_equal_rows_count_once(tmp_path: Path) -> None:
    collected = read_adults(_adults(tmp_path, _row(), _row(split="train")))
    assert (len(collected.records), collected.dropped, list(collected.faults)) == (1, {"adults: row twice": 1}, [])
    for cells in ({"label": "normal"}, {"patient_id": "NIH-62"}, {"age": "78"}, {"sex": "F"}, {"site": "Paris"}):
        with pytest.raises(InputError, match=r"00000061_012\.jpg 2 times with different values: keep one of its rows"):
            refuse(read_adults(_adults(tmp_path, _row(), _row(**cells))).faults)


def test_missing_and_unnamed_files_of_adults_are_dropped_and_counted(tmp_path: Path) -> None:
    files = ("nih/00000061_012.jpg", "nih/unnamed.jpg", "siim/deeper/unnamed.png", "siim/notes.txt", "nih/faulty.jpg")
    rows = [_row(), _row(file="nih/gone.jpg"), _row(file="nih/" + "x" * 300), _row(file="nih/faulty.jpg", age="old")]
    collected = read_adults(_adults(tmp_path, *rows, files=files))
    assert [r.path.name for r in collected.records] == ["00000061_012.jpg"]
    assert collected.dropped == {"adults: file not there": 2, "adults: file not in the table": 2}
    assert len(collected.faults) == 1


def test_the_error_for_another_folder_than_adults_names_the_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no manifest\.csv: expected it beside folders of images"):
        read_adults(tmp_path)
    with pytest.raises(InputError, match=r"no images in .*the files that manifest\.csv names"):
        read_adults(_adults(tmp_path, _row(), files=()))
    (tmp_path / "manifest.csv").write_text("file,label\na.jpg,normal\n")
    with pytest.raises(
        InputError, match="lacks the columns age, detail, label_basis, patient_id, sex, site, source, view"
    ):
        read_adults(tmp_path)


def test_nih_as_published(tmp_path: Path) -> None:
    collected = read_nih(write_nih(tmp_path, patients=1))
    assert [(r.path.name, r.patient, r.label, r.view, r.age_years, r.sex) for r in collected.records] == [
        ("00000001_000.png", "nih/1", "normal", "PA", 20.0, "M"),
        ("00000002_001.png", "nih/2", "pneumonia", "AP", 21.0, "F"),
        ("00000003_002.png", "nih/3", "pneumonia", "PA", 22.0, "M"),
        ("00000004_000.png", "nih/4", "other", "AP", 23.0, "F"),
    ]
    assert {(r.source, r.basis, r.site, r.adult) for r in collected.records} == {
        ("nih-chestxray14", "text-mined", "NIH Clinical Center", True)
    }
    assert collected.records[3].finding == "Infiltration|Pleural_Thickening"
    assert (collected.dropped, list(collected.faults)) == ({}, [])


def _nih(folder: Path, rows: list[str], images: tuple[str, ...], table: str = "Data_Entry_2017.csv") -> Path:
    # The header ends in a comma as in the first edition.
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,Width,Height,"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / table).write_text("\n".join([head, *rows]) + "\n")
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(
    ("age", "years", "adult"),
    [("058Y", 58.0, True), ("12M", 1.0, False), ("17", 17.0, False), ("414", None, True), ("", None, True)],
)
def test_ages_of_nih(tmp_path: Path, age: str, years: float | None, adult: bool) -> None:
    row = f"00000001_000.png,No Finding,0,1,{age},M,PA,2682,2749,"
    (record,) = read_nih(_nih(tmp_path, [row], ("images/00000001_000.png",))).records
    assert (record.age_years, record.adult) == (years, adult)


def test_the_later_table_of_nih_is_preferred(tmp_path: Path) -> None:
    _nih(tmp_path, ["00000001_000.png,No Finding,0,1,414,M,PA,1,1,"], ("images/00000001_000.png",))
    text = (tmp_path / "Data_Entry_2017.csv").read_text().replace("414", "41").replace("Gender", "Sex")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(text)
    (record,) = read_nih(tmp_path).records
    assert (record.age_years, record.sex) == (41.0, "M")


@pytest.mark.parametrize("images", ["sample/images", "images"])
@pytest.mark.parametrize("table", ["sample_labels.csv", "sample/sample_labels.csv"])
def test_the_sample_of_nih(tmp_path: Path, table: str, images: str) -> None:
    (tmp_path / "sample").mkdir()
    row = "00000013_005.png,Emphysema|Pneumonia,5,13,060Y,M,AP,3056,2544,"
    (record,) = read_nih(_nih(tmp_path, [row], (f"{images}/00000013_005.png",), table)).records
    assert (record.patient, record.label, record.age_years) == ("nih/13", "pneumonia", 60.0)


def test_a_packed_table_of_nih(tmp_path: Path) -> None:
    table = write_nih(tmp_path, patients=1) / "Data_Entry_2017.csv"
    (tmp_path / "Data_Entry_2017.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    table.unlink()
    assert len(read_nih(tmp_path).records) == 4


def test_rows_of_nih_without_an_archive_are_dropped_and_counted(tmp_path: Path) -> None:
    shutil.rmtree(write_nih(tmp_path, patients=2) / "images_002")
    collected = read_nih(tmp_path)
    assert [r.patient for r in collected.records] == ["nih/1", "nih/3", "nih/5", "nih/7"]
    assert (collected.dropped, list(collected.faults)) == ({"nih-chestxray14: file not there": 4}, [])


def test_repeated_rows_and_files_of_nih_count_once(tmp_path: Path) -> None:
    row = "00000001_000.png,No Finding,0,1,58,M,PA,1,1,"
    images = ("images/00000001_000.png", "images_001/images/00000001_000.png")
    collected = read_nih(_nih(tmp_path, [row, row.replace(",0,1,", ",0,01,")], images))
    assert [r.path.relative_to(tmp_path).as_posix() for r in collected.records] == ["images/00000001_000.png"]
    assert collected.dropped == {"nih-chestxray14: row twice": 1, "nih-chestxray14: file twice": 1}


@pytest.mark.parametrize(
    ("rows", "where", "message"),
    [
        (
            ["00000002_000.png,No Finding,0,2,58,M,PA,1,1,"],
            "images/00000001_000.png",
            "it has no row in Data_Entry_2017.csv",
        ),
        (["00000001_000.png,Cough,0,1,58,M,PA,1,1,"], "00000001_000.png", "the Finding Labels 'Cough'"),
        (["00000001_000.png,No Finding|Mass,0,1,58,M,PA,1,1,"], "00000001_000.png", "among which 'No Finding' is not"),
        (["00000001_000.png,,0,1,58,M,PA,1,1,"], "00000001_000.png", "the Finding Labels ''"),
        (
            ["00000001_000.png,Mass,0,2,58,M,PA,1,1,"],
            "00000001_000.png",
            "the Patient ID 2: expected the number that its",
        ),
        (["00000001_000.png,Mass,0,,58,M,PA,1,1,"], "00000001_000.png", "the Patient ID '': expected a number"),
        ([f"00000001_000.png,{f},0,1,58,M,PA,1,1," for f in ("Mass", "No Finding")], "Data_Entry_2017.csv", "2 times"),
    ],
)
def test_faults_of_nih(tmp_path: Path, rows: list[str], where: str, message: str) -> None:
    (fault,) = read_nih(_nih(tmp_path, rows, ("images/00000001_000.png",))).faults
    assert fault.where.endswith(where)
    assert message in fault.reason


def test_the_error_for_another_folder_than_nih_names_the_layout(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"none of Data_Entry_2017_v2020\.csv, Data_Entry_2017\.csv, sample_labels\.csv"
    ):
        read_nih(tmp_path)
    with pytest.raises(InputError, match=r"no images in .*images_001/images/\*\.png to images_012/"):
        read_nih(_nih(tmp_path, ["00000001_000.png,Mass,0,1,58,M,PA,1,1,"], ()))


def test_patients_of_nih_are_shared_with_adults(tmp_path: Path) -> None:
    _adults(tmp_path / "adults", _row())
    row = "00000061_015.png,Pneumonia,15,61,77,M,AP,1,1,"
    _nih(tmp_path / "nih-chestxray14", [row], ("images_001/images/00000061_015.png",))
    records = read_collections(tmp_path, collections=("adults", "nih-chestxray14")).records
    assert [(r.source, r.patient) for r in records] == [("nih", "nih/61"), ("nih-chestxray14", "nih/61")]


def test_siim_with_resized_images(tmp_path: Path) -> None:
    collected = read_siim(write_siim(tmp_path, patients=1))
    assert [(r.path.name, r.patient, r.label, r.finding) for r in collected.records] == [
        ("i0.png", "siim/s0", "normal", "Negative for Pneumonia"),
        ("i1.png", "siim/s1", "covid-19", "Typical Appearance"),
        ("i3.png", "siim/s3", "pneumonia", "Atypical Appearance"),
    ]
    assert {(r.source, r.view, *_stated(r)) for r in collected.records} == {
        ("siim-covid19", "unknown", "", "radiologists' panel", None, "", True)
    }
    assert (collected.dropped, list(collected.faults)) == ({"siim-covid19: Indeterminate Appearance": 1}, [])


def test_siim_with_dicom_headers(tmp_path: Path) -> None:
    collected = read_siim(write_siim(tmp_path, patients=1, dicom=True), indeterminate=True)
    assert [(r.path.parts[-3:], r.patient, r.label) for r in collected.records] == [
        (("s0", "series", "i0.dcm"), "siim/q0", "normal"),
        (("s1", "series", "i1.dcm"), "siim/q0", "covid-19"),
        (("s2", "series", "i2.dcm"), "siim/q1", "other"),
        (("s3", "series", "i3.dcm"), "siim/q1", "pneumonia"),
    ]
    assert [(r.view, r.age_years, r.sex, r.adult) for r in collected.records[:2]] == [
        ("AP", 17.0, "F", False),
        ("AP", 18.0, "F", True),
    ]
    assert (collected.dropped, list(collected.faults)) == ({}, [])


def test_images_of_siim_that_are_not_there_are_dropped_and_counted(tmp_path: Path) -> None:
    (write_siim(tmp_path, patients=1) / "train/i0.png").unlink()
    assert read_siim(tmp_path, indeterminate=True).dropped == {"siim-covid19: file not there": 1}


def _replace(table: str, old: str, new: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        text = (folder / table).read_text()
        assert old in text
        (folder / table).write_text(text.replace(old, new))

    return spoil


def _copy(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "train/s0/series/i0.dcm", folder / name)

    return spoil


STUDIES, IMAGES = "train_study_level.csv", "train_image_level.csv"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_replace(STUDIES, "s0_study,1,0,0,0", "s0_study,0,0,0,0"), "train_study_level, s0: no appearance"),
        (
            _replace(STUDIES, "s0_study,1,0,0,0", "s0_study,1,1,0,0"),
            "s0: Negative for Pneumonia and Typical Appearance",
        ),
        (
            _replace(STUDIES, "s1_study,0,1,0,0", "s0_study,0,1,0,0"),
            "s0: Negative for Pneumonia and Typical Appearance",
        ),
        (_replace(STUDIES, "s0_study,1,0,0,0\n", ""), r"i0\.dcm: its study s0 has no row in train_study_level"),
        (_replace(IMAGES, "i0_image,,none 1 0 0 1 1,s0\n", ""), r"i0\.dcm: it has no row in train_image_level"),
        (_replace(IMAGES, "i1_image,,none 1 0 0 1 1,s1", "i0_image,,none 1 0 0 1 1,s1"), "i0: it is of 2 studies"),
        (
            _replace(IMAGES, "none 1 0 0 1 1,s0", "none 1 0 0 1 1,s1"),
            r"i0\.dcm: it is in the folder of study s0, of s1",
        ),
        (_copy("train/i0.png"), r"i0\.dcm: an image has two files|i0\.png: an image has two files"),
        (
            lambda f: (f / "train/s0/series/i0.dcm").write_bytes(b"no DICOM"),
            r"i0\.dcm: the DICOM header cannot be read",
        ),
        (lambda f: (f / STUDIES).unlink(), r"holds no train_study_level\.csv: expected the SIIM-FISABIO-RSNA"),
        (lambda f: (f / IMAGES).unlink(), r"holds no train_image_level\.csv: expected the SIIM-FISABIO-RSNA"),
        (lambda f: shutil.rmtree(f / "train"), r"no images in .*train/STUDY/SERIES/IMAGE\.dcm, or train/IMAGE\.png"),
        (_replace(STUDIES, "Typical Appearance", "typical"), "lacks the columns"),
    ],
)
def test_faults_of_siim(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(write_siim(tmp_path, patients=1, dicom=True))
    with pytest.raises(InputError, match=message):
        refuse(read_siim(tmp_path).faults)


def test_images_of_a_study_with_a_fault_are_left_out(tmp_path: Path) -> None:
    _replace(STUDIES, "s0_study,1,0,0,0", "s0_study,1,1,0,0")(write_siim(tmp_path, patients=1))
    collected = read_siim(tmp_path)
    assert [r.patient for r in collected.records] == ["siim/s1", "siim/s3"]
    assert len(collected.faults) == 1


def test_the_new_collections_are_read_only_if_named(tmp_path: Path) -> None:
    write_adults(tmp_path / "adults", patients=1)
    write_nih(tmp_path / "nih-chestxray14", patients=1)
    write_siim(tmp_path / "siim-covid19", patients=1)
    names = ("adults", "nih-chestxray14", "siim-covid19")
    for name in names:
        assert not COLLECTIONS[name].is_default
        found = {r.source for r in read_collections(tmp_path, collections=(name,)).records}
        assert found == set(COLLECTIONS[name].sources)
    keys = [r.key for r in read_collections(tmp_path, collections=names).records]
    assert keys == sorted(keys)
    assert keys[0].startswith("adults/armiro/")


def test_limits_are_of_described_sources() -> None:
    assert set(source_limits()) <= set(source_descriptions())
    assert {"kcx", "siim", "nih", "armiro", "ccx-june", "tbx11k", "nih-chestxray14", "siim-covid19"} <= set(
        source_limits()
    )


CCX = """\
patientid,sex,age,finding,view,modality,location,folder,filename
2,M,65,COVID-19,PA,X-ray,"Cho Ray Hospital, Vietnam ",images,a.png
62,F,12,COVID-19,PA,X-ray,,images,b.png
63,unknown,old,COVID-19,PA,X-ray,,images,c.png
"""


def test_ccx_states_site_age_and_sex_and_all_its_patients_count_as_adults(tmp_path: Path) -> None:
    _ccx(tmp_path, CCX)
    assert [_stated(r) for r in read_covid(tmp_path).records] == [
        ("Cho Ray Hospital, Vietnam", "", 65.0, "M", True),
        ("", "", 12.0, "F", True),
        ("", "", None, "", True),
    ]


def _ccx(folder: Path, text: str) -> None:
    (folder / "images").mkdir(exist_ok=True)
    (folder / "metadata.csv").write_text(text)
    for name in "abc":
        (folder / "images" / f"{name}.png").touch()


def test_rows_of_ccx_that_differ_in_age_alone_count_once(tmp_path: Path) -> None:
    _ccx(tmp_path, CCX + '2,M,66,COVID-19,PA,X-ray,"Cho Ray Hospital, Vietnam ",images,a.png\n')
    collected = read_covid(tmp_path)
    assert [r.age_years for r in collected.records] == [65.0, 12.0, None]
    assert (collected.dropped, list(collected.faults)) == ({"ccx: row twice": 1}, [])


def test_a_path_of_ccx_that_leads_out_of_the_collection_is_a_fault(tmp_path: Path) -> None:
    _ccx(tmp_path, CCX.replace("images,c.png", "images,../../c.png"))
    with pytest.raises(InputError, match=r"\.\./\.\./c\.png: the image would be .* outside of the collection"):
        refuse(read_covid(tmp_path).faults)


def test_rsna_states_age_and_sex_in_its_headers(tmp_path: Path) -> None:
    records = read_rsna(write_rsna(tmp_path, patients=2), not_normal=True).records
    assert [(r.age_years, r.sex) for r in records] == [
        (43.0, "F"),
        (None, "M"),
        (12.0, "F"),
        (2.5, "M"),
        (9.0, "F"),
        (43.0, ""),
    ]


def test_rsna_states_age_and_sex_in_its_table_of_headers(tmp_path: Path) -> None:
    write_rsna(tmp_path, patients=1)
    table = "PatientID,PatientAge,PatientSex,ViewPosition\np0,155,M,AP\np1,17,F,PA\np2,61,,PA\n"
    (tmp_path / "stage_2_train_images_dicom_headers.csv").write_text(table)
    records = read_rsna(tmp_path, not_normal=True).records
    assert [(r.age_years, r.sex, r.adult) for r in records] == [(None, "M", True), (17.0, "F", False), (61.0, "", True)]
