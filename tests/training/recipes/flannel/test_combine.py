"""Stage 2 on made answers: what each fold's combinations are fitted on, what is kept, and that test images have no say in it."""

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
from training.recipes.flannel.combine import ENSEMBLES, FLANNEL, combine, load_fold_predictions, unpruned_name
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import AUGMENTED
from training.recipes.run import PREDICTIONS, SampleLogits

torch.set_num_threads(1)

PRESETS = ("sane", "paper", "code")


def folds_done(run: FlannelRun) -> bool:
    """Whether all folds came through stage 2 as the configuration asks for it."""
    return all(stage_2._is_done(run, fold) for fold in range(run.config.folds))


def _softmax(logits: Logits) -> npt.NDArray[np.float64]:
    return torch.from_numpy(logits).double().softmax(dim=-1).numpy()


def _learners_said(run: FlannelRun, fold: int) -> Logits:
    files = [run.folder(fold, name) / PREDICTIONS for name in run.config.learners]
    return np.stack([SampleLogits.load(f).logits for f in files], axis=1)


def _backdated(files: Iterable[Path]) -> None:
    for file in files:
        os.utime(file, ns=(10**9, 10**9))


def _with_other_test_images(run: FlannelRun) -> FlannelRun:
    """The same run, whose test images have labels in another order."""
    labels = [run.samples[i].record.label for i in run.test_rows]
    changed = dict(zip(run.test_rows.tolist(), np.roll(labels, 7).tolist(), strict=True))
    made = [
        replace(s, record=replace(s.record, label=changed[i])) if i in changed else s for i, s in enumerate(run.samples)
    ]
    assert sum(a.record.label != b.record.label for a, b in zip(made, run.samples, strict=True)) > 10
    other = FlannelRun(run.config, run.data, run.out.with_name("other"))
    other.out.mkdir()
    other.__dict__["samples"] = made
    return other


def test_the_made_run_has_all_that_a_real_one_has(tmp_path: Path) -> None:
    run = flannel_run(tmp_path)
    assert len(run.samples) == 149
    assert run.evaluated.sum() == 120
    assert len(run.test_rows) == 24
    assert {run.samples[i].record.label for i in run.test_rows} == set(LABELS)
    assert set(run.fold_of.tolist()) == {-1, 0, 1, 2}
    assert ((run.fold_of >= 0) & ~run.evaluated).any(), "images that do not count stand in folds too"


def test_in_sane_each_image_is_answered_by_its_own_folds_networks(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path), traceable_logits)
    for k in range(FOLDS):
        logits, truth = stage_2._Fold(run=run, fold=k).fit_data
        wanted = [[[run.fold_of[i], m, i, 0] for m in range(3)] for i in others_by_hand(run, k)]
        assert logits.tolist() == wanted
        assert [LABELS[t] for t in truth] == [run.samples[i].record.label for i in others_by_hand(run, k)]
        assert k not in logits[..., 0], "no network of the fold itself"


def test_in_paper_the_folds_own_networks_answer_what_trained_them(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path, preset="paper"), traceable_logits)
    for k in range(FOLDS):
        logits, truth = stage_2._Fold(run=run, fold=k).fit_data
        assert logits.tolist() == [[[k, m, i, 0] for m in range(3)] for i in others_by_hand(run, k)]
        assert len(truth) == len(logits)


@pytest.mark.parametrize(("preset", "fit_on"), [("sane", "in-sample"), ("paper", "out-of-fold")])
def test_what_stage_2_is_fitted_on_can_be_set_apart_from_the_preset(tmp_path: Path, preset: str, fit_on: str) -> None:
    run = with_predictions(flannel_run(tmp_path, preset=preset, fit_on=fit_on), traceable_logits)
    for k in range(FOLDS):
        networks = {int(f) for f in stage_2._Fold(run=run, fold=k).fit_data[0][:, 0, 0]}
        assert networks == ({k} if fit_on == "in-sample" else set(range(FOLDS)) - {k})
    assert stage_2._plan(run, 0) != stage_2._plan(flannel_run(tmp_path, preset=preset), 0)


