"""FLANNEL's stage 2: logits of all folds' networks in, every row of Table 3 out, one set of ensembles per fold.

The five models of the paper are the learners of the five folds, each with its own combination. For fold k, preset `sane` fits
the combination on the images of the other folds, with the logits of the networks that did not train on them (out of fold),
and the temperature on the images of fold k with the logits of fold k's networks, which are the ones it is deployed with.
`paper` and `code` fit on the same images with the logits of fold k's networks, which were trained on them (`fit_on`); `code`
uses augmented copies. Test images select no epoch, no gamma and no fold.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cxr_edge.digests import sha256_file
from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Combination
from training.ensembles.fit import calibrated
from training.ensembles.neural_weights import as_combination, fit_dense, fit_module
from training.recipes.flannel.config import FlannelConfig
from training.recipes.flannel.run import FlannelRun, FoldRun
from training.recipes.flannel.stages import AUGMENTED
from training.recipes.run import PREDICTIONS, SampleLogits, probabilities_of
from training.shared_files import atomic_write, exclusive_lock, read_arrays, read_json, reading, write_text

__all__ = ["ENSEMBLES", "FLANNEL", "FoldPredictions", "combine", "load_fold_predictions", "unpruned_name"]

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]
LabelIndices = npt.NDArray[np.int64]
# Logits (N, members, labels) -> probabilities (N, labels) and predicted label indices (N,).
Model = Callable[[Logits], "tuple[Floats, LabelIndices]"]

FLANNEL = "flannel"
ENSEMBLES = ("averaging", "voting", "mlp-1", "mlp-2", "flannel-ce", "flannel-ce-sampling", FLANNEL)

_PREDICTED = "said"  # array of predicted label indices in the .npz of a run folder


@dataclass(frozen=True, kw_only=True)
class FoldPredictions:
    """Predictions of all methods of one fold, on all samples of the run."""

    probabilities: Mapping[str, Floats]  # method -> (N, labels)
    predicted: Mapping[str, LabelIndices]  # method -> (N,); for voting not the argmax of the shares, which may tie
    combinations: Mapping[str, Combination]  # method -> combination, of the methods that a bundle can store
    raw: Floats  # FLANNEL's probabilities before its temperature, (N, labels)


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """Data that the combinations of one fold are fitted and run on."""

    fold: FoldRun
    unpruned: bool = False  # use the learners before pruning

    @property
    def config(self) -> FlannelConfig:
        return self.fold.run.config

    def _load_logits(self, fold: FoldRun) -> Logits:
        """Return the learners' logits (N, members, labels) of any fold's networks."""
        return np.stack([fold.load_logits(name, unpruned=self.unpruned) for name in self.config.learners], axis=1)

    @cached_property
    def learners(self) -> Logits:
        """Logits (N, members, labels) of the fold's own networks."""
        return self._load_logits(self.fold)

    @cached_property
    def fit_data(self) -> tuple[Logits, npt.NDArray[np.int64]]:
        """Logits (n, members, labels) and true label indices (n,) of the other folds' images."""
        run, kind, others = self.fold.run, self.config.effective_fit_on, self.fold.other_rows
        truth = run.truth(others, run.config.target)
        if kind == "in-sample":
            return self.learners[others], truth
        if kind == "augmented":
            return self._load_augmented(others, truth)
        logits = np.empty((len(others), *self.learners.shape[1:]), dtype=np.float32)
        for k in np.unique(run.fold_of[others]).tolist():
            own = run.fold_of[others] == k
            logits[own] = self._load_logits(run.fold(k))[others[own]]
        return logits, truth

    def _load_augmented(
        self, others: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]
    ) -> tuple[Logits, npt.NDArray[np.int64]]:
        parts, copies = [], self.config.copies
        for name in self.config.learners:
            augmented = SampleLogits.load(self.fold.network_folder(name, unpruned=self.unpruned) / AUGMENTED)
            if not np.array_equal(augmented.rows, np.tile(others, copies)):
                raise InputError(
                    f"{AUGMENTED} of {name}, fold {self.fold.number}, is of other images or copies: run the stage augmented "
                    "again"
                )
            parts.append(augmented.logits)
        return np.stack(parts, axis=1), np.tile(truth, copies)


