"""Latency summary: counts of runs, statistics, and GPU copies only where there are some."""

from __future__ import annotations

import argparse
import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import latency
from benchmarks.gpu.network import EngineOnDevice
from benchmarks.harness.spread import Spread, columns, parse_percentiles, spread
from benchmarks.harness.workload import at_least_zero
from benchmarks.latency import Budget, Run, Series, Steps, repeat
from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import parts
from cxr_edge.records import StageTimes
from tests.benchmarks.scripts import report_of, table_of
from tests.doubles.emulated_device import TICK_MS, EmulatedDevice, EmulatedEngine

SMALL = ("--image-px", "96", "--threads", "1", "--duration", "0", "--warm-up", "0", "--iterations", "3")


def test_spread_statistics() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0], (50, 90))
    assert (found.n, found.min_ms, found.mean_ms, found.median_ms, found.max_ms) == (4, 1, 2.5, 2.5, 4)
    assert found.percentiles_ms == pytest.approx((2.5, 3.7))
    assert found.variation == pytest.approx(np.std([1, 2, 3, 4]) / 2.5)
    assert found.line() == (
        "min = 1 ms, max = 4 ms, mean = 2.5 ms, median = 2.5 ms, percentile(50%) = 2.5 ms, percentile(90%) = 3.7 ms"
    )
    assert len(found.cells()) == len(columns((50, 90)))


def test_a_spread_without_runs_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one run, got none"):
        spread([])
    with pytest.raises(ValueError, match="a value for each of 2 percentiles, got 1 runs and 1 values"):
        Spread(
            n=1, min_ms=1, mean_ms=1, median_ms=1, max_ms=1, variation=0, ranks=(90.0, 99.0), percentiles_ms=(1.0,)
        )  # fmt: skip


@pytest.mark.parametrize("text", ["", "90,x", "101", "-1", "90;95"])
def test_invalid_percentiles_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"from 0 to 100, such as 90,95,99, got"):
        parse_percentiles(text)
    assert parse_percentiles("50,99.9") == (50, 99.9)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_invalid_durations_are_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="a number of at least 0, got"):
        at_least_zero(text)


