"""Own data in a run folder: written and read back, and as a collection that every recipe reads."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from tests.builders.own_data import write_folder, write_table
from training.data.collections import OWN, read_collections
from training.data.dataset import load, prepare
from training.data.leakage import SplitSettings
from training.data.own.collection import single_label_records
from training.data.own.identities import SALT, run_salt
from training.data.own.source import read_source
from training.data.own.store import FOLDER, save
from training.data.own.store import load as load_own
from training.data.records import Selection
from training.data.targets import Target, check_sides

COLUMNS = ("path", "label", "patient", "site", "age", "sex", "view", "mask")
ROWS = [
    ("a.png", "tb", "MRN-1", "No/rth", "17", "M", "AP", "m.png"),
    ("b.png", "nodule", "MRN-2", "", "", "", "", ""),
    ("c.png", "", "", "", "", "", "", ""),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", ["a.png", "b.png", "c.png", "m.png"])
    return write_table(tmp_path / "data" / "t.csv", [dict(zip(COLUMNS, row, strict=True)) for row in ROWS])


def test_what_is_saved_is_loaded_and_names_no_patient(source: Path, tmp_path: Path) -> None:
    data = read_source(source)
    table = save(data, tmp_path / "run" / FOLDER)
    again = load_own(tmp_path / "run" / FOLDER)
    assert again == replace(data, source=again.source, ignored={})
    assert all("MRN" not in file.read_text() for file in table.parent.iterdir())
    table.write_text(table.read_text()[:-30])
    with pytest.raises(InputError, match="read the source again"):
        load_own(table.parent)


def test_names_that_are_not_utf_8_are_saved(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", ["tb/a.png", "normal/b.png"])
    os.rename(tmp_path / "data/tb/a.png", os.fsencode(tmp_path) + b"/data/tb/\xff.png")
    data = read_source(tmp_path / "data")
    save(data, tmp_path / "own")
    assert [r.path for r in load_own(tmp_path / "own").records] == [r.path for r in data.records]


def test_the_salt_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    salt = run_salt(tmp_path / "run")
    assert run_salt(tmp_path / "run") == salt
    assert run_salt(tmp_path / "other") != salt
    assert stat.S_IMODE((tmp_path / "run" / SALT).stat().st_mode) == 0o600
    (tmp_path / "run" / SALT).write_bytes(b"short")
    with pytest.raises(InputError, match="has 5 bytes, expected 32"):
        run_salt(tmp_path / "run")


def test_own_data_is_a_collection(source: Path, tmp_path: Path) -> None:
    save(read_source(source), tmp_path / "run" / FOLDER)
    found = read_collections(tmp_path / "run", collections=(OWN,))
    first, second = found.records
    assert (first.key, first.label, first.source, first.site) == ("a.png", "tb", "No-rth", "No/rth")
    assert (first.adult, first.sex, first.view, first.age_years) == (False, "M", "AP", 17)
    assert first.mask == tmp_path / "data" / "m.png"
    assert (second.label, second.source, second.view, second.adult) == ("nodule", "own", "unknown", True)
    assert second.mask is None
    assert found.dropped == {"own: no label": 1}
    assert [
        r.key for r in read_collections(tmp_path / "run", Selection(views=("AP",)), collections=(OWN,)).records
    ] == ["a.png"]


def test_own_data_that_is_no_single_label_task_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="collections are missing, expected own in"):
        read_collections(tmp_path / "run", collections=(OWN,))
    (tmp_path / "run" / FOLDER).mkdir()
    with pytest.raises(InputError, match=r"holds no images\.csv: .*training\.check_data SOURCE --out"):
        read_collections(tmp_path / "run", collections=(OWN,))
    rows = [{"path": "a.png", "N": "1", "M": "1"}, {"path": "b.png", "N": "0", "M": "0"}]
    several = read_source(write_table(source.parent / "m.csv", rows))
    with pytest.raises(InputError, match=r"2 images, such as a\.png, have 2 findings, and a task of one label"):
        single_label_records(several)
    save(read_source(write_table(source.parent / "n.csv", [{"path": "a.png", "label": ""}])), tmp_path / "run" / FOLDER)
    with pytest.raises(InputError, match="has a label"):
        read_collections(tmp_path / "run", collections=(OWN,))


def test_files_that_are_gone_are_named(source: Path, tmp_path: Path) -> None:
    save(read_source(source), tmp_path / "run" / FOLDER)
    (source.parent / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png: the file is not there any more"):
        read_collections(tmp_path / "run", collections=(OWN,))


def test_own_data_is_split_by_patient_and_its_labels_are_checked(tmp_path: Path) -> None:
    names = [f"{label}/P{i}-{label}/{k}.png" for label in ("normal", "nodule") for i in range(30) for k in range(2)]
    save(read_source(write_folder(tmp_path / "data", names)), tmp_path / "run" / FOLDER)
    settings = SplitSettings(seed=1, collections=(OWN,))
    samples = prepare(tmp_path / "run", tmp_path / "out", settings, threads=1)
    sides: dict[str, set[str]] = {}
    for s in samples:
        sides.setdefault(s.record.patient, set()).add(s.side)
    assert len(samples) == 120
    assert len(sides) == 60
    assert all(len(own) == 1 for own in sides.values())
    assert load(tmp_path / "run", tmp_path / "out" / "table.csv") == samples
    assert check_sides(Target(labels=("normal", "nodule")), samples) == []
    with pytest.raises(InputError, match=r"no collection has the labels \['nodul'\] \(did you mean nodule\?\)"):
        check_sides(Target(labels=("normal", "nodule"), renamed={"nodul": "nodule"}), samples)
