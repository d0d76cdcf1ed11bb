"""Dataset of a run: its table is read again, belongs to its data, and samples are spread over strata."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.image_collections import write_collections, write_rsna
from training.bundles.write import spread_over_strata
from training.data.dataset import data_folder, load, prepare
from training.data.leakage import SplitSettings
from training.data.splits import R20_SHARES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five collections; tests that change one create their own."""
    folder = write_collections(tmp_path_factory.mktemp("data"), patients=2, size_px=48)
    write_rsna(folder / "rsna", patients=2)
    return folder


def test_a_table_is_reloaded_and_rejects_other_data(tmp_path: Path) -> None:
    data = write_collections(tmp_path / "data", patients=2, size_px=48)
    first = prepare(data, tmp_path / "run", SplitSettings(seed=1), threads=1)
    assert prepare(data, tmp_path / "run", SplitSettings(seed=1), threads=1) == first
    next((data / "twitter-covid").iterdir()).unlink()
    with pytest.raises(InputError, match=r"lists other images than .* 1 only in the table"):
        prepare(data, tmp_path / "run", SplitSettings(seed=1), threads=1)


def test_pictures_that_were_compared_already_are_not_read_again(data: Path, tmp_path: Path) -> None:
    keys = sorted(s.record.key for s in prepare(data, tmp_path / "read", SplitSettings(seed=1), threads=1))
    same = [(keys[0], keys[-1]), (keys[0], "left out before")]
    found = {s.record.key: s for s in prepare(data, tmp_path / "given", SplitSettings(seed=1), threads=1, same=same)}
    assert found[keys[0]].group == found[keys[-1]].group
    assert found[keys[0]].record.patient != found[keys[-1]].record.patient
    assert json.loads((tmp_path / "given" / "leakage.json").read_text())["same_image_pairs"] == 1


def test_written_files(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path, SplitSettings(seed=1), threads=1)
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "patient", "label", "source", "view", "group", "side"]
    assert [(r["path"], r["patient"], r["side"]) for r in rows] == [
        (s.record.key, s.record.patient, s.side) for s in samples
    ]
    report = json.loads((tmp_path / "leakage.json").read_text())
    assert report["asked"]["collections"] == ["ccx", "kcx", "tuberculosis", "twitter"]
    assert (report["preset"], report["divided_patients"], report["asked"]["seed"]) == ("sane", 0, 1)
    assert (tmp_path / "leakage.md").read_text().startswith("# Leakage check\n")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 2}, "for seed 1, not 2: give another run folder"),
        ({"shares": R20_SHARES}, "for shares .*0.72.*, not .*0.81"),
        ({"unit": "image", "preset": "code"}, "for unit group, not image; preset sane, not code"),
        ({"preset": "paper"}, "for preset sane, not paper"),
        ({"collections": ("ccx",)}, r"for collections \('ccx', 'twitter'\), not \('ccx',\)"),
    ],
)
def test_a_table_of_other_settings_raises(data: Path, tmp_path: Path, changed: dict, message: str) -> None:
    collections = ("twitter", "ccx")
    first = prepare(data, tmp_path, SplitSettings(seed=1, collections=collections), threads=1)
    assert prepare(data, tmp_path, SplitSettings(seed=1, collections=collections[::-1]), threads=2) == first
    with pytest.raises(InputError, match=message):
        prepare(data, tmp_path, SplitSettings(**{"seed": 1, "collections": collections, **changed}), threads=1)


def test_a_run_of_an_old_version_resumes(data: Path, tmp_path: Path) -> None:
    """Its table has a key and no patients, and its leakage.json has no settings: any seed is accepted."""
    first = prepare(data, tmp_path, SplitSettings(seed=1), threads=1)
    lines = ["key,group,side,label,source"]
    lines += [f"{s.record.key},{s.group},{s.side},{s.record.label},{s.record.source}" for s in first]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "leakage.json").write_text('{"patients": 18}')
    assert load(data, tmp_path / "table.csv") == first
    assert prepare(data, tmp_path, SplitSettings(seed=1), threads=1) == first
    with pytest.raises(InputError, match="give another run folder"):
        prepare(data, tmp_path, SplitSettings(seed=1, shares=R20_SHARES), threads=1)