def combine(run: FlannelRun, folds: Iterable[int]) -> None:
    """Fit and run every combination of `folds`, unless stored with the same settings; a change of `[fit]` repeats it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the module is so small that threads only wait for each other
    try:
        with exclusive_lock(run.out / "combined"):
            for fold in folds:
                if not _is_done(run, fold):
                    _save(run, fold, _predict_fold(_Fit(fold=run.fold(fold))))
    finally:
        torch.set_num_threads(threads)


def load_fold_predictions(run: FlannelRun, fold: int) -> FoldPredictions:
    """Load the output of `combine` for a fold. Raises InputError if it is missing or has another `[fit]`."""
    if not _is_done(run, fold):
        raise InputError(f"{_file(run, fold)} is missing or of another [fit]: run the stages in order, or all of them")
    file = _file(run, fold)
    content = read_json(file.with_suffix(".json"))
    arrays = read_arrays(file, ("probabilities", _PREDICTED, "raw"))
    with reading(file.with_suffix(".json")):
        return FoldPredictions(
            probabilities=dict(zip(content["methods"], arrays["probabilities"], strict=True)),
            predicted=dict(zip(content["methods"], arrays[_PREDICTED], strict=True)),
            combinations={name: Combination.from_json(v) for name, v in content["combinations"].items()},
            raw=arrays["raw"],
        )


def _file(run: FlannelRun, fold: int) -> Path:
    return run.out / "combined" / f"fold-{fold}.npz"


def _plan(run: FlannelRun, fold: int) -> dict[str, Any]:
    """Inputs of a fold's stage 2: its settings, and the SHA-256 of the predictions of all folds' networks."""
    c = run.config
    networks = [(k, name) for k in range(c.folds) for name in c.learners] + [(fold, name) for name in c.baselines]
    folders = {run.fold(k).network_folder(name, unpruned=u) for k, name in networks for u in (False, True)}
    digests = {f.relative_to(run.out).as_posix(): _digest(f / PREDICTIONS) for f in sorted(folders)}
    return {
        "fit": asdict(c.fit),
        "seed": c.fit_seed,
        "fitted_on": c.effective_fit_on,
        "copies": c.copies,
        "predictions": digests,
    }


def _digest(file: Path) -> str:
    if not file.exists():
        raise InputError(f"{file} is missing: run the stages in order, or all of them")
    return sha256_file(file)


def _is_done(run: FlannelRun, fold: int) -> bool:
    file = _file(run, fold)
    if not (file.exists() and file.with_suffix(".json").exists()):
        return False
    return read_json(file.with_suffix(".json")).get("plan") == _plan(run, fold)


def _save(run: FlannelRun, fold: int, predictions: FoldPredictions) -> None:
    """Write the arrays first, then the JSON that describes them."""
    file, methods = _file(run, fold), list(predictions.probabilities)
    file.parent.mkdir(parents=True, exist_ok=True)
    probabilities, predicted = (
        np.stack([by_method[m] for m in methods]) for by_method in (predictions.probabilities, predictions.predicted)
    )
    arrays: dict[str, Any] = {"probabilities": probabilities, _PREDICTED: predicted, "raw": predictions.raw}
    with atomic_write(file) as beside:
        np.savez(beside, **arrays)
    combinations = {k: c.as_json() for k, c in predictions.combinations.items()}
    content = {"plan": _plan(run, fold), "methods": methods, "combinations": combinations}
    write_text(file.with_suffix(".json"), json.dumps(content) + "\n")


def _predict_fold(fit: _Fit) -> FoldPredictions:
    """Fit all methods of one fold and run them on all samples."""
    config, labels = fit.config, len(fit.config.labels)
    outputs = _single_outputs(fit)
    for name in config.baselines:
        outputs[name] = _with_argmax(probabilities_of(fit.fold.load_logits(name)))
    combinations, mlps = _fit_combinations(fit), _fit_mlps(fit)
    for name in ENSEMBLES:
        model = mlps[name] if name in mlps else _combiner_model(combinations[name], labels)
        outputs[name] = model(fit.learners)
    if config.prune is not None:
        outputs |= _predict_unpruned(replace(fit, unpruned=True))
    raw, _ = _combiner_model(replace(combinations[FLANNEL], temperature=1.0), labels)(fit.learners)
    return FoldPredictions(
        probabilities={name: probabilities for name, (probabilities, _) in outputs.items()},
        predicted={name: predicted for name, (_, predicted) in outputs.items()},
        combinations=combinations,
        raw=raw,
    )


def _single_outputs(fit: _Fit) -> dict[str, tuple[Floats, LabelIndices]]:
    """Return the outputs of each learner alone."""
    names = fit.config.learners
    return {name: _with_argmax(probabilities_of(fit.learners[:, i])) for i, name in enumerate(names)}


def _predict_unpruned(fit: _Fit) -> dict[str, tuple[Floats, LabelIndices]]:
    """Return the outputs of the learners before pruning, and of FLANNEL fitted on them."""
    outputs = {unpruned_name(name): output for name, output in _single_outputs(fit).items()}
    model = _combiner_model(_fit_combinations(fit)[FLANNEL], len(fit.config.labels))
    return {**outputs, unpruned_name(FLANNEL): model(fit.learners)}


def unpruned_name(method: str) -> str:
    """Return the name of a method with unpruned learners, in results that also have it with pruned ones."""
    return f"{method}, unpruned"


def _fit_combinations(fit: _Fit) -> dict[str, Combination]:
    """Return the methods that the deployed combination can compute; in `sane` with temperatures from the fold's own images."""
    c, (logits, truth) = fit.config, fit.fit_data
    p, ones = probabilities_of(logits), (1.0,) * len(c.learners)
    combinations = {
        "averaging": Combination(strategy="average", member_temperatures=ones, temperature=1.0, parameters={}),
        "voting": Combination(strategy="voting", member_temperatures=ones, temperature=1.0, parameters={}),
    }
    for name, options in _VARIANTS.items():
        combinations[name] = as_combination(fit_module(p, truth, c.fit, seed=c.fit_seed, **options))
    if c.preset != "sane":
        return combinations
    rows = fit.fold.own_rows
    own, own_truth = np.ascontiguousarray(fit.learners[rows]), fit.fold.run.truth(rows, c.target)
    return {k: v if v.strategy == "voting" else calibrated(v, own, own_truth) for k, v in combinations.items()}


