"""End-to-end test of FLANNEL: synthetic collections in; tables, figures, a bundle, engines and predictions out.

Networks train for a few steps, so results have no meaning; the test is that every stage reads the output of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main as cxr_edge
from cxr_edge.ops.combine import Combiner
from tests.builders.cheap import make_cheap, trace_exports
from tests.builders.image_collections import write_collections
from tests.tolerances import PROBABILITY, assert_close
from training import reproduce
from training.ensembles.neural_weights import NeuralWeightModule

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = Path(__file__).parents[2] / "training" / "configs" / "flannel-small.toml"
FOLDS = 2  # of the configuration's three; another fold would repeat the same stages
TEXT = (
    CONFIG.read_text()
    .replace("folds = 3", f"folds = {FOLDS}")
    .replace("known_answers = 4", "known_answers = 2")
    .replace("cam_cases = 2", "cam_cases = 1")
)


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    """Exports are traced: R20's journey has torch.export's exporter."""
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch.setattr), trace_exports(patch.setattr)
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data/, a finished run/ and its results/."""
    root = tmp_path_factory.mktemp("flannel")
    write_collections(root / "data", patients=12, size_px=96)
    (root / "small.toml").write_text(TEXT)
    assert reproduce.main(_arguments(root)) == 0
    return root


