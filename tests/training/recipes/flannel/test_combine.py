"""Stage 2 on synthetic logits: fit data of each fold's combinations, stored files, and independence from test images."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cxr_edge.errors import InputError
from cxr_edge.specs.combination import Combination
from tests.builders.flannel_run import (
    BASELINE,
    COPIES,
    FOLDS,
    LABELS,
    LEARNERS,
    Logits,
    flannel_run,
    informative_logits,
    others_by_hand,
    traceable_logits,
    truth_of,
    with_predictions,
)
from tests.tolerances import PROBABILITY
from training.ensembles.neural_weights import FitPlan, NeuralWeightModule
from training.pruning.prune import PrunePlan
from training.recipes.flannel import combine as stage_2
from training.recipes.flannel import run as run_module
from training.recipes.flannel.combine import ENSEMBLES, FLANNEL, combine, load_fold_predictions, unpruned_name
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import AUGMENTED
from training.recipes.run import PREDICTIONS, SampleLogits

torch.set_num_threads(1)

PRESETS = ("sane", "paper", "code")


def all_folds_done(run: FlannelRun) -> bool:
    """Return whether stage 2 of all folds is finished with this configuration."""
    return all(stage_2._is_done(run, fold) for fold in range(run.config.folds))


def _softmax(logits: Logits) -> npt.NDArray[np.float64]:
    return torch.from_numpy(logits).double().softmax(dim=-1).numpy()


def _learner_logits(run: FlannelRun, fold: int) -> Logits:
    files = [run.fold(fold).folder(name) / PREDICTIONS for name in run.config.learners]
    return np.stack([SampleLogits.load(f).logits for f in files], axis=1)


def _set_old_mtime(files: Iterable[Path]) -> None:
    for file in files:
        os.utime(file, ns=(10**9, 10**9))


def _with_other_test_images(run: FlannelRun) -> FlannelRun:
    """Return the same run with permuted labels of the test images."""
    labels = [run.samples[i].record.label for i in run.test_rows]
    changed = dict(zip(run.test_rows.tolist(), np.roll(labels, 7).tolist(), strict=True))
    samples = [
        replace(s, record=replace(s.record, label=changed[i])) if i in changed else s for i, s in enumerate(run.samples)
    ]
    assert sum(a.record.label != b.record.label for a, b in zip(samples, run.samples, strict=True)) > 10
    other = FlannelRun(run.config, run.data, run.out.with_name("other"))
    other.out.mkdir()
    other.__dict__["samples"] = samples
    return other


def test_synthetic_run_has_folds_labels_and_images_that_are_not_evaluated(tmp_path: Path) -> None:
    run = flannel_run(tmp_path)
    assert len(run.samples) == 149
    assert run.evaluated.sum() == 120
    assert len(run.test_rows) == 24
    assert {run.samples[i].record.label for i in run.test_rows} == set(LABELS)
    assert set(run.fold_of.tolist()) == {-1, 0, 1, 2}
    assert ((run.fold_of >= 0) & ~run.evaluated).any(), "images that are not evaluated have folds, too"


def test_sane_fits_on_logits_of_each_images_own_fold(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path), traceable_logits)
    for k in range(FOLDS):
        logits, truth = stage_2._Fit(fold=run.fold(k)).fit_data
        expected = [[[run.fold_of[i], m, i, 0] for m in range(3)] for i in others_by_hand(run, k)]
        assert logits.tolist() == expected
        assert [LABELS[t] for t in truth] == [run.samples[i].record.label for i in others_by_hand(run, k)]
        assert k not in logits[..., 0], "no network of the fold itself"


def test_paper_fits_on_logits_of_the_folds_networks_on_their_training_images(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path, preset="paper"), traceable_logits)
    for k in range(FOLDS):
        logits, truth = stage_2._Fit(fold=run.fold(k)).fit_data
        assert logits.tolist() == [[[k, m, i, 0] for m in range(3)] for i in others_by_hand(run, k)]
        assert len(truth) == len(logits)


@pytest.mark.parametrize(("preset", "fit_on"), [("sane", "in-sample"), ("paper", "out-of-fold")])
def test_fit_on_overrides_the_preset(tmp_path: Path, preset: str, fit_on: str) -> None:
    run = with_predictions(flannel_run(tmp_path, preset=preset, fit_on=fit_on), traceable_logits)
    for k in range(FOLDS):
        networks = {int(f) for f in stage_2._Fit(fold=run.fold(k)).fit_data[0][:, 0, 0]}
        assert networks == ({k} if fit_on == "in-sample" else set(range(FOLDS)) - {k})
    assert stage_2._plan(run, 0) != stage_2._plan(flannel_run(tmp_path, preset=preset), 0)


def test_code_fits_on_augmented_copies_in_the_same_order_for_all_learners(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path, preset="code"), traceable_logits)
    for k in range(FOLDS):
        logits, truth = stage_2._Fit(fold=run.fold(k)).fit_data
        others = others_by_hand(run, k)
        expected = [[[k, m, i, 0.25 * copy] for m in range(3)] for copy in range(COPIES) for i in others]
        assert logits.tolist() == expected
        assert [LABELS[t] for t in truth] == [run.samples[i].record.label for i in others] * COPIES


def test_augmented_copies_of_other_images_are_rejected(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path, preset="code"))
    file = run.fold(1).folder("resnet") / AUGMENTED
    predictions = SampleLogits.load(file)
    SampleLogits(rows=np.roll(predictions.rows, 1), logits=predictions.logits).save(file)
    assert len(stage_2._Fit(fold=run.fold(0)).fit_data[0])
    with pytest.raises(InputError, match="resnet, fold 1, is of other images or copies: run the stage augmented again"):
        _ = stage_2._Fit(fold=run.fold(1)).fit_data
    file.unlink()
    with pytest.raises(InputError, match=r"augmented\.npz is missing: run the stages in order"):
        _ = stage_2._Fit(fold=run.fold(1)).fit_data


@pytest.mark.parametrize("preset", PRESETS)
def test_fit_data_excludes_the_folds_own_test_and_outside_images(tmp_path: Path, preset: str) -> None:
    run = with_predictions(flannel_run(tmp_path, preset=preset), traceable_logits)
    for k in range(FOLDS):
        fold = stage_2._Fit(fold=run.fold(k))
        rows = set(fold.fit_data[0][:, 0, 2].astype(int).tolist())
        own = set(fold.fold.own_rows.tolist())
        assert own == {i for i in np.flatnonzero(run.fold_of == k).tolist() if run.evaluated[i]}
        assert own
        assert not rows & own
        for i in rows | own:
            assert run.samples[i].side == "train"
            assert run.samples[i].record.source in ("ccx", "kcx")
        assert rows | own == {i for i in np.flatnonzero(run.evaluated).tolist() if run.samples[i].side == "train"}


@pytest.mark.parametrize("preset", PRESETS)
def test_temperatures_are_fitted_on_the_folds_own_images_in_sane_only(
    tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = with_predictions(flannel_run(tmp_path, preset=preset)), []

    def spy(combination: Combination, logits: Logits, truth: npt.NDArray[np.int64]) -> Combination:
        calls.append((combination.strategy, logits, truth))
        return replace(combination, temperature=0.37)

    monkeypatch.setattr(stage_2, "calibrated", spy)
    combine(run, [1])
    found = {name: c.temperature for name, c in load_fold_predictions(run, 1).combinations.items()}
    if preset != "sane":
        assert not calls
        assert set(found.values()) == {1.0}
        return
    assert found == {"averaging": 0.37, "voting": 1.0, "flannel-ce": 0.37, "flannel-ce-sampling": 0.37, FLANNEL: 0.37}
    rows = [i for i in range(len(run.samples)) if run.evaluated[i] and run.fold_of[i] == 1]
    for _, logits, truth in calls:
        assert np.array_equal(logits, _learner_logits(run, 1)[rows]), "logits of the fold's own networks"
        assert np.array_equal(truth, truth_of(run)[rows])


def test_a_temperature_lowers_the_log_loss(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [0])
    predictions, rows = load_fold_predictions(run, 0), stage_2._Fit(fold=run.fold(0)).fold.own_rows
    truth = truth_of(run)[rows]
    raw, scaled = (-np.log(p[rows, truth]).mean() for p in (predictions.raw, predictions.probabilities[FLANNEL]))
    assert scaled < raw
    assert predictions.combinations[FLANNEL].temperature < 1


def test_fold_predictions_are_loaded_as_saved(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, range(FOLDS))
    assert all_folds_done(run)
    for k in range(FOLDS):
        computed, loaded = stage_2._predict_fold(stage_2._Fit(fold=run.fold(k))), load_fold_predictions(run, k)
        assert list(loaded.probabilities) == list(loaded.predicted) == [*LEARNERS, BASELINE, *ENSEMBLES]
        assert loaded.combinations == computed.combinations
        assert np.array_equal(loaded.raw, computed.raw)
        for name in computed.probabilities:
            assert np.array_equal(loaded.probabilities[name], computed.probabilities[name])
            assert np.array_equal(loaded.predicted[name], computed.predicted[name])
            assert loaded.probabilities[name].shape == (149, 4)
            assert loaded.probabilities[name].sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_probabilities_of_single_networks_are_their_softmax(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [2])
    predictions = load_fold_predictions(run, 2)
    for name in (*LEARNERS, BASELINE):
        p = _softmax(SampleLogits.load(run.fold(2).folder(name) / PREDICTIONS).logits)
        assert np.abs(predictions.probabilities[name] - p).max() < 1e-12
        assert np.array_equal(predictions.predicted[name], p.argmax(axis=1))
    mean = np.mean([predictions.probabilities[name] for name in LEARNERS], axis=0)
    assert np.array_equal(predictions.predicted["averaging"], mean.argmax(axis=1)), "the baseline is no learner"


def test_a_second_combine_writes_only_folds_with_another_fit(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, range(FOLDS))
    files = sorted((tmp_path / "combined").iterdir())
    assert [f.name for f in files] == [f"fold-{k}.{kind}" for k in range(FOLDS) for kind in ("json", "npz")]
    _set_old_mtime(files)
    combine(run, range(FOLDS))
    assert {f.stat().st_mtime_ns for f in files} == {10**9}

    other = flannel_run(tmp_path, fit=replace(run.config.fit, gamma=1.0))
    assert not all_folds_done(other)
    with pytest.raises(InputError, match=r"or of another \[fit\]"):
        load_fold_predictions(other, 1)
    before = load_fold_predictions(run, 1).combinations[FLANNEL]
    combine(other, [1])
    again = {f.name for f in files if f.stat().st_mtime_ns != 10**9}
    assert again == {"fold-1.json", "fold-1.npz"}
    assert not all_folds_done(other), "two folds are of the fit before"
    assert load_fold_predictions(other, 1).combinations[FLANNEL] != before


def test_the_plan_depends_on_seed_and_fit(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [0])
    plan = stage_2._plan(run, 0)
    assert stage_2._plan(flannel_run(tmp_path, seed=2), 0) != plan
    assert stage_2._plan(flannel_run(tmp_path, fit=FitPlan()), 0) != plan
    assert stage_2._plan(flannel_run(tmp_path), 0) == plan


def test_missing_files_raise_an_error_with_the_next_step(tmp_path: Path) -> None:
    run = flannel_run(tmp_path)
    with pytest.raises(InputError, match=r"fold-2\.npz is missing .*run the stages in order, or all of them"):
        load_fold_predictions(run, 2)
    with pytest.raises(InputError, match=r"predictions\.npz is missing: run the stages in order"):
        combine(run, [2])
    assert not all_folds_done(run)


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_probabilities_match_torch(tmp_path: Path, preset: str) -> None:
    """Compare with softmax(sum_i w_i P_i / T), w = tanh of the dense layer on the outer product, from stored arrays."""
    run = with_predictions(flannel_run(tmp_path, preset=preset))
    combine(run, [0])
    predictions = load_fold_predictions(run, 0)
    p = torch.from_numpy(_learner_logits(run, 0)).double().softmax(dim=2)
    for name in ("flannel-ce", "flannel-ce-sampling", FLANNEL):
        stored = predictions.combinations[name]
        assert set(stored.member_temperatures) == {1.0}
        module = NeuralWeightModule(len(LEARNERS), len(LABELS)).double()
        with torch.no_grad():
            module.dense.weight.copy_(torch.tensor(stored.parameters["module_weight"]))
            module.dense.bias.copy_(torch.tensor(stored.parameters["module_bias"]))
            sums = module.combined(p)
        expected = (sums / stored.temperature).softmax(dim=1).numpy()
        assert np.abs(predictions.probabilities[name] - expected).max() < PROBABILITY
        assert np.array_equal(predictions.predicted[name], expected.argmax(axis=1))
        if name == FLANNEL:
            assert np.abs(predictions.raw - sums.softmax(dim=1).numpy()).max() < PROBABILITY


def test_ties_of_voting_go_to_the_higher_mean_probability(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [0])
    p = _softmax(_learner_logits(run, 0))
    votes = np.eye(4)[p.argmax(axis=2)].sum(axis=1)
    predicted, shares = (
        load_fold_predictions(run, 0).predicted["voting"],
        load_fold_predictions(run, 0).probabilities["voting"],
    )
    assert np.abs(shares - votes / 3).max() < PROBABILITY
    tied = (votes.max(axis=1) == 1).nonzero()[0]
    assert len(tied) > 5
    assert any(predicted[i] != shares[i].argmax() for i in tied), "shares do not decide ties"
    mean = np.where(votes == votes.max(axis=1, keepdims=True), p.mean(axis=1), -1)
    assert np.array_equal(predicted, mean.argmax(axis=1))


def test_fits_do_not_depend_on_test_images(tmp_path: Path) -> None:
    """Change labels and logits of test images: all fits and all other predictions stay equal."""
    (tmp_path / "run").mkdir()
    run = with_predictions(flannel_run(tmp_path / "run"))
    other = _with_other_test_images(run)
    assert np.array_equal(other.fold_of, run.fold_of)

    def other_test_logits(_: FlannelRun, fold: int, name: str) -> Logits:
        logits = informative_logits(run, fold, name)
        logits[run.test_rows] *= -3
        return logits

    with_predictions(other, other_test_logits)
    combine(run, range(FOLDS))
    combine(other, range(FOLDS))
    rest = np.setdiff1d(run.all_rows, run.test_rows)
    for k in range(FOLDS):
        a, b = load_fold_predictions(run, k), load_fold_predictions(other, k)
        assert a.combinations == b.combinations
        for name in a.probabilities:
            assert np.array_equal(a.probabilities[name][rest], b.probabilities[name][rest])
            assert not np.array_equal(a.probabilities[name][run.test_rows], b.probabilities[name][run.test_rows])


def test_unpruned_learners_are_reported_next_to_pruned_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = with_predictions(flannel_run(tmp_path, prune=PrunePlan()))
    for k in range(FOLDS):
        for name in LEARNERS:
            run.fold(k).folder(name, pruned=True).mkdir(parents=True)
            worse = informative_logits(run, k, name) + informative_logits(run, k + FOLDS, name)[:, ::-1]
            SampleLogits(rows=run.all_rows, logits=worse).save(run.fold(k).folder(name, pruned=True) / PREDICTIONS)
    monkeypatch.setattr(run_module, "selected_step", lambda folder, _: folder)
    combine(run, [0])
    predictions = load_fold_predictions(run, 0)
    assert list(predictions.probabilities)[-4:] == [unpruned_name(m) for m in (*LEARNERS, FLANNEL)]
    assert unpruned_name("vgg") == "vgg, unpruned"
    for name in LEARNERS:
        unpruned = SampleLogits.load(run.fold(0).folder(name) / PREDICTIONS).logits
        assert np.abs(predictions.probabilities[unpruned_name(name)] - _softmax(unpruned)).max() < 1e-12
        assert not np.array_equal(predictions.probabilities[name], predictions.probabilities[unpruned_name(name)])
    monkeypatch.undo()
    unpruned_predictions = stage_2._predict_fold(stage_2._Fit(fold=flannel_run(tmp_path).fold(0)))
    assert np.array_equal(
        predictions.probabilities[unpruned_name(FLANNEL)], unpruned_predictions.probabilities[FLANNEL]
    )
