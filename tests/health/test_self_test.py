"""Self-test: it passes where nothing has changed, and each item fails where what it looks at has."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.engines import MEASURED_FILE, Measured, load, reference
from cxr_edge.errors import BundleError, InputError
from cxr_edge.health import resources, self_test
from cxr_edge.health.checks import Finding, Item
from cxr_edge.health.resources import Memory, Temperature
from cxr_edge.health.self_test import ITEMS, SelfTestOptions, SelfTestReport, run, run_from
from cxr_edge.screening.screener import Screener

SHARED = {"name", "status", "figure", "message", "seconds"}


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time, memory and temperature be those of a healthy machine, whatever runs the tests; a test may say otherwise."""
    monkeypatch.setattr(self_test, "screening_times_ms", lambda screener, files: [1e-6] * 15)
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=100 << 20, available=4 << 30))
    monkeypatch.setattr(resources, "temperatures", lambda: (Temperature(name="cpu", celsius=50, limit=90),))
    monkeypatch.setattr(resources, "slowed_by", lambda: ())


def found(report: SelfTestReport, name: str) -> Finding:
    return next(item.finding for item in report.items if item.name == name)


def measured_file(screener: Screener) -> Path:
    assert screener.engines.folder is not None
    return screener.engines.folder / MEASURED_FILE


def remeasured(screener: Screener, **values: Any) -> None:
    """Change what the build measured."""
    file = measured_file(screener)
    dataclasses.replace(Measured.read(file), **values).write(file)


def test_nothing_fails_where_nothing_has_changed(screener: Screener) -> None:
    report = run(screener)
    assert report.passed
    assert tuple(item.name for item in report.items) == ITEMS
    assert [item.name for item in report.items if item.status == "skipped"] == ["signature", "gate set"]
    assert found(report, "bundle").figure == f"20 files unaltered, digest {screener.bundle.digest[:12]}"
    assert found(report, "engines").figure == "onnxruntime: segmenter fp32, plain fp32, depthwise fp32"
    assert found(report, "decoding").figure == "13 files give the pixels of training, to the last bit"
    assert found(report, "known answers").figure.startswith("3 known answers: probabilities within 0.00")
    assert found(report, "known answers").figure.endswith("of the build's")
    assert found(report, "memory").figure == "4.0 GiB free, 100 MiB used by this process"
    assert found(report, "temperature").figure == "cpu 50 °C, limit 90 °C"


def test_the_times_are_measured(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    finding = found(run(screener, SelfTestOptions(time_factor=1000)), "timing")
    assert finding.status == "passed"
    assert "median of 15 screenings" in finding.figure


def test_lines_end_with_the_verdict(screener: Screener) -> None:
    lines = run(screener).lines()
    assert lines[0].startswith("bundle          PASSED   20 files unaltered")
    assert lines[1] == "signature       SKIPPED  none is required (--require-signature)"
    assert lines[-1].startswith("self-test: PASSED (11 items, 2 of them skipped, ")


def test_the_json_is_documented(screener: Screener) -> None:
    document = json.loads(json.dumps(run(screener).as_json()))
    assert list(document) == [
        "passed", "bundle", "digest", "engines", "machine", "cxr_edge", "started", "seconds", "items",
    ]  # fmt: skip
    assert all(set(item) == SHARED for item in document["items"])
    page = (Path(__file__).parents[2] / "docs" / "self-test.md").read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in [*document, *SHARED])
    assert all(f"| `{name}` |" in page for name in ITEMS)


def test_an_altered_file_of_the_bundle(screener: Screener) -> None:
    with (screener.bundle.root / "model-card.md").open("a") as file:
        file.write("x")
    report = run(screener)
    assert not report.passed
    assert found(report, "bundle").message.startswith("model-card.md in ")
    assert "was altered" in found(report, "bundle").message
    assert report.lines()[-1].startswith("self-test: FAILED (11 items, ")


def test_a_bundle_that_was_replaced(screener: Screener) -> None:
    manifest = screener.bundle.root / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": "1"', '"version": "2"'))
    assert "was replaced since it was opened: expected digest" in found(run(screener), "bundle").message


