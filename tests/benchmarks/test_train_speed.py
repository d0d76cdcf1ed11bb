"""Benchmark of training: each loop trains the same network to its end, and the report has a row for each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.train_speed import OURS, PLAIN, TUNED, Epoch, main

EPOCH = Epoch(network="test_resnet", images=16, side_px=32, batch=8, threads=1)


@pytest.fixture(autouse=True)
def _memory_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that this process keeps would hide the growth that later tests measure (tests/fuzz)."""
    monkeypatch.setattr("training.loop.fit.keep_freed_memory", lambda: None)


def test_each_loop_leaves_weights(tmp_path: Path) -> None:
    for name in ("ours", "plain", "tuned"):
        (tmp_path / name).mkdir()
    EPOCH.train_here(tmp_path / "ours")
    EPOCH.train_plainly(tmp_path / "plain", tuned=False)
    EPOCH.train_plainly(tmp_path / "tuned", tuned=True)
    assert all(any((tmp_path / name).glob("weights.p*")) for name in ("ours", "plain", "tuned"))


def test_sides_and_labels() -> None:
    sides = [s.side for s in EPOCH.samples]
    assert (sides.count("train"), sides.count("validation")) == (16, 4)
    assert {s.record.label for s in EPOCH.samples[:2]} == {"normal", "abnormal"}


def test_the_report_has_a_row_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--networks", "test_resnet", "--rounds", "1", "--warmup", "1", "--images", "16", "--side-px", "32"]
    assert main([*options, "--batch", "8", "--threads", "1", "--out", str(tmp_path / "a.json")]) == 0
    report = json.loads((tmp_path / "a.json").read_text())
    assert [row[0] for row in report["tables"][0]["rows"]] == [OURS, PLAIN, TUNED]
    assert "images/s" in capsys.readouterr().out
