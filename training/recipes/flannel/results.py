"""Results of a FLANNEL run: predictions of stage 2 in, one JSON object for tables and figures out.

Every figure is of test images. A method's mean and standard deviation are over the folds' models. Its interval is of the
averaged probabilities of the folds' models; the bootstrap resamples patients, not models.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.data.collections import collection_names
from training.data.findings import projection
from training.data.folds import divided_patients
from training.ensembles.neural_weights import highest_probability
from training.evaluation.metrics import Figure, Predictions, figures, proportion
from training.evaluation.statistics import Measure, compare, macro_f, paired_difference
from training.models import load_network
from training.pruning import cost
from training.recipes.flannel.combine import ENSEMBLES, FLANNEL, FoldPredictions, load_fold_predictions, unpruned_name
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import network_folder
from training.tasks.confusion import confusion, f1_scores

__all__ = ["Table3Predictions", "results", "split_in_words"]

Json = dict[str, Any]
Floats = npt.NDArray[np.float64]
COVID = "covid-19"


class Table3Predictions:
    """Predictions of all methods, per fold and averaged over the folds."""

    def __init__(self, run: FlannelRun) -> None:
        self.run = run
        self.folds: list[FoldPredictions] = [load_fold_predictions(run, fold) for fold in range(run.config.folds)]
        self.methods = (*run.config.learners, *run.config.baselines, *ENSEMBLES)
        if run.config.prune is not None:
            self.methods += tuple(unpruned_name(m) for m in (*run.config.learners, FLANNEL))

    def predictions(self, method: str, fold: int, rows: npt.NDArray[np.int64] | None = None) -> Predictions:
        """Return the predictions of a fold's model on test images, or on other `rows`."""
        rows, stored = self.run.test_rows if rows is None else rows, self.folds[fold]
        return self._make_predictions(stored.predicted[method][rows], stored.probabilities[method][rows], rows)

    def averaged(self, method: str, rows: npt.NDArray[np.int64] | None = None) -> Predictions:
        """Return the predictions by the mean probabilities of the folds' models; ties of voting go by the learners' mean."""
        rows = self.run.test_rows if rows is None else rows
        p = np.mean([fold.probabilities[method][rows] for fold in self.folds], axis=0)
        scores = p.round(4) + 1e-6 * self._learners_mean(rows) if method == "voting" else p
        return self._make_predictions(scores.argmax(axis=1), p, rows)

    def _learners_mean(self, rows: npt.NDArray[np.int64]) -> Floats:
        learners = self.run.config.learners
        mean: Floats = np.mean([fold.probabilities[name][rows] for fold in self.folds for name in learners], axis=0)
        return mean

    def uncalibrated(self, fold: int) -> Predictions:
        """Return FLANNEL's predictions on test images before the temperature."""
        rows, stored = self.run.test_rows, self.folds[fold]
        return self._make_predictions(stored.predicted[FLANNEL][rows], stored.raw[rows], rows)

    def _make_predictions(
        self, predicted: npt.NDArray[np.int64], p: Floats, rows: npt.NDArray[np.int64]
    ) -> Predictions:
        run = self.run
        truth, patients = run.truth(rows, run.config.target), run.patients(rows)
        return Predictions(true=truth, predicted=predicted.astype(np.int64), probabilities=p, patients=patients)

    @cached_property
    def ap_rows(self) -> npt.NDArray[np.int64]:
        """Rows of test images with an AP view."""
        views = np.array([projection(s.record.view) == "AP" for s in self.run.samples])
        rows: npt.NDArray[np.int64] = self.run.test_rows[views[self.run.test_rows]]
        return rows

    @cached_property
    def validation_f(self) -> dict[str, list[float]]:
        """Macro-F1 of each method on each fold's own images, by which fold and learner are selected."""
        rows = [np.flatnonzero(self.run.evaluated & (self.run.fold_of == k)) for k in range(len(self.folds))]
        return {m: [macro_f(self.predictions(m, k, r)) for k, r in enumerate(rows)] for m in self.methods}

    @property
    def chosen_fold(self) -> int:
        """Fold with the best FLANNEL model on its own images, which goes into the bundle."""
        return int(np.argmax(self.validation_f[FLANNEL]))

    @property
    def best_learner(self) -> str:
        """Learner with the best mean over the folds' own images."""
        return max(self.run.config.learners, key=lambda m: float(np.mean(self.validation_f[m])))


