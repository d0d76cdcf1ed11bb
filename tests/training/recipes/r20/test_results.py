"""Ensembles of a run: the paper's weights go by rank, and every strategy is the deployed combination."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.errors import InputError
from tests.training.data.test_splits import record
from training.data.dataset import Sample, mark_unseen
from training.recipes.config import MemberPlan
from training.recipes.r20.config import R20Config
from training.recipes.r20.results import PAPER_WEIGHTED, Ensembles, split_in_words
from training.recipes.r20.run import R20Run
from training.recipes.run import SampleLogits

LABELS = ("normal", "bacterial", "covid-19")


def _run(**changes: object) -> R20Run:
    """Return a run of 60 validation and 30 test images, without files."""
    config = R20Config(name="x", members={"a": MemberPlan(architecture="custom")}, **changes)  # type: ignore[arg-type]
    run = R20Run(config, Path("nowhere"), Path("nowhere"))
    records = [record(f"p{i}", i, label=LABELS[i % 3]) for i in range(90)]
    sides = ["validation"] * 60 + ["test"] * 30
    run.__dict__["samples"] = [Sample(record=r, group=r.patient, side=s) for r, s in zip(records, sides, strict=True)]
    return run


def _ensembles(run: R20Run, noise: tuple[float, ...]) -> Ensembles:
    rng = np.random.default_rng(0)
    truth = np.arange(90) % 3
    logits = np.stack([2 * np.eye(3)[truth] + rng.normal(0, s, (90, 3)) for s in noise], axis=1)
    return Ensembles(
        run=run, members=("a", "b", "c")[: len(noise)], rows=np.arange(90), logits=logits.astype(np.float32)
    )


def test_the_largest_paper_weight_goes_to_the_best_on_validation() -> None:
    made = _ensembles(_run(), (3.0, 0.1, 1.2)).combinations[PAPER_WEIGHTED]
    assert list(made.parameters["weights"]) == [0.2, 0.5, 0.3]


def test_two_members_have_no_paper_weights() -> None:
    assert PAPER_WEIGHTED not in _ensembles(_run(), (1.0, 0.5)).combinations


def test_predictions_are_of_one_side() -> None:
    predictions = _ensembles(_run(), (0.1, 0.1, 0.1)).predictions("average")
    assert len(predictions.true) == 30
    assert predictions.patients[0] == "p60"
    assert np.array_equal(predictions.predicted, predictions.true)
    assert np.allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(("preset", "fitted"), [("sane", True), ("paper", False)])
def test_temperatures_are_fitted_in_sane_only(preset: str, fitted: bool) -> None:
    made = _ensembles(_run(preset=preset), (1.0, 1.0, 1.0)).combinations["average"]
    assert (made.member_temperatures != (1.0, 1.0, 1.0)) is fitted


def test_a_leaking_split_is_described_as_leaking() -> None:
    members = {"a": MemberPlan(architecture="custom")}
    assert "leaks" in split_in_words(R20Config(name="x", preset="code", members=members))
    assert split_in_words(R20Config(name="x", members=members)) == "by patient, 81/9/10 % train/validation/test"


def test_sample_logits_are_loaded_as_saved(tmp_path: Path) -> None:
    made = SampleLogits(rows=np.array([3, 1]), logits=np.ones((2, 3), np.float32))
    made.save(tmp_path / "p.npz")
    loaded = SampleLogits.load(tmp_path / "p.npz")
    assert np.array_equal(loaded.rows, made.rows)
    assert np.array_equal(loaded.logits, made.logits)


def test_unseen_sources_are_predicted_and_on_no_side() -> None:
    run = _run(unseen_sources=("far",))
    far = [replace(record(f"f{i}", 90 + i, "pneumonia", "far"), adult=True) for i in range(4)]
    copied = Sample(record=far[0], group="p60", side="test")  # a picture that a test patient shares
    samples = [*run.samples, copied, *(Sample(record=r, group=r.patient, side="train") for r in far[1:])]
    run.__dict__["samples"] = mark_unseen(samples, ("far",))
    assert [i for i, s in enumerate(run.samples) if s.side == "unseen"] == [60, *range(90, 94)]
    assert run.predicted_rows(run.config.target).tolist() == [*range(60), *range(61, 90), *range(90, 94)]
    assert not run.side_mask("test", run.unseen_rows).any()


def test_an_unseen_source_without_images_raises() -> None:
    with pytest.raises(InputError, match=r"unseen_sources names far: expected sources of the data, kcx"):
        mark_unseen(_run().samples, ("far",))
