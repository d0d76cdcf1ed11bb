"""The starter's recipe on own labels: drawn collections with two labels become a bundle that builds and screens.

One configuration guards tuberculosis, the other has no guarded label. In version 0.1 both failed after the training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main as cxr_edge
from tests.builders.cheap import make_cheap
from tests.builders.image_collections import write_collections
from training import starter
from training.data.guard import Guard, Subgroup
from training.data.records import Record
from training.evaluation.metrics import Bootstrap
from training.evaluation.sites import LeftOut, SitesResults, VariantRow, site_figures
from training.json_records import write_json

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


@pytest.fixture(scope="module", autouse=True)
def _cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch.setattr)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the collections' layouts."""
    return write_collections(tmp_path_factory.mktemp("own-labels") / "data", patients=8, size_px=96)


THRESHOLD = 0.4321


def _sites(file: Path, guard: str) -> None:
    """Write results on unseen sites: four images at the site `elsewhere`, threshold THRESHOLD."""
    own = Guard(label=guard, groups={"adult_normals": Subgroup(label="normal", adult=True)})
    records = [
        Record(
            path=Path("x"), key=f"{i}", patient=f"{i}", label=label, source="elsewhere", view="", finding="", adult=True
        )
        for i, label in enumerate(["normal", "normal", guard, guard])
    ]
    left_out = LeftOut(
        scores=np.array([0.1, 0.9, 0.8, 0.2]), records=records, patients=np.array([r.patient for r in records]),
        views=["AP", "PA", "AP", "AP"], guard=own, least=2,
    )  # fmt: skip
    figures = site_figures(left_out, Bootstrap(seed=1, resamples=5), threshold=THRESHOLD)
    row = VariantRow(about="as the bundle", figures=figures, within={}, macro_f1=0.5)
    write_json(file, SitesResults(name="x", seed=1, guard=own, folds={}, view_accuracy={}, variants={"like-this": row}))


def _train(data: Path, out: Path, guard: str) -> Path:
    out.mkdir()
    text = CONFIG.format(guard=guard)
    if guard:
        _sites(out / "sites.json", guard)
        text += f'\n[unseen_sites]\nresults = "{out / "sites.json"}"\nvariant = "like-this"\n'
    (out / "own.toml").write_text(text)
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
    assert bundle.manifest.decision.thresholds == ({guard: THRESHOLD} if guard else {})

    results = json.loads((run / "results.json").read_text())
    assert results["models"]["ensemble"]["images"] > 0
    assert set(results["safety"]) == (
        {"specificity_adult_normals", "specificity_children", "auc_among_adults"} if guard else set()
    )
    card = (run / "bundle" / "MODEL_CARD.md").read_text()
    assert ("Specificity of tuberculosis by subgroup" in card) == bool(guard)
    assert ("| adult normals | elsewhere | 0.500" in card) == bool(guard)
    assert ("tuberculosis found: 0.50 at the worst site, 0.50 on average" in card) == bool(guard)
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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('segmenter_of = "starter"', "expected a bundle whose lung segmenter has the input"),
        ('unseen_sites = { results = "nowhere.json", variant = "x" }', "nowhere.json cannot be read"),
        ('unseen_sites = { results = "nowhere.json" }', "unseen_sites: variant is missing"),
    ],
)
def test_settings_that_name_other_results_are_checked(
    data: Path, line: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.toml").write_text(f"{line}\n{CONFIG.format(guard='tuberculosis')}")
    arguments = ["--data", str(data), "--out", str(tmp_path / "run"), "--config", str(tmp_path / "own.toml")]
    assert starter.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "epoch  " not in error, "it is said before any training"