def _arguments(root: Path, *more: str, config: str = "small.toml", out: str = "run") -> list[str]:
    options = {"--data": "data", "--out": out, "--results": f"{out}-results"}
    return [
        "flannel",
        "--config",
        str(root / config),
        *(v for k, p in options.items() for v in (k, str(root / p))),
        *more,
    ]


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write empty pictures; only those of the first run are tested."""
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: Path(file).touch())


def test_every_table_and_figure_is_there(root: Path) -> None:
    page = (root / "run-results" / "index.md").read_text()
    for what in (
        "Table 1",
        "Table 3",
        "paper: FLANNEL",
        "Paired comparisons",
        "sane",
        "seed 1",
        "by patient",
        "Nothing leaks",
    ):
        assert what in page, what
    for name in ("f1-covid-19", "roc", "precision-recall", "confusion", "f1-covid-19-ap", "cam"):
        assert (root / "run-results" / f"{name}.png").stat().st_size > 10_000
    assert len(list((root / "run-results").glob("*.csv"))) >= 9
    assert "No patient stands in two folds" in (root / "run" / "folds.md").read_text()


def test_every_row_of_table_3_has_every_fold(root: Path) -> None:
    found = json.loads((root / "run-results" / "results.json").read_text())
    ensembles = {"averaging", "voting", "mlp-1", "mlp-2", "flannel-ce", "flannel-ce-sampling", "flannel"}
    assert set(found["methods"]) == {"densenet", "resnet", "vgg", "covid-net"} | ensembles
    for method in found["methods"].values():
        assert len(method["folds"]) == FOLDS
        assert method["mean"]["macro"] == pytest.approx(np.mean([f["macro"] for f in method["folds"]]), abs=1e-6)
        assert method["sd"]["macro"] == pytest.approx(np.std([f["macro"] for f in method["folds"]], ddof=1), abs=1e-6)
        assert method["together"]["images"] == found["data"]["split, test"][0]
        assert sum(map(sum, method["together"]["confusion"])) == method["together"]["images"]
    assert found["temperature"]["raw"]["largest"] < found["temperature"]["most"]
    assert sum(found["data"][f"split, {side}"][0] for side in ("training", "test")) == found["data"]["all, all"][0]


def test_the_bundle_combines_as_pytorch_does(root: Path) -> None:
    combination = Bundle.open(root / "run" / "bundle").manifest.combination
    assert combination.strategy == "flannel"
    module = NeuralWeightModule(3, 4)
    with torch.no_grad():
        module.dense.weight.copy_(torch.tensor(combination.parameters["module_weight"]))
        module.dense.bias.copy_(torch.tensor(combination.parameters["module_bias"]))
        logits = torch.randn(500, 3, 4, generator=torch.Generator().manual_seed(0)) * 4
        module, p = module.double(), logits.double().softmax(dim=2)
        expected = (module.combined(p) / combination.temperature).softmax(dim=1).numpy()
    probabilities, _ = Combiner(combination, labels=4).run(logits.numpy())
    assert np.abs(probabilities - expected).max() < PROBABILITY


def test_the_bundle_is_built_and_screens(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.open(root / "run" / "bundle")
    check_networks(bundle)
    evaluation = json.loads((root / "run-results" / "bundle.json").read_text())
    assert evaluation["split"].startswith("test patients: none of their images")
    assert bundle.manifest.labels == ("covid-19", "viral", "bacterial", "normal")
    assert [m.name for m in bundle.manifest.members] == ["densenet", "resnet", "vgg"]
    options = ["--engines", str(root / "engines")]
    assert cxr_edge(["build-engine", str(bundle.root), *options, "--precision", "fp32"]) == 0
    capsys.readouterr()
    image = sorted((root / "data" / "twitter-covid").glob("*.jfif"))[0]
    assert cxr_edge(["screen", str(image), "--bundle", str(bundle.root), *options, "--json"]) == 0
    assert "probabilities" in capsys.readouterr().out


def test_a_second_run_trains_and_fits_nothing(root: Path) -> None:
    files = [*sorted((root / "run").glob("**/weights.safetensors")), *sorted((root / "run" / "combined").iterdir())]
    before = [f.stat().st_mtime_ns for f in files]
    for stage in ("learn", "baselines", "combine"):
        assert reproduce.main(_arguments(root, "--stage", stage)) == 0
    assert [f.stat().st_mtime_ns for f in files] == before


def test_a_deleted_network_is_trained_again_with_equal_logits(root: Path) -> None:
    lost = root / "run" / "networks" / "fold-1" / "vgg"
    before = (lost / "predictions.npz").read_bytes()
    (lost / "predictions.npz").unlink()
    assert reproduce.main(_arguments(root, "--fold", "1")) == 0
    with np.load(lost / "predictions.npz") as again:
        logits = again["logits"]
    (lost / "predictions.npz").write_bytes(before)
    with np.load(lost / "predictions.npz") as first:
        assert_close(logits, first["logits"])


@pytest.mark.usefixtures("no_pictures")
def test_learners_of_a_finished_run_are_pruned_under_their_own_module(root: Path) -> None:
    pruning = "\n[prune]\nstep = 0.1\nuntil = 0.1\n[prune.retrain]\nepochs = 1\nbatch = 16\n"
    text = TEXT.replace("[segmenter]", f'learners_of = "{root / "run"}"\n[segmenter]')
    (root / "pruned.toml").write_text(text[: text.index("[baselines")] + pruning)
    assert reproduce.main(_arguments(root, config="pruned.toml", out="pruned")) == 0
    unpruned, pruned = (json.loads((root / f"{r}-results" / "results.json").read_text()) for r in ("run", "pruned"))
    for name in ("densenet", "resnet", "vgg"):
        assert pruned["networks"][name]["parameters"] < unpruned["networks"][name]["parameters"]
    assert pruned["methods"]["flannel, unpruned"]["mean"] == unpruned["methods"]["flannel"]["mean"]
    assert any(c["b"] == "flannel, unpruned" for c in pruned["comparisons"])
    bundle = Bundle.open(root / "pruned" / "bundle")
    assert all("pruned by APoZ" in m.architecture for m in bundle.manifest.members)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("preset", ["paper", "code"])
def test_presets_paper_and_code_run(root: Path, preset: str) -> None:
    text = TEXT.replace(
        'name = "flannel-small"',
        f'name = "flannel-{preset}"\npreset = "{preset}"\npa_to_ap = true\ncopies = 2'
        "\nseed = 2",  # divides one of the two pairs of images that are the same
    )
    text = text[: text.index("[baselines")].replace("canvas_px = 64", "canvas_px = 72")
    for deep in (
        "narrow-densenet",
        "narrow-resnet",
        "plain",
    ):  # these networks take whatever the presets do differently
        text = text.replace(f'"{deep}"', '"narrow-vgg"')
    (root / f"{preset}.toml").write_text(text)
    assert reproduce.main(_arguments(root, config=f"{preset}.toml", out=preset)) == 0
    page = (root / f"{preset}-results" / "index.md").read_text()
    assert ("It leaks" in page) is (preset == "code")
    bundle = Bundle.open(root / preset / "bundle")
    assert bundle.manifest.segmenter is None
    assert bundle.manifest.combination.temperature == 1.0
    assert bundle.manifest.members[0].preprocess.crop_px == {"paper": 63, "code": 48}[preset]


def test_a_stage_out_of_order_names_the_missing_stage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce.main(_arguments(root, "--stage", "combine", out="early")) == 2
    assert "run the stages in order" in capsys.readouterr().err


def test_networks_of_another_plan_are_rejected(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "longer.toml").write_text(TEXT.replace("[learn]\nepochs = 1", "[learn]\nepochs = 2"))
    assert reproduce.main(_arguments(root, "--stage", "learn", config="longer.toml")) == 2
    message = capsys.readouterr().err
    assert "was trained with plan" in message
    assert "delete it to train it again" in message


def test_learners_of_another_kind_of_run_are_rejected(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = root / "other"
    other.mkdir()
    (other / "table.csv").write_bytes((root / "run" / "table.csv").read_bytes())
    (root / "taken.toml").write_text(TEXT.replace("[segmenter]", f'learners_of = "{other}"\n[segmenter]'))
    assert reproduce.main(_arguments(root, "--stage", "segment", config="taken.toml", out="taken")) == 2
    assert "run folder of a FLANNEL run" in capsys.readouterr().err


def test_other_folds_in_the_same_folder_are_rejected(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "folds.toml").write_text(TEXT.replace(f"folds = {FOLDS}", "folds = 4"))
    assert reproduce.main(_arguments(root, "--stage", "learn", config="folds.toml")) == 2
    assert f"folds {FOLDS}, not 4" in capsys.readouterr().err
    assert reproduce.main(_arguments(root, "--fold", "3")) == 2
    assert f"--fold is 0 to {FOLDS - 1}" in capsys.readouterr().err
