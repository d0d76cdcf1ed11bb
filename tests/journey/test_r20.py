"""End-to-end test of R20: synthetic collections in; tables, figures, a bundle, engines and predictions out.

Networks train for a few steps, so results have no meaning; the test is that every stage reads the output of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main as cxr_edge
from tests.builders.cheap import make_cheap
from tests.builders.image_collections import write_collections
from training import reproduce

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "r20-small.toml"
TEXT = CONFIG.read_text().replace("known_answers = 4", "known_answers = 2").replace("cam_cases = 3", "cam_cases = 1")


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch.setattr)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data/, a finished run/ and its results/."""
    root = tmp_path_factory.mktemp("r20")
    write_collections(root / "data", patients=8, size_px=96)
    (root / "small.toml").write_text(TEXT)
    assert reproduce.main(_arguments(root)) == 0
    return root


def _arguments(root: Path, *more: str) -> list[str]:
    options = {"--data": "data", "--out": "run", "--results": "results"}
    return [
        "r20",
        "--config",
        str(root / "small.toml"),
        *(v for k, p in options.items() for v in (k, str(root / p))),
        *more,
    ]


def test_every_table_and_figure_is_there(root: Path) -> None:
    page = (root / "results" / "index.md").read_text()
    for what in ("Table 2", "Table 3", "Table 4", "Table 5", "Table 6", "Table 7", "sane", "seed 1", "by patient"):
        assert what in page, what
    for name in ("confusion", "roc", "pruning", "grad-cam"):
        assert (root / "results" / f"{name}.png").stat().st_size > 10_000
    assert len(list((root / "results").glob("*.csv"))) >= 6
    assert (root / "run" / "leakage.md").exists()


def test_results_are_complete_and_consistent(root: Path) -> None:
    found = json.loads((root / "results" / "results.json").read_text())
    assert set(found["modality"]) == {"custom", "narrow-vgg", "plain"}
    assert len(found["pruned"]) == 2
    for member in found["pruned"].values():
        assert member["parameters"] < member["unpruned_parameters"]
        assert member["milliseconds"] > 0
        assert [s["number"] for s in member["steps"]] == [0, 1, 2]
    for rows in found["ensembles"].values():
        assert set(rows) == {"average", "weighted-average", "voting", "stacking"}
        assert all(r["images"] == sum(map(sum, r["confusion"])) for r in rows.values())


def test_the_gradient_free_map_is_grad_cam(root: Path) -> None:
    found = json.loads((root / "results" / "results.json").read_text())
    assert all(a["correlation"] > 0.999 for a in found["cam_agreement"].values())


def test_the_bundle_is_built_and_screens(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(root / "run" / "bundle")
    check_networks(bundle)
    assert bundle.manifest.labels == ("normal", "bacterial", "covid-19")
    assert all("pruned by APoZ" in m.architecture for m in bundle.manifest.members)
    options = ["--engines", str(root / "engines")]
    assert cxr_edge(["build-engine", str(bundle.root), *options, "--precision", "fp32"]) == 0
    capsys.readouterr()
    image = sorted((root / "data" / "twitter-covid").glob("*.jfif"))[0]
    assert cxr_edge(["screen", str(image), "--bundle", str(bundle.root), *options, "--json"]) == 0
    assert "probabilities" in capsys.readouterr().out


def test_a_second_run_trains_nothing(root: Path) -> None:
    networks = sorted((root / "run").glob("**/weights.safetensors"))
    before = [n.stat().st_mtime_ns for n in networks]
    assert reproduce.main(_arguments(root, "--stage", "prune")) == 0
    assert [n.stat().st_mtime_ns for n in networks] == before


def test_a_stage_out_of_order_names_the_missing_stage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(root / "data"), "--out", str(root / "early"), "--results", str(root / "none")]
    assert reproduce.main(["r20", "--config", str(root / "small.toml"), *options, "--stage", "prune"]) == 2
    assert "run the stages in order" in capsys.readouterr().err


def test_another_split_is_rejected(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(TEXT.replace('name = "r20-small"', 'name = "r20-small"\nshares = "starter"'))
    arguments = _arguments(root)
    arguments[2] = str(other)
    assert reproduce.main(arguments) == 2
    assert "another run folder" in capsys.readouterr().err
