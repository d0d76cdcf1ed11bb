"""Results of a FLANNEL run: predictions of stage 2 in, `Results` for tables and figures out.

Every figure is of test images. A method's mean and standard deviation are over the folds' models. Its interval is of the
averaged probabilities of the folds' models; the bootstrap resamples patients, not models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.data.collections import collection_names
from training.data.dataset import Sample
from training.data.findings import projection
from training.data.folds import divided_patients
from training.ensembles.neural_weights import highest_probability
from training.evaluation.metrics import Bootstrap, Figure, Predictions, calibration_error, figures, log_loss, proportion
from training.evaluation.statistics import Measure, compare, macro_f, paired_difference
from training.evaluation.unseen import UnseenImages, UnseenResults, UnseenScores, unseen_results
from training.json_records import as_stored
from training.models import load_network
from training.pruning import cost
from training.recipes.flannel.combine import ENSEMBLES, FLANNEL, FoldPredictions, load_fold_predictions, unpruned_name
from training.recipes.flannel.records import (
    Calibration,
    FindingCount,
    FoldComparison,
    FoldDifferences,
    Method,
    NetworkSize,
    Results,
    Scores,
    SizedNetwork,
    Summary,
    Temperature,
)
from training.recipes.flannel.run import FlannelRun
from training.recipes.page import Leakage, leakage_of, opening_facts, read_leakage, unit_in_words
from training.tasks.confusion import confusion, f1_scores

__all__ = ["Table3Predictions", "results", "split_in_words"]

Floats = npt.NDArray[np.float64]


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
        return self.run.predictions_on(rows, stored.probabilities[method][rows], stored.predicted[method][rows])

    def averaged(self, method: str, rows: npt.NDArray[np.int64] | None = None) -> Predictions:
        """Return the predictions by the mean probabilities of the folds' models; ties of voting go by the learners' mean."""
        rows = self.run.test_rows if rows is None else rows
        p = np.mean([fold.probabilities[method][rows] for fold in self.folds], axis=0)
        scores = p.round(4) + 1e-6 * self._learners_mean(rows) if method == "voting" else p
        return self.run.predictions_on(rows, p, scores.argmax(axis=1))

    def _learners_mean(self, rows: npt.NDArray[np.int64]) -> Floats:
        learners = self.run.config.learners
        mean: Floats = np.mean([fold.probabilities[name][rows] for fold in self.folds for name in learners], axis=0)
        return mean

    def uncalibrated(self, fold: int) -> Predictions:
        """Return FLANNEL's predictions on test images before the temperature."""
        rows, stored = self.run.test_rows, self.folds[fold]
        return self.run.predictions_on(rows, stored.raw[rows], stored.predicted[FLANNEL][rows])

    @cached_property
    def ap_rows(self) -> npt.NDArray[np.int64]:
        """Rows of test images with an AP view."""
        views = np.array([projection(s.record.view) == "AP" for s in self.run.samples])
        rows: npt.NDArray[np.int64] = self.run.test_rows[views[self.run.test_rows]]
        return rows

    @cached_property
    def validation_f(self) -> dict[str, list[float]]:
        """Macro-F1 of each method on each fold's own images, by which fold and learner are selected."""
        rows = [self.run.fold(k).own_rows for k in range(len(self.folds))]
        return {m: [macro_f(self.predictions(m, k, r)) for k, r in enumerate(rows)] for m in self.methods}

    @property
    def chosen_fold(self) -> int:
        """Fold with the best FLANNEL model on its own images, which goes into the bundle."""
        return int(np.argmax(self.validation_f[FLANNEL]))

    @property
    def best_learner(self) -> str:
        """Learner with the best mean over the folds' own images."""
        return max(self.run.config.learners, key=lambda m: float(np.mean(self.validation_f[m])))


def results(run: FlannelRun) -> Results:
    """Return all results, rounded as in files."""
    c, table, leakage = run.config, Table3Predictions(run), read_leakage(run)
    found = Results(
        **opening_facts(c, split_in_words(run)),
        view=c.view,
        learners=tuple(c.learners),
        baselines=tuple(c.baselines),
        pruned=c.prune is not None,
        fitted_on=c.effective_fit_on,
        data=_data(run),
        findings=_findings(run),
        finding_table=c.findings,
        dropped=_dropped(run, leakage_of(leakage)),
        leakage=leakage,
        divided_by_folds=divided_patients(run.samples, run.fold_of),
        networks={name: _network(run, name) for name in c.networks},
        methods={m: _method(table, m) for m in table.methods},
        best_learner=table.best_learner,
        validation_macro_f1={m: tuple(round(v, 6) for v in found) for m, found in table.validation_f.items()},
        chosen_fold=table.chosen_fold,
        comparisons=_comparisons(table),
        weights=_weights(table),
        temperature=_temperature(table),
        outside=_outside(table),
        unseen=_unseen(table),
    )
    return as_stored(found)


