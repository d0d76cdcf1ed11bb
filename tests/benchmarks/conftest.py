"""A toy bundle with engines, for the scripts that screen."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxr_edge.cli import main as cxr_edge


@pytest.fixture(scope="session")
def built_bundle(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle with engines built for this machine."""
    root = Path(shutil.copytree(toy_bundle, tmp_path_factory.mktemp("built") / "toy"))
    assert cxr_edge(["build-engine", str(root), "--precision", "fp32", "--threads", "1"]) == 0
    return root