def results(run: FlannelRun) -> Json:
    """Return all results as a JSON object, the input of `training.recipes.flannel.tables`."""
    c, table = run.config, Table3Predictions(run)
    leakage = json.loads((run.out / "leakage.json").read_text(encoding="utf-8"))
    return {
        "config": c.name,
        "preset": c.preset,
        "seed": c.seed,
        "resamples": c.resamples,
        "split": split_in_words(run),
        "labels": list(c.labels),
        "view": c.view,
        "learners": list(c.learners),
        "baselines": list(c.baselines),
        "pruned": c.prune is not None,
        "fitted_on": c.effective_fit_on,
        "data": _data(run),
        "findings": _findings(run),
        "finding_table": c.findings,
        "dropped": _dropped(run, leakage),
        "leakage": leakage,
        "divided_by_folds": divided_patients(run.samples, run.fold_of),
        "networks": {name: _network(run, name) for name in c.networks},
        "methods": {m: _method(table, m) for m in table.methods},
        "best_learner": table.best_learner,
        "validation_macro_f1": {m: [round(v, 6) for v in found] for m, found in table.validation_f.items()},
        "chosen_fold": table.chosen_fold,
        "comparisons": _comparisons(table),
        "weights": _weights(table),
        "temperature": _temperature(table),
        "outside": _outside(table),
    }


def split_in_words(run: FlannelRun) -> str:
    """Return a description of split and folds, for titles."""
    what = "image by image, as the published code: it leaks" if run.config.unit == "image" else "by patient"
    return f"{what}, 4:1, {run.config.folds} folds of the training side"


def _data(run: FlannelRun) -> Json:
    """Return the counts of Table 1: name -> total, then images per label."""
    labels, rows = run.config.labels, np.flatnonzero(run.evaluated)
    records = {int(i): run.samples[i] for i in rows}

    def count(matches: Any) -> list[int]:
        counts = Counter(s.record.label for s in records.values() if matches(s))
        return [counts.total(), *(counts[label] for label in labels)]

    return {
        **{
            f"original data, {name}": count(lambda s, name=name: collection_names([s.record.source])[0] == name)
            for name in run.config.collections
        },
        "view, AP": count(lambda s: projection(s.record.view) == "AP"),
        "view, PA": count(lambda s: projection(s.record.view) == "PA"),
        "split, training": count(lambda s: s.side != "test"),
        "split, test": count(lambda s: s.side == "test"),
        "all, all": count(lambda s: True),
    }


def _findings(run: FlannelRun) -> list[Json]:
    """Return source, finding, label and number of images of each mapping of a finding to a label."""
    views = run.config.selected_views
    inside = [s.record for s in run.samples if s.record.source in run.sources and projection(s.record.view) in views]
    counts = Counter((r.source, r.finding, r.label) for r in inside)
    return [
        {"source": source, "finding": finding, "label": label, "images": n}
        for (source, finding, label), n in sorted(counts.items())
    ]


def _dropped(run: FlannelRun, leakage: Json) -> dict[str, int]:
    """Return the images of Table 1's collections that its rows do not count, by reason, starting with those not read.

    Run folders of earlier versions do not record the latter.
    """
    unread = {k: n for k, n in leakage.get("dropped", {}).items() if k.split(":")[0] in run.sources}
    records = [s.record for s in run.samples if s.record.source in run.sources]
    views, labels = run.config.selected_views, run.config.labels
    other_view = Counter(f"{r.source}: view {r.view}" for r in records if projection(r.view) not in views)
    seen = [r for r in records if projection(r.view) in views and r.label not in labels]
    no_label = Counter(f"{r.source}: {r.finding}, which is no label of the task" for r in seen)
    return dict(Counter(unread) + other_view + no_label)


