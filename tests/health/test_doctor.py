"""Doctor: what it says where everything works, and the line that mends each thing that does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr_edge import backends
from cxr_edge.errors import BackendError
from cxr_edge.health import doctor, machine, resources, software
from cxr_edge.health.checks import Finding
from cxr_edge.health.doctor import GROUPS, DoctorReport, DoctorSettings, examine
from cxr_edge.health.machine import check_memory
from cxr_edge.health.resources import Memory, Temperature

KEYS = {"group", "name", "status", "figure", "message", "seconds"}
PAGE = Path(__file__).parents[2] / "docs" / "self-test.md"

# As a machine on which importing these fails.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from cxr_edge.cli import main
sys.exit(main({words!r}))
"""


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=100 << 20, available=4 << 30))
    monkeypatch.setattr(resources, "temperatures", lambda: ())
    monkeypatch.setattr(resources, "slowed_by", lambda: ())
    monkeypatch.setattr("cxr_edge.health.self_test.screening_times_ms", lambda screener, files: [1e-6] * 15)


@pytest.fixture
def settings(root: Path) -> DoctorSettings:
    return DoctorSettings(bundle=str(root))


def found(report: DoctorReport, name: str) -> Finding:
    return next(own.item.finding for own in report.items if own.item.name == name)


def failures(report: DoctorReport) -> list[str]:
    return [own.item.name for own in report.items if own.item.status == "failed"]


def test_a_machine_where_everything_works(settings: DoctorSettings) -> None:
    report = examine(settings)
    assert report.usable, report.lines()
    assert {own.group for own in report.items} == set(GROUPS)
    assert report.self_test is not None
    assert report.self_test.passed
    assert found(report, "dicom-jpeg-ls").figure == "DICOM, JPEG-LS lossless: the known pixels"
    assert found(report, "engines").figure == "onnxruntime: segmenter fp32, plain fp32, depthwise fp32"
    assert found(report, "telemetry").figure.startswith("off (ORT_DISABLE_TELEMETRY=1)")
    assert report.lines()[0] == "python:"
    assert report.lines()[-1].startswith("doctor: screening works here (0 failed, ")


def test_every_problem_has_a_message(settings: DoctorSettings) -> None:
    report = examine(settings)
    assert all(own.item.finding.message for own in report.items if own.item.status != "passed")


def test_the_json_is_documented(settings: DoctorSettings) -> None:
    document = json.loads(json.dumps(examine(settings).as_json()))
    assert list(document) == ["usable", "cxr_edge", "seconds", "items", "self_test"]
    assert all(set(item) == KEYS for item in document["items"])
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"`{key}`" in page for key in [*document, *KEYS])
    assert all(f"| `{group}` |" in page for group in GROUPS)


def test_packages_are_compared_with_their_lowest_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    lines = [
        "numpy>=1.24",
        "tifffile>=2099.1",
        "onnx>=2099",
        "tqdm",
        "torch>=2; extra == 'train'",
        "no-such-package>=1",
    ]
    lines[4] = 'torch>=2; extra == "train"'
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    findings = {name: check() for name, check in software.python_checks()}
    assert list(findings) == ["Python", "cxr-edge", "numpy", "tifffile", "onnx", "tqdm", "no-such-package"]
    assert findings["numpy"].status == findings["tqdm"].status == "passed"
    assert findings["tifffile"].message == "at least 2099.1 is needed: pip install --upgrade 'tifffile>=2099.1'"
    assert findings["tifffile"].figure == real("tifffile")
    assert findings["onnx"].status == "missing"  # building needs it, screening does not
    assert findings["no-such-package"].message == "not installed: pip install 'no-such-package>=1'"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ImportError("libGL.so.1: cannot open"),
            "libGL.so.1: cannot open): pip install --force-reinstall opencv-python-headless",
        ),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "mend numpy first"),
        (
            ModuleNotFoundError("No module named 'cv2.x'", name="cv2.x"),
            "pip install --force-reinstall opencv-python-headless",
        ),
        (
            AttributeError("_ARRAY_API not found"),
            "AttributeError: _ARRAY_API not found): pip install --force-reinstall",
        ),
    ],
)
def test_a_package_that_cannot_be_imported(error: Exception, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise error

    monkeypatch.setattr(software, "import_module", broken)
    finding = software._check_package("opencv-python-headless", "4.8")
    assert finding.status == "failed"
    assert message in finding.message


def test_a_package_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name != "opencv-python":
            raise metadata.PackageNotFoundError(name)
        return "4.9"

    monkeypatch.setattr(metadata, "version", version)
    assert software._check_package("opencv-python-headless", "4.8").figure == "4.9"


def test_a_package_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """JetPack's cv2 is in no list of installed packages."""

    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(software, "import_module", lambda name: SimpleNamespace(__version__="4.8.0"))
    assert software._check_package("opencv-python-headless", "4.8").figure == "4.8.0"
    assert "at least 4.9 is needed" in software._check_package("opencv-python-headless", "4.9").message
    monkeypatch.setattr(software, "import_module", lambda name: SimpleNamespace())
    assert software._check_package("opencv-python-headless", "4.9").figure == "of unknown version"


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.0", (2,)), ("2.0.1rc1", (2, 0, 1)), ("1.24", (1, 24)), ("", ()), ("dev", ())]
)
def test_numbers_of_versions(version: str, numbers: tuple[int, ...]) -> None:
    assert software._numbers(version) == numbers


