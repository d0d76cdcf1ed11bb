"""The command `cxr-edge train`: options, and everything that is refused, each in a sentence and before any training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxr_edge.cli import main as cxr_edge
from cxr_edge.cli import train as command
from tests.builders.own_data import write_folder, write_table
from tests.builders.two_sites import write_two_sites
from training.train import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = [f"{label}/{label}{i}/x.png" for label in ("normal", "tb") for i in range(3)]
    return write_folder(tmp_path / "data", names)


def test_too_few_patients_are_refused_after_what_was_understood(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cxr_edge(["train", str(source), "--out", str(tmp_path / "run"), "--threads", "1"]) == 2
    out, error = capsys.readouterr()
    assert out.startswith(f"{source}: what was understood")
    assert "each label needs 10 patients or more" in error
    assert (tmp_path / "run" / "check-data.html").exists()
    assert not (tmp_path / "run" / "config.toml").exists()


def test_a_finding_of_too_few_patients_is_refused_with_the_option_that_leaves_it_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{i}.png" for i in range(24)]
    write_folder(tmp_path / "images", names)
    rows = [{"file": f"images/{n}", "nodule": i % 2, "effusion": i % 3 == 0} for i, n in enumerate(names)]
    table = write_table(tmp_path / "t.csv", rows)
    assert main([str(table), "--out", str(tmp_path / "run"), "--threads", "1"]) == 2
    assert (
        "present in 8, absent in 16): add images, or leave them out with --ignore effusion" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--out", "run"], "nowhere does not exist"),
        (["--out", "run"], "nothing to train on: give SOURCE, or --config"),
        (["data", "--out", "run", "--config", "none.toml"], "none.toml cannot be read"),
        (["data", "--out", "run", "--layout", "x/y"], "has the level 'x'"),
        (["da\udcffta", "--out", "run"], "the name da\\xffta is not UTF-8: rename it, or give a link to it"),
    ],
)
def test_invalid_arguments(
    source: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(source.parent)
    assert cxr_edge(["train", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["2x", "", "0m", "1.5", "h", "-1h"])
def test_times_that_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cxr_edge(["train", "x", "--out", "y", f"--time={text}"])
    assert "expected a time such as 45m, 2h or 1h30m" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "minutes"), [("2h", 120), ("90m", 90), ("1h30m", 90), ("0.5h", 30), ("45min", 45)])
def test_times(text: str, minutes: float) -> None:
    assert command._minutes(text) == minutes


def test_an_unknown_guard_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_two_sites(tmp_path / "data", patients=10, sites=("Here",))
    arguments = [str(root), "--layout", "site/label/patient", "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main([*arguments, "--guard", "tb"]) == 2
    assert "--guard tb is none of the labels normal, opacity" in capsys.readouterr().err


def test_a_folder_of_another_run_is_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.csv").touch()
    assert main([str(source), "--out", str(tmp_path)]) == 2
    assert "holds table.csv of another run, without config.toml: give another --out" in capsys.readouterr().err


def test_a_damaged_configuration_is_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.toml"
    for text, message in (
        ("x = 1", "unknown keys ['x']"),
        ("[request]\nsource = 'x'", "training is missing: is it the config.toml of a cxr-edge train?"),
        ("[request]\nsource = 'x'\npreset = 'slow'\n[training]", "the preset is one of quick, standard, thorough"),
    ):
        file.write_text(text)
        assert main(["--config", str(file), "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert cxr_edge(["train", str(source), "--out", str(tmp_path / "closed" / "run")]) == 3
    assert "cannot be used (Permission denied)" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").touch()
    assert cxr_edge(["train", str(source), "--out", str(tmp_path / "run")]) == 3
    assert "run cannot be used (File exists)" in capsys.readouterr().err


def test_without_torch_the_command_says_what_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(command, "import_module", missing)
    assert cxr_edge(["train", str(source), "--out", str(tmp_path / "run")]) == 3
    assert (
        "train needs the package torch, which is not installed: pip install 'cxr-edge[train]'"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