def test_in_code_they_answer_augmented_copies_in_one_order(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path, preset="code"), traceable_logits)
    for k in range(FOLDS):
        logits, truth = stage_2._Fold(run=run, fold=k).fit_data
        others = others_by_hand(run, k)
        wanted = [[[k, m, i, 0.25 * copy] for m in range(3)] for copy in range(COPIES) for i in others]
        assert logits.tolist() == wanted
        assert [LABELS[t] for t in truth] == [run.samples[i].record.label for i in others] * COPIES


def test_augmented_copies_of_other_images_are_refused(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path, preset="code"))
    file = run.folder(1, "resnet") / AUGMENTED
    made = SampleLogits.load(file)
    SampleLogits(rows=np.roll(made.rows, 1), logits=made.logits).save(file)
    assert len(stage_2._Fold(run=run, fold=0).fit_data[0])
    with pytest.raises(InputError, match="resnet, fold 1, is of other images or copies: run the stage augmented again"):
        _ = stage_2._Fold(run=run, fold=1).fit_data
    file.unlink()
    with pytest.raises(InputError, match=r"augmented\.npz is missing: run the stages in order"):
        _ = stage_2._Fold(run=run, fold=1).fit_data


@pytest.mark.parametrize("preset", PRESETS)
def test_neither_the_folds_own_nor_test_nor_outside_images_are_fitted_on(tmp_path: Path, preset: str) -> None:
    run = with_predictions(flannel_run(tmp_path, preset=preset), traceable_logits)
    for k in range(FOLDS):
        fold = stage_2._Fold(run=run, fold=k)
        rows = set(fold.fit_data[0][:, 0, 2].astype(int).tolist())
        own = set(fold.validation.tolist())
        assert own == {i for i in np.flatnonzero(run.fold_of == k).tolist() if run.evaluated[i]}
        assert own
        assert not rows & own
        for i in rows | own:
            assert run.samples[i].side == "train"
            assert run.samples[i].record.source in ("ccx", "kcx")
        assert rows | own == {i for i in np.flatnonzero(run.evaluated).tolist() if run.samples[i].side == "train"}


