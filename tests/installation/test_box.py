"""The folder of installed versions: which folders it takes, what it refuses, and what it reads."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.errors import BundleError, InputError
from cxr_edge.installation import durable, journal
from cxr_edge.installation.box import Box, Installed
from tests.builders.two_versions import TwoVersions


def test_only_new_and_empty_folders_become_a_box(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="holds other files: give --into a new or empty folder"):
        Box.at(tmp_path, create=True)
    with pytest.raises(InputError, match="holds other files"):
        Box.at(tmp_path / "file.txt", create=True)
    with pytest.raises(InputError, match=r"there is no folder .*missing to make box in: make it first"):
        Box.at(tmp_path / "missing" / "box", create=True)
    with pytest.raises(InputError, match="is no folder that cxr-edge install made"):
        Box.at(tmp_path / "box")


def test_a_folder_with_versions_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "versions" / "thesis").mkdir(parents=True)
    for create in (True, False):
        with pytest.raises(InputError):
            Box.at(tmp_path, create=create)


def test_a_link_to_something_else_is_named(box: Box) -> None:
    durable.link(box.link, "/tmp")
    with pytest.raises(BundleError, match="leads to /tmp, which is no version of this box: remove the link"):
        box.current()
    box.link.unlink()
    box.link.mkdir()
    with pytest.raises(BundleError, match="is no link to a version: move it away, and install again"):
        box.current()


def test_a_second_installation_is_refused(box: Box) -> None:
    descriptor = os.open(box.versions_dir, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another installation is in progress"), box.locked():
            pass
    finally:
        os.close(descriptor)


def test_records_are_read_strictly(box: Box) -> None:
    folder = box.current()
    assert folder is not None
    path = box.versions_dir / folder / "installed.json"
    values = json.loads(path.read_bytes())
    assert Installed.from_json(values) == box.record(folder)
    for changed in (
        {**values, "more": 1},
        {**values, "schema": "x"},
        {**values, "digest": 1},
        {**values, "previous": ""},
    ):
        path.write_text(json.dumps(changed), encoding="utf-8")
        assert box.record(folder) is None


def test_a_version_in_use_without_its_record_is_not_removed(box: Box) -> None:
    folder = box.current()
    assert folder is not None
    (box.versions_dir / folder / "installed.json").unlink()
    with box.locked():
        assert Bundle.open(box.root).manifest.version == "1"
        assert box.keep(1) == ()


def test_names_of_folders_are_plain(tmp_path: Path) -> None:
    box = Box.at(tmp_path / "box", create=True)
    assert box.new_folder(name="../a b", version="1/2", digest="c" * 64) == "_a_b-1_2-" + "c" * 12
    assert len(box.new_folder(name="x" * 200, version="1", digest="c" * 64)) <= 120


def test_a_box_can_be_moved(box: Box, two_versions: TwoVersions) -> None:
    moved = box.root.rename(box.root.with_name("moved"))
    assert Bundle.open(moved).digest == two_versions.old.digest


def test_a_box_without_a_version_in_use_is_named(box: Box) -> None:
    box.switch(None)
    with pytest.raises(BundleError, match="has no version in use: install one with cxr-edge install BUNDLE --into"):
        Bundle.open(box.root)


def test_a_bundle_with_a_folder_called_current_is_itself(toy_bundle_copy: Path) -> None:
    (toy_bundle_copy / "current").symlink_to(toy_bundle_copy)
    assert Bundle.open(toy_bundle_copy).root == toy_bundle_copy.resolve()


def test_the_journal_survives_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert journal.read(path) == ()
    journal.append(path, "installed", version="a", current="a")
    with path.open("a", encoding="utf-8") as file:
        file.write('{"time": "20')
    journal.append(path, "failed", version="b", current="a", reason="one\nline")
    first, second = journal.read(path)
    assert (first.event, second.event, second.reason) == ("installed", "failed", "one line")
    assert str(second) == f"{second.time} failed b (in use: a): one line"
