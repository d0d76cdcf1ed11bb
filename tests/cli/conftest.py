"""Fixtures for the command-line tests: a bundle with engines, and a folder of images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.cli import main


@pytest.fixture(scope="session")
def built(toy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build engines and return the arguments for the bundle and its engines."""
    engines = ["--engines", str(tmp_path_factory.mktemp("engines"))]
    assert main(["build-engine", str(toy_bundle), *engines, "--precision", "fp32"]) == 0
    return ["--bundle", str(toy_bundle), *engines]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a folder with three gray PNG files."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 255, (120, 150), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.GaussianBlur(pixels, (0, 0), 9))
    return folder
