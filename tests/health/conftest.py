"""Fixtures: a toy bundle with decoded files, its engines, and a screener of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.compiler.decoded_files import add_decoded_files
from cxr_edge.engines import BuildSettings, load
from cxr_edge.screening.screener import Screener
from tests.builders.toy_bundle import build_toy_bundle


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a toy bundle with decoded files and, in its own folder, engines; shared, never changed."""
    root = tmp_path_factory.mktemp("kept") / "toy"
    bundle = add_decoded_files(build_toy_bundle(root, members=("plain", "depthwise"), cam=False))
    build(bundle, BuildSettings(precision="fp32"))
    return root


@pytest.fixture
def root(kept: Path, tmp_path: Path) -> Path:
    """Return a copy that the test may change."""
    return Path(shutil.copytree(kept, tmp_path / "toy"))


@pytest.fixture
def screener(root: Path) -> Screener:
    bundle = Bundle.open(root)
    return Screener(bundle, load(bundle))
