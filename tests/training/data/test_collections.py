"""Readers of collections: each published layout, and what is said of a folder that is not one."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.collections import METADATA_HEAD, write_collections, write_rsna
from training.data.collections import collections_of, gather
from training.data.findings import label_of_finding
from training.data.readers.covid import covid_collection
from training.data.readers.kermany import kermany
from training.data.readers.rsna import rsna
from training.data.readers.tuberculosis import tuberculosis_sets


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four default collections. Shared: a test that changes them takes a copy."""
    return write_collections(tmp_path_factory.mktemp("four"), patients=1, size_px=32)


def test_all_layouts_together(four: Path) -> None:
    records = gather(four)
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


# Of the later metadata.csv: more columns, findings as a path, CT volumes in another folder, a patient that is no number.
NEW_METADATA = """\
patientid,offset,sex,age,finding,RT_PCR_positive,survival,view,modality,date,location,folder,filename,doi,url,license
2,0,M,65,Pneumonia/Viral/COVID-19,Y,Y,PA,X-ray,2020,Vietnam,images,a.jpeg,,,
2.0,5,M,65,Pneumonia/Viral/COVID-19,Y,Y,L,X-ray,2020,Vietnam,images,a-lateral.jpeg,,,
324a,,F,40,Pneumonia/Bacterial/Staphylococcus/MRSA,,,AP Supine,X-ray,2016,"Turin, Italy",images,b.png,,,
325,,F,40,Pneumonia/Viral/Influenza/H1N1,,,AP,X-ray,2016,,images,c.png,,,
326,,F,40,Pneumonia/Viral/Herpes ,,,AP,X-ray,2016,,images,d.png,,,
327,,F,40,Pneumonia/Fungal/Pneumocystis,,,PA,X-ray,2016,,images,e.png,,,
328,,F,40,Pneumonia/Lipoid,,,PA,X-ray,2016,,images,f.png,,,
329,,,,todo,,,PA,X-ray,2016,,images,g.png,,,
330,,,,Pneumonia/Viral/COVID-19,Unclear,,Axial,CT,2020,,volumes,h.nii.gz,,,
331,,,,No Finding,,,PA,X-ray,2020,,images,i.png,,,
"""


def _new_layout(folder: Path) -> Path:
    _touch(*(folder / "images" / n for n in ("a.jpeg", "a-lateral.jpeg", *(f"{c}.png" for c in "bcdefgi"))))
    _touch(folder / "volumes" / "h.nii.gz")
    (folder / "metadata.csv").write_text(NEW_METADATA, encoding="utf-8")
    return folder


def test_the_later_covid_collection(tmp_path: Path) -> None:
    assert [(r.path.name, r.patient, r.label, r.view) for r in covid_collection(_new_layout(tmp_path))] == [
        ("a.jpeg", "ccx/2", "covid-19", "PA"),
        ("b.png", "ccx/324a", "bacterial", "AP Supine"),
        ("c.png", "ccx/325", "viral", "AP"),
        ("d.png", "ccx/326", "viral", "AP"),
        ("e.png", "ccx/327", "bacterial", "PA"),
        ("f.png", "ccx/328", "other", "PA"),
        ("g.png", "ccx/329", "other", "PA"),
        ("i.png", "ccx/331", "normal", "PA"),
    ]


def test_other_views_and_modalities_are_given_by_name(tmp_path: Path) -> None:
    folder = _new_layout(tmp_path / "covid-chestxray-dataset")
    assert [(r.patient, r.view) for r in covid_collection(folder, views=("L",))] == [("ccx/2", "L")]
    assert [r.modality for r in covid_collection(folder, views=("Axial",), modalities=("CT",))] == ["CT"]
    asked = {"collections": ("ccx",), "views": ("AP", "L")}
    assert {r.patient for r in gather(tmp_path, **asked)} == {"ccx/2", "ccx/324a", "ccx/325", "ccx/326"}
    with pytest.raises(InputError, match=r"no images in .*views \('LL',\)"):
        gather(tmp_path, collections=("ccx",), views=("LL",))


def test_a_file_named_twice_is_taken_once_or_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "images" / "a.png")
    row = "1,COVID-19,PA,X-ray,images,a.png"
    (tmp_path / "metadata.csv").write_text("\n".join([METADATA_HEAD, row, row]))
    assert len(covid_collection(tmp_path)) == 1
    (tmp_path / "metadata.csv").write_text("\n".join([METADATA_HEAD, row, row.replace("COVID-19", "SARS")]))
    with pytest.raises(InputError, match=r"a\.png 2 times"):
        covid_collection(tmp_path)


def test_an_image_of_nobody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(METADATA_HEAD + "\n,COVID-19,PA,X-ray,images,a.png\n")
    with pytest.raises(InputError, match=r"a\.png has no patientid"):
        covid_collection(tmp_path)


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


RSNA_SAID = [
    ("p0", "normal", "AP", True),
    ("p1", "other", "PA", True),
    ("p2", "pneumonia", "AP", False),
    ("p3", "normal", "PA", False),
    ("p4", "other", "AP", False),
    ("p5", "pneumonia", "PA", True),
]