@pytest.mark.parametrize("preset", PRESETS)
def test_temperatures_come_from_the_folds_own_images_in_sane_only(
    tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = with_predictions(flannel_run(tmp_path, preset=preset)), []

    def spy(combination: Combination, logits: Logits, truth: npt.NDArray[np.int64]) -> Combination:
        asked.append((combination.strategy, logits, truth))
        return replace(combination, temperature=0.37)

    monkeypatch.setattr(stage_2, "calibrated", spy)
    combine(run, [1])
    found = {name: c.temperature for name, c in load_fold_predictions(run, 1).combinations.items()}
    if preset != "sane":
        assert not asked
        assert set(found.values()) == {1.0}
        return
    assert found == {"averaging": 0.37, "voting": 1.0, "flannel-ce": 0.37, "flannel-ce-sampling": 0.37, FLANNEL: 0.37}
    rows = [i for i in range(len(run.samples)) if run.evaluated[i] and run.fold_of[i] == 1]
    for _, logits, truth in asked:
        assert np.array_equal(logits, _learners_said(run, 1)[rows]), "answered by the fold's own networks"
        assert np.array_equal(truth, truth_of(run)[rows])


def test_a_temperature_lowers_the_log_loss_of_flat_answers(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [0])
    made, rows = load_fold_predictions(run, 0), stage_2._Fold(run=run, fold=0).validation
    truth = truth_of(run)[rows]
    raw, scaled = (-np.log(p[rows, truth]).mean() for p in (made.raw, made.probabilities[FLANNEL]))
    assert scaled < raw
    assert made.combinations[FLANNEL].temperature < 1


def test_what_was_combined_comes_back(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, range(FOLDS))
    assert folds_done(run)
    for k in range(FOLDS):
        made, back = stage_2._predict_fold(stage_2._Fold(run=run, fold=k)), load_fold_predictions(run, k)
        assert list(back.probabilities) == list(back.predicted) == [*LEARNERS, BASELINE, *ENSEMBLES]
        assert back.combinations == made.combinations
        assert np.array_equal(back.raw, made.raw)
        for name in made.probabilities:
            assert np.array_equal(back.probabilities[name], made.probabilities[name])
            assert np.array_equal(back.predicted[name], made.predicted[name])
            assert back.probabilities[name].shape == (149, 4)
            assert back.probabilities[name].sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_networks_alone_say_their_softmax(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [2])
    made = load_fold_predictions(run, 2)
    for name in (*LEARNERS, BASELINE):
        p = _softmax(SampleLogits.load(run.folder(2, name) / PREDICTIONS).logits)
        assert np.abs(made.probabilities[name] - p).max() < 1e-12
        assert np.array_equal(made.predicted[name], p.argmax(axis=1))
    mean = np.mean([made.probabilities[name] for name in LEARNERS], axis=0)
    assert np.array_equal(made.predicted["averaging"], mean.argmax(axis=1)), "the baseline is no learner"


def test_a_second_combine_writes_nothing_and_another_fit_does(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, range(FOLDS))
    files = sorted((tmp_path / "combined").iterdir())
    assert [f.name for f in files] == [f"fold-{k}.{kind}" for k in range(FOLDS) for kind in ("json", "npz")]
    _backdated(files)
    combine(run, range(FOLDS))
    assert {f.stat().st_mtime_ns for f in files} == {10**9}

    other = flannel_run(tmp_path, fit=replace(run.config.fit, gamma=1.0))
    assert not folds_done(other)
    with pytest.raises(InputError, match=r"or of another \[fit\]"):
        load_fold_predictions(other, 1)
    before = load_fold_predictions(run, 1).combinations[FLANNEL]
    combine(other, [1])
    again = {f.name for f in files if f.stat().st_mtime_ns != 10**9}
    assert again == {"fold-1.json", "fold-1.npz"}
    assert not folds_done(other), "two folds are of the fit before"
    assert load_fold_predictions(other, 1).combinations[FLANNEL] != before


def test_another_seed_is_another_fit(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [0])
    plan = stage_2._plan(run, 0)
    assert stage_2._plan(flannel_run(tmp_path, seed=2), 0) != plan
    assert stage_2._plan(flannel_run(tmp_path, fit=FitPlan()), 0) != plan
    assert stage_2._plan(flannel_run(tmp_path), 0) == plan


def test_asked_too_early_it_says_what_to_do(tmp_path: Path) -> None:
    run = flannel_run(tmp_path)
    with pytest.raises(InputError, match=r"fold-2\.npz is missing .*run the stages in order, or all of them"):
        load_fold_predictions(run, 2)
    with pytest.raises(InputError, match=r"predictions\.npz is missing: run the stages in order"):
        combine(run, [2])
    assert not folds_done(run)


@pytest.mark.parametrize("preset", PRESETS)
def test_stored_probabilities_are_what_torch_computes(tmp_path: Path, preset: str) -> None:
    """Softmax of sum_i w_i P_i / T, with w = tanh of the dense layer on the outer product, from the stored arrays."""
    run = with_predictions(flannel_run(tmp_path, preset=preset))
    combine(run, [0])
    made = load_fold_predictions(run, 0)
    p = torch.from_numpy(_learners_said(run, 0)).double().softmax(dim=2)
    for name in ("flannel-ce", "flannel-ce-sampling", FLANNEL):
        stored = made.combinations[name]
        assert set(stored.member_temperatures) == {1.0}
        module = NeuralWeightModule(len(LEARNERS), len(LABELS)).double()
        with torch.no_grad():
            module.dense.weight.copy_(torch.tensor(stored.parameters["module_weight"]))
            module.dense.bias.copy_(torch.tensor(stored.parameters["module_bias"]))
            sums = module.combined(p)
        wanted = (sums / stored.temperature).softmax(dim=1).numpy()
        assert np.abs(made.probabilities[name] - wanted).max() < PROBABILITY
        assert np.array_equal(made.predicted[name], wanted.argmax(axis=1))
        if name == FLANNEL:
            assert np.abs(made.raw - sums.softmax(dim=1).numpy()).max() < PROBABILITY


def test_votings_ties_go_to_the_higher_mean_probability(tmp_path: Path) -> None:
    run = with_predictions(flannel_run(tmp_path))
    combine(run, [0])
    p = _softmax(_learners_said(run, 0))
    votes = np.eye(4)[p.argmax(axis=2)].sum(axis=1)
    said, shares = (
        load_fold_predictions(run, 0).predicted["voting"],
        load_fold_predictions(run, 0).probabilities["voting"],
    )
    assert np.abs(shares - votes / 3).max() < PROBABILITY
    tied = (votes.max(axis=1) == 1).nonzero()[0]
    assert len(tied) > 5
    assert any(said[i] != shares[i].argmax() for i in tied), "the shares alone do not tell"
    mean = np.where(votes == votes.max(axis=1, keepdims=True), p.mean(axis=1), -1)
    assert np.array_equal(said, mean.argmax(axis=1))


def test_test_images_change_no_fit(tmp_path: Path) -> None:
    """Other labels of test images and other answers to them leave everything else as it was."""
    (tmp_path / "run").mkdir()
    run = with_predictions(flannel_run(tmp_path / "run"))
    other = _with_other_test_images(run)
    assert np.array_equal(other.fold_of, run.fold_of)

    def upside_down(_: FlannelRun, fold: int, name: str) -> Logits:
        logits = informative_logits(run, fold, name)
        logits[run.test_rows] *= -3
        return logits

    with_predictions(other, upside_down)
    combine(run, range(FOLDS))
    combine(other, range(FOLDS))
    rest = np.setdiff1d(run.all_rows, run.test_rows)
    for k in range(FOLDS):
        a, b = load_fold_predictions(run, k), load_fold_predictions(other, k)
        assert a.combinations == b.combinations
        for name in a.probabilities:
            assert np.array_equal(a.probabilities[name][rest], b.probabilities[name][rest])
            assert not np.array_equal(a.probabilities[name][run.test_rows], b.probabilities[name][run.test_rows])


def test_pruned_learners_stand_beside_the_unpruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pruned_folder(run: FlannelRun, fold: int, name: str, *, unpruned: bool = False) -> Path:
        return run.folder(fold, name, pruned=name in run.config.learners and not unpruned)

    run = with_predictions(flannel_run(tmp_path, prune=PrunePlan()))
    for k in range(FOLDS):
        for name in LEARNERS:
            run.folder(k, name, pruned=True).mkdir(parents=True)
            worse = informative_logits(run, k, name) + informative_logits(run, k + FOLDS, name)[:, ::-1]
            SampleLogits(rows=run.all_rows, logits=worse).save(run.folder(k, name, pruned=True) / PREDICTIONS)
    monkeypatch.setattr(stage_2, "network_folder", pruned_folder)
    combine(run, [0])
    made = load_fold_predictions(run, 0)
    assert list(made.probabilities)[-4:] == [unpruned_name(m) for m in (*LEARNERS, FLANNEL)]
    assert unpruned_name("vgg") == "vgg, unpruned"
    for name in LEARNERS:
        whole = SampleLogits.load(run.folder(0, name) / PREDICTIONS).logits
        assert np.abs(made.probabilities[unpruned_name(name)] - _softmax(whole)).max() < 1e-12
        assert not np.array_equal(made.probabilities[name], made.probabilities[unpruned_name(name)])
    monkeypatch.undo()
    alone = stage_2._predict_fold(stage_2._Fold(run=flannel_run(tmp_path), fold=0))
    assert np.array_equal(made.probabilities[unpruned_name(FLANNEL)], alone.probabilities[FLANNEL])