def split_in_words(run: FlannelRun) -> str:
    """Return a description of split and folds, for titles."""
    return f"{unit_in_words(run.config)}, 4:1, {run.config.folds} folds of the training side"


def _data(run: FlannelRun) -> dict[str, tuple[int, ...]]:
    """Return the counts of Table 1: name -> total, then images per label."""
    labels = run.config.labels
    samples = [run.samples[i] for i in np.flatnonzero(run.evaluated)]

    def count(matches: Callable[[Sample], bool]) -> tuple[int, ...]:
        counts = Counter(s.record.label for s in samples if matches(s))
        return (counts.total(), *(counts[label] for label in labels))

    def of(collection: str) -> Callable[[Sample], bool]:
        return lambda s: collection_names([s.record.source])[0] == collection

    return {
        **{f"original data, {name}": count(of(name)) for name in run.config.collections},
        "view, AP": count(lambda s: projection(s.record.view) == "AP"),
        "view, PA": count(lambda s: projection(s.record.view) == "PA"),
        "split, training": count(lambda s: s.side != "test"),
        "split, test": count(lambda s: s.side == "test"),
        "all, all": count(lambda s: True),
    }


def _findings(run: FlannelRun) -> tuple[FindingCount, ...]:
    """Return the number of images of each mapping of a finding to a label."""
    views = run.config.selected_views
    inside = [s.record for s in run.samples if s.record.source in run.sources and projection(s.record.view) in views]
    counts = Counter((r.source, r.finding, r.label) for r in inside)
    return tuple(
        FindingCount(source=source, finding=finding, label=label, images=n)
        for (source, finding, label), n in sorted(counts.items())
    )


def _dropped(run: FlannelRun, leakage: Leakage) -> dict[str, int]:
    """Return the images of Table 1's collections that its rows do not count, by reason, starting with those not read.

    Run folders of earlier versions do not record the latter.
    """
    unread = {k: n for k, n in (leakage.dropped or {}).items() if k.split(":")[0] in run.sources}
    records = [s.record for s in run.samples if s.record.source in run.sources]
    views, labels = run.config.selected_views, run.config.labels
    other_view = Counter(f"{r.source}: view {r.view}" for r in records if projection(r.view) not in views)
    seen = [r for r in records if projection(r.view) in views and r.label not in labels]
    no_label = Counter(f"{r.source}: {r.finding}, which is no label of the task" for r in seen)
    return dict(Counter(unread) + other_view + no_label)


def _network(run: FlannelRun, name: str) -> SizedNetwork:
    size = _size(run, name)
    pruned = run.config.prune is not None and name in run.config.learners
    return SizedNetwork(
        architecture=run.config.networks[name].architecture,
        parameters=size.parameters,
        macs=size.macs,
        unpruned=_size(run, name, unpruned=True) if pruned else None,
    )


def _size(run: FlannelRun, name: str, *, unpruned: bool = False) -> NetworkSize:
    folders = [run.fold(k).network_folder(name, unpruned=unpruned) for k in range(run.config.folds)]
    networks, image = [load_network(f)[0] for f in folders], torch.zeros(1, *run.config.member_spec.tensor_shape)
    return NetworkSize(
        parameters=float(np.mean([cost.parameters(n) for n in networks])),
        macs=float(np.mean([cost.macs(n, image) for n in networks])),
    )


def _method(table: Table3Predictions, method: str) -> Method:
    ap = _summary(table, method, table.ap_rows) if len(table.ap_rows) else None
    return Method(**vars(_summary(table, method, table.run.test_rows)), ap=ap)


def _summary(table: Table3Predictions, method: str, rows: npt.NDArray[np.int64]) -> Summary:
    c, averaged = table.run.config, table.averaged(method, rows)
    folds = tuple(_scores(table.predictions(method, k, rows), c.labels, c.positive) for k in range(c.folds))
    return Summary(
        images=len(rows),
        folds=folds,
        mean=_over(folds, np.mean),
        sd=_over(folds, _sd),
        together=figures(averaged, c.labels, Bootstrap.of(c)),
    )


def _scores(predictions: Predictions, labels: Sequence[str], positive: str) -> Scores:
    table, k = confusion(predictions.true, predictions.predicted, len(labels)), labels.index(positive)
    f = f1_scores(table)
    predicted, true = table[:, k].sum(), table[k].sum()
    return Scores(
        f1={label: float(v) for label, v in zip(labels, f, strict=True)},
        macro=float(f.mean()),
        precision=float(table[k, k] / predicted) if predicted else 0.0,
        recall=float(table[k, k] / true) if true else 0.0,
        accuracy=float(np.trace(table) / table.sum()) if table.sum() else 0.0,
    )