def test_rsna_from_its_files(tmp_path: Path) -> None:
    records = rsna(write_rsna(tmp_path, patients=2), not_normal=True)
    assert [(r.path.stem, r.label, r.view, r.adult) for r in records] == RSNA_SAID
    assert records[0].patient == "rsna/p0"


def test_of_rsna_normal_and_opacities_unless_asked(tmp_path: Path) -> None:
    assert {(r.label, r.finding) for r in rsna(write_rsna(tmp_path, patients=1))} == {
        ("normal", "Normal"),
        ("pneumonia", "Lung Opacity"),
    }


def test_rsna_tables_as_they_are_packed_and_headers_from_a_table(tmp_path: Path) -> None:
    write_rsna(tmp_path, patients=2)
    labels, details = tmp_path / "stage_2_train_labels.csv", tmp_path / "stage_2_detailed_class_info.csv"
    with zipfile.ZipFile(tmp_path / "kaggle_stage_2_train_labels.csv.zip", "w") as archive:
        archive.write(labels, labels.name)
    details.with_suffix(".csv.gz").write_bytes(gzip.compress(details.read_bytes()))
    labels.unlink()
    details.unlink()
    rows = [f"{i},CR,{name},{age},{view}" for i, (name, view, age) in enumerate([("p0", "PA", 9), ("p2", "", 155)])]
    table = "\n".join([",Modality,PatientID,PatientAge,ViewPosition", *rows])
    (tmp_path / "kaggle_stage_2_train_images_dicom_headers.csv.gz").write_bytes(gzip.compress(table.encode()))
    said = {r.path.stem: (r.view, r.adult) for r in rsna(tmp_path)}
    assert said == {"p0": ("PA", False), "p2": ("unknown", True), "p3": ("PA", False), "p5": ("PA", True)}


def test_rsna_is_read_when_named(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", patients=1)
    records = gather(tmp_path, collections=("rsna",))
    assert [r.key for r in records] == [f"rsna/stage_2_train_images/{n}.dcm" for n in ("p0", "p2")]
    assert [r.patient for r in gather(tmp_path, collections=("rsna",), views=("AP",))] == ["rsna/p0", "rsna/p2"]


def _rows_gone(folder: Path) -> None:
    table = folder / "stage_2_train_labels.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("p2")))


def _images_gone(folder: Path) -> None:
    for path in (folder / "stage_2_train_images").iterdir():
        path.unlink()


def _stages_mixed(folder: Path) -> None:
    table = folder / "stage_2_detailed_class_info.csv"
    table.write_text(table.read_text().replace("p2,Lung Opacity", "p2,Normal"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_rows_gone, r"p2\.dcm has no row in stage_2_train_labels"),
        (_images_gone, r"no images in .*stage_2_train_images/\*\.dcm beside the tables"),
        (_stages_mixed, "'Normal' and Target 1: the tables are not of the same stage"),
        (lambda f: (f / "stage_2_detailed_class_info.csv").unlink(), r"holds no stage_2_detailed_class_info\.csv"),
        (lambda f: (f / "stage_2_train_labels.csv").write_text("a,b\n1,2\n"), "patientId"),
        (lambda f: (f / "stage_2_train_labels.csv").write_bytes(b"\xff\xfe\0"), "cannot be read as a table"),
        (lambda f: (f / "stage_2_train_images" / "p2.dcm").write_bytes(b"no DICOM"), "DICOM header cannot be read"),
    ],
)
def test_an_rsna_folder_that_is_not_whole_is_refused(tmp_path: Path, spoil, message: str) -> None:
    write_rsna(tmp_path, patients=1)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        rsna(tmp_path)


def test_those_who_have_some_collections_name_them(four: Path, tmp_path: Path) -> None:
    shutil.copytree(four, tmp_path, dirs_exist_ok=True)
    for name in ("lung-masks", "twitter-covid"):
        (tmp_path / name).rename(tmp_path / f"not-{name}")
    with pytest.raises(InputError, match=r"twitter in .*twitter-covid, tuberculosis in .*lung-masks.*\('kcx', 'ccx'\)"):
        gather(tmp_path)
    records = gather(tmp_path, collections=("ccx", "kcx"))
    assert collections_of(r.source for r in records) == ("kcx", "ccx")
    assert gather(tmp_path, require_all=False) == records
    with pytest.raises(InputError, match="no collection kxc: known are kcx"):
        gather(tmp_path, collections=("kxc",))
    with pytest.raises(InputError, match="no collection was named"):
        gather(tmp_path, collections=())
    with pytest.raises(InputError, match=r"twitter in .*twitter-covid"):
        gather(tmp_path, collections=("twitter",), require_all=False)


def test_sources_name_their_collections() -> None:
    assert collections_of(["shenzhen", "rsna", "montgomery", "twitter"]) == ("twitter", "tuberculosis", "rsna")
