"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

import cxr_edge  # noqa: F401  # before any test imports ONNX Runtime: switches its telemetry off, also for child processes
from cxr_edge.backends import onnxruntime
from cxr_edge.backends.base import CompileOptions
from cxr_edge.compiler import candidates
from cxr_edge.compiler.graph.int8 import SCHEMES
from tests.builders.toy_bundle import build_toy_bundle
from tests.builders.two_versions import TwoVersions, build_two_versions

settings.register_profile("cxr-edge", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("cxr-edge")


# What `make test-fast` leaves out: trainings, builds, many processes, files of gigabytes, measurements.
SLOW = (
    "tests/benchmarks",
    "tests/cli/test_build_engine.py",
    "tests/cli/test_documented.py",
    "tests/cli/test_ended.py",
    "tests/cli/test_install_signed.py",
    "tests/cli/test_odd_names.py",
    "tests/cli/test_pipes.py",
    "tests/cli/test_unwritable.py",
    "tests/compiler/test_build_bundle.py",
    "tests/corpora",
    "tests/decoding/test_memory.py",
    "tests/docs",
    "tests/evidence/test_kills.py",
    "tests/fuzz",
    "tests/imports/test_findings.py",
    "tests/imports/test_run.py",
    "tests/installation/test_interrupted.py",
    "tests/journey",
    "tests/native",
    "tests/screening/test_build_and_screen.py",
    "tests/screening/test_processes.py",
    "tests/site/test_calibrate.py",
    "tests/test_moved.py",
    "tests/test_privacy.py",
    "tests/training",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help=f"leave out {', '.join(SLOW)}")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Return True for what `--fast` leaves out, before it is imported."""
    path = collection_path.relative_to(config.rootpath).as_posix()
    return True if config.getoption("--fast") and path in SLOW else None


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a complete toy bundle, shared by all tests. To change files, use `toy_bundle_copy`."""
    return build_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy").root


@pytest.fixture(scope="session")
def two_versions(tmp_path_factory: pytest.TempPathFactory) -> TwoVersions:
    """Return two versions of a toy bundle with their engines; the second has other thresholds."""
    return build_two_versions(tmp_path_factory.mktemp("versions"))


@pytest.fixture
def toy_bundle_copy(toy_bundle: Path, tmp_path: Path) -> Path:
    """Return the folder of a toy bundle that the test may change."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "toy"))


@pytest.fixture
def exact_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the 8-bit layers of builds in this process as with VNNI: toy networks lose too much with 7-bit weights.

    Without VNNI, builds take 7-bit weights, since the sums of 8-bit ones would saturate. Here the Q/DQ pairs stay in the graph
    and are computed in float32, so that a build's result does not depend on the processor that runs the tests.
    """
    scheme, settings = SCHEMES["uint8"], onnxruntime._settings
    if candidates.scheme_for_processor(scheme) == scheme:
        return

    def without_kernels(options: CompileOptions) -> object:
        found = settings(options)
        found.add_session_config_entry("session.disable_quant_qdq", "1")
        return found

    monkeypatch.setattr(candidates, "scheme_for_processor", lambda scheme: scheme)
    monkeypatch.setattr(onnxruntime, "_settings", without_kernels)