_VARIANTS: Mapping[str, Mapping[str, bool]] = {
    "flannel-ce": {"focal": False},
    "flannel-ce-sampling": {"focal": False, "oversample": True},
    FLANNEL: {"focal": True},
}


def _combiner_model(combination: Combination, labels: int) -> Model:
    combiner = Combiner(combination, labels=labels)

    def predict(logits: Logits) -> tuple[Floats, LabelIndices]:
        probabilities, predicted = combiner.run(np.ascontiguousarray(logits))
        return probabilities.astype(np.float64), predicted.astype(np.int64)

    return predict


def _fit_mlps(fit: _Fit) -> dict[str, Model]:
    c, (logits, truth) = fit.config, fit.fit_data
    p = probabilities_of(logits)
    return {f"mlp-{n}": _mlp_model(fit_dense(p, truth, c.fit, seed=c.fit_seed, layers=n)) for n in (1, 2)}


def _mlp_model(network: nn.Module) -> Model:
    def predict(logits: Logits) -> tuple[Floats, LabelIndices]:
        with torch.no_grad():
            return _with_argmax(
                network(torch.from_numpy(probabilities_of(logits)).float()).softmax(dim=1).double().numpy()
            )

    return predict


def _with_argmax(probabilities: Floats) -> tuple[Floats, LabelIndices]:
    return probabilities, probabilities.argmax(axis=1).astype(np.int64)
