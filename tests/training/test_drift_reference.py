"""`training.drift_reference`: one image of each validation patient becomes the bundle's reference; nothing else changes."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.drift import Reference
from cxr_edge.errors import InputError
from tests.builders.toy_bundle import build_toy_bundle
from training import drift_reference
from training.bundles.reference import OF_VALIDATION, one_of_each_patient, reference_of
from training.data.dataset import Sample
from training.data.records import make_record
from training.recipes import members


def sample(folder: Path, patient: int, image: int, side: str) -> Sample:
    file = folder / f"{patient}-{image}.png"
    noise = np.random.default_rng((patient, image)).integers(0, 200, (50, 60 + image), dtype=np.uint8)
    cv2.imwrite(str(file), cv2.GaussianBlur(noise, (0, 0), 3))
    name = f"toy/{patient}"
    return Sample(
        record=make_record(file, name, "normal", source="toy", view="PA", finding="", adult=True), group=name, side=side
    )


@pytest.fixture
def samples(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    validation = [sample(folder, p, i, "validation") for p in range(52) for i in range(2 if p % 5 == 0 else 1)]
    return [*validation, sample(folder, 99, 9, "test")]


def test_one_image_of_each_patient(samples):
    chosen = one_of_each_patient(samples, seed=1)
    assert sorted(s.group for s in chosen) == sorted({s.group for s in samples})
    assert chosen == one_of_each_patient(samples, seed=1)


def run(monkeypatch, samples, bundle, tmp_path):
    class Run:
        def __init__(self, config, data, out):
            self.samples = samples

    monkeypatch.setattr(drift_reference, "StarterRun", Run)
    return drift_reference.main(["--bundle", str(bundle.root), "--data", str(tmp_path), "--run", str(tmp_path / "run")])


def test_the_command_attaches_validation_patients(samples, tmp_path, monkeypatch, capsys):
    bundle = build_toy_bundle(tmp_path / "bundle", known_answers=False)
    assert run(monkeypatch, samples, bundle, tmp_path) == 0
    assert "52 reference exams, 20 statistics" in capsys.readouterr().err
    changed = Bundle.open(bundle.root)
    reference = Reference.of_bundle(changed)
    assert (reference.exams, reference.of) == (52, OF_VALIDATION)
    assert set(reference.statistics["image.width"]) <= {60.0, 61.0}  # none of the test patient's 69
    before, after = bundle.manifest.as_json(), changed.manifest.as_json()
    assert {k for k in after if after[k] != before.get(k)} == {"schema", "reference"}


def test_too_few_patients_leave_the_bundle_as_it_is(samples, tmp_path, monkeypatch, capsys):
    bundle = build_toy_bundle(tmp_path / "bundle", known_answers=False)
    assert run(monkeypatch, samples[:10], bundle, tmp_path) == 2
    assert "validation patients, 50 needed" in capsys.readouterr().err
    assert Bundle.open(bundle.root).digest == bundle.digest


def test_an_image_that_cannot_be_read_is_named(samples, tmp_path):
    samples[0].record.path.write_bytes(b"no image")
    bundle = build_toy_bundle(tmp_path / "bundle", known_answers=False)
    with pytest.raises(InputError, match=r"0-\d.png cannot be screened"):
        reference_of(bundle, samples[:1], of="one")


def test_training_attaches_it_before_the_results_are_written(samples, tmp_path, monkeypatch):
    """A run counts as finished with its results: a run that is killed before them makes the bundle again."""

    def assembled(root, *arguments, **options):
        build_toy_bundle(root, known_answers=False)
        return {"results": 1}

    def written(file, results):
        assert Reference.of_bundle(Bundle.open(tmp_path / "bundle")).exams == 52
        file.write_text(str(results))

    monkeypatch.setattr(members, "assemble", assembled)
    monkeypatch.setattr(members, "write_json", written)
    no_gate = {"gate_images": None, "gate_surrogate": False}
    config = SimpleNamespace(members={}, segmenter_of="starter", multi_label=False, seed=1, threads=1, **no_gate)
    run = SimpleNamespace(config=config, out=tmp_path, samples=samples, canvases=None, below_floor=False)
    assert members.assemble_members(run) == {"results": 1}
    assert (tmp_path / "results.json").exists()
