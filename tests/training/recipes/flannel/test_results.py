"""Results of a FLANNEL run on synthetic logits: figures against independent counts, and selection without test images."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from tests.builders.flannel_run import (
    BASELINE,
    FOLDS,
    LABELS,
    LEARNERS,
    Logits,
    MakeLogits,
    flannel_run,
    informative_logits,
    truth_of,
    with_predictions,
)
from training.data.dataset import mark_unseen
from training.data.guard import Subgroup
from training.ensembles.neural_weights import NeuralWeightModule, highest_probability
from training.evaluation.statistics import McNemar
from training.json_records import as_json
from training.recipes.flannel import results as module
from training.recipes.flannel.combine import ENSEMBLES, FLANNEL, FoldPredictions, combine, load_fold_predictions
from training.recipes.flannel.records import FoldDifferences, SizedNetwork
from training.recipes.flannel.results import Table3Predictions, results, split_in_words, weights_of
from training.recipes.flannel.run import FlannelRun

torch.set_num_threads(1)

COVID = LABELS.index("covid-19")
LEAKAGE = {"divided_patients": 0, "label_by_source": 0.61}


def finished_run(out: Path, make_logits: MakeLogits = informative_logits, **changes: Any) -> FlannelRun:
    """Return a run with finished stage 2 and a leakage report."""
    out.mkdir(exist_ok=True)
    run = with_predictions(flannel_run(out, **changes), make_logits)
    combine(run, range(run.config.folds))
    (out / "leakage.json").write_text(json.dumps(LEAKAGE))
    return run


def results_of(run: FlannelRun) -> dict[str, Any]:
    """Return the content of a run's results.json, with constants for the sizes of its networks, which do not exist."""
    sizes = SizedNetwork(architecture="narrow-vgg", parameters=1234.5, macs=6_700_000.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_network", lambda run, name: sizes)
        return as_json(results(run))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FlannelRun:
    groups = {"normals": Subgroup(label="normal")}
    return finished_run(tmp_path_factory.mktemp("results") / "run", guard_groups=groups)


@pytest.fixture(scope="module")
def found(run: FlannelRun) -> dict[str, Any]:
    return results_of(run)


def _rows(run: FlannelRun, **values: object) -> list[int]:
    """Return the rows of Table 1's images whose record, or side, has one of these values."""
    return [
        i
        for i, s in enumerate(run.samples)
        if s.record.source in ("ccx", "kcx")
        and s.record.view in ("AP", "AP Supine", "PA")
        and s.record.label in run.config.labels
        and all((getattr(s, k) if k == "side" else getattr(s.record, k)) in v for k, v in values.items())  # type: ignore[operator]
    ]


def _one_hot(winners: list[int]) -> npt.NDArray[np.float64]:
    return np.eye(len(LABELS))[winners]


def _with_probabilities(like: FoldPredictions, **probabilities: npt.NDArray[np.float64]) -> FoldPredictions:
    return replace(like, probabilities={**like.probabilities, **probabilities})


def test_folds_mean_and_deviation(run: FlannelRun, found: dict[str, Any]) -> None:
    truth, test = truth_of(run), _rows(run, side=("test",))
    for method in (LEARNERS[1], BASELINE, "voting", "mlp-2", FLANNEL):
        predicted = [load_fold_predictions(run, k).predicted[method][test] for k in range(FOLDS)]
        macro = [f1_score(truth[test], s, average="macro", labels=range(4), zero_division=0) for s in predicted]
        precision = [precision_score(truth[test] == COVID, s == COVID, zero_division=0) for s in predicted]
        recall = [recall_score(truth[test] == COVID, s == COVID, zero_division=0) for s in predicted]
        of = found["methods"][method]
        for key, values in (("macro", macro), ("precision", precision), ("recall", recall)):
            assert [f[key] for f in of["folds"]] == pytest.approx(values)
            assert of["mean"][key] == pytest.approx(statistics.mean(values), abs=1e-6)
            assert of["sd"][key] == pytest.approx(statistics.stdev(values), abs=1e-6)
        by_label = f1_score(truth[test], predicted[0], average=None, labels=range(4), zero_division=0)
        assert [of["folds"][0][label] for label in LABELS] == pytest.approx(by_label)


def test_the_deviation_of_one_value_is_0() -> None:
    assert module._sd([0.7]) == 0.0
    assert module._sd([0.0, 1.0]) == pytest.approx(0.5**0.5)


def test_a_label_that_is_never_predicted_has_precision_0() -> None:
    truth = np.array([0, 1, 1])
    predictions = module.Predictions(
        true=truth,
        predicted=np.array([1, 1, 1]),
        probabilities=np.eye(4)[[1, 1, 1]],
        patients=np.array(["a", "b", "c"]),
    )
    of = module._scores(predictions, LABELS, "covid-19")
    assert (of.f1["covid-19"], of.precision, of.recall) == (0.0, 0.0, 0.0)
    assert of.f1["viral"] == pytest.approx(0.8)


def test_probabilities_are_averaged_over_folds(run: FlannelRun, found: dict[str, Any]) -> None:
    table, test = Table3Predictions(run), _rows(run, side=("test",))
    assert table.methods == (*LEARNERS, BASELINE, *ENSEMBLES)
    for method in table.methods:
        predictions = table.averaged(method)
        p = np.mean([load_fold_predictions(run, k).probabilities[method] for k in range(FOLDS)], axis=0)[test]
        assert np.abs(predictions.probabilities - p).max() < 1e-12
        assert np.array_equal(predictions.true, truth_of(run)[test])
        assert predictions.patients.tolist() == [run.samples[i].group for i in test]
        if method != "voting":
            assert np.array_equal(predictions.predicted, p.argmax(axis=1))
        assert found["methods"][method]["together"]["images"] == len(test)


def test_ties_of_averaged_votes_go_by_the_learners_mean(run: FlannelRun) -> None:
    table, rows = Table3Predictions(run), np.array([0, 1, 2])
    n = len(run.samples)
    # Of three images: a tie of three labels, a majority, and a tie of two. The third label has the higher mean, a little. Thirds
    # and fifths are no binary fractions: rounding must not decide a tie.
    votes = [[0, 1, 3], [1, 1, 3], [2, 0, 2]]
    mean = np.full((n, 4), [0.24, 0.24, 0.27, 0.25])
    made = []
    for k, winners in enumerate(votes):
        shares = np.zeros((n, 4))
        shares[rows] = _one_hot(winners)
        if k == 2:
            shares[2] = [0, 0, 2, 0]
        made.append(_with_probabilities(table.folds[k], voting=shares, **dict.fromkeys(LEARNERS, mean)))
    table.folds = made
    assert table.averaged("voting", rows).predicted.tolist() == [2, 1, 2]


def test_rounding_does_not_decide_ties_of_votes(run: FlannelRun) -> None:
    table, rows, n = Table3Predictions(run), np.array([0]), len(run.samples)
    mean = np.full((n, 4), [0.2499, 0.2501, 0.25, 0.25])
    made = []
    for k in range(FOLDS):
        of_all = np.zeros((n, 4), np.float32)
        of_all[0, :2] = [0.6 if k == 0 else 0.0, 0.2]  # 0.6 + 0 + 0 against 0.2 three times: not alike in float32
        made.append(_with_probabilities(table.folds[k], voting=of_all, **dict.fromkeys(LEARNERS, mean)))
    table.folds = made
    assert table.averaged("voting", rows).predicted.tolist() == [1]


def test_a_run_without_ap_test_images_has_no_ap_figures(run: FlannelRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table3Predictions, "ap_rows", np.array([], dtype=np.int64))
    assert all(m["ap"] is None for m in results_of(run)["methods"].values())


def test_weights_match_the_torch_module(run: FlannelRun) -> None:
    table = Table3Predictions(run)
    for k in range(FOLDS):
        stored = table.folds[k].combinations[FLANNEL].parameters
        net = NeuralWeightModule(len(LEARNERS), len(LABELS)).double()
        p = np.stack([table.folds[k].probabilities[name] for name in LEARNERS], axis=1)
        with torch.no_grad():
            net.dense.weight.copy_(torch.tensor(stored["module_weight"]))
            net.dense.bias.copy_(torch.tensor(stored["module_bias"]))
            expected = net(torch.from_numpy(p)).numpy()
        weights = weights_of(table, k)
        assert weights.shape == (len(run.samples), len(LEARNERS))
        assert np.abs(weights - expected).max() < 1e-9
        assert np.abs(weights).max() < 1


def test_mean_weights_are_per_true_label_of_test_images(run: FlannelRun, found: dict[str, Any]) -> None:
    table = Table3Predictions(run)
    assert list(found["weights"]) == list(LABELS)
    for label, of_label in found["weights"].items():
        rows = _rows(run, side=("test",), label=(label,))
        expected = np.mean([weights_of(table, k)[rows].mean(axis=0) for k in range(FOLDS)], axis=0)
        assert list(of_label) == list(LEARNERS)
        assert list(of_label.values()) == pytest.approx(expected, abs=1e-4)


def test_the_ap_subset_holds_ap_and_ap_supine(run: FlannelRun, found: dict[str, Any]) -> None:
    rows = _rows(run, side=("test",), view=("AP", "AP Supine"))
    assert Table3Predictions(run).ap_rows.tolist() == rows
    assert {run.samples[i].record.view for i in rows} == {"AP", "AP Supine"}
    assert 0 < len(rows) < len(run.test_rows)
    for of in found["methods"].values():
        assert of["ap"]["images"] == of["ap"]["together"]["images"] == len(rows)
    predicted = Table3Predictions(run).predictions(FLANNEL, 1, np.array(rows)).predicted
    expected = f1_score(truth_of(run)[rows], predicted, average=None, labels=range(4), zero_division=0)
    assert found["methods"][FLANNEL]["ap"]["folds"][1]["covid-19"] == pytest.approx(expected[COVID])


def test_outside_excludes_patients_who_share_an_image_with_table_1(run: FlannelRun, found: dict[str, Any]) -> None:
    assert list(found["outside"]) == ["shenzhen, normal", "shenzhen, tuberculosis", "twitter, covid-19"]
    assert {name: of[FLANNEL]["n"] for name, of in found["outside"].items()} == {
        "shenzhen, normal": 7, "shenzhen, tuberculosis": 8, "twitter, covid-19": 6,
    }  # fmt: skip
    shared = {s.group for s in run.samples if s.record.source in ("ccx", "kcx")}
    rows = [
        i
        for i, s in enumerate(run.samples)
        if (s.record.source, s.record.label) == ("shenzhen", "normal") and s.group not in shared
    ]
    for method, share in found["outside"]["shenzhen, normal"].items():
        predicted = Table3Predictions(run).averaged(method, np.array(rows)).predicted
        assert (share["hits"], share["n"]) == (int((predicted == COVID).sum()), 7)


def _uneven_noise(own: dict[str, float], test: dict[str, float], best_fold: dict[str, int]) -> MakeLogits:
    """Return logits with separate noise per learner on the folds' own images and on test images.

    own, test: noise per learner; 1 by default.
    best_fold: fold whose networks have little noise on their `own` images and on `test` images.
    """

    def make_logits(run: FlannelRun, fold: int, name: str) -> Logits:
        truth, rng = truth_of(run), np.random.default_rng([fold, ord(name[0])])
        deviation = np.full(len(truth), own.get(name, 1.0) * (0.05 if fold == best_fold["own"] else 1.0))
        deviation[run.test_rows] = test.get(name, 1.0) * (0.05 if fold == best_fold["test"] else 1.0)
        noise = deviation[:, None] * rng.normal(size=(len(truth), 4))
        return (2 * np.eye(4)[truth] * (truth >= 0)[:, None] + noise).astype(np.float32)

    return make_logits


def test_fold_and_learner_are_selected_on_the_folds_own_images(tmp_path: Path) -> None:
    own, test = {"densenet": 4.0, "resnet": 1.5, "vgg": 4.0}, {"densenet": 0.1, "resnet": 6.0, "vgg": 3.0}
    run = finished_run(tmp_path / "run", _uneven_noise(own, test, {"own": 2, "test": 0}))
    table = Table3Predictions(run)
    assert (table.chosen_fold, table.best_learner) == (2, "resnet")
    by_test = {m: np.mean([module.macro_f(table.predictions(m, k)) for k in range(FOLDS)]) for m in LEARNERS}
    assert max(by_test, key=by_test.__getitem__) == "densenet", "test images would select another"
    other = finished_run(tmp_path / "other", _uneven_noise(own, {"densenet": 6.0, "vgg": 0.1}, {"own": 2, "test": 1}))
    changed = Table3Predictions(other)
    assert changed.validation_f == table.validation_f
    assert (changed.chosen_fold, changed.best_learner) == (2, "resnet")
    assert changed.averaged(FLANNEL).probabilities.tolist() != table.averaged(FLANNEL).probabilities.tolist()
    best = Table3Predictions(
        finished_run(tmp_path / "third", _uneven_noise({**own, "vgg": 0.1}, test, {"own": 1, "test": 0}))
    )
    assert (best.chosen_fold, best.best_learner) == (1, "vgg")


def test_validation_scores_are_on_each_folds_own_images(run: FlannelRun, found: dict[str, Any]) -> None:
    truth = truth_of(run)
    for method, scores in found["validation_macro_f1"].items():
        expected = []
        for k in range(FOLDS):
            rows = [i for i in _rows(run, side=("train",)) if run.fold_of[i] == k]
            expected.append(
                f1_score(
                    truth[rows], load_fold_predictions(run, k).predicted[method][rows], average="macro", zero_division=0
                )
            )
        assert scores == pytest.approx(expected, abs=1e-6)


def test_counts_of_table_1(run: FlannelRun, found: dict[str, Any]) -> None:
    expected = {
        "original data, kcx": {"source": ("kcx",)}, "original data, ccx": {"source": ("ccx",)},
        "view, AP": {"view": ("AP", "AP Supine")}, "view, PA": {"view": ("PA",)},
        "split, training": {"side": ("train",)}, "split, test": {"side": ("test",)}, "all, all": {},
    }  # fmt: skip
    assert list(found["data"]) == list(expected)
    for name, what in expected.items():
        counts = Counter(run.samples[i].record.label for i in _rows(run, **what))
        assert found["data"][name] == [counts.total(), *(counts[label] for label in LABELS)]
    assert found["data"]["all, all"] == [120, 30, 30, 30, 30]


def test_findings_of_table_1s_collections_are_listed(run: FlannelRun, found: dict[str, Any]) -> None:
    assert {f["source"] for f in found["findings"]} == {"ccx", "kcx"}
    counts = {(f["source"], f["label"]): f["images"] for f in found["findings"]}
    assert counts["ccx", "other"] == 4, "which are neither trained nor evaluated on"
    assert sum(counts.values()) == 124, "without the three lateral images"


def test_a_method_compared_with_itself_has_no_difference(run: FlannelRun) -> None:
    table = Table3Predictions(run)
    table.folds = [
        replace(
            made,
            predicted={**made.predicted, "averaging": made.predicted[FLANNEL]},
            probabilities={**made.probabilities, "averaging": made.probabilities[FLANNEL]},
        )
        for made in table.folds
    ]
    same = next(c for c in module._comparisons(table) if (c.a, c.b) == (FLANNEL, "averaging"))
    assert same.mcnemar == McNemar(b=0, c=0, p=1.0)
    for figure in (same.difference, same.macro_f_difference, same.positive_f_difference):
        assert (figure.value, figure.low, figure.high) == (0.0, 0.0, 0.0)
    assert same.macro_f_by_fold == FoldDifferences(mean=0.0, sd=0.0, wins=0)


def test_flannel_is_compared_with_all_other_methods(run: FlannelRun, found: dict[str, Any]) -> None:
    pairs = [(c["a"], c["b"]) for c in found["comparisons"]]
    others = [m for m in found["methods"] if m != FLANNEL]
    assert pairs == [*((FLANNEL, m) for m in others), ("flannel-ce", "voting"), ("averaging", "voting")]
    for c in found["comparisons"]:
        a, b = (Table3Predictions(run).averaged(c[k]) for k in ("a", "b"))
        right_a, right_b = a.predicted == a.true, b.predicted == b.true
        assert (c["mcnemar"]["b"], c["mcnemar"]["c"]) == ((right_a & ~right_b).sum(), (~right_a & right_b).sum())
        assert c["difference"]["value"] == pytest.approx(right_a.mean() - right_b.mean(), abs=1e-6)
        first, second = (found["methods"][c[k]]["folds"] for k in ("a", "b"))
        gains = [f["macro"] - g["macro"] for f, g in zip(first, second, strict=True)]
        assert c["macro_f_by_fold"]["mean"] == pytest.approx(statistics.mean(gains))
        assert c["macro_f_by_fold"]["sd"] == pytest.approx(statistics.stdev(gains))
        assert c["macro_f_by_fold"]["wins"] == sum(g > 1e-12 for g in gains)


def test_temperature_raises_the_highest_probability_above_the_modules_limit(found: dict[str, Any]) -> None:
    t = found["temperature"]
    assert t["most"] == pytest.approx(highest_probability(3, 4), abs=1e-9)
    assert t["raw"]["largest"] < t["most"]
    assert t["scaled"]["largest"] > t["raw"]["largest"]
    assert len(t["temperatures"]) == FOLDS


@pytest.mark.parametrize("preset", ["sane", "paper", "code"])
def test_results_are_json_with_their_settings(tmp_path: Path, preset: str) -> None:
    run = finished_run(tmp_path / "run", preset=preset)
    found = results_of(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["preset"], found["config"], found["seed"], found["view"]) == (preset, "made", 1, "frontal")
    assert (found["leakage"], found["learners"], found["baselines"]) == (LEAKAGE, list(LEARNERS), [BASELINE])
    assert ("leaks" in found["split"]) is (preset == "code")
    assert (found["divided_by_folds"] > 0) is (preset == "code")
    assert found["split"] == split_in_words(run)
    assert found["split"].endswith(f"4:1, {FOLDS} folds of the training side")
    assert (found["temperature"]["raw"] == found["temperature"]["scaled"]) is (preset != "sane")
    assert set(found["methods"]) == {*LEARNERS, BASELINE, *ENSEMBLES}
    assert set(found["networks"]) == {*LEARNERS, BASELINE}
    assert not found["pruned"]


def test_view_ap_excludes_pa_images(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", view="ap")
    found = results_of(run)
    assert found["data"]["view, PA"] == [0] * 5
    assert found["data"]["all, all"] == found["data"]["view, AP"]
    assert found["methods"][FLANNEL]["ap"]["folds"] == found["methods"][FLANNEL]["folds"]


def test_unseen_sources_neither_train_nor_test(tmp_path: Path) -> None:
    run = flannel_run(tmp_path, unseen_sources=("ccx",), collections=("kcx", "ccx"))
    run.__dict__["samples"] = mark_unseen(run.samples, ("ccx",))
    assert run.sources == ("kcx",)
    assert {run.samples[i].record.source for i in np.flatnonzero(run.evaluated)} == {"kcx"}
    assert {run.samples[i].record.source for i in np.flatnonzero(run.fold_of >= 0)} <= {"kcx", "shenzhen", "twitter"}


def test_methods_on_unseen_sources(run: FlannelRun, found: dict[str, Any]) -> None:
    table, outside = Table3Predictions(run), ("shenzhen", "twitter")
    rows = np.array(
        [i for i, s in enumerate(run.samples) if s.record.source in outside and not s.group.startswith("ccx")]
    )
    assert sum(found["unseen"]["images"].values()) == len(rows) == 21
    covid = [i for i in rows if run.samples[i].record.label == "covid-19"]
    called = table.averaged(FLANNEL, np.array(covid)).predicted == COVID
    assert found["unseen"]["methods"][FLANNEL]["called"]["twitter, covid-19"]["hits"] == called.sum()
    pairs = {(p["a"], p["b"]) for p in found["unseen"]["pairs"]}
    assert {(FLANNEL, "flannel-ce"), (FLANNEL, "averaging")} <= pairs
