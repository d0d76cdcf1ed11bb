"""CCX as in FLANNEL: the published code's table of findings, AP views in any wording, and counts of dropped images."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.errors import InputError
from tests.builders.flannel_run import flannel_run
from tests.builders.image_collections import METADATA_HEAD, write_rsna
from tests.training.recipes.flannel.test_results import finished_run, results_of
from tests.training.recipes.flannel.test_tables import tables_of
from training.data.collections import read_collections
from training.data.dataset import load, prepare
from training.data.findings import FINDINGS, FLANNEL_FINDINGS, label_of_finding, projection
from training.data.leakage import SplitSettings
from training.data.records import Selection

# Findings of X-rays with a frontal view in the collection of April 2020, as `metadata.csv` words them, and their images.
CCX = {
    "COVID-19": 12, "COVID-19, ARDS": 2, "SARS": 3, "Pneumocystis": 3, "Streptococcus": 4, "E.Coli": 4, "Klebsiella": 1,
    "Legionella": 2, "No Finding": 2, "ARDS": 2,
}  # fmt: skip
VIEWS = ("PA", "AP", "AP Supine", "AP semi erect", "AP Erect", "ap erect", "Portable AP")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CCX with noise images in all VIEWS in turn, and rows that are dropped."""
    data = tmp_path_factory.mktemp("data")
    folder, rows = data / "covid-chestxray-dataset", [METADATA_HEAD]
    (folder / "images").mkdir(parents=True)
    for i, finding in enumerate(f for f, n in CCX.items() for _ in range(n)):
        rows.append(f'{i},"{finding}",{VIEWS[i % len(VIEWS)]},X-ray,images,{i}.png')
        blocks = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), np.kron(blocks, np.ones((8, 8), np.uint8)))
    rows += [
        "90,COVID-19,L,X-ray,images,0.png", "91,COVID-19,L,X-ray,images,1.png", "92,COVID-19,Axial,CT,volumes,h.nii.gz",
        "93,COVID-19,,X-ray,images,2.png", "94,COVID-19,PA,X-ray,images,not-there.png",
    ]  # fmt: skip
    (folder / "metadata.csv").write_text("\n".join([*rows, rows[1]]) + "\n")
    return data


def test_the_published_codes_table_is_exact() -> None:
    """data_preprocess/get_covid_data_dict.py compares full findings; all others have no class there."""
    assert FLANNEL_FINDINGS == {
        "COVID-19": "covid-19", "SARS": "viral", "Pneumocystis": "bacterial", "Streptococcus": "bacterial",
        "No Finding": "normal",
    }  # fmt: skip
    for finding in FINDINGS:
        assert label_of_finding(finding, "flannel-code") == FLANNEL_FINDINGS.get(finding, "other"), finding


@pytest.mark.parametrize(
    ("finding", "code", "full"),
    [
        ("COVID-19, ARDS", "other", "covid-19"),
        ("Pneumonia/Viral/COVID-19", "covid-19", "covid-19"),
        ("Pneumonia/Bacterial/Streptococcus", "bacterial", "bacterial"),
        ("Pneumonia/Bacterial/E.Coli", "other", "bacterial"),
        ("Pneumonia/Bacterial/Staphylococcus/MRSA", "other", "bacterial"),
        ("Pneumonia/Viral/Influenza/H1N1", "other", "viral"),
        ("Pneumonia", "other", "other"),
    ],
)
def test_the_published_codes_table_for_later_findings(finding: str, code: str, full: str) -> None:
    assert (label_of_finding(finding, "flannel-code"), label_of_finding(finding)) == (code, full)


def test_an_unknown_finding_raises_with_either_table() -> None:
    with pytest.raises(InputError, match="Broken rib"):
        label_of_finding("Broken rib", "flannel-code")


@pytest.mark.parametrize(
    ("view", "named"),
    [
        *((v, "AP") for v in VIEWS[1:]),
        ("PA", "PA"),
        ("PA erect", "PA"),
        ("AP_Erect", "AP"),
        ("PA2", "PA2"),
        ("L", "L"),
        ("LL", "LL"),
        ("", ""),
        ("PAX", "PAX"),
    ],
)
def test_views_in_any_wording(view: str, named: str) -> None:
    assert projection(view) == named


