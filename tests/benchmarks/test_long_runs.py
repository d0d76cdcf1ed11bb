"""Scripts that rest or run for minutes: durations as requested, verdicts from the recorded samples."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as run_all
from benchmarks import idle, sustained
from benchmarks.harness.script import discover
from benchmarks.sensors import Record, Sample, State
from benchmarks.sustained import Quarters, TimedScreening, screen_for
from tests.benchmarks.scripts import report_of, table_of

SMALL = ("--image-px", "96", "--threads", "1")


def test_idle_runs(built_bundle: Path, tmp_path: Path) -> None:
    options = ("--idle", "0.01", "0.002", "--rounds", "3", "--warmup", "1", *SMALL)
    report = report_of(idle, tmp_path, "--bundle", str(built_bundle), *options)
    rows = table_of(report, "First screening after a rest, from bytes")
    assert list(rows) == ["0 s", "0.002 s", "0.01 s"]
    assert rows["0 s"]["ratio"] == 1
    assert all(row["n"] == 3 and 0 < row["median ms"] <= row["worst ms"] for row in rows.values())


def test_the_rest_is_between_warm_up_and_timed_screening(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(idle, "sleep", lambda seconds: calls.append(f"rest {seconds}"))
    implementation = idle._after_rest(0.5, calls.append, 2)  # type: ignore[arg-type]
    assert implementation.prepare is not None
    assert implementation.run is not None
    implementation.prepare()
    implementation.run(7)
    assert calls == [0, 1, "rest 0.5", 7]
    calls.clear()
    at_once = idle._after_rest(0.0, calls.append, 2).prepare  # type: ignore[arg-type]
    assert at_once is not None
    at_once()
    assert calls == [0, 1]


def test_sustained_runs(built_bundle: Path, tmp_path: Path) -> None:
    options = ("--minutes", "0.01", "--window-s", "0.2", "--sample-s", "0.05", "--from", "pixels", *SMALL)
    report = report_of(sustained, tmp_path, "--bundle", str(built_bundle), *options)
    verdict = table_of(report, "Did it slow down?")
    assert verdict["images/s"]["first quarter"] > 0
    assert verdict["images/s"]["verdict"] in {"slowed down", "did not slow down"}
    windows = table_of(report, "Windows")
    assert list(windows)[:3] == [0, 0.2, 0.4]
    assert all(row["n"] > 0 for row in windows.values())
    assert "Reading the sensors took" in report["notes"][1]
    assert "Not read: " in report["notes"][1]


def test_every_worker_screens_its_own_images() -> None:
    seen: list[int] = []
    finished = screen_for(0.0, seen.append, 3)  # type: ignore[arg-type]
    assert sorted(seen) == [0, 1, 2], "at least one each"
    assert [f.at_s for f in finished] == sorted(f.at_s for f in finished)


def _recorded(clocks: list[float], reason_at: int | None = None) -> Record:
    """One sample a second from 0.5 s on, ten seconds in all if there are ten clocks."""
    samples = [
        Sample(
            at_s=i + 0.5,
            sensor="GPU",
            state=State(
                values={"sm_clock_mhz": mhz, "gpu_temperature_c": 40.0 + i, "power_w": 20.0 - i},
                slowed_by=("software power cap",) if i == reason_at else (),
            ),
        )
        for i, mhz in enumerate(clocks)
    ]
    return Record(samples=tuple(samples), absent=(), cpu_share=0.0)


def _steady(per_second: list[int]) -> list[TimedScreening]:
    return [
        TimedScreening(at_s=second + (i + 1) / count, latency_ms=1e3 / count)
        for second, count in enumerate(per_second)
        for i in range(count)
    ]


def _rows(table: Any) -> dict[Any, dict[str, Any]]:
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_a_machine_that_slows_down_is_detected() -> None:
    record = _recorded([1000.0] * 4 + [800.0] * 4, reason_at=5)
    rows = _rows(sustained._verdict(_steady([10, 10, 10, 10, 8, 8, 8, 8]), record, 0.0, 8.0))
    assert rows["images/s"] == {
        "figure": "images/s", "first quarter": 10, "last quarter": 8, "ratio": 0.8, "verdict": "slowed down",
    }  # fmt: skip
    assert rows["p50 ms"]["ratio"] == pytest.approx(1.25)
    assert rows["sm_clock_mhz, GPU"]["verdict"] == "the clock fell"
    assert rows["slowed by, as reported by the machine"]["verdict"] == "software power cap"


def test_a_steady_machine_is_reported_as_such() -> None:
    rows = _rows(sustained._verdict(_steady([10] * 8), _recorded([1000.0, 1001.0] * 4), 0.0, 8.0))
    assert rows["images/s"]["verdict"] == "did not slow down"
    assert rows["sm_clock_mhz, GPU"]["verdict"] == "the clock did not fall"
    assert rows["slowed by, as reported by the machine"]["verdict"] == "no reason reported"


def test_a_constant_clock_is_reported_as_locked_or_nominal() -> None:
    rows = _rows(sustained._verdict(_steady([10] * 8), _recorded([2596.0] * 8), 0.0, 8.0))
    assert rows["sm_clock_mhz, GPU"]["verdict"].startswith("the same in every sample: locked, or the nominal clock")


def test_windows_include_sensor_readings() -> None:
    record = _recorded([1000.0, 900.0, 800.0, 700.0], reason_at=3)
    rows = _rows(sustained._windows(_steady([10, 10, 5, 5]), record, 0.0, 2.0))
    assert list(rows) == [0, 2]
    first, second = rows.values()
    assert (first["images/s"], second["images/s"]) == (10, 5)
    assert (first["sm_clock_mhz, GPU"], second["sm_clock_mhz, GPU"]) == (950, 750)
    assert (first["power_w, GPU"], second["power_w, GPU"]) == (19.5, 17.5)
    assert (first["hottest C"], second["hottest C"]) == (41, 43)
    assert (first["slowed by"], second["slowed by"]) == ("", "software power cap")


def test_readings_are_summarised_per_quarter() -> None:
    rows = sustained._readings(_recorded([1000.0, 900.0, 800.0, 700.0]), 0.0, 4.0).rows
    assert rows[0] == ("GPU", "sm_clock_mhz", 1000.0, 700.0, 700.0, 850.0, 1000.0, 4)


def test_quarters_without_a_figure_have_no_ratio() -> None:
    assert Quarters(first=None, last=1.0).ratio is None
    assert Quarters(first=0.0, last=1.0).ratio is None
    assert sustained._verdict_text(None, "fell", "steady").startswith("unknown")


def test_zero_minutes_are_rejected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        sustained.main(["--minutes", "0"])
    assert "expected a number above 0, got '0'" in capsys.readouterr().err


def test_long_scripts_run_only_if_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> Any:
        commands.append(command)
        return argparse.Namespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert run_all.main(["--results", str(tmp_path)]) == 0
    assert [c[2] for c in commands] == [
        f"benchmarks.{script.name}" for script in discover() if not script.only_if_named
    ]
    commands.clear()
    assert run_all.main(["--only", "idle", "latency", "--rounds", "2", "--engines", "e", "--results", "r"]) == 0
    assert commands == [
        [sys.executable, "-m", "benchmarks.idle", "--out", "r/idle.json", "--rounds", "2",
         "--bundle", "starter", "--engines", "e"],
        [sys.executable, "-m", "benchmarks.latency", "--out", "r/latency.json", "--duration", "0", "--warm-up", "0",
         "--iterations", "2", "--bundle", "starter", "--engines", "e"],
    ]  # fmt: skip
