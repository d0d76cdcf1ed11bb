"""Fixtures and settings that several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

import cxr_edge  # noqa: F401  # before any test imports ONNX Runtime: switches its telemetry off, also for child processes
from tests.builders.toy_bundle import build_toy_bundle

settings.register_profile("cxr-edge", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("cxr-edge")


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete toy bundle. Shared by all tests: to change anything, take `toy_bundle_copy`."""
    return build_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy").root


@pytest.fixture
def toy_bundle_copy(toy_bundle: Path, tmp_path: Path) -> Path:
    """The folder of a toy bundle that the test may change."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "toy"))
