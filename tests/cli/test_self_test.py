"""`cxr-edge self-test`, and `screen --self-test`: output, exit status, and that a failure screens nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_edge.cli import main
from cxr_edge.health import resources
from cxr_edge.health.resources import Memory

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_edge.health.self_test.screening_times_ms", lambda screener, files: [1e-6] * 15)
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=1 << 20, available=4 << 30))
    monkeypatch.setattr(resources, "temperatures", lambda: ())


@pytest.fixture
def no_memory(steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=1 << 20, available=1 << 20))


def test_it_passes_with_0(built: list[str], capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["self-test", *built, "--threads", "1"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("self-test: PASSED (11 items, 4 of them skipped, ")
    assert captured.err == ""


def test_it_fails_with_3(built: list[str], no_memory: None, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["self-test", *built]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("self-test: FAILED (11 items, ")
    assert "memory          FAILED   1 MiB free, 1 MiB used by this process" in lines
    assert f"{'':27}at least 256 MiB are needed: end other programs, or raise the container's limit" in lines


def test_json(built: list[str], no_memory: None, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["self-test", *built, "--json", "--gate-images", "5", "--time-factor", "2.5"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert not document["passed"]
    assert {item["name"] for item in document["items"] if item["status"] == "failed"} == {"memory"}


def test_a_bundle_that_cannot_be_opened_is_a_failed_item(tmp_path: Path, capsys: Capture) -> None:
    assert main(["self-test", "--bundle", str(tmp_path / "no\nsuch")]) == 3
    captured = capsys.readouterr()
    assert captured.out.startswith("bundle          FAILED   there is no folder")
    assert captured.err == ""


@pytest.mark.parametrize(
    "options", [["--time-factor", "0.5"], ["--time-factor", "x"], ["--gate-images", "0"], ["--time-factor", "nan"]]
)
def test_values_out_of_range_are_usage_errors(options: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["self-test", *options])
    assert "expected a " in capsys.readouterr().err


def test_screen_says_that_it_passed(built: list[str], images: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["screen", str(images), "--csv", "--self-test", *built]) == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 4
    assert captured.err.startswith("self-test: PASSED (11 items")


def test_screen_keeps_the_verdict_in_its_json(built: list[str], images: Path, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["screen", str(images), "--json", "--self-test", *built]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["self_test"].startswith("PASSED (11 items, 4 of them skipped, ")
    assert main(["screen", str(images), "--json", *built]) == 0
    assert "self_test" not in json.loads(capsys.readouterr().out)["run"]


def test_screen_refuses_when_it_failed(built: list[str], images: Path, no_memory: None, capsys: Capture) -> None:
    capsys.readouterr()
    assert main(["screen", str(images), "--self-test", *built]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second, last = captured.err.splitlines()
    assert first.startswith("cxr-edge: self-test: FAILED (11 items")
    assert second == "  memory: at least 256 MiB are needed: end other programs, or raise the container's limit"
    assert last == "Nothing was screened; cxr-edge self-test shows all items"
    assert main(["screen", str(images), *built]) == 0