def test_frontal_views_are_read_and_others_counted_by_reason(data: Path) -> None:
    found = read_collections(data, collections=("ccx",))
    assert Counter(r.view for r in found.records) == Counter(VIEWS[i % len(VIEWS)] for i in range(sum(CCX.values())))
    assert found.dropped == {
        "ccx: file not there": 1, "ccx: modality CT": 1, "ccx: row twice": 1, "ccx: view L": 2, "ccx: view not stated": 1,
    }  # fmt: skip


def test_views_by_projection_or_by_exact_name(data: Path) -> None:
    assert {r.view for r in read_collections(data, Selection(views=("AP",)), collections=("ccx",)).records} == set(
        VIEWS
    ) - {"PA"}
    assert {r.view for r in read_collections(data, Selection(views=("AP Supine",)), collections=("ccx",)).records} == {
        "AP Supine"
    }


def test_dropped_rsna_images_are_counted(tmp_path: Path) -> None:
    write_rsna(tmp_path / "rsna", patients=3)
    assert read_collections(tmp_path, collections=("rsna",)).dropped == {"rsna: class No Lung Opacity / Not Normal": 3}
    assert read_collections(tmp_path, Selection(views=("PA",)), collections=("rsna",)).dropped["rsna: view AP"] > 0


@pytest.mark.parametrize(("preset", "bacterial", "covid"), [("code", 7, 12), ("sane", 14, 14), ("paper", 14, 14)])
def test_the_preset_determines_the_table_of_a_run(
    data: Path, tmp_path: Path, preset: str, bacterial: int, covid: int
) -> None:
    run = flannel_run(tmp_path, preset=preset, collections=("ccx",), outside=())
    run.data = data
    del run.__dict__["samples"]
    counts = Counter(s.record.label for s in run.samples)
    assert (counts["bacterial"], counts["covid-19"]) == (bacterial, covid)
    assert load(data, tmp_path / "table.csv") == run.samples
    assert json.loads((tmp_path / "leakage.json").read_text())["dropped"]["ccx: view L"] == 2
    assert "ccx: modality CT 1" in (tmp_path / "leakage.md").read_text()


def test_a_table_with_other_findings_raises(data: Path, tmp_path: Path) -> None:
    given = SplitSettings(seed=1, collections=("ccx",))
    prepare(data, tmp_path, given, threads=1)
    with pytest.raises(InputError, match="for findings full, not flannel-code"):
        prepare(data, tmp_path, replace(given, findings="flannel-code"), threads=1)


def test_table_1_lists_findings_per_label_and_dropped_images(tmp_path: Path) -> None:
    """The run of the builder has four images without a label and three lateral ones; its leakage report counts dropped images."""
    run = finished_run(tmp_path / "run")
    (run.out / "leakage.json").write_text(
        json.dumps({"divided_patients": 0, "label_by_source": 0.6, "dropped": {"ccx: view L": 20, "rsna: view AP": 9}})
    )
    found = results_of(run)
    assert found["dropped"] == {"ccx: view L": 23, "ccx: other, which is no label of the task": 4}
    pages = tables_of(found)
    assert pages["dropped"].rows == (("ccx: view L", "23"), ("ccx: other, which is no label of the task", "4"))
    counts = {f["label"]: f["images"] for f in found["findings"] if f["source"] == "ccx"}
    for label, n in counts.items():
        assert f"{label}: {label} {n}" in pages["table-1-data"].note
    assert "FINDINGS)" in pages["table-1-data"].note
    code = tables_of({**found, "finding_table": "flannel-code"})["table-1-data"].note
    assert "the published code's exact table" in code
    before = {k: v for k, v in found.items() if k not in ("dropped", "finding_table")}
    assert tables_of(before)["dropped"].rows == (), "results of before do not count"
