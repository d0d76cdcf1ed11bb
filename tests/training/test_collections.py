"""Readers of collections: each published layout, and what is said of a folder that is not one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.training.made_collections import METADATA_HEAD, write_collections
from training.collections import covid_collection, gather, kermany, label_of_finding, tuberculosis_sets


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_all_layouts_together(tmp_path: Path) -> None:
    records = gather(write_collections(tmp_path, patients=1, size_px=32))
    assert [(r.key, r.patient, r.label, r.adult, r.mask is not None) for r in records] == [
        ("chest_xray/train/NORMAL/IM-0000-0001.jpeg", "kcx/IM-0000", "normal", False, False),
        ("chest_xray/train/PNEUMONIA/person0_bacteria_0.jpeg", "kcx/person0", "bacterial", False, False),
        ("chest_xray/train/PNEUMONIA/person1_virus_0.jpeg", "kcx/person1", "viral", False, False),
        ("covid-chestxray-dataset/images/covid-0.png", "ccx/0", "covid-19", True, True),
        ("lung-masks/CXR_png/CHNCXR_0000_0.png", "shenzhen/0000", "normal", True, True),
        ("lung-masks/CXR_png/CHNCXR_0001_1.png", "shenzhen/0001", "tuberculosis", True, True),
        ("lung-masks/CXR_png/MCUCXR_0002_0.png", "montgomery/0002", "normal", True, True),
        ("twitter-covid/EX0.jfif", "twitter/EX0", "covid-19", True, False),
    ]


def test_a_paediatric_patient_is_a_number_whatever_the_class(tmp_path: Path) -> None:
    _touch(
        tmp_path / "train" / "PNEUMONIA" / "person7_bacteria_1.jpeg",
        tmp_path / "test" / "PNEUMONIA" / "person7_virus_2.jpeg",
        tmp_path / "val" / "NORMAL" / "NORMAL2-IM-0007-0001.jpeg",
    )
    assert {(r.patient, r.label) for r in kermany(tmp_path)} == {
        ("kcx/person7", "bacterial"),
        ("kcx/person7", "viral"),
        ("kcx/IM-0007", "normal"),
    }


@pytest.mark.parametrize("name", ["NORMAL/person7_virus_1.jpeg", "NORMAL/holiday.jpeg"])
def test_a_name_that_does_not_fit_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "train" / name)
    with pytest.raises(InputError, match=name.split("/")[1]):
        kermany(tmp_path)


def test_of_the_covid_collection_frontal_x_rays_only(tmp_path: Path) -> None:
    rows = [
        METADATA_HEAD,
        "1,COVID-19,PA,X-ray,images,a.png",
        "1,COVID-19,L,X-ray,images,lateral.png",
        "2,COVID-19,Axial,CT,images,slice.png",
        "3,SARS,AP Supine,X-ray,images,b.png",
        "4,No Finding,AP,X-ray,images,not-there.png",
    ]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    _touch(*(tmp_path / "images" / f"{n}.png" for n in ("a", "lateral", "slice", "b")))
    assert [(r.patient, r.label) for r in covid_collection(tmp_path)] == [("ccx/1", "covid-19"), ("ccx/3", "viral")]


def test_a_metadata_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("patientid,finding\n1,SARS\n")
    with pytest.raises(InputError, match="filename"):
        covid_collection(tmp_path)


@pytest.mark.parametrize(
    ("finding", "label"),
    [
        ("COVID-19", "covid-19"),
        ("COVID-19, ARDS", "covid-19"),
        ("Pneumonia/Viral/COVID-19", "covid-19"),
        ("Pneumonia/Viral/SARS", "viral"),
        ("Pneumonia/Bacterial/Streptococcus", "bacterial"),
        ("Pneumocystis", "bacterial"),
        ("Pneumonia", "other"),
        ("Tuberculosis", "tuberculosis"),
        ("No Finding", "normal"),
    ],
)
def test_labels_of_findings_old_and_new(finding: str, label: str) -> None:
    assert label_of_finding(finding) == label


def test_an_unknown_finding_is_not_guessed() -> None:
    with pytest.raises(InputError, match="Broken rib"):
        label_of_finding("Broken rib")


def test_a_folder_of_something_else_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PNEUMONIA"):
        kermany(tmp_path)
    with pytest.raises(InputError, match=r"metadata\.csv"):
        covid_collection(tmp_path)
    with pytest.raises(InputError, match="CHNCXR"):
        tuberculosis_sets(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        gather(tmp_path / "nowhere")
