"""Folders of own images: labels, patients, layouts, links, hidden files and odd names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.own_data import write_folder, write_image
from training.data.own.options import Options
from training.data.own.records import OwnData
from training.data.own.source import read_source


def _labels(data: OwnData) -> dict[str, tuple[str, ...]]:
    return {r.key: r.present for r in data.records}


def test_the_first_folder_is_the_label(tmp_path: Path) -> None:
    data = read_source(write_folder(tmp_path, ["tb/a.png", "normal/b.jpg", "normal/c.png"]))
    assert data.findings == ("normal", "tb"), "normal comes first"
    assert _labels(data) == {"normal/b.jpg": ("normal",), "normal/c.png": ("normal",), "tb/a.png": ("tb",)}
    assert data.records[0].findings == {"normal": True, "tb": False}
    assert data.exclusive
    assert {r.patient for r in data.records} == {""}
    assert len({r.unit for r in data.records}) == 3


def test_deeper_folders_are_patient_and_study_and_are_written_as_pseudonyms(tmp_path: Path) -> None:
    names = ["tb/P1/day 1/a.png", "tb/P1/day 2/b.png", "tb/P2/c.png", "normal/d.png"]
    data = read_source(write_folder(tmp_path, names), salt=b"salt")
    first, second, third, fourth = (next(r for r in data.records if r.key == name) for name in names)
    assert first.patient == second.patient != third.patient
    assert first.study != second.study
    assert fourth.patient == ""
    assert first.patient.startswith("patient-")
    assert "P1" not in first.patient
    assert any("2 folders below the labels are taken as patients" in line for line in data.understood)
    again = read_source(tmp_path, salt=b"salt")
    assert [r.patient for r in again.records] == [r.patient for r in data.records], "the same salt, the same names"
    assert read_source(tmp_path).records[-1].patient != data.records[-1].patient, "another salt, other names"


def test_folders_of_a_split_are_above_the_labels(tmp_path: Path) -> None:
    data = read_source(write_folder(tmp_path, ["train/NORMAL/a.png", "val/TB/b.png", "test/TB/c.png"]))
    assert data.findings == ("NORMAL", "TB")
    assert {r.key: r.split for r in data.records} == {
        "train/NORMAL/a.png": "train", "val/TB/b.png": "validation", "test/TB/c.png": "test",
    }  # fmt: skip


def test_a_layout_names_the_levels(tmp_path: Path) -> None:
    write_folder(tmp_path, ["north/tb/P1/a.png", "south/normal/P2/b.png"])
    data = read_source(tmp_path, Options(layout="site/label/patient"))
    assert [(r.site, r.present) for r in data.records] == [("north", ("tb",)), ("south", ("normal",))]
    data = read_source(tmp_path, Options(layout="-/label"))
    assert {(r.site, r.patient) for r in data.records} == {("", "")}


def test_many_images_in_a_patients_folder_are_doubted(tmp_path: Path) -> None:
    data = read_source(write_folder(tmp_path, [f"tb/hospital/{i}.png" for i in range(21)] + ["normal/x/1.png"]))
    assert not any("many for a patient" in line for line in data.understood)
    write_folder(tmp_path, [f"tb/hospital/{i}.png" for i in range(40)])
    assert any("which is many for a patient" in line for line in read_source(tmp_path).understood)


def test_a_pattern_finds_the_patient_in_the_name(tmp_path: Path) -> None:
    write_folder(tmp_path, ["tb/CHN_0001_1.png", "tb/CHN_0001_2.png", "normal/CHN_0002_1.png"])
    data = read_source(tmp_path, Options(patient_pattern=r"_(\d{4})_"))
    patients = {r.key: r.patient for r in data.records}
    assert patients["tb/CHN_0001_1.png"] == patients["tb/CHN_0001_2.png"] != patients["normal/CHN_0002_1.png"]


def test_hidden_files_other_files_and_broken_links_are_left_out_and_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, ["tb/a.png", "tb/.b.png", "normal/c.png", "__MACOSX/tb/d.png"])
    (tmp_path / "tb" / "notes.txt").write_text("x")
    (tmp_path / "tb" / "other").write_text("x")
    write_image(tmp_path / "normal" / "scan", 9)  # by content
    (tmp_path / "tb" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "tb" / "loop").symlink_to(tmp_path)
    data = read_source(tmp_path)
    assert set(_labels(data)) == {"tb/a.png", "normal/c.png", "normal/scan"}
    assert data.ignored == {"hidden": 2, "no image (.txt)": 1, "no image (without a suffix)": 1}
    assert [f.where for f in data.faults] == [str(tmp_path / "tb" / "gone.png")]
    assert "which is not there" in data.faults[0].reason


def test_links_to_images_and_folders_are_followed(tmp_path: Path) -> None:
    write_folder(tmp_path / "store", ["x/a.png", "b.png"])
    (tmp_path / "own" / "tb").mkdir(parents=True)
    (tmp_path / "own" / "normal").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "own" / "tb" / "b.png").symlink_to(tmp_path / "store" / "b.png")
    assert _labels(read_source(tmp_path / "own")) == {"normal/a.png": ("normal",), "tb/b.png": ("tb",)}


def test_names_that_are_not_utf_8_are_read_and_have_printable_keys(tmp_path: Path) -> None:
    write_folder(tmp_path, ["tb/a.png", "normal/b.png"])
    os.rename(tmp_path / "tb" / "a.png", os.fsencode(tmp_path) + b"/tb/\xff.png")
    data = read_source(tmp_path)
    assert set(_labels(data)) == {r"tb/\xff.png", "normal/b.png"}
    assert all(r.path.is_file() for r in data.records)


def test_labels_that_differ_in_case_are_one_and_can_be_renamed(tmp_path: Path) -> None:
    write_folder(tmp_path, ["train/TB/a.png", "train/TB/b.png", "test/tb/c.png", "test/0/d.png"])
    data = read_source(tmp_path, Options(label_names={"0": "normal"}))
    assert data.findings == ("normal", "TB")
    assert any("'TB', 'tb' differ in case alone" in line for line in data.understood)
    with pytest.raises(InputError, match="no image has the label 'x'; the labels are '0', 'TB', 'tb'"):
        read_source(tmp_path, Options(label_names={"x": "normal"}))


def test_no_source_and_no_image_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist: give a folder of images, or a table"):
        read_source(tmp_path / "nowhere")
    (tmp_path / "tb").mkdir()
    (tmp_path / "tb" / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds no image: expected FOLDER/LABEL/IMAGE.*1 no image \(\.txt\)"):
        read_source(tmp_path)
