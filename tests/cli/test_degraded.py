"""The commands with a member missing: loud on stderr, in every format, and only where all members are not needed."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from cxr_edge.cli import main
from tests.builders.toy_bundle import build_toy_bundle
from tests.screening.test_degraded import give_nan


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = build_toy_bundle(tmp_path_factory.mktemp("degraded") / "toy", degraded=True)
    assert main(["build-engine", str(bundle.root), "--precision", "fp32"]) == 0
    return bundle.root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "toy"))


@pytest.fixture
def damaged(root: Path) -> Path:
    """Return a bundle without the engine of one member."""
    (root / "engines" / "onnxruntime" / "plain.fp32.onnx").unlink()
    return root


def test_a_missing_engine_is_said_once_and_in_every_format(
    damaged: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(images), "--bundle", str(damaged)]
    assert main(["screen", *given, "--csv", "--html", str(tmp_path / "page.html")]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("DEGRADED: Without plain (its engine plain.fp32.onnx is incomplete (No such file") == 1
    assert "macro-F1 0.780 (0.900)" in captured.err
    assert "Build the engines again: --rebuild, or cxr-edge build-engine" in captured.err
    assert "screenings without a member" not in captured.err
    assert [row["degraded"] for row in csv.DictReader(io.StringIO(captured.out))] == ["plain"] * 3
    assert (tmp_path / "page.html").read_text().count("Degraded: answered by depthwise, residual") == 3
    assert main(["screen", *given, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"]["engines"].endswith("; degraded: without plain")
    assert [r["degraded"]["answered"] for r in document["results"]] == [["depthwise", "residual"]] * 3
    assert main(["screen", *given]) == 0
    shown = capsys.readouterr().out
    assert shown.count("DEGRADED: answered by depthwise, residual, without plain") == 3


def test_rebuild_builds_the_engine_instead(damaged: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["screen", str(images), "--bundle", str(damaged), "--json", "--rebuild"]) == 0
    captured = capsys.readouterr()
    assert "DEGRADED" not in captured.err
    assert "building, because of --rebuild" in captured.err
    assert all("degraded" not in result for result in json.loads(captured.out)["results"])


@pytest.mark.parametrize("command", [["bench"], ["bench", "--json"]])
def test_bench_measures_all_members_or_nothing(
    damaged: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--bundle", str(damaged)]) == 3
    assert "the engine plain.fp32.onnx" in capsys.readouterr().err


def test_bench_does_not_measure_a_network_that_gives_nan(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    give_nan_in(root, "plain")
    assert main(["bench", "--bundle", str(root), "--iterations", "2", "--warmup", "1"]) == 3
    assert "without plain (its output is not finite) the ensemble cannot answer" in capsys.readouterr().err


def give_nan_in(root: Path, name: str) -> None:
    from cxr_edge.bundle import Bundle

    give_nan(Bundle.open(root), name)


def test_members_that_fail_at_run_time_are_counted_at_the_end(
    root: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    give_nan_in(root, "residual")
    assert main(["screen", str(images), "--bundle", str(root), "--jsonl"]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "DEGRADED: 3 screenings without a member (residual in 3); each has the flag degraded with the reason\n"
    )
    reasons = [json.loads(line)["degraded"]["dropped"] for line in captured.out.splitlines()]
    assert reasons == [[{"member": "residual", "reason": "its output is not finite"}]] * 3


def test_a_deadline_that_all_members_keep_changes_nothing(
    root: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for options in ([], ["--deadline-ms", "10000"]):
        assert main(["screen", str(images), "--bundle", str(root), "--json", "--threads", "1", *options]) == 0
        results = json.loads(capsys.readouterr().out)["results"]
        found.append([{k: v for k, v in r.items() if k != "times_ms"} for r in results])
    assert found[0] == found[1]


def test_a_deadline_that_nothing_keeps_is_a_failure_of_each_file(
    root: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cxr_edge.screening import screener

    decode = screener.decode

    def slow(*args: object, **options: object) -> object:
        import time

        time.sleep(0.005)
        return decode(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(screener, "decode", slow)
    assert main(["screen", str(images), "--bundle", str(root), "--json", "--deadline-ms", "1"]) == 1
    results = json.loads(capsys.readouterr().out)["results"]
    assert all(r["error"].startswith("no answer within the deadline of 1 ms: decoding took ") for r in results)


@pytest.mark.parametrize("value", ["0", "-3", "x", "1.5"])
def test_a_deadline_is_a_whole_number(value: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["screen", str(images), "--deadline-ms", value])
    assert ended.value.code == 2
    assert "expected a whole number of 1 or more" in capsys.readouterr().err


def test_inspect_lists_the_modes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(root)]) == 0
    shown = capsys.readouterr().out
    assert "Degraded modes: when these members alone answer" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["all", "weighted-average", "covid-19", "from", "0.2", "0.900", "0.950", "0.900", "0.900"] in lines
    assert ["plain,", "depthwise", "average", "covid-19", "from", "0.2", "0.800", "0.950", "0.800", "0.800"] in lines
    assert "Figures on 90 images of validation patients; sensitivity and specificity of covid-19" in shown
    assert main(["inspect", str(root), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["manifest"]["degraded"]) == 6
