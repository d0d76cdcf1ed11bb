"""The starter's recipe on own labels: drawn collections with two labels become a bundle that builds and screens.

One configuration guards tuberculosis, the other has no guarded label. In version 0.1 both failed after the training.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main as cxr_edge
from tests.builders.image_collections import write_collections
from training import starter

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """
name = "own-labels"
labels = ["normal", "tuberculosis"]
guard = "{guard}"
threads = 1
segmenter_px = 64
canvas_px = 64
epoch_images = 32
range_images = 4
known_answers = 2
resamples = 10

[segmenter]
epochs = 2
batch = 8

[members.plain]
epochs = 1
batch = 16
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the collections' layouts."""
    return write_collections(tmp_path_factory.mktemp("own-labels") / "data", patients=8, size_px=96)


def _train(data: Path, out: Path, guard: str) -> Path:
    out.mkdir()
    (out / "own.toml").write_text(CONFIG.format(guard=guard))
    arguments = ["--data", str(data), "--out", str(out / "run"), "--config", str(out / "own.toml")]
    assert starter.main(arguments) == 0
    return out / "run"


@pytest.mark.parametrize("guard", ["tuberculosis", ""])
def test_two_own_labels_become_a_bundle_that_builds_and_screens(
    data: Path, guard: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _train(data, tmp_path / "own", guard)
    bundle = Bundle.open(run / "bundle")
    check_networks(bundle)
    assert bundle.manifest.labels == ("normal", "tuberculosis")
    assert set(bundle.manifest.decision.thresholds) == ({guard} if guard else set())

    results = json.loads((run / "results.json").read_text())
    assert results["models"]["ensemble"]["images"] > 0
    assert set(results["safety"]) == (
        {"specificity_adult_normals", "specificity_children", "auc_among_adults"} if guard else set()
    )
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert ("Specificity of tuberculosis by subgroup" in card) == bool(guard)
    assert "covid-19" not in card.replace("COVID-19", "covid-19").split("## Results")[1], (
        "no other label in the results"
    )

    engines = str(tmp_path / "engines")
    assert cxr_edge(["build-engine", str(bundle.root), "--engines", engines, "--precision", "fp32"]) == 0
    images = sorted((data / "lung-masks" / "CXR_png").glob("*.png"))[:2]
    capsys.readouterr()
    screen = ["screen", *map(str, images), "--bundle", str(bundle.root), "--engines", engines, "--json"]
    assert cxr_edge(screen) == 0
    assert '"decision"' in capsys.readouterr().out


def test_labels_without_the_default_guard_are_refused_before_training(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.toml").write_text(CONFIG.format(guard="covid-19"))
    out = tmp_path / "run"
    assert starter.main(["--data", str(data), "--out", str(out), "--config", str(tmp_path / "own.toml")]) == 2
    assert "guard is 'covid-19', which is none of the labels normal, tuberculosis" in capsys.readouterr().err
    assert not out.exists()
