"""The starter's recipe on drawn X-rays with three findings, some unknown: split, members, pruning, bundle, engines, screening."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.onnx_check import check_networks
from cxr_edge.cli import main as cxr_edge
from cxr_edge.errors import InputError
from tests.builders.cheap import make_cheap
from tests.builders.finding_phantoms import FINDINGS, write_finding_phantoms
from training import evaluate, starter
from training.data.own.source import read_source
from training.data.own.store import FOLDER, save
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.gradcam import grad_cam
from training.json_records import read_json
from training.models import load_network
from training.recipes.finding_sites import left_out_findings
from training.recipes.sites import SitesRun, parse_sites
from training.toml_tables import read_toml

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIG = """
name = "findings"
collections = ["own"]
labels = ["effusion", "nodule", "line"]
multi_label = true
guard = ""
threads = 1
segmenter_of = "starter"
canvas_px = 64
epoch_images = 48
range_images = 4
known_answers = 3
resamples = 10

[thresholds]
specificity = 0.8

[watch.lines]
label = "line"
of = "line"
floor = 0.99

[members.one]
architecture = "plain"
epochs = 2
batch = 16
mixup = 0.2

[members.one.prune]
step = 0.2
until = 0.2
[members.one.prune.retrain]
epochs = 1
loss = "focal"

[members.two]
architecture = "plain"
loss = "asymmetric"
seed = 2
epochs = 1
batch = 16
"""


FLOOR = 'of = "line"\nfloor = 0.99\n'  # more than 60 patients can show


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run folder."""
    with pytest.MonkeyPatch.context() as patch:
        make_cheap(patch.setattr)
        folder = tmp_path_factory.mktemp("findings")
        table = write_finding_phantoms(folder / "source", patients=60)
        save(read_source(table, salt=b"always the same split"), folder / "data" / FOLDER)
        (folder / "findings.toml").write_text(CONFIG)
        arguments = ["--data", str(folder / "data"), "--out", str(folder / "run")]
        arguments += ["--config", str(folder / "findings.toml")]
        assert starter.main(arguments) == 2
        assert not (folder / "run" / "bundle" / "manifest.json").exists(), "below a floor there is no bundle"
        assert starter.main([*arguments, "--stage", "bundle", "--below-floor"]) == 0
        yield folder


def test_a_bundle_of_findings_is_complete_and_pruned(run: Path) -> None:
    bundle = Bundle.open(run / "run" / "bundle")
    check_networks(bundle)
    manifest = bundle.manifest
    assert manifest.multi_label
    assert manifest.labels == FINDINGS
    assert set(manifest.decision.thresholds) == set(FINDINGS)
    assert {m.output for m in manifest.members} == {"multi-label-logits"}
    assert len(manifest.known_answers) == 3
    assert (run / "run" / "one" / "pruned").is_dir()
    assert manifest.provenance["validation"]["rule"].startswith("the highest sensitivity with a specificity of 0.8")


def test_results_and_card_state_every_finding_and_what_unknown_means(run: Path) -> None:
    results = read_json(FindingsEvaluation, run / "run" / "results.json")
    assert set(results.models) == {"ensemble", "one alone", "two alone"}
    ensemble = results.models["ensemble"]
    for label in FINDINGS:
        counts, row = results.counts["test"][label], ensemble.labels[label]
        assert (row.known, row.present) == (counts.present + counts.absent, counts.present)
        assert counts.present >= 1
        assert sum(results.counts[side][label].unknown for side in results.counts) > 0
    assert set(results.groups) == {"source", "view", "age", "sex", "watch"}
    assert results.groups["watch"]["lines"].images == ensemble.labels["line"].present
    assert set(results.groups["source"]) == {"north", "south"}
    card = (run / "run" / "bundle" / "MODEL_CARD.md").read_text()
    assert "Unknown is not absent" in card
    for label in FINDINGS:
        assert f"| {label} | {ensemble.labels[label].known} |" in card
    assert "COVID" not in card.replace("covid", "COVID")


def test_a_floor_below_which_the_bundle_was_written_is_recorded_and_on_the_card(run: Path) -> None:
    bundle = Bundle.open(run / "run" / "bundle")
    (missed,) = bundle.manifest.provenance["below_floor"]
    assert missed.startswith("lines, line found: ")
    assert missed.endswith("floor 0.99, too few images to tell: at least 368 are needed")
    card = (bundle.root / "MODEL_CARD.md").read_text()
    assert f"below floors of its own configuration:** {missed}." in card


@pytest.fixture(scope="module")
def engines(run: Path) -> str:
    """Folder of engines of the run's bundle."""
    folder = str(run / "engines")
    assert cxr_edge(["build-engine", str(run / "run" / "bundle"), "--engines", folder, "--precision", "fp32"]) == 0
    return folder


