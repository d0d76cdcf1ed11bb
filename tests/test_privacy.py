"""Only requested files are written, and nothing is sent to the network, as docs/environment.md documents.

Every command runs in a child process with an empty home, an empty temporary folder and no variable of a CI service (those
switch ONNX Runtime's telemetry off and would hide a defect). An audit hook reports the actions of Python; strace, where it
works, reports those of the libraries below Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.builders.dicom_files import PATIENT, dataset, file_bytes, xray_pixels

REPOSITORY = Path(__file__).parents[1]
COMMAND = str(Path(sysconfig.get_path("scripts")) / "cxr-edge")
TELEMETRY_S = 15  # ONNX Runtime 1.32 looks its telemetry host up about 11 s after the start

# Loaded by every Python process that starts with this folder in PYTHONPATH, including grandchildren.
AUDIT = """
import os, sys

def hook(event, args):
    if event == "import" and args[0] == "onnxruntime" and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        line = "onnxruntime is imported with its telemetry on"
    elif event.startswith("socket."):
        line = f"network: {event} {args[1:]!r}"
    else:
        return
    with open(os.environ["AUDIT_LOG"], "a") as log:
        log.write(line + "\\n")

sys.addaudithook(hook)
"""

WRITES = "open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
STRACE = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace=%network,{WRITES}", "-e", "signal=none"]


def strace_fails_because() -> str | None:
    """Return None, or the reason why strace cannot be used here."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run([*STRACE, "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace does not work here: {done.stderr.strip()[-200:]}"


NO_STRACE = strace_fails_because()


@dataclass(frozen=True, kw_only=True)
class Observed:
    """Observed behaviour of a child process."""

    status: int
    stderr: str
    files: frozenset[str]  # below its folder after it has ended
    network: tuple[str, ...]  # its network calls and audit findings
    outside: tuple[str, ...]  # paths created outside its folder, visible only to strace