def _over(folds: Sequence[Scores], summary: Callable[[list[float]], Any]) -> Scores:
    """Return a summary of each score over the folds, rounded to six digits."""

    def over(values: Iterable[float]) -> float:
        return round(float(summary(list(values))), 6)

    return Scores(
        f1={label: over(f.f1[label] for f in folds) for label in folds[0].f1},
        macro=over(f.macro for f in folds),
        precision=over(f.precision for f in folds),
        recall=over(f.recall for f in folds),
        accuracy=over(f.accuracy for f in folds),
    )


def _sd(values: Sequence[float]) -> float:
    """Return the sample standard deviation (n - 1); 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def positive_f(k: int) -> Measure:
    """F1 of label `k` against the rest; for `paired_difference`."""

    def measure(p: Predictions, weights: Floats | None = None) -> float:
        return float(f1_scores(confusion(p.true, p.predicted, p.probabilities.shape[1], weights))[k])

    return measure


def _comparisons(table: Table3Predictions) -> tuple[FoldComparison, ...]:
    """Compare FLANNEL with all other methods, and averaging and cross entropy with voting: averaged over folds, and per fold."""
    return tuple(_comparison(table, a, b) for a, b in _pairs(table))


def _pairs(table: Table3Predictions) -> list[tuple[str, str]]:
    pairs = [(FLANNEL, m) for m in table.methods if m != FLANNEL] + [("flannel-ce", "voting"), ("averaging", "voting")]
    if table.run.config.prune is not None:
        pairs += [(m, unpruned_name(m)) for m in table.run.config.learners]
    return pairs


def _comparison(table: Table3Predictions, a: str, b: str) -> FoldComparison:
    c, draws = table.run.config, Bootstrap.of(table.run.config)
    first, second = table.averaged(a), table.averaged(b)
    # No significance test of these, because the folds' models share training images.
    by_fold = [macro_f(table.predictions(a, k)) - macro_f(table.predictions(b, k)) for k in range(c.folds)]
    wins = sum(d > 0 for d in by_fold)
    return FoldComparison(
        **vars(compare(a, b, first, second, c.labels, draws)),
        positive_f_difference=paired_difference(first, second, positive_f(c.labels.index(c.positive)), draws),
        macro_f_by_fold=FoldDifferences(mean=float(np.mean(by_fold)), sd=_sd(by_fold), wins=wins),
    )


def _weights(table: Table3Predictions) -> dict[str, dict[str, float]]:
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


def _temperature(table: Table3Predictions) -> Temperature:
    c = table.run.config
    return Temperature(
        most=highest_probability(len(c.learners), len(c.labels)),
        raw=_calibration([table.uncalibrated(k) for k in range(c.folds)]),
        scaled=_calibration([table.predictions(FLANNEL, k) for k in range(c.folds)]),
        temperatures=tuple(fold.combinations[FLANNEL].temperature for fold in table.folds),
    )


def _calibration(folds: Sequence[Predictions]) -> Calibration:
    return Calibration(
        log_loss=float(np.mean([log_loss(p.probabilities, p.true).mean() for p in folds])),
        calibration_error=float(np.mean([calibration_error(p) for p in folds])),
        largest=max(float(p.probabilities.max()) for p in folds),
    )


def _outside(table: Table3Predictions) -> dict[str, dict[str, Figure]]:
    """Return the share of images predicted as positive in sources that no learner saw, averaged over the folds' models."""
    groups: dict[str, list[int]] = {}
    for i in _outside_rows(table.run):
        record = table.run.samples[i].record
        groups.setdefault(f"{record.source}, {record.label}", []).append(i)
    return {name: _predicted_positive(table, np.array(rows)) for name, rows in sorted(groups.items())}


def _outside_rows(run: FlannelRun) -> list[int]:
    """Return the rows of the images of sources that no learner saw, without patients who share an image with one of Table 1."""
    inside = {s.group for s in run.samples if s.record.source in run.sources and s.side != "unseen"}
    return [i for i, s in enumerate(run.samples) if s.record.source not in run.sources and s.group not in inside]


def _unseen(table: Table3Predictions) -> UnseenResults | None:
    run, rows = table.run, np.array(_outside_rows(table.run), dtype=np.int64)
    guard = run.config.guarded
    if guard is None or not len(rows):
        return None
    images = UnseenImages(records=[run.samples[i].record for i in rows], patients=run.patients(rows), guard=guard)
    k, found = run.config.labels.index(guard.label), {m: table.averaged(m, rows) for m in table.methods}
    scores = {m: UnseenScores(scores=p.probabilities[:, k], called=p.predicted == k) for m, p in found.items()}
    return unseen_results(images, scores, _pairs(table), Bootstrap.of(run.config))


def _predicted_positive(table: Table3Predictions, rows: npt.NDArray[np.int64]) -> dict[str, Figure]:
    k = table.run.config.labels.index(table.run.config.positive)
    flagged = {m: table.averaged(m, rows).predicted == k for m in table.methods}
    return {m: proportion(int(v.sum()), len(v)) for m, v in flagged.items()}