def test_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", lambda name: "9.9")
    assert "the package says 9.9" in software._check_distribution().message
    for name in ("version", "requires", "metadata"):
        monkeypatch.setattr(metadata, name, absent)
    assert software._check_distribution().status == "missing"
    assert software._requirements() == []
    assert software._check_python().status == "passed"


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.99"})
    assert software._check_python().message == "at least 3.99 is needed: make a virtual environment with a newer Python"


def test_a_core_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("GLIBC_2.38 not found")

    monkeypatch.setattr(software, "import_module", broken)
    assert "cannot be loaded (GLIBC_2.38 not found): pip install --force-reinstall ." in software.check_core().message


def test_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_edge.backends.self_test.run_self_test", lambda backend: "it does not run on this driver")
    assert software._check_runtime("onnxruntime") == Finding(status="failed", message="it does not run on this driver")
    assert software._check_runtime("tensorrt").status == "missing"  # a machine without a GPU screens all the same
    assert set(backends.BACKENDS) < {name for name, _ in software.runtime_checks()}


def test_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuDriverGetVersion(self, version: Any) -> None:  # noqa: N802
            version.value = 12080

    monkeypatch.setattr("ctypes.CDLL", Driver)
    assert software._check_driver().figure == "CUDA 12.8"


def test_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "find_spec", lambda name: None)
    assert software.check_extra("sign").message == "for signatures of bundles and logs: pip install 'cxr-edge[sign]'"
    monkeypatch.setattr(software, "find_spec", lambda name: object())
    assert software.check_extra("sign").status == "passed"


def test_decoders_of_a_bundle_without_known_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is drawn, which tells whether it can be decoded, not whether rightly."""
    import imagecodecs

    examined = doctor._Doctor(DoctorSettings(bundle=str(tmp_path)))
    checks = dict(examined.checks("decoders"))
    assert checks["png-16"]().figure.startswith("PNG, 16 bits: decoded by imagecodecs ")
    monkeypatch.setattr(imagecodecs, "png_decode", None)
    message = checks["png-16"]().message
    assert message.startswith("PNG, 16 bits cannot be decoded (InputError: ")
    assert "pip install --force-reinstall imagecodecs" in message


def test_a_decoder_that_gives_other_pixels(settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    import simplejpeg

    decode_jpeg = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decode_jpeg(*a, **k) // 2)
    report = examine(settings)
    assert failures(report) == ["jpeg-baseline", "jpeg-progressive", "dicom-jpeg-baseline", "self-test"]
    assert "gives other pixels here" in found(report, "jpeg-baseline").message
    assert found(report, "self-test").message.endswith("cxr-edge self-test shows all items")
    assert not report.usable
    assert report.lines()[-1].startswith("doctor: screening does not work here (4 failed, ")


def test_an_altered_bundle(settings: DoctorSettings, root: Path) -> None:
    (root / "model-card.md").write_text("other")
    report = examine(settings)
    assert failures(report) == ["bundle"]
    assert "was altered" in found(report, "bundle").message
    assert report.self_test is None
    assert found(report, "engines").status == found(report, "engines folder").status == "skipped"


def test_no_engines(settings: DoctorSettings, root: Path) -> None:
    shutil.rmtree(root / "engines")
    report = examine(settings)
    assert failures(report) == ["engines"]
    assert found(report, "engines").message.endswith(f"build them with\n  cxr-edge build-engine {root}")
    assert found(report, "self-test").message == "there are no bundle and engines to test"


def test_folders_that_cannot_be_written(settings: DoctorSettings, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With engines nothing more has to be written; without, building needs a folder."""
    monkeypatch.setattr(resources, "writable", lambda folder: False)
    report = examine(settings)
    assert report.usable
    assert found(report, "engines folder").status == found(report, "temporary files").status == "missing"
    assert found(report, "state and logs").message == "cannot be written: give --drift-state and logs another folder"
    shutil.rmtree(root / "engines")
    finding = found(examine(settings), "engines folder")
    assert finding.status == "failed"
    assert finding.message == "cannot be written: build with --engines DIR, and give it to screen too"


def test_folders_without_space(settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "free_bytes", lambda folder: 1 << 20)
    message = found(examine(settings), "temporary files").message
    assert message == "less than 64 MiB are free: free space there, or set TMPDIR to a folder that can be written"


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.gettempdir", none)
    assert "set TMPDIR" in machine.check_temporary_folder().message


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=None, available=1 << 20))
    assert check_memory().status == "failed"
    monkeypatch.setattr(resources, "memory", lambda: Memory(used=None, available=None))
    assert check_memory().status == "skipped"


