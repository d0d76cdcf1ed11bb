"""The settled data: the table of a run is read again, belongs to its data, and strata are served in turn."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.collections import write_collections, write_rsna
from training.bundles.write import spread_over_strata
from training.data.dataset import data_folder, load, prepare
from training.data.splits import R20_SHARES


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All five collections; tests that change one make their own."""
    folder = write_collections(tmp_path_factory.mktemp("data"), patients=2, size_px=48)
    write_rsna(folder / "rsna", patients=2)
    return folder


def test_a_table_is_read_again_and_belongs_to_its_data(tmp_path: Path) -> None:
    data = write_collections(tmp_path / "data", patients=2, size_px=48)
    first = prepare(data, tmp_path / "run", seed=1, threads=1)
    assert prepare(data, tmp_path / "run", seed=1, threads=1) == first
    next((data / "twitter-covid").iterdir()).unlink()
    with pytest.raises(InputError, match="other images"):
        prepare(data, tmp_path / "run", seed=1, threads=1)


def test_what_is_written(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path, seed=1, threads=1)
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
    ("changed", "said"),
    [
        ({"seed": 2}, "for seed 1, not 2: give another run folder"),
        ({"shares": R20_SHARES}, "for shares .*0.72.*, not .*0.81"),
        ({"unit": "image", "preset": "code"}, "for unit group, not image; preset sane, not code"),
        ({"preset": "paper"}, "for preset sane, not paper"),
        ({"collections": ("ccx",)}, r"for collections \('ccx', 'twitter'\), not \('ccx',\)"),
    ],
)
def test_a_table_made_for_another_split_is_not_taken(data: Path, tmp_path: Path, changed: dict, said: str) -> None:
    collections = ("twitter", "ccx")
    first = prepare(data, tmp_path, seed=1, threads=1, collections=collections)
    assert prepare(data, tmp_path, seed=1, threads=2, collections=collections[::-1]) == first
    with pytest.raises(InputError, match=said):
        prepare(data, tmp_path, **{"seed": 1, "threads": 1, "collections": collections, **changed})


def test_a_run_of_before_goes_on(data: Path, tmp_path: Path) -> None:
    """Its table has a key and no patients, its leakage.json does not say what was asked: the seed is taken on trust."""
    first = prepare(data, tmp_path, seed=1, threads=1)
    lines = ["key,group,side,label,source"]
    lines += [f"{s.record.key},{s.group},{s.side},{s.record.label},{s.record.source}" for s in first]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "leakage.json").write_text('{"patients": 18}')
    assert load(data, tmp_path / "table.csv") == first
    assert prepare(data, tmp_path, seed=1, threads=1) == first
    with pytest.raises(InputError, match="give another run folder"):
        prepare(data, tmp_path, seed=1, threads=1, shares=R20_SHARES)


def test_a_table_names_its_collections(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path, seed=1, threads=1, collections=("rsna", "ccx"))
    assert {s.record.source for s in samples} == {"rsna", "ccx"}
    assert load(data, tmp_path / "table.csv") == samples


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",train\n", ",learn\n", "names the side 'learn'"),
        (",covid-19,", ",viral,", "says viral of twitter-covid"),
        ("path,", "file,", "lacks rows or one of the columns"),
    ],
)
def test_a_table_that_was_altered_is_refused(data: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    prepare(data, tmp_path, seed=1, threads=1, collections=("twitter",))
    table = tmp_path / "table.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        load(data, table)


def test_no_table_and_no_report(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*table\.csv: run"):
        load(data, tmp_path / "table.csv")
    prepare(data, tmp_path, seed=1, threads=1, collections=("twitter",))
    (tmp_path / "leakage.json").write_text("[]")
    with pytest.raises(InputError, match="not a leakage report"):
        prepare(data, tmp_path, seed=1, threads=1, collections=("twitter",))


def test_a_plan_that_cannot_be_is_refused_before_any_image_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="preset 'sane' refuses that: split by group"):
        prepare(tmp_path, tmp_path, seed=1, threads=1, unit="image")
    with pytest.raises(InputError, match="expected one of sane, paper, code"):
        prepare(tmp_path, tmp_path, seed=1, threads=1, preset="flannel")


def test_strata_are_served_in_turn(data: Path, tmp_path: Path) -> None:
    samples = prepare(data, tmp_path, seed=1, threads=1)
    chosen = spread_over_strata(samples, 8, seed=0)
    assert len({(samples[i].record.label, samples[i].record.source) for i in chosen}) == 8
    assert sorted(spread_over_strata(samples, 1000, seed=0)) == list(range(len(samples)))


def test_the_data_folder_is_given_or_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EDGE_DATA", "/somewhere")
    assert data_folder(None) == Path("/somewhere")
    assert data_folder(Path("here")) == Path("here")
    monkeypatch.delenv("CXR_EDGE_DATA")
    with pytest.raises(InputError, match="--data DIR"):
        data_folder(None)


def test_views_narrow_the_table_and_are_remembered(tmp_path: Path) -> None:
    write_collections(tmp_path / "data", patients=6, size_px=96)
    samples = prepare(tmp_path / "data", tmp_path / "run", seed=1, threads=1, collections=("kcx", "ccx"), views=("PA",))
    assert {s.record.view for s in samples} == {"PA"}
    assert load(tmp_path / "data", tmp_path / "run" / "table.csv") == samples
    with pytest.raises(InputError, match="another run folder"):
        prepare(tmp_path / "data", tmp_path / "run", seed=1, threads=1, collections=("kcx", "ccx"))
