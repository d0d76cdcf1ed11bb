"""The command that checks own data: status, output, files, and what it says without training's packages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cxr_edge.cli import check_data as command
from cxr_edge.cli import main as cxr_edge
from tests.builders.image_collections import write_collections
from tests.builders.own_data import write_folder, write_image, write_table
from training.check_data import main
from training.data.collections import read_collections


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = [f"{label}/{label}-MRN{i}/x.png" for label in ("normal", "tb") for i in range(3)]
    return write_folder(tmp_path / "data", names)


def test_sound_data_has_status_0_and_begins_with_what_was_understood(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{source}: what was understood\n  folders: label/patient")
    assert re.search(r"^tb +3 +3 +0 +3$", out, re.MULTILINE)


def test_the_installed_command_does_the_same(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "--threads", "1"]) == 0
    expected = capsys.readouterr().out
    assert cxr_edge(["check-data", str(source), "--threads", "1"]) == 0
    assert capsys.readouterr().out == expected


def test_leaks_have_status_1_and_files_have_no_patient(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"file": f"{k}/{k}-MRN{i}/x.png", "truth": k, "who": f"MRN{i}{k}"} for k in ("normal", "tb") for i in range(3)
    ]
    write_image(source / "tb/tb-MRN0/x.png", 0)
    table = write_table(tmp_path / "t.csv", rows)
    arguments = [
        str(table),
        "--root",
        str(source),
        "--label-column",
        "truth",
        "--patient-column",
        "who",
        "--threads",
        "1",
    ]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "run" / "check-data.json").read_text())
    assert printed["problems"][0]["severity"] == "leak"
    assert printed["patients"] == 6
    written = {p.relative_to(tmp_path / "run").as_posix() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert written == {"check-data.json", "check-data.html", "own/images.csv", "own/source.json", "salt.bin"}
    # The folders' names hold the number, as paths do; the column of patients is nowhere.
    assert not any("MRN0tb" in (tmp_path / "run" / name).read_text(errors="replace") for name in written)


def test_published_collections_are_checked_in_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_collections(tmp_path / "data", patients=2, size_px=48)
    arguments = [str(tmp_path / "data"), "--collections", "tuberculosis", "twitter", "--no-pixels"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    assert "published collections: tuberculosis, twitter" in out
    assert re.search(r"^tuberculosis +2 +6 +0 +2$", out, re.MULTILINE)
    labels = sorted(r.label for r in read_collections(tmp_path / "run", collections=("own",)).records)
    assert labels == ["covid-19"] * 2 + ["normal"] * 4 + ["tuberculosis"] * 2
    assert main([str(tmp_path / "data"), "--collections", "kxc"]) == 2


def test_without_pixels_no_image_is_read(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "tb/tb-MRN0/x.png").write_bytes(b"")
    assert main([str(source), "--no-pixels"]) == 0
    assert "pixels: not examined" in capsys.readouterr().out
    assert main([str(source)]) == 1


def test_invalid_inputs_have_status_2(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "training.check_data: " in capsys.readouterr().err
    assert cxr_edge(["check-data", str(source), "--layout", "x/y"]) == 2
    assert "has the level 'x'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(source), "--label-name", "0"])
    assert "expected OLD=NEW" in capsys.readouterr().err


def test_labels_are_renamed(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "--no-pixels", "--label-name", "tb=tuberculosis", "normal = healthy"]) == 0
    assert re.search(r"^healthy +3.*\ntuberculosis +3", capsys.readouterr().out, re.MULTILINE)


def test_without_trainings_packages_the_command_says_what_to_install(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="training")

    monkeypatch.setattr(command, "import_module", missing)
    assert cxr_edge(["check-data", str(source)]) == 3
    assert (
        "needs the package training, which is not installed: pip install 'cxr-edge[train]'" in capsys.readouterr().err
    )