def _network(run: FlannelRun, name: str) -> Json:
    """Return architecture and size, as means over the folds (pruned sizes differ), and the size before pruning."""
    network = {"architecture": run.config.networks[name].architecture, **_size(run, name)}
    pruned = run.config.prune is not None and name in run.config.learners
    return {**network, "unpruned": _size(run, name, unpruned=True)} if pruned else network


def _size(run: FlannelRun, name: str, *, unpruned: bool = False) -> Json:
    folders = [network_folder(run, fold, name, unpruned=unpruned) for fold in range(run.config.folds)]
    networks, image = [load_network(f)[0] for f in folders], torch.zeros(1, *run.config.member_spec.tensor_shape)
    return {
        "parameters": float(np.mean([cost.parameters(n) for n in networks])),
        "macs": float(np.mean([cost.macs(n, image) for n in networks])),
    }


def _method(table: Table3Predictions, method: str) -> Json:
    return {
        **_summary(table, method, table.run.test_rows),
        "ap": _summary(table, method, table.ap_rows) if len(table.ap_rows) else None,
    }


def _summary(table: Table3Predictions, method: str, rows: npt.NDArray[np.int64]) -> Json:
    c, averaged = table.run.config, table.averaged(method, rows)
    folds = [_figures(table.predictions(method, k, rows), c.labels) for k in range(c.folds)]
    return {
        "images": len(rows),
        "folds": folds,
        "mean": _over(folds, np.mean),
        "sd": _over(folds, _sd),
        "together": figures(averaged, c.labels, seed=c.seed, resamples=c.resamples),
    }


def _figures(predictions: Predictions, labels: Sequence[str]) -> dict[str, float]:
    """Table 3's columns and the abstract's two: F1 by label, macro-F1, precision and recall for COVID-19."""
    table, covid = confusion(predictions.true, predictions.predicted, len(labels)), labels.index(COVID)
    f = f1_scores(table)
    predicted, true = table[:, covid].sum(), table[covid].sum()
    return {
        **{label: float(v) for label, v in zip(labels, f, strict=True)},
        "macro": float(f.mean()),
        "precision": float(table[covid, covid] / predicted) if predicted else 0.0,
        "recall": float(table[covid, covid] / true) if true else 0.0,
        "accuracy": float(np.trace(table) / table.sum()) if table.sum() else 0.0,
    }


def _over(folds: Sequence[Mapping[str, float]], summary: Any) -> dict[str, float]:
    return {k: round(float(summary([f[k] for f in folds])), 6) for k in folds[0]}