def test_an_altered_engine(screener: Screener) -> None:
    assert screener.engines.folder is not None
    with (screener.engines.folder / "plain.fp32.onnx").open("ab") as file:
        file.write(b"x")
    report = run(screener)
    message = found(report, "engines").message
    assert [item.name for item in report.failures] == ["engines"]
    assert "the engine plain.fp32.onnx in" in message
    assert "was altered" in message
    assert message.splitlines()[-1].startswith("  cxr-edge build-engine ")


def test_a_trusted_signature(screener: Screener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verifying keeps no counter: a self-test writes nothing."""

    def verify(bundle: Bundle, keys: Path | None, *, state: Path | None, record: bool) -> SimpleNamespace:
        assert (bundle, keys, state, record) == (screener.bundle, tmp_path, tmp_path / "state", False)
        return SimpleNamespace(key_name="release", key_id="a" * 64, counter=3)

    monkeypatch.setattr("cxr_edge.signing.verify.verify_bundle", verify)
    options = SelfTestOptions(require_signature=True, trusted_keys=tmp_path, state=tmp_path / "state")
    finding = found(run(screener, options), "signature")
    assert (finding.status, finding.figure) == ("passed", "signed by release (aaaaaaaaaaaa), counter 3")


def test_a_signature_that_is_not_trusted(screener: Screener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(*_: object, **__: object) -> None:
        raise BundleError("the signature of bundle 'toy' is not accepted")

    monkeypatch.setattr("cxr_edge.signing.verify.verify_bundle", verify)
    report = run(screener, SelfTestOptions(require_signature=True))
    assert [item.name for item in report.failures] == ["signature"]
    assert found(report, "signature").message == "the signature of bundle 'toy' is not accepted"


def test_engines_of_another_machine(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_edge.backends.cpu_info.processor_name", lambda: "another processor")
    assert "was built on another machine" in found(run(screener), "engines").message


def test_a_runtime_that_does_not_compute(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "run_self_test", lambda backend, saved: "the self-test gave [0], expected [1]")
    message = found(run(screener), "runtime").message
    assert message.startswith(
        "onnxruntime does not compute correctly here: the self-test gave [0], expected [1]; install"
    )


def test_a_kernel_that_fails_on_a_gpu(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = dataclasses.replace(screener.engines, device=SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(screener, "_engines", on_gpu)
    monkeypatch.setattr(self_test, "kernel_failure", lambda device: "a kernel returned the box")
    assert "a kernel returned the box" in found(run(screener), "runtime").message


def test_a_library_that_decodes_differently(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    decode_jpeg = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: np.invert(decode_jpeg(*a, **k)))
    finding = found(run(screener), "decoding")
    assert (finding.status, finding.figure) == ("failed", "3 of 13 files differ")
    assert len(finding.message.splitlines()) == 3
    assert "pip install --force-reinstall simplejpeg" in finding.message


def test_a_bundle_without_decoded_files_and_known_answers(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = dataclasses.replace(screener.bundle.manifest, decoded_files=(), known_answers=())
    monkeypatch.setattr(screener, "bundle", dataclasses.replace(screener.bundle, manifest=manifest))
    remeasured(screener, known_answers=(), screening_ms=0.0, screenings=0)
    report = run(screener)
    assert report.passed
    assert "the bundle has no decoded files" in found(report, "decoding").message
    assert found(report, "known answers").message == "the bundle has no known answers"
    assert "no time of their build" in found(report, "timing").message


def test_engines_that_give_other_answers_than_when_they_were_built(screener: Screener) -> None:
    """As a machine with faulty memory, or a runtime that was replaced, does."""
    rows = np.array(Measured.read(measured_file(screener)).known_answers)
    rows[1] = np.roll(rows[1], 1)
    remeasured(screener, known_answers=tuple(map(tuple, rows.tolist())))
    finding = found(run(screener), "known answers")
    assert finding.status == "failed"
    assert "the engines gave other probabilities when they were built" in finding.message
    assert "build the engines again" in finding.message


def with_answers(screener: Screener, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]) -> None:
    """Change the probabilities of the manifest's known answers."""
    manifest = screener.bundle.manifest
    answers = tuple(
        dataclasses.replace(a, probabilities=tuple(change(np.array(a.probabilities)).tolist()))
        for a in manifest.known_answers
    )
    changed = dataclasses.replace(manifest, known_answers=answers)
    monkeypatch.setattr(screener, "bundle", dataclasses.replace(screener.bundle, manifest=changed))


def test_wrong_known_answers(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the gate that compared the engines when they were built, with its own words."""
    with_answers(screener, monkeypatch, lambda p: np.roll(p, 1))
    finding = found(run(screener), "known answers")
    assert finding.status == "failed"
    assert "decision agreement" in finding.message
    assert "is required" in finding.message


def test_known_answers_decide_nothing_where_the_gate_compared_others(
    screener: Screener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines that were compared on X-rays may be far from the reference on drawings; they must still be as they were."""
    with_answers(screener, monkeypatch, lambda p: np.roll(p, 1))
    monkeypatch.setattr(self_test._SelfTest, "_gate_used_known_answers", lambda self: False)
    assert found(run(screener), "known answers").status == "passed"


def test_a_gate_that_compared_x_rays(screener: Screener) -> None:
    test = self_test._SelfTest(screener, SelfTestOptions())
    assert test._gate_used_known_answers()
    file = measured_file(screener).with_name("build.json")
    document = json.loads(file.read_text())
    document["settings"]["calibration"] = "/x-rays"
    file.write_text(json.dumps(document))
    assert not test._gate_used_known_answers()


def test_probabilities_that_are_not_finite(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = screener.screen

    def broken(*arguments: Any, **options: Any) -> Any:
        return dataclasses.replace(screen(*arguments, **options), probabilities=(float("nan"),) * 4)

    monkeypatch.setattr(screener, "screen", broken)
    assert "not finite" in found(run(screener), "known answers").message


def test_the_bundles_own_networks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a build there is nothing to compare with but the manifest, closely."""
    bundle = Bundle.open(root)
    own = Screener(bundle, reference(bundle))
    report = run(own)
    assert report.passed
    assert "no time of their build" in found(report, "timing").message
    with_answers(own, monkeypatch, lambda p: p * 0.99 + 0.0025)
    assert "from the manifest's" in found(run(own), "known answers").message


def test_engines_of_a_build_that_did_not_measure(screener: Screener) -> None:
    measured_file(screener).unlink()
    report = run(screener)
    assert report.passed
    assert "build them again with cxr-edge build-engine" in found(report, "timing").message
    assert "of the build's" not in found(report, "known answers").figure


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ('{"schema": "cxr-edge-measured/2"}', "measured.json does not follow cxr-edge-measured/1"),
    ],
)
def test_a_damaged_record_of_the_build(screener: Screener, text: str, message: str) -> None:
    measured_file(screener).write_text(text)
    finding = found(run(screener), "timing")
    assert finding.status == "failed"
    assert message in finding.message
    assert "build them again with cxr-edge build-engine" in finding.message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"known_answers": ((2.0,),)}, "probabilities must be numbers from 0 to 1"),
        ({"screening_ms": -1}, "screening_ms must be a number of 0 or more"),
        ({"threads": 0}, "threads must be a whole number of 1 or more, got 0"),
        ({"screenings": True}, "screenings must be a whole number of 0 or more, got True"),
    ],
)
def test_a_record_validates_itself(values: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "bundle_sha256": "", "threads": 1, "known_answers": (), "gate_set": (), "screening_ms": 1.0, "screenings": 15,
    }  # fmt: skip
    Measured(**good)
    with pytest.raises(ValueError, match=message):
        Measured(**{**good, **values})


def test_a_record_with_rows_that_are_no_lists(screener: Screener) -> None:
    file = measured_file(screener)
    file.write_text(file.read_text().replace('"gate_set": []', '"gate_set": 1'))
    with pytest.raises(ValueError, match="gate_set must be a list of lists of numbers"):
        Measured.read(file)


def test_a_record_of_another_bundle_counts_as_none(screener: Screener) -> None:
    remeasured(screener, bundle_sha256="0" * 64)
    assert "no time of their build" in found(run(screener), "timing").message


def test_a_slow_machine(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    remeasured(screener, screening_ms=10.0)
    monkeypatch.setattr(self_test, "screening_times_ms", lambda screener, files: [31.0] * 15)
    finding = found(run(screener), "timing")
    assert (finding.status, finding.figure) == (
        "failed",
        "median of 15 screenings 31.0 ms, 3.10 times that of the build",
    )
    assert finding.message.startswith("at most 3 times is allowed, also when measured again: end other programs")
    assert found(run(screener, SelfTestOptions(time_factor=3.2)), "timing").status == "passed"


def test_a_machine_that_was_busy_for_a_moment(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    remeasured(screener, screening_ms=10.0)
    times = iter([[31.0] * 15, [11.0] * 15])
    monkeypatch.setattr(self_test, "screening_times_ms", lambda screener, files: next(times))
    finding = found(run(screener), "timing")
    assert (finding.status, finding.figure) == (
        "passed",
        "median of 15 screenings 11.0 ms, 1.10 times that of the build",
    )


def test_fewer_threads_than_the_build_may_take_longer(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    remeasured(screener, screening_ms=10.0, threads=2)
    monkeypatch.setattr(self_test, "screening_times_ms", lambda screener, files: [59.0] * 15)
    assert found(run(screener), "timing").status == "passed"


def test_no_memory(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=None, available=200 << 20))
    finding = found(run(screener), "memory")
    assert (finding.status, finding.figure) == ("failed", "200 MiB free")
    assert finding.message == "at least 256 MiB are needed: end other programs, or raise the container's limit"
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=None, available=None))
    assert found(run(screener), "memory").status == "skipped"


def test_no_disk_space(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_bytes", lambda folder: 10 << 20)
    finding = found(run(screener), "disk")
    assert finding.status == "failed"
    assert finding.figure == "10 MiB free for engines, 10 MiB free for temporary files"
    assert f"at least 64 MiB are needed in {screener.engines.folder} and " in finding.message


def test_a_read_only_device_cannot_be_full(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(resources, "writable", lambda folder: False)
    monkeypatch.setattr("tempfile.gettempdir", none)
    assert found(run(screener), "disk").status == "skipped"


def test_a_machine_that_is_too_hot(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    sensors = (Temperature(name="soc", celsius=86, limit=90), Temperature(name="board", celsius=88, limit=None))
    monkeypatch.setattr(resources, "temperatures", lambda: sensors)
    monkeypatch.setattr(resources, "slowed_by", lambda: ("cpu-throttle-alert",))
    finding = found(run(screener), "temperature")
    assert (finding.status, finding.figure) == ("failed", "soc 86 °C, limit 90 °C, slowed by cpu-throttle-alert")
    assert "cool the machine" in finding.message
    monkeypatch.setattr(resources, "temperatures", lambda: sensors[1:])
    assert found(run(screener), "temperature").figure.startswith("board 88 °C, limit 100 °C")
    monkeypatch.setattr(resources, "temperatures", lambda: ())
    assert found(run(screener), "temperature").status == "skipped"


def gate_set(screener: Screener, count: int) -> SimpleNamespace:
    """Return a stand-in for a bundle's gate set, of the known answers' pictures."""
    answers = screener.bundle.manifest.known_answers
    from cxr_edge.decoding.decode import decode

    images = [decode(screener.bundle.file(answers[i % len(answers)].file)) for i in range(count)]
    screenings = [screener.screen(image) for image in images]
    return SimpleNamespace(
        images=tuple(images),
        probabilities=np.array([s.probabilities for s in screenings], np.float32),
        decisions=tuple(s.forced_decision for s in screenings),
    )


def test_the_gate_set(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = gate_set(screener, 7)
    monkeypatch.setattr(self_test, "read_gate_set", lambda bundle: gate)
    finding = found(run(screener, SelfTestOptions(gate_images=3)), "gate set")
    assert (finding.status, finding.figure) == (
        "passed",
        "3 of 7 images: probabilities within 0.000 of the fp32 networks'",
    )
    assert found(run(screener), "gate set").figure.startswith("7 of 7 images: ")


def test_other_decisions_on_the_gate_set(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = gate_set(screener, 4)
    gate.decisions = ("another", *gate.decisions[1:])
    gate.probabilities = np.roll(gate.probabilities, 1, axis=1)
    monkeypatch.setattr(self_test, "read_gate_set", lambda bundle: gate)
    message = found(run(screener), "gate set").message
    assert message.startswith("only 75.0% of the decisions are the reference's, at least 99.0% are required; ")


def test_the_gate_set_of_a_build_that_measured_it(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate let pass at the build may differ from the reference, and is compared with the build's own answers."""
    gate = gate_set(screener, 4)
    new = gate.probabilities.copy()
    gate.decisions = ("another", *gate.decisions[1:])
    gate.probabilities = np.roll(gate.probabilities, 1, axis=1)
    monkeypatch.setattr(self_test, "read_gate_set", lambda bundle: gate)
    remeasured(screener, gate_set=tuple(map(tuple, new.tolist())))
    assert found(run(screener), "gate set").status == "passed"
    new[3] = np.roll(new[3], 1)
    remeasured(screener, gate_set=tuple(map(tuple, new.tolist())))
    assert "other probabilities when they were built" in found(run(screener), "gate set").message


def test_an_exception_of_a_check_is_its_own_failed_item(screener: Screener, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("unexpected")

    monkeypatch.setattr(resources, "memory", broken)
    report = run(screener)
    assert [item.name for item in report.failures] == ["memory"]
    assert found(report, "memory").message.startswith("internal error: RuntimeError: unexpected; this is a defect")


def test_run_from_paths(root: Path) -> None:
    report, screener = run_from(str(root), threads=1)
    assert report.passed
    assert screener is not None
    assert report.seconds > sum(item.seconds for item in report.items)


def test_a_bundle_that_cannot_be_opened(tmp_path: Path) -> None:
    report, screener = run_from(str(tmp_path / "nothing"))
    assert screener is None
    assert [item.name for item in report.failures] == ["bundle"]
    assert "there is no folder" in found(report, "bundle").message
    assert found(report, "timing").message == "there is nothing to test while the bundle cannot be used"
    assert (report.digest, report.engines) == ("", "")


def test_engines_that_cannot_be_loaded(root: Path) -> None:
    shutil.rmtree(root / "engines")
    report, screener = run_from(str(root))
    assert screener is None
    assert [item.name for item in report.failures] == ["engines"]
    assert "there are no engines for bundle 'toy'" in found(report, "engines").message
    assert found(report, "bundle").status == "passed"
    assert "engines cannot be used" in found(report, "decoding").message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gate_images": 0}, "gate_images is a whole number"),
        ({"time_factor": 0.5}, "time_factor is a number of 1 or more"),
    ],
)
def test_options_validate_themselves(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SelfTestOptions(**values)


def test_a_finding_has_a_message_unless_it_passed() -> None:
    with pytest.raises(ValueError, match="has a message unless it passed"):
        Finding(status="failed")
    with pytest.raises(ValueError, match="has a message unless it passed"):
        Finding(status="passed", message="but")
    item = Item(name="a", finding=Finding(status="passed", figure="1"), seconds=0.25)
    assert item.as_json() == {"name": "a", "status": "passed", "figure": "1", "message": "", "seconds": 0.25}


def test_files_of_engines_are_checked_without_loading_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(root)
    loaded = load(bundle)
    monkeypatch.setattr("cxr_edge.backends.onnxruntime.OnnxRuntimeBackend.load", None)
    assert engines.check_files(bundle, loaded) == 3
    assert engines.check_files(bundle, reference(bundle)) == 0


def test_it_imports_nothing_that_only_building_needs() -> None:
    code = "import sys, cxr_edge.health.self_test; sys.exit('onnx' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