def observe(root: Path, *command: str) -> Observed:
    """Run a command with home, temporary and current folder below `root`, and record its actions."""
    watch = root.with_name(root.name + "-watch")
    for folder in (watch, root / "home", root / "tmp", root / "cwd"):
        folder.mkdir(parents=True, exist_ok=True)
    (watch / "sitecustomize.py").write_text(AUDIT)
    trace, audit = watch / "trace", watch / "audit"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "PYTHONPATH": os.pathsep.join([str(watch), str(REPOSITORY)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "AUDIT_LOG": str(audit),
        "COLUMNS": "100",
    }
    tracer = [] if NO_STRACE else [*STRACE, "-o", str(trace)]
    done = subprocess.run(
        [*tracer, *command], cwd=root / "cwd", env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    calls = trace.read_text(errors="replace").splitlines() if trace.exists() else []
    return Observed(
        status=done.returncode,
        stderr=done.stderr,
        files=frozenset(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir()),
        network=(*_network(calls), *(audit.read_text().splitlines() if audit.exists() else ())),
        outside=tuple(p for p in _created(calls) if not p.startswith((str(root), str(watch), "/dev/", "/proc/self/"))),
    )


def _network(calls: list[str]) -> list[str]:
    names = "socket|connect|send|recv|bind|listen|accept|getpeername|getsockname|shutdown"
    return [c for c in calls if re.match(rf"\d+ +({names})\w*\(", c)]


def _created(calls: list[str]) -> list[str]:
    """Return the absolute paths created by successful calls; relative ones are below the child's folder."""
    created = [c for c in calls if ("O_CREAT" in c or not re.match(r"\d+ +open", c)) and re.search(r"\) += \d", c)]
    return [path for c in created if not _network([c]) for path in re.findall(r'"(/.*?)"', c)[-1:]]


def assert_only(observed: Observed, *requested: str) -> None:
    """Check that the child only wrote the requested files (a name ending in / is a folder with any files)."""
    assert observed.status == 0, observed.stderr
    assert observed.network == ()
    assert observed.outside == ()
    extra = {f for f in observed.files if not any(f == r or (r.endswith("/") and f.startswith(r)) for r in requested)}
    assert extra == set()
    for r in requested:
        assert any(f.startswith(r) for f in observed.files), f"{r} was requested and is missing"


@pytest.fixture(scope="module")
def built(toy_bundle, tmp_path_factory):
    """Build engines under observation; return the arguments for bundle and engines, and a folder with PNG and DICOM."""
    root = tmp_path_factory.mktemp("built")
    engines = root / "cwd" / "engines"
    build = [COMMAND, "build-engine", str(toy_bundle), "--engines", str(engines), "--precision", "auto"]
    assert_only(observe(root, *build), "cwd/engines/")
    images = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0).integers(0, 255, (120, 150), dtype=np.uint8)
    cv2.imwrite(str(images / "a.png"), cv2.GaussianBlur(pixels, (0, 0), 9))
    (images / "b.dcm").write_bytes(file_bytes(dataset(xray_pixels(rows=120, columns=150))))
    return ["--bundle", str(toy_bundle), "--engines", str(engines)], images


def test_observe_detects_files_and_sockets(tmp_path):
    program = (
        "import socket, pathlib; pathlib.Path.home().joinpath('left').write_text('x')\n"
        "try: socket.getaddrinfo('localhost', 80)\n"
        "except OSError: pass\n"
    )
    observed = observe(tmp_path / "run", sys.executable, "-c", program)
    assert observed.files == {"home/left"}
    assert any("socket.getaddrinfo" in line for line in observed.network)


@pytest.mark.skipif(NO_STRACE is not None, reason=str(NO_STRACE))
def test_strace_detects_the_actions_of_native_libraries(tmp_path):
    program = (
        "import ctypes; c = ctypes.CDLL(None)\n"
        f"c.close(c.creat({str(tmp_path / 'elsewhere').encode()!r}, 0o600)); c.socket(2, 2, 0)\n"
    )
    observed = observe(tmp_path / "run", sys.executable, "-c", program)
    assert observed.outside == (str(tmp_path / "elsewhere"),)
    assert any("socket(AF_INET" in line for line in observed.network)


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_screen_writes_no_file(built, tmp_path, form):
    where, images = built
    assert_only(observe(tmp_path / "run", COMMAND, "screen", str(images), *where, *form))


def test_screen_writes_only_its_reports(built, tmp_path):
    where, images = built
    reports = ["--html", "page.html", "--heatmap", "maps"]
    observed = observe(tmp_path / "run", COMMAND, "screen", str(images), *where, *reports)
    assert_only(observed, "cwd/page.html", "cwd/maps/00001-a.png.png", "cwd/maps/00002-b.dcm.png")


def test_screen_writes_only_its_evidence_log_and_no_name_into_it(built, tmp_path):
    where, images = built
    run = tmp_path / "run"
    observed = observe(run, COMMAND, "screen", str(images), *where, "--evidence", "log")
    assert_only(observed, "cwd/log/evidence-000001.jsonl", "cwd/log/head.json", "cwd/log/site.key")
    text = (run / "cwd/log/evidence-000001.jsonl").read_text()
    assert '"kind":"screening"' in text
    assert not any(name in text for name in ("b.dcm", "a.png", PATIENT.split("^")[0]))


def test_bench_and_inspect_write_no_file(built, toy_bundle, tmp_path):
    where, images = built
    few = ["--warmup", "1", "--iterations", "2", "--image-px", "128"]
    assert_only(observe(tmp_path / "bench", COMMAND, "bench", *where, *few))
    assert_only(observe(tmp_path / "files", COMMAND, "bench", str(images / "b.dcm"), *where, *few))
    assert_only(observe(tmp_path / "inspect", COMMAND, "inspect", str(toy_bundle)))


def test_self_test_and_doctor_write_no_file(built, tmp_path):
    where, _ = built
    assert_only(observe(tmp_path / "self-test", COMMAND, "self-test", *where, "--time-factor", "1000"))
    assert_only(observe(tmp_path / "doctor", COMMAND, "doctor", *where, "--time-factor", "1000"))


@pytest.mark.skipif(NO_STRACE is not None, reason=f"{NO_STRACE}; the audit hook of the other tests still looks")
def test_a_long_running_process_looks_up_no_host(built, tmp_path):
    where, images = built
    words = ["screen", str(images), *where]
    program = (
        f"import sys, time; from cxr_edge.cli import main; s = main({words!r}); time.sleep({TELEMETRY_S}); sys.exit(s)"
    )
    assert_only(observe(tmp_path / "run", sys.executable, "-c", program))


def test_training_commands_write_only_the_requested_files(tmp_path):
    command = [sys.executable, "-m", "training.phantoms", "images", "--count", "4", "--size", "128"]
    assert_only(observe(tmp_path / "run", *command), "cwd/images/")


def test_a_figure_of_training_writes_only_its_file(tmp_path):
    pytest.importorskip("matplotlib")
    program = (
        "from training.evaluation.figures import confusion_picture\n"
        "confusion_picture([[3, 1], [0, 4]], ('normal', 'covid-19'), 'A title', 'figure.png')\n"
    )
    assert_only(observe(tmp_path / "run", sys.executable, "-c", program), "cwd/figure.png")


def test_importing_training_and_benchmarks_writes_no_file(tmp_path):
    pytest.importorskip("torch")
    program = (
        "import importlib, pkgutil, sys, training, benchmarks\n"
        "for package in (training, benchmarks):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "assert 'onnxruntime' in sys.modules and 'matplotlib' in sys.modules\n"
    )
    observed = observe(tmp_path / "run", sys.executable, "-c", program)
    # torch asks the C library for the user's name, which first tries this machine's own name service cache.
    assert_only(replace(observed, network=tuple(line for line in observed.network if "AF_UNIX" not in line)))


def test_a_benchmark_that_imports_the_runtime_first_writes_no_file(built, tmp_path):
    where, images = built
    words = [str(time.monotonic()), str(images / "a.png"), where[1], "1", where[3]]
    assert_only(observe(tmp_path / "run", sys.executable, "-m", "benchmarks.cold_probe", *words))