def _sd(values: Sequence[float]) -> float:
    """Return the sample standard deviation (n - 1); 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def covid_f(labels: Sequence[str]) -> Measure:
    """F1 for COVID-19 against the rest; for `paired_difference`."""
    k = labels.index(COVID)

    def measure(predictions: Predictions, weights: Floats | None = None) -> float:
        return float(f1_scores(confusion(predictions.true, predictions.predicted, len(labels), weights))[k])

    return measure


def _comparisons(table: Table3Predictions) -> list[Json]:
    """Compare FLANNEL with all other methods, and averaging and cross entropy with voting: averaged over folds, and per fold."""
    pairs = [(FLANNEL, m) for m in table.methods if m != FLANNEL] + [("flannel-ce", "voting"), ("averaging", "voting")]
    if table.run.config.prune is not None:
        pairs += [(m, unpruned_name(m)) for m in table.run.config.learners]
    return [_comparison(table, a, b) for a, b in pairs]


def _comparison(table: Table3Predictions, a: str, b: str) -> Json:
    c = table.run.config
    first, second = table.averaged(a), table.averaged(b)
    seeded = {"seed": c.seed, "resamples": c.resamples}
    # No significance test of these, because the folds' models share training images.
    by_fold = [macro_f(table.predictions(a, k)) - macro_f(table.predictions(b, k)) for k in range(c.folds)]
    return {
        **compare(a, b, first, second, c.labels, **seeded),
        "covid_f_difference": paired_difference(first, second, covid_f(c.labels), **seeded).as_json(),
        "macro_f_by_fold": {"mean": float(np.mean(by_fold)), "sd": _sd(by_fold), "wins": sum(d > 0 for d in by_fold)},
    }


def _weights(table: Table3Predictions) -> Json:
    """Return the modules' mean weight per true label and learner, over test images and folds."""
    run, by_label = table.run, {}
    truth = run.truth(run.test_rows, run.config.target)
    weights = np.mean([weights_of(table, fold)[run.test_rows] for fold in range(run.config.folds)], axis=0)
    for k, label in enumerate(run.config.labels):
        if (truth == k).any():
            mean = weights[truth == k].mean(axis=0).round(4).tolist()
            by_label[label] = dict(zip(run.config.learners, mean, strict=True))
    return by_label


def weights_of(table: Table3Predictions, fold: int) -> Floats:
    """Return FLANNEL's weights (N, learners) on all images, computed from its combination's arrays."""
    parameters = table.folds[fold].combinations[FLANNEL].parameters
    f = np.concatenate([table.folds[fold].probabilities[name] for name in table.run.config.learners], axis=1)
    weight, bias = (np.asarray(parameters[k], dtype=np.float64) for k in ("module_weight", "module_bias"))
    n = f.shape[1]
    sums = np.stack([np.einsum("ni,ij,nj->n", f, row.reshape(n, n), f) for row in weight], axis=1)
    return np.tanh(sums + bias)


def _temperature(table: Table3Predictions) -> Json:
    """Return the calibration with and without temperature: means over the folds on test images."""
    c = table.run.config
    found: Json = {"most": highest_probability(len(c.learners), len(c.labels))}
    kinds: dict[str, Callable[[int], Predictions]] = {
        "raw": table.uncalibrated,
        "scaled": lambda fold: table.predictions(FLANNEL, fold),
    }
    for name, predictions_of in kinds.items():
        folds = [figures(predictions_of(k), c.labels, seed=c.seed, resamples=1) for k in range(c.folds)]
        top = [float(predictions_of(k).probabilities.max()) for k in range(c.folds)]
        found[name] = {
            "log_loss": float(np.mean([f["log_loss"] for f in folds])),
            "calibration_error": float(np.mean([f["calibration_error"] for f in folds])),
            "largest": max(top),
        }
    found["temperatures"] = [fold.combinations[FLANNEL].temperature for fold in table.folds]
    return found


def _outside(table: Table3Predictions) -> Json:
    """Return the share of images with prediction COVID-19 in collections that no learner saw, averaged over the folds' models.

    Patients who share an image with a patient of Table 1 are excluded.
    """
    run = table.run
    inside = {s.group for s in run.samples if s.record.source in run.sources}
    groups: dict[str, list[int]] = {}
    for i, s in enumerate(run.samples):
        if s.record.source not in run.sources and s.group not in inside:
            groups.setdefault(f"{s.record.source}, {s.record.label}", []).append(i)
    covid = run.config.labels.index(COVID)
    found: Json = {}
    for name, rows in sorted(groups.items()):
        flagged = {m: table.averaged(m, np.array(rows)).predicted == covid for m in table.methods}
        found[name] = {m: proportion(int(v.sum()), len(v)).as_json() for m, v in flagged.items()}
    return found


def as_figure(mean: float, sd: float, n: int) -> Figure:
    """Return a mean with one standard deviation on each side, for pictures."""
    return Figure(value=mean, low=mean - sd, high=mean + sd, n=n)
