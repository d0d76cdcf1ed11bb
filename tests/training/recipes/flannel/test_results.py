"""What a finished run found, on made answers: figures against counts by hand, and what is chosen without test images."""

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
from training.ensembles.neural_weights import NeuralWeightModule, highest_probability
from training.recipes.flannel import results as module
from training.recipes.flannel.combine import ENSEMBLES, FLANNEL, FoldPredictions, combine, load_fold_predictions
from training.recipes.flannel.results import Table3Predictions, results, split_in_words, weights_of
from training.recipes.flannel.run import FlannelRun

torch.set_num_threads(1)

COVID = LABELS.index("covid-19")
LEAKAGE = {"divided_patients": 0, "label_by_source": 0.61}


def finished_run(out: Path, answering: MakeLogits = informative_logits, **changes: Any) -> FlannelRun:
    """A run that came through stage 2, with its leakage report."""
    out.mkdir(exist_ok=True)
    run = with_predictions(flannel_run(out, **changes), answering)
    combine(run, range(run.config.folds))
    (out / "leakage.json").write_text(json.dumps(LEAKAGE))
    return run


def results_of(run: FlannelRun) -> dict[str, Any]:
    """Its results, with sizes of networks that lie on no disk."""
    sizes = {"architecture": "narrow-vgg", "parameters": 1234.5, "macs": 6_700_000.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_network", lambda run, name: sizes)
        return results(run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FlannelRun:
    return finished_run(tmp_path_factory.mktemp("results") / "run")


@pytest.fixture(scope="module")
def found(run: FlannelRun) -> dict[str, Any]:
    return results_of(run)


def _rows(run: FlannelRun, **wanted: object) -> list[int]:
    """Rows of Table 1's images whose record, or side, has one of these values."""
    return [
        i
        for i, s in enumerate(run.samples)
        if s.record.source in ("ccx", "kcx")
        and s.record.view in ("AP", "AP Supine", "PA")
        and s.record.label in run.config.labels
        and all((getattr(s, k) if k == "side" else getattr(s.record, k)) in v for k, v in wanted.items())  # type: ignore[operator]
    ]


def _certain(winners: list[int]) -> npt.NDArray[np.float64]:
    return np.eye(len(LABELS))[winners]


def _as_combined(like: FoldPredictions, **probabilities: npt.NDArray[np.float64]) -> FoldPredictions:
    return replace(like, probabilities={**like.probabilities, **probabilities})


def test_folds_mean_and_deviation(run: FlannelRun, found: dict[str, Any]) -> None:
    truth, test = truth_of(run), _rows(run, side=("test",))
    for method in (LEARNERS[1], BASELINE, "voting", "mlp-2", FLANNEL):
        said = [load_fold_predictions(run, k).predicted[method][test] for k in range(FOLDS)]
        macro = [f1_score(truth[test], s, average="macro", labels=range(4), zero_division=0) for s in said]
        precision = [precision_score(truth[test] == COVID, s == COVID, zero_division=0) for s in said]
        recall = [recall_score(truth[test] == COVID, s == COVID, zero_division=0) for s in said]
        of = found["methods"][method]
        for key, values in (("macro", macro), ("precision", precision), ("recall", recall)):
            assert [f[key] for f in of["folds"]] == pytest.approx(values)
            assert of["mean"][key] == pytest.approx(statistics.mean(values), abs=1e-6)
            assert of["sd"][key] == pytest.approx(statistics.stdev(values), abs=1e-6)
        by_label = f1_score(truth[test], said[0], average=None, labels=range(4), zero_division=0)
        assert [of["folds"][0][label] for label in LABELS] == pytest.approx(by_label)


def test_one_value_has_no_deviation() -> None:
    assert module._sd([0.7]) == 0.0
    assert module._sd([0.0, 1.0]) == pytest.approx(0.5**0.5)


def test_a_label_that_is_never_said_has_precision_0() -> None:
    truth = np.array([0, 1, 1])
    answers = module.Predictions(
        true=truth,
        predicted=np.array([1, 1, 1]),
        probabilities=np.eye(4)[[1, 1, 1]],
        patients=np.array(["a", "b", "c"]),
    )
    of = module._figures(answers, LABELS)
    assert (of["covid-19"], of["precision"], of["recall"]) == (0.0, 0.0, 0.0)
    assert of["viral"] == pytest.approx(0.8)


def test_together_the_folds_probabilities_are_averaged(run: FlannelRun, found: dict[str, Any]) -> None:
    table, test = Table3Predictions(run), _rows(run, side=("test",))
    assert table.methods == (*LEARNERS, BASELINE, *ENSEMBLES)
    for method in table.methods:
        answers = table.averaged(method)
        p = np.mean([load_fold_predictions(run, k).probabilities[method] for k in range(FOLDS)], axis=0)[test]
        assert np.abs(answers.probabilities - p).max() < 1e-12
        assert np.array_equal(answers.true, truth_of(run)[test])
        assert answers.patients.tolist() == [run.samples[i].group for i in test]
        if method != "voting":
            assert np.array_equal(answers.predicted, p.argmax(axis=1))
        assert found["methods"][method]["together"]["images"] == len(test)


def test_together_votings_ties_go_by_the_learners_mean(run: FlannelRun) -> None:
    table, rows = Table3Predictions(run), np.array([0, 1, 2])
    n = len(run.samples)
    # Of three images: a tie of three labels, a majority, and a tie of two. The third label has the higher mean, a little. Thirds
    # and fifths are no binary fractions: a tie must not fall by rounding.
    votes = [[0, 1, 3], [1, 1, 3], [2, 0, 2]]
    mean = np.full((n, 4), [0.24, 0.24, 0.27, 0.25])
    made = []
    for k, winners in enumerate(votes):
        shares = np.zeros((n, 4))
        shares[rows] = _certain(winners)
        if k == 2:
            shares[2] = [0, 0, 2, 0]
        made.append(_as_combined(table.folds[k], voting=shares, **dict.fromkeys(LEARNERS, mean)))
    table.folds = made
    assert table.averaged("voting", rows).predicted.tolist() == [2, 1, 2]


def test_a_tie_of_votings_shares_does_not_fall_by_rounding(run: FlannelRun) -> None:
    table, rows, n = Table3Predictions(run), np.array([0]), len(run.samples)
    mean = np.full((n, 4), [0.2499, 0.2501, 0.25, 0.25])
    made = []
    for k in range(FOLDS):
        of_all = np.zeros((n, 4), np.float32)
        of_all[0, :2] = [0.6 if k == 0 else 0.0, 0.2]  # 0.6 + 0 + 0 against 0.2 three times: not alike in float32
        made.append(_as_combined(table.folds[k], voting=of_all, **dict.fromkeys(LEARNERS, mean)))
    table.folds = made
    assert table.averaged("voting", rows).predicted.tolist() == [1]


def test_a_run_without_ap_test_images_has_no_ap_figures(run: FlannelRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table3Predictions, "ap_rows", np.array([], dtype=np.int64))
    assert all(m["ap"] is None for m in results_of(run)["methods"].values())


def test_weights_are_those_of_the_module(run: FlannelRun) -> None:
    table = Table3Predictions(run)
    for k in range(FOLDS):
        stored = table.folds[k].combinations[FLANNEL].parameters
        net = NeuralWeightModule(len(LEARNERS), len(LABELS)).double()
        p = np.stack([table.folds[k].probabilities[name] for name in LEARNERS], axis=1)
        with torch.no_grad():
            net.dense.weight.copy_(torch.tensor(stored["module_weight"]))
            net.dense.bias.copy_(torch.tensor(stored["module_bias"]))
            wanted = net(torch.from_numpy(p)).numpy()
        got = weights_of(table, k)
        assert got.shape == (len(run.samples), len(LEARNERS))
        assert np.abs(got - wanted).max() < 1e-9
        assert np.abs(got).max() < 1


def test_mean_weights_are_of_test_images_by_their_truth(run: FlannelRun, found: dict[str, Any]) -> None:
    table = Table3Predictions(run)
    assert list(found["weights"]) == list(LABELS)
    for label, of_label in found["weights"].items():
        rows = _rows(run, side=("test",), label=(label,))
        wanted = np.mean([weights_of(table, k)[rows].mean(axis=0) for k in range(FOLDS)], axis=0)
        assert list(of_label) == list(LEARNERS)
        assert list(of_label.values()) == pytest.approx(wanted, abs=1e-4)


def test_the_ap_subset_holds_ap_and_ap_supine(run: FlannelRun, found: dict[str, Any]) -> None:
    rows = _rows(run, side=("test",), view=("AP", "AP Supine"))
    assert Table3Predictions(run).ap_rows.tolist() == rows
    assert {run.samples[i].record.view for i in rows} == {"AP", "AP Supine"}
    assert 0 < len(rows) < len(run.test_rows)
    for of in found["methods"].values():
        assert of["ap"]["images"] == of["ap"]["together"]["images"] == len(rows)
    said = Table3Predictions(run).predictions(FLANNEL, 1, np.array(rows)).predicted
    wanted = f1_score(truth_of(run)[rows], said, average=None, labels=range(4), zero_division=0)
    assert found["methods"][FLANNEL]["ap"]["folds"][1]["covid-19"] == pytest.approx(wanted[COVID])


def test_outside_leaves_out_who_shares_an_image_with_table_1(run: FlannelRun, found: dict[str, Any]) -> None:
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
        said = Table3Predictions(run).averaged(method, np.array(rows)).predicted
        assert (share["hits"], share["n"]) == (int((said == COVID).sum()), 7)


def _uneven(own: dict[str, float], test: dict[str, float], best_fold: dict[str, int]) -> MakeLogits:
    """Learners with noise of their own on the folds' own images, and of their own on test images.

    best_fold: on a fold's `own` images, and on `test` images, all networks of this fold are nearly free of it.
    """

    def answering(run: FlannelRun, fold: int, name: str) -> Logits:
        truth, rng = truth_of(run), np.random.default_rng([fold, ord(name[0])])
        deviation = np.full(len(truth), own.get(name, 1.0) * (0.05 if fold == best_fold["own"] else 1.0))
        deviation[run.test_rows] = test.get(name, 1.0) * (0.05 if fold == best_fold["test"] else 1.0)
        noise = deviation[:, None] * rng.normal(size=(len(truth), 4))
        return (2 * np.eye(4)[truth] * (truth >= 0)[:, None] + noise).astype(np.float32)

    return answering


def test_fold_and_learner_are_chosen_by_the_folds_own_images(tmp_path: Path) -> None:
    own, test = {"densenet": 4.0, "resnet": 1.5, "vgg": 4.0}, {"densenet": 0.1, "resnet": 6.0, "vgg": 3.0}
    run = finished_run(tmp_path / "run", _uneven(own, test, {"own": 2, "test": 0}))
    table = Table3Predictions(run)
    assert (table.chosen_fold, table.best_learner) == (2, "resnet")
    by_test = {m: np.mean([module.macro_f(table.predictions(m, k)) for k in range(FOLDS)]) for m in LEARNERS}
    assert max(by_test, key=by_test.__getitem__) == "densenet", "test images would have chosen another"
    other = finished_run(tmp_path / "other", _uneven(own, {"densenet": 6.0, "vgg": 0.1}, {"own": 2, "test": 1}))
    changed = Table3Predictions(other)
    assert changed.validation_f == table.validation_f
    assert (changed.chosen_fold, changed.best_learner) == (2, "resnet")
    assert changed.averaged(FLANNEL).probabilities.tolist() != table.averaged(FLANNEL).probabilities.tolist()
    best = Table3Predictions(
        finished_run(tmp_path / "third", _uneven({**own, "vgg": 0.1}, test, {"own": 1, "test": 0}))
    )
    assert (best.chosen_fold, best.best_learner) == (1, "vgg")


def test_validation_scores_are_of_each_folds_own_images(run: FlannelRun, found: dict[str, Any]) -> None:
    truth = truth_of(run)
    for method, scores in found["validation_macro_f1"].items():
        wanted = []
        for k in range(FOLDS):
            rows = [i for i in _rows(run, side=("train",)) if run.fold_of[i] == k]
            wanted.append(
                f1_score(
                    truth[rows], load_fold_predictions(run, k).predicted[method][rows], average="macro", zero_division=0
                )
            )
        assert scores == pytest.approx(wanted, abs=1e-6)


def test_data_are_counted(run: FlannelRun, found: dict[str, Any]) -> None:
    wanted = {
        "original data, kcx": {"source": ("kcx",)}, "original data, ccx": {"source": ("ccx",)},
        "view, AP": {"view": ("AP", "AP Supine")}, "view, PA": {"view": ("PA",)},
        "split, training": {"side": ("train",)}, "split, test": {"side": ("test",)}, "all, all": {},
    }  # fmt: skip
    assert list(found["data"]) == list(wanted)
    for name, what in wanted.items():
        counts = Counter(run.samples[i].record.label for i in _rows(run, **what))
        assert found["data"][name] == [counts.total(), *(counts[label] for label in LABELS)]
    assert found["data"]["all, all"] == [120, 30, 30, 30, 30]


def test_findings_of_table_1s_collections_are_listed(run: FlannelRun, found: dict[str, Any]) -> None:
    assert {f["source"] for f in found["findings"]} == {"ccx", "kcx"}
    counts = {(f["source"], f["label"]): f["images"] for f in found["findings"]}
    assert counts["ccx", "other"] == 4, "which neither train nor judge"
    assert sum(counts.values()) == 124, "without the three lateral images"


def test_a_method_is_no_better_than_itself(run: FlannelRun) -> None:
    table = Table3Predictions(run)
    table.folds = [
        replace(
            made,
            predicted={**made.predicted, "averaging": made.predicted[FLANNEL]},
            probabilities={**made.probabilities, "averaging": made.probabilities[FLANNEL]},
        )
        for made in table.folds
    ]
    same = next(c for c in module._comparisons(table) if (c["a"], c["b"]) == (FLANNEL, "averaging"))
    assert same["mcnemar"] == {"b": 0, "c": 0, "p": 1.0}
    for key in ("difference", "macro_f_difference", "covid_f_difference"):
        assert (same[key]["value"], same[key]["low"], same[key]["high"]) == (0.0, 0.0, 0.0)
    assert same["macro_f_by_fold"] == {"mean": 0.0, "sd": 0.0, "wins": 0}


def test_flannel_is_compared_with_all_else(run: FlannelRun, found: dict[str, Any]) -> None:
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


def test_the_temperature_lifts_what_no_module_can_pass(found: dict[str, Any]) -> None:
    t = found["temperature"]
    assert t["most"] == pytest.approx(highest_probability(3, 4), abs=1e-9)
    assert t["raw"]["largest"] < t["most"]
    assert t["scaled"]["largest"] > t["raw"]["largest"]
    assert len(t["temperatures"]) == FOLDS


@pytest.mark.parametrize("preset", ["sane", "paper", "code"])
def test_results_are_json_and_say_how_they_came_about(tmp_path: Path, preset: str) -> None:
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


def test_of_one_view_pa_images_are_no_part(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", view="ap")
    found = results_of(run)
    assert found["data"]["view, PA"] == [0] * 5
    assert found["data"]["all, all"] == found["data"]["view, AP"]
    assert found["methods"][FLANNEL]["ap"]["folds"] == found["methods"][FLANNEL]["folds"]