def test_load_reads_the_collections_of_the_table(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path, SplitSettings(seed=1, collections=("rsna", "ccx")), threads=1)
    assert {s.record.source for s in samples} == {"rsna", "ccx"}
    assert load(data, tmp_path / "table.csv") == samples


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",train\n", ",learn\n", "has the side 'learn'"),
        (",covid-19,", ",viral,", r"twitter-covid/\S+ is viral in .*table\.csv, covid-19 in"),
        ("path,", "file,", "lacks rows or one of the columns"),
    ],
)
def test_an_edited_table_raises(data: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    prepare(data, tmp_path, SplitSettings(seed=1, collections=("twitter",)), threads=1)
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        load(data, table)


def test_missing_table_and_invalid_report(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*table\.csv: run"):
        load(data, tmp_path / "table.csv")
    prepare(data, tmp_path, SplitSettings(seed=1, collections=("twitter",)), threads=1)
    (tmp_path / "leakage.json").write_text("[]")
    with pytest.raises(InputError, match=r"leakage\.json cannot be read, .*: delete it and .*table\.csv"):
        prepare(data, tmp_path, SplitSettings(seed=1, collections=("twitter",)), threads=1)


def test_invalid_split_settings_raise_before_images_are_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preset 'sane' does not allow: split by group"):
        prepare(tmp_path, tmp_path, SplitSettings(seed=1, unit="image"), threads=1)
    with pytest.raises(InputError, match="expected one of sane, paper, code"):
        prepare(tmp_path, tmp_path, SplitSettings(seed=1, preset="flannel"), threads=1)


def test_samples_are_spread_over_strata(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path, SplitSettings(seed=1), threads=1)
    selected = spread_over_strata(samples, 8, seed=0)
    assert len({(samples[i].record.label, samples[i].record.source) for i in selected}) == 8
    assert sorted(spread_over_strata(samples, 1000, seed=0)) == list(range(len(samples)))


def test_data_folder_from_argument_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EDGE_DATA", "/somewhere")
    assert data_folder(None) == Path("/somewhere")
    assert data_folder(Path("here")) == Path("here")
    monkeypatch.delenv("CXR_EDGE_DATA")
    with pytest.raises(InputError, match="--data DIR"):
        data_folder(None)


def test_views_restrict_the_table_and_are_recorded(tmp_path: Path) -> None:
    write_collections(tmp_path / "data", patients=6, size_px=96)
    samples = prepare(
        tmp_path / "data", tmp_path / "run", SplitSettings(seed=1, collections=("kcx", "ccx"), views=("PA",)), threads=1
    )
    assert {s.record.view for s in samples} == {"PA"}
    assert load(tmp_path / "data", tmp_path / "run" / "table.csv") == samples
    with pytest.raises(InputError, match="another run folder"):
        prepare(tmp_path / "data", tmp_path / "run", SplitSettings(seed=1, collections=("kcx", "ccx")), threads=1)


def test_a_label_of_a_source_is_left_out_and_recorded(data: Path, tmp_path: Path) -> None:
    settings = SplitSettings(seed=1, without=("shenzhen/tuberculosis", "kcx/viral"))
    whole = {
        f"{s.record.source}/{s.record.label}"
        for s in prepare(data, tmp_path / "whole", SplitSettings(seed=1), threads=1)
    }
    samples = prepare(data, tmp_path / "run", settings, threads=1)
    assert whole - {f"{s.record.source}/{s.record.label}" for s in samples} == {"shenzhen/tuberculosis", "kcx/viral"}
    assert load(data, tmp_path / "run" / "table.csv") == samples
    assert "kcx: label viral" in (tmp_path / "run" / "leakage.md").read_text()
    with pytest.raises(InputError, match="another run folder"):
        prepare(data, tmp_path / "run", SplitSettings(seed=1), threads=1)