def test_runs_are_counted_until_both_minimums_are_met(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    ticks = count()
    monkeypatch.setattr(latency, "perf_counter", lambda: next(ticks) / 1e3)  # each look at the clock takes 1 ms

    def run(i: int) -> Steps:
        calls.append(i)
        return Steps(compute_ms=1.0)

    one = repeat("x", run, Budget(iterations=4, duration_s=0, warm_up_ms=0))
    assert calls == [0, 0, 1, 2, 3], "one uncounted run, then four"
    assert (one.warm_up_runs, len(one.runs)) == (1, 4)
    longer = repeat("x", run, Budget(iterations=1, duration_s=0.020, warm_up_ms=5))
    assert longer.warm_up_runs == 5
    assert [r.start_ms for r in longer.runs] == pytest.approx([1, 4, 7, 10, 13, 16, 19])
    assert {round(r.host_ms, 6) for r in longer.runs} == {1}
    assert longer.wall_s == pytest.approx(0.020)
    assert longer.per_second == pytest.approx(7 / 0.020)


def test_steps_of_a_host_are_decode_and_compute() -> None:
    times = StageTimes(decode_ms=0.0, lungs_ms=1.0, preprocess_ms=2.0, members_ms=3.0, combine_ms=4.0)
    assert latency._steps(SimpleNamespace(times=times)) == Steps(compute_ms=10.0)  # type: ignore[arg-type]


def test_steps_of_a_gpu_separate_the_copies() -> None:
    times = StageTimes(
        decode_ms=7.0, lungs_ms=1.0, preprocess_ms=2.0, members_ms=3.0, combine_ms=4.0, upload_ms=5.0, download_ms=6.0
    )
    steps = latency._steps(SimpleNamespace(times=times))  # type: ignore[arg-type]
    assert steps == Steps(decode_ms=7.0, upload_ms=5.0, compute_ms=10.0, download_ms=6.0)
    one = Series(
        name="x", device=True, runs=(Run(start_ms=0, host_ms=28.5, steps=steps),), wall_s=0.0285, warm_up_runs=1
    )
    rows = one.rows()
    assert list(rows) == ["End-to-end host latency", "Decode", "Enqueue", "H2D", "GPU compute", "D2H"]
    assert rows["H2D"] == [5.0]
    assert rows["Enqueue"] is None
    text = latency._text(one, (99.0,))
    assert "GPU compute: min = 10 ms, max = 10 ms" in text
    assert "Enqueue: -" in text


def test_a_single_gpu_engine_measures_its_steps(toy_bundle: Path) -> None:
    bundle, device = Bundle.open(toy_bundle), EmulatedDevice()
    image = decode(bundle.file(bundle.manifest.known_answers[0].file))
    part = parts(bundle)[1]
    host = OnnxRuntimeBackend().load_reference(part.onnx, CompileOptions())
    steps = latency._engine_run(EmulatedEngine(host, device), part, [image], 1, device)(0)
    assert (steps.upload_ms, steps.compute_ms, steps.download_ms) == pytest.approx((TICK_MS,) * 3)
    assert steps.decode_ms is None
    assert steps.enqueue_ms is not None


def test_an_engine_on_device_memory_matches_the_host(toy_bundle: Path) -> None:
    part, device = parts(Bundle.open(toy_bundle))[1], EmulatedDevice()
    host = OnnxRuntimeBackend().load_reference(part.onnx, CompileOptions())
    images = np.random.default_rng(0).standard_normal((3, 1, *part.preprocess.tensor_shape)).astype(np.float32)
    bound = EngineOnDevice(EmulatedEngine(host, device), device, [{"image": x} for x in images])
    for i, x in enumerate(images):
        bound.run(i)
        for name, expected in host.run({"image": x}).items():
            np.testing.assert_array_equal(bound.outputs()[name], expected)


def test_latency_runs(built_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = tmp_path / "made" / "times.json"
    options = ("--percentile", "50,99.9", "--export-times", str(times), *SMALL)
    report = report_of(latency, tmp_path, "--bundle", str(built_bundle), *options)
    titles = [t["title"] for t in report["tables"][1:]]
    assert titles == [
        "Screening from decoded pixels", "Screening from file bytes", "segmenter alone, fp32", "plain alone, fp32",
        "depthwise alone, fp32", "residual alone, fp32",
    ]  # fmt: skip
    pixels, files = (table_of(report, title) for title in titles[:2])
    assert pixels["Decode"]["mean ms"] is None
    assert files["Decode"]["n"] == 3
    for rows in (pixels, files, table_of(report, "plain alone")):
        assert rows["H2D"]["n"] is rows["D2H"]["n"] is rows["Enqueue"]["n"] is None, "a host copies nothing"
        assert rows["Compute"]["n"] == 3
        assert 0 < rows["Compute"]["min ms"] <= rows["End-to-end host latency"]["max ms"]
        assert rows["Compute"]["p99.9 ms"] >= rows["Compute"]["p50 ms"]
    assert report["settings"]["engines"].endswith("segmenter fp32, plain fp32, depthwise fp32, residual fp32")
    assert {"threads", "batch", "warm-up", "power mode"} <= set(report["settings"])
    exported = json.loads(times.read_text(encoding="utf-8"))
    assert [(s["name"], len(s["runs"])) for s in exported] == [(title, 3) for title in titles]
    assert set(exported[0]["runs"][0]) == {"start_ms", "host_ms", "steps"}
    text = capsys.readouterr().out
    assert text.startswith("=== cxr-edge latency ===\nMachine: ")
    assert "Power mode: " in text
    assert "=== Performance summary: Screening from decoded pixels ===\nThroughput: " in text
    assert "| step |" not in text, "the summary is printed in place of the Markdown"


def test_latency_reads_given_files_and_names_an_invalid_one(
    built_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(built_bundle)
    given = str(bundle.file(bundle.manifest.known_answers[0].file))
    report = report_of(latency, tmp_path, given, "--bundle", str(built_bundle), *SMALL)
    assert report["settings"]["images"] == "1 given files"
    assert latency.main([str(tmp_path / "none.png"), "--bundle", str(built_bundle)]) == 3
    assert "none.png cannot be read (No such file or directory): give X-ray files" in capsys.readouterr().err


def test_latency_without_engines_names_the_build_command(toy_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert latency.main(["--bundle", str(toy_bundle), *SMALL]) == 3
    assert "cxr-edge build-engine" in capsys.readouterr().err