def test_a_bundle_of_findings_screens(run: Path, engines: str, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(run / "run" / "bundle")
    capsys.readouterr()
    images = [str(run / "source" / "images" / f"{i}.png") for i in range(3)]
    assert cxr_edge(["screen", *images, "--bundle", bundle, "--engines", engines, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["results"]
    limits = Bundle.open(bundle).manifest.decision.thresholds
    for screening in found:
        shares = dict(zip(FINDINGS, screening["probabilities"].values(), strict=True))
        present = [k for k in FINDINGS if np.float32(shares[k]) >= np.float32(limits[k])]
        assert screening["findings"] == present
        assert screening["decision"] == ("+".join(present) or "no finding")


def test_evaluate_repeats_the_runs_results_and_refuses_another_kind(
    run: Path, engines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(run / "data"), "--run", str(run / "run"), "--bundle", str(run / "run" / "bundle")]
    arguments += ["--out", str(tmp_path / "again"), "--engines", engines]
    assert evaluate.main([*arguments, "--config", str(run / "findings.toml")]) == 0
    first, again = (read_json(FindingsEvaluation, f) for f in (run / "run" / "results.json", tmp_path / "again.json"))
    built = again.models.pop("ensemble, engines built here")  # type: ignore[attr-defined]
    assert again.models == first.models
    assert built == first.models["ensemble"]
    assert again.same_decision is not None
    assert again.same_decision.value == 1.0
    assert "## By finding, ensemble" in (tmp_path / "again.md").read_text()
    single = CONFIG.replace("multi_label = true\n", "").replace("[thresholds]\nspecificity = 0.8\n", "")
    for setting in ('loss = "focal"\n', 'loss = "asymmetric"\n', FLOOR):
        single = single.replace(setting, "")
    (tmp_path / "single.toml").write_text(single)
    assert evaluate.main([*arguments, "--config", str(tmp_path / "single.toml")]) == 2
    assert "has findings (multi_label = true), the configuration labels that exclude" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("multi_label = true", "multi_label = false"), "thresholds are of findings: set multi_label = true"),
        (('"line"]', '"lines"]'), "no image states lines (did you mean line?)"),
        (
            ('architecture = "plain"\nepochs', 'architecture = "plain"\nmodality = { epochs = 1 }\nepochs'),
            "a modality stage",
        ),
        (('loss = "asymmetric"', 'loss = "hinge"'), "loss of a plan is bce, focal or asymmetric"),
    ],
)
def test_settings_that_cannot_work_are_named_before_training(
    run: Path, change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in CONFIG
    (tmp_path / "x.toml").write_text(CONFIG.replace(FLOOR, "").replace(*change))
    arguments = ["--data", str(run / "data"), "--out", str(tmp_path / "run"), "--config", str(tmp_path / "x.toml")]
    assert starter.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "epoch  " not in error


def test_a_members_map_of_each_finding_is_its_grad_cam(run: Path) -> None:
    network, _ = load_network(run / "run" / "one")
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32))
    cam = network.eval()(image).cam[0].detach().numpy()
    for k in range(3):
        expected = np.maximum(cam[k], 0) / cam[k].size
        np.testing.assert_allclose(grad_cam(network, image, k), expected, atol=1e-5)


def test_maps_are_measured_for_each_finding(run: Path) -> None:
    results = read_json(FindingsEvaluation, run / "run" / "results.json")
    assert set(results.lung_share) == {"one", "two"}
    for member in ("one", "two"):
        assert set(results.lung_share[member]) == set(results.lung_area)
    for label, area in results.lung_area.items():
        assert area.n == results.models["ensemble"].labels[label].present
        assert 0.1 < area.value < 0.9


SITES = """
name = "sites"
collections = ["own"]
labels = ["effusion", "nodule", "line"]
multi_label = true
guard = ""
threads = 1
segmenter_of = "starter"
canvas_px = 64
epoch_images = 32
resamples = 10
least_site_images = 3

[folds]
north = ["north"]
south = ["south"]

[train]
epochs = 1
batch = 16

[members.plain]

[variants.plain]
about = "a network"
member = "plain"
"""


def test_sites_are_left_out_in_turn(run: Path, tmp_path: Path) -> None:
    (tmp_path / "sites.toml").write_text(SITES)
    left_out = SitesRun(parse_sites(read_toml(tmp_path / "sites.toml"), "sites"), run / "data", tmp_path / "sites")
    shutil.copytree(run / "run", left_out.out, ignore=shutil.ignore_patterns("one", "two", "bundle"))
    sites = left_out_findings(left_out, "plain")
    assert [(r.site, r.label) for r in sites.rows] == [(s, k) for s in ("north", "south") for k in FINDINGS]
    for row in sites.rows:
        truth = [s.record.findings[row.label] for s in left_out.samples if s.record.source == row.site]  # type: ignore[index]
        assert (row.images, row.others) == (truth.count(True), truth.count(False))
        assert row.sensitivity.n == row.images
    assert set(sites.by_site) == {"north", "south"}
    fold = left_out.predict_fold("plain", "north")
    assert fold.probabilities.shape == (len(fold.rows), 3)
    single = replace(left_out.config, multi_label=False, labels=("normal", "viral"))
    with pytest.raises(InputError, match="need multi_label = true"):
        left_out_findings(SitesRun(single, run / "data", tmp_path / "sites"), "plain")
