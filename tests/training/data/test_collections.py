"""Readers of collections: every published layout, and the error message for another folder."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.image_collections import METADATA_HEAD, write_collections, write_rsna
from training.data.collections import COLLECTIONS, collection_names, read_collections, source_descriptions
from training.data.faults import refuse
from training.data.findings import label_of_finding
from training.data.readers.covid import read_covid
from training.data.readers.kermany import read_kermany
from training.data.readers.rsna import read_rsna
from training.data.readers.tuberculosis import read_tuberculosis
from training.data.records import Selection


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four default collections. Shared: a test that changes them takes a copy."""
    return write_collections(tmp_path_factory.mktemp("collections"), patients=1, size_px=32)


def test_all_layouts_together(collections: Path) -> None:
    records = read_collections(collections).records
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


def test_a_paediatric_patient_number_is_one_patient_for_all_classes(tmp_path: Path) -> None:
    _touch(
        tmp_path / "train" / "PNEUMONIA" / "person7_bacteria_1.jpeg",
        tmp_path / "test" / "PNEUMONIA" / "person7_virus_2.jpeg",
        tmp_path / "val" / "NORMAL" / "NORMAL2-IM-0007-0001.jpeg",
    )
    assert {(r.patient, r.label) for r in read_kermany(tmp_path).records} == {
        ("kcx/person7", "bacterial"),
        ("kcx/person7", "viral"),
        ("kcx/IM-0007", "normal"),
    }


@pytest.mark.parametrize("name", ["NORMAL/person7_virus_1.jpeg", "NORMAL/holiday.jpeg"])
def test_a_file_name_that_contradicts_its_folder_raises(tmp_path: Path, name: str) -> None:
    _touch(tmp_path / "train" / name)
    with pytest.raises(InputError, match=name.split("/")[1]):
        refuse(read_kermany(tmp_path).faults)


def test_covid_collection_reads_frontal_x_rays_only(tmp_path: Path) -> None:
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
    assert [(r.patient, r.label) for r in read_covid(tmp_path).records] == [("ccx/1", "covid-19"), ("ccx/3", "viral")]


# Of the later metadata.csv: more columns, findings as a path, CT volumes in another folder, a patient id that is not a number.
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


def test_covid_collection_in_its_later_layout(tmp_path: Path) -> None:
    assert [(r.path.name, r.patient, r.label, r.view) for r in read_covid(_new_layout(tmp_path)).records] == [
        ("a.jpeg", "ccx/2", "covid-19", "PA"),
        ("b.png", "ccx/324a", "bacterial", "AP Supine"),
        ("c.png", "ccx/325", "viral", "AP"),
        ("d.png", "ccx/326", "viral", "AP"),
        ("e.png", "ccx/327", "bacterial", "PA"),
        ("f.png", "ccx/328", "other", "PA"),
        ("g.png", "ccx/329", "other", "PA"),
        ("i.png", "ccx/331", "normal", "PA"),
    ]


def test_views_and_modalities_are_selected_by_name(tmp_path: Path) -> None:
    folder = _new_layout(tmp_path / "covid-chestxray-dataset")
    assert [(r.patient, r.view) for r in read_covid(folder, Selection(views=("L",))).records] == [("ccx/2", "L")]
    assert [r.modality for r in read_covid(folder, Selection(views=("Axial",), modalities=("CT",))).records] == ["CT"]
    found = read_collections(tmp_path, Selection(views=("AP", "L")), collections=("ccx",))
    assert {r.patient for r in found.records} == {"ccx/2", "ccx/324a", "ccx/325", "ccx/326"}
    with pytest.raises(InputError, match=r"no images in .*views \('LL',\)"):
        read_collections(tmp_path, Selection(views=("LL",)), collections=("ccx",))


def test_a_repeated_row_counts_once_and_a_contradicting_row_raises(tmp_path: Path) -> None:
    _touch(tmp_path / "images" / "a.png")
    row = "1,COVID-19,PA,X-ray,images,a.png"
    (tmp_path / "metadata.csv").write_text("\n".join([METADATA_HEAD, row, row]))
    assert len(read_covid(tmp_path).records) == 1
    (tmp_path / "metadata.csv").write_text("\n".join([METADATA_HEAD, row, row.replace("COVID-19", "SARS")]))
    with pytest.raises(InputError, match=r"a\.png 2 times"):
        refuse(read_covid(tmp_path).faults)


