"""Gate sets made by training: surrogates that reproduce nobody, and real images only with their terms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_set import read_gate_set
from cxr_edge.errors import InputError
from cxr_edge.phantoms import make_phantom
from tests.builders.toy_bundle import LABELS, build_toy_bundle
from training import gate_set as command
from training.bundles import gate_set
from training.bundles.gate_set import Nearness, attach_configured, attach_real_images, attach_surrogate
from training.bundles.surrogate_model import SurrogateSettings
from training.data.dataset import Sample
from training.data.gate_images import GateImages
from training.data.records import make_record
from training.data.targets import Target

SETTINGS = SurrogateSettings(
    side_px=64, grid_px=16, map_px=8, components=4, octaves=1, groups=1, least_frames=15, most_frames=30
)
TARGET = Target(labels=LABELS)
TERMS = {"licence": "CC0-1.0", "attribution": "drawn for tests"}


def sample(folder: Path, label: str, seed: int, side: str) -> Sample:
    file = folder / f"{label}-{seed}.png"
    cv2.imwrite(str(file), make_phantom(label, size_px=64, seed=seed).pixels)
    name = f"kcx/{label}-{seed}"
    record = make_record(file, name, label, source="kcx", view="PA", finding="", adult=True)
    return Sample(record=record, group=name, side=side)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    folder = tmp_path_factory.mktemp("phantoms")
    return [sample(folder, k, i, "train" if i < 16 else "validation") for k in LABELS for i in range(36)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_toy_bundle(tmp_path / "toy", known_answers=False)


def test_a_surrogate_is_attached_with_its_figures(bundle, samples):
    changed = attach_surrogate(bundle, samples, TARGET, settings=SETTINGS, images=8)
    found = read_gate_set(changed)
    assert found.kind == "surrogate"
    assert found.truth == (0, 0, 1, 1, 2, 2, 3, 3)
    assert found.probabilities.sum(axis=1) == pytest.approx(np.ones(8), abs=1e-4)
    facts = changed.manifest.provenance["gate_set"]
    assert facts["training_images"] == 64
    near = facts["nearest_training_image"]
    assert near["held_out"] == 80
    assert near["chosen_least"] >= near["limit"]
    assert near["draws_median"] >= near["held_out_median"]


def test_a_surrogate_that_copies_is_not_written(bundle, samples, monkeypatch):
    monkeypatch.setattr(gate_set, "nearest_distances", lambda rows, _: np.linspace(0, 1, len(rows)) ** (len(rows) / 24))
    with pytest.raises(InputError, match=r"comes too near to training images: .* No gate set is written"):
        attach_surrogate(bundle, samples, TARGET, settings=SETTINGS, images=8)
    assert Bundle.open(bundle.root).manifest.gate_set is None


@pytest.mark.parametrize(
    ("nearer", "median", "refused"), [(0, 0.6, False), (12, 0.6, False), (25, 0.6, True), (0, 0.4, True)]
)
def test_more_near_draws_than_chance_makes_are_refused(nearer, median, refused):
    found = Nearness(draws=1000, held_out=400, draws_median=median, held_out_median=0.5, limit=0.3, nearer=nearer)
    if refused:
        with pytest.raises(InputError, match=f"{nearer} of 1000 draws are nearer than 0.300"):
            found.check()
    else:
        found.check()


def test_few_validation_images_are_refused(bundle, samples):
    few = [s for s in samples if s.side == "train" or s.record.label != "viral"]
    with pytest.raises(InputError, match="20 validation images of each label or more, viral has 0"):
        attach_surrogate(bundle, few, TARGET, settings=SETTINGS)


def test_a_multi_label_bundle_takes_real_images(samples, tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", multi_label=True, known_answers=False)
    with pytest.raises(InputError, match="findings that occur together: give real images"):
        attach_surrogate(bundle, samples, TARGET, settings=SETTINGS)


@pytest.fixture
def travelling(tmp_path: Path) -> Path:
    for name, label, shape in (("a", "normal", (300, 200)), ("b", "viral", (90, 120)), ("c", "unsorted", (64, 64))):
        file = tmp_path / "images" / label / f"{name}.png"
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))
    return tmp_path / "images"


def test_real_images_are_reduced_and_labelled_by_folder(bundle, travelling):
    request = GateImages(folder=str(travelling), longest_px=100, **TERMS)
    changed = attach_real_images(bundle, request)
    found = read_gate_set(changed)
    assert [(i.height_px, i.width_px) for i in found.images] == [(100, 67), (64, 64), (75, 100)]
    assert found.truth == (0, None, 2)
    assert (changed.manifest.gate_set.licence, changed.manifest.gate_set.attribution) == tuple(TERMS.values())


def test_real_images_of_findings(travelling, tmp_path):
    bundle = build_toy_bundle(tmp_path / "toy", multi_label=True, known_answers=False)
    (travelling / "normal").rename(travelling / "effusion+nodule")
    (travelling / "viral").rename(travelling / "no finding")
    found = read_gate_set(attach_real_images(bundle, GateImages(folder=str(travelling), **TERMS)))
    assert found.truth == ((1, 1, 0), (0, 0, 0), None)


def test_a_collection_gives_its_validation_images(bundle, samples):
    request = GateImages(collection="kcx", images=6, **TERMS)
    found = read_gate_set(attach_real_images(bundle, request, samples))
    assert sorted(found.truth) == [0, 0, 1, 1, 2, 3]
    with pytest.raises(InputError, match="no validation images of adults"):
        attach_real_images(bundle, replace(request, collection="adults"), samples)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"licence": " "}, "gate_images needs the licence: only images that may be passed on"),
        ({"attribution": ""}, "gate_images needs the attribution"),
        ({}, "takes a folder or a collection, got '' and ''"),
        ({"folder": "x", "collection": "kcx"}, "takes a folder or a collection"),
        ({"collection": "mine"}, "gate_images.collection is one of kcx"),
        ({"folder": "x", "images": 0}, "takes 1 image or more of 64 px or more, got 0 of 256 px"),
        ({"folder": "x", "longest_px": 32}, "got 200 of 32 px"),
    ],
)
def test_requests_that_cannot_work(values, message):
    with pytest.raises(InputError, match=message):
        GateImages(**{**TERMS, **values})


def config(**values: object) -> SimpleNamespace:
    own = {"gate_images": None, "gate_surrogate": False, "seed": 1, "threads": 1, "target": TARGET}
    return SimpleNamespace(**{**own, **values})


def test_a_configuration_without_either_attaches_none(bundle, samples):
    assert attach_configured(bundle, samples, config()) is bundle  # type: ignore[arg-type]


def test_a_configured_surrogate_that_cannot_be_made_is_a_note(bundle, samples, capsys):
    own = config(gate_surrogate=True)  # 100 training images of each label are needed
    assert attach_configured(bundle, samples, own) is bundle  # type: ignore[arg-type]
    assert "no gate set: a surrogate needs 100 training images of each label" in capsys.readouterr().err


def test_configured_images_are_attached(bundle, samples, travelling):
    own = config(gate_images=GateImages(folder=str(travelling), **TERMS))
    assert attach_configured(bundle, samples, own).manifest.gate_set.images == 3  # type: ignore[arg-type]


def run(bundle: Bundle, *options: str) -> int:
    return command.main(["--bundle", str(bundle.root), *options])


def test_the_command_attaches_real_images(bundle, travelling, capsys):
    assert run(bundle, "--images", str(travelling), "--licence", "CC0-1.0", "--attribution", "us") == 0
    shown = capsys.readouterr().err
    assert "gate set of 3 images (images; normal 1, bacterial 0, viral 1, covid-19 0)" in shown


def test_the_command_makes_a_surrogate(bundle, samples, tmp_path, monkeypatch, capsys):
    class Run:
        def __init__(self, config, data, out):
            self.samples = samples

    monkeypatch.setattr(command, "StarterRun", Run)
    monkeypatch.setattr(command, "load_config", lambda _: config())
    monkeypatch.setattr(command, "SurrogateSettings", lambda seed: SETTINGS)
    assert run(bundle, "--data", str(tmp_path), "--run", str(tmp_path), "--count", "4") == 0
    assert "gate set of 4 images (surrogate; normal 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--images", "MISSING"), "gate_images needs the licence"),
        (("--licence", "CC0"), "--licence and --attribution go with --images"),
        (("--images", "MISSING", "--licence", "x", "--attribution", "y"), "gate_images takes a folder of X-rays"),
    ],
)
def test_the_command_says_what_is_wrong(bundle, options, message, capsys):
    assert run(bundle, *options) == 2
    assert message in capsys.readouterr().err