def test_the_governor(tmp_path: Path) -> None:
    assert machine._check_governor(tmp_path).status == "skipped"
    cpus = tmp_path / "sys/devices/system/cpu"
    for name, governor in (("cpu0", "performance"), ("cpu1", "powersave")):
        (cpus / name / "cpufreq").mkdir(parents=True)
        (cpus / name / "cpufreq" / "scaling_governor").write_text(f"{governor}\n")
    finding = machine._check_governor(tmp_path)
    assert (finding.status, finding.figure) == ("missing", "performance, powersave")
    assert "sudo cpupower frequency-set -g performance" in finding.message
    (cpus / "intel_pstate").mkdir()  # whose governor of that name goes up with the load
    assert machine._check_governor(tmp_path).status == "passed"


def test_temperatures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "temperatures", lambda: (Temperature(name="cpu", celsius=50.4, limit=None),))
    assert machine._check_temperature().figure == "cpu 50 °C"
    monkeypatch.setattr(resources, "slowed_by", lambda: ("gpu-throttle-alert",))
    assert machine._check_temperature().figure == "slowed by gpu-throttle-alert"


@pytest.mark.parametrize(("year", "status"), [(1970, "missing"), (2026, "passed"), (2200, "missing")])
def test_the_clock(year: int, status: str) -> None:
    finding = machine._check_clock(datetime(year, 1, 1, tzinfo=timezone.utc))
    assert (finding.status, finding.figure) == (status, f"{year}-01-01T00:00:00+00:00")


def test_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda _: "ANSI_X3.4-1968")
    assert "export LC_ALL=C.UTF-8" in machine._check_locale().message
    monkeypatch.setattr("locale.getpreferredencoding", lambda _: "UTF-8")
    assert machine._check_locale().status == "passed"


def test_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    finding = machine.check_telemetry()
    assert (finding.status, finding.figure) == ("failed", "ORT_DISABLE_TELEMETRY=0")
    assert "export ORT_DISABLE_TELEMETRY=1" in finding.message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("unexpected"), "internal error: RuntimeError: unexpected; this is a defect"),
        (BackendError("no driver"), "no driver"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied: check /x and its permissions"),
        (
            ModuleNotFoundError("No module named 'cv2'", name="cv2"),
            "pip install --force-reinstall opencv-python-headless",
        ),
        (ImportError("unknown"), "cxr-edge doctor names the package"),
    ],
)
def test_whatever_a_check_raises_is_its_own_failed_item(
    error: Exception, message: str, settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Finding:
        raise error

    monkeypatch.setattr(machine, "_check_clock", broken)
    report = examine(settings)
    assert failures(report) == ["clock"]
    assert message in found(report, "clock").message


@pytest.mark.parametrize("error", [ImportError("no"), RuntimeError("no")])
def test_a_group_whose_checks_cannot_be_listed(
    error: Exception, settings: DoctorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise error

    monkeypatch.setattr(doctor, "runtime_checks", broken)
    report = examine(settings)
    assert failures(report) == ["runtimes"]


def run_without(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(module=module, words=list(words))
    return subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def test_without_a_package_of_every_command_the_doctor_still_works() -> None:
    done = run_without("cv2", "doctor", "--json")
    assert done.returncode == 3, done.stderr
    document = json.loads(done.stdout)
    wrong = {item["name"]: item["message"] for item in document["items"] if item["status"] == "failed"}
    assert "pip install --force-reinstall opencv-python-headless" in wrong["opencv-python-headless"]
    assert "Traceback" not in done.stderr
    assert not document["usable"]


def test_without_a_package_other_commands_name_the_doctor() -> None:
    done = run_without("cv2", "screen", "a.png")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(
        "cxr-edge: a package that it needs cannot be imported (No module named 'cv2'): cxr-edge doctor"
    )
    assert "Traceback" not in done.stderr


def test_without_a_decoder_the_files_that_need_it_are_named(root: Path) -> None:
    done = run_without("simplejpeg", "doctor", "--bundle", str(root), "--threads", "1")
    assert done.returncode == 3
    assert (
        "jpeg-baseline              FAILED   decoded/jpeg-baseline.jpg cannot be decoded (ModuleNotFoundError"
        in done.stdout
    )
    assert "png-16                     ok" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cxr_edge.cli import main

    assert main(["doctor", "--bundle", str(root), "--threads", "1"]) == 0
    assert "doctor: screening works here" in capsys.readouterr().out
    assert main(["doctor", "--bundle", str(root), "--json", "--engines", str(root / "none"), "--threads", "1"]) == 3
    assert json.loads(capsys.readouterr().out)["self_test"] is None
