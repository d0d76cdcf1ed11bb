"""End-to-end test of the starter recipe: synthetic collections in; a bundle, engines and predictions out.

Networks train for a few steps, so results have no meaning; the test is that every step reads the output of the one before.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main as cxr_edge
from tests.builders.image_collections import write_collections
from training import evaluate, starter

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """
name = "journey"
threads = 1
segmenter_px = 64
canvas_px = 64
epoch_images = 32
range_images = 8
known_answers = 2
resamples = 20

[segmenter]
epochs = 4
batch = 8
learning_rate = 5e-3

[members.plain]
epochs = 2
batch = 16

[members.inverted]
epochs = 2
batch = 16
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run folder, with data/ and tiny.toml beside it."""
    root = tmp_path_factory.mktemp("journey")
    write_collections(root / "data", patients=8, size_px=96)
    (root / "tiny.toml").write_text(CONFIG)
    assert starter.main(_arguments(root)) == 0
    return root / "run"


def _arguments(root: Path) -> list[str]:
    return ["--data", str(root / "data"), "--out", str(root / "run"), "--config", str(root / "tiny.toml")]


def test_the_bundle_is_complete(run: Path) -> None:
    bundle = Bundle.open(run / "bundle")
    check_networks(bundle)
    manifest = bundle.manifest
    assert [m.name for m in manifest.members] == ["plain", "inverted"]
    assert len(manifest.known_answers) == 2
    assert all(m.activation_ranges is not None for m in manifest.members)
    assert manifest.provenance["images"]["test"]["kcx/normal"] >= 1
    assert manifest.metrics["images"] > 0
    assert "research use only" in manifest.intended_use.lower()
    assert bundle.unlisted_files() == ()


def test_the_model_card_matches_the_results(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    f1 = results["models"]["ensemble"]["macro_f1"]
    assert f"{f1['value']:.3f} [{f1['low']:.3f}, {f1['high']:.3f}]" in card
    assert "Research use only" in card
    assert "non-commercial" in card
    assert results["safety"]["specificity_adult_normals"]["together"]["n"] == 2  # one of each site


def test_engines_are_built_and_screen(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle, engines = str(run / "bundle"), str(run / "engines")
    assert cxr_edge(["build-engine", bundle, "--engines", engines, "--precision", "fp32"]) == 0
    images = sorted((run.parent / "data" / "twitter-covid").glob("*.jfif"))[:2]
    capsys.readouterr()
    assert cxr_edge(["screen", *map(str, images), "--bundle", bundle, "--engines", engines, "--json"]) == 0
    assert "covid-19" in capsys.readouterr().out


def test_the_evaluation_runs_by_itself(run: Path, tmp_path: Path) -> None:
    root = run.parent
    options = ["--data", str(root / "data"), "--run", str(run), "--config", str(root / "tiny.toml")]
    assert evaluate.main([*options, "--bundle", str(run / "bundle"), "--out", str(tmp_path / "results")]) == 0
    page = (tmp_path / "results.md").read_text()
    for what in ("Preset `sane`", "Split seed 1", "plain alone", "## Shortcuts", "Clopper-Pearson"):
        assert what in page


def test_a_second_run_changes_nothing(run: Path) -> None:
    """Finished networks are not trained again."""
    networks = ("segmenter", "plain", "inverted")
    before = [(run / name / "weights.safetensors").stat().st_mtime_ns for name in networks]
    first = Bundle.open(run / "bundle")
    assert starter.main(_arguments(run.parent)) == 0
    again = Bundle.open(run / "bundle")
    assert [(run / name / "weights.safetensors").stat().st_mtime_ns for name in networks] == before
    assert again.manifest.combination == first.manifest.combination
    assert [a.probabilities for a in again.manifest.known_answers] == [
        a.probabilities for a in first.manifest.known_answers
    ]


def test_missing_data_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert starter.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]) == 2
    assert "does not exist" in capsys.readouterr().err