def test_an_image_without_a_patient_raises(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(METADATA_HEAD + "\n,COVID-19,PA,X-ray,images,a.png\n")
    with pytest.raises(InputError, match=r"metadata\.csv, a\.png: the image has no patientid"):
        refuse(read_covid(tmp_path).faults)


def test_a_metadata_table_without_required_columns_raises(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("patientid,finding\n1,SARS\n")
    with pytest.raises(InputError, match="filename"):
        read_covid(tmp_path)


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


def test_an_unknown_finding_raises() -> None:
    with pytest.raises(InputError, match="Broken rib"):
        label_of_finding("Broken rib")


def test_the_error_for_another_folder_names_the_expected_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PNEUMONIA"):
        refuse(read_kermany(tmp_path).faults)
    with pytest.raises(InputError, match=r"metadata\.csv"):
        read_covid(tmp_path)
    with pytest.raises(InputError, match="CHNCXR"):
        read_tuberculosis(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_collections(tmp_path / "nowhere")


RSNA_EXPECTED = [
    ("p0", "normal", "AP", True),
    ("p1", "other", "PA", True),
    ("p2", "pneumonia", "AP", False),
    ("p3", "normal", "PA", False),
    ("p4", "other", "AP", False),
    ("p5", "pneumonia", "PA", True),
]


def test_rsna_from_dicom_headers(tmp_path: Path) -> None:
    records = read_rsna(write_rsna(tmp_path, patients=2), not_normal=True).records
    assert [(r.path.stem, r.label, r.view, r.adult) for r in records] == RSNA_EXPECTED
    assert records[0].patient == "rsna/p0"


def test_rsna_reads_normals_and_opacities_by_default(tmp_path: Path) -> None:
    assert {(r.label, r.finding) for r in read_rsna(write_rsna(tmp_path, patients=1)).records} == {
        ("normal", "Normal"),
        ("pneumonia", "Lung Opacity"),
    }


def test_rsna_reads_packed_tables_and_headers_from_a_table(tmp_path: Path) -> None:
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
    actual = {r.path.stem: (r.view, r.adult) for r in read_rsna(tmp_path).records}
    assert actual == {"p0": ("PA", False), "p2": ("unknown", True), "p3": ("PA", False), "p5": ("PA", True)}


def test_rsna_is_read_only_if_named(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", patients=1)
    records = read_collections(tmp_path, collections=("rsna",)).records
    assert [r.key for r in records] == [f"rsna/stage_2_train_images/{n}.dcm" for n in ("p0", "p2")]
    assert [r.patient for r in read_collections(tmp_path, Selection(views=("AP",)), collections=("rsna",)).records] == [
        "rsna/p0",
        "rsna/p2",
    ]


def _remove_rows(folder: Path) -> None:
    table = folder / "stage_2_train_labels.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if not line.startswith("p2")))


def _remove_images(folder: Path) -> None:
    for path in (folder / "stage_2_train_images").iterdir():
        path.unlink()


def _mix_stages(folder: Path) -> None:
    table = folder / "stage_2_detailed_class_info.csv"
    table.write_text(table.read_text().replace("p2,Lung Opacity", "p2,Normal"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove_rows, r"p2\.dcm: it has no row in stage_2_train_labels"),
        (_remove_images, r"no images in .*stage_2_train_images/\*\.dcm beside the tables"),
        (_mix_stages, "'Normal' and Target 1: the tables are not of the same stage"),
        (lambda f: (f / "stage_2_detailed_class_info.csv").unlink(), r"holds no stage_2_detailed_class_info\.csv"),
        (lambda f: (f / "stage_2_train_labels.csv").write_text("a,b\n1,2\n"), "patientId"),
        (lambda f: (f / "stage_2_train_labels.csv").write_bytes(b"\xff\xfe\0"), "is not in UTF-8 or UTF-16"),
        (lambda f: (f / "stage_2_train_images" / "p2.dcm").write_bytes(b"no DICOM"), "DICOM header cannot be read"),
    ],
)
def test_an_incomplete_rsna_folder_raises(tmp_path: Path, spoil, message: str) -> None:
    write_rsna(tmp_path, patients=1)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        refuse(read_rsna(tmp_path).faults)


def test_missing_collections_raise_unless_the_present_ones_are_named(collections: Path, tmp_path: Path) -> None:
    shutil.copytree(collections, tmp_path, dirs_exist_ok=True)
    for name in ("lung-masks", "twitter-covid"):
        (tmp_path / name).rename(tmp_path / f"not-{name}")
    with pytest.raises(InputError, match=r"twitter in .*twitter-covid, tuberculosis in .*lung-masks.*\('kcx', 'ccx'\)"):
        read_collections(tmp_path)
    records = read_collections(tmp_path, collections=("ccx", "kcx")).records
    assert collection_names(r.source for r in records) == ("kcx", "ccx")
    assert read_collections(tmp_path, require_all=False).records == records
    with pytest.raises(InputError, match="no collection kxc: known are kcx"):
        read_collections(tmp_path, collections=("kxc",))
    with pytest.raises(InputError, match="no collection was named"):
        read_collections(tmp_path, collections=())
    with pytest.raises(InputError, match=r"twitter in .*twitter-covid"):
        read_collections(tmp_path, collections=("twitter",), require_all=False)


def test_collection_names_of_sources() -> None:
    assert collection_names(["shenzhen", "rsna", "montgomery", "twitter"]) == ("twitter", "tuberculosis", "rsna")


def test_a_collections_records_have_the_sources_of_its_row(collections: Path) -> None:
    for name, collection in COLLECTIONS.items():
        if collection.is_default:
            records = read_collections(collections, collections=(name,)).records
            assert {r.source for r in records} == set(collection.sources)


def test_every_source_is_described_for_the_model_card() -> None:
    described = source_descriptions()
    assert len(described) == sum(len(c.sources) for c in COLLECTIONS.values()), "no source belongs to two collections"
    assert all(described.values())
