"""Stage 2: what the networks of all folds said in, every row of Table 3 out, fold by fold.

The five models of the paper are the five folds' learners, each with a combination fitted for it. For fold k, `sane` fits it
on the images of the other folds, each answered by the networks of its own fold, which never saw it, and the temperature on
fold k's images, answered by fold k's networks: the very ones that the combination is used with. `paper` and `code` fit it on
the same images answered by fold k's networks, which were trained on them (`fit_on`); `code` on augmented copies. No epoch,
no gamma and no fold is chosen by test images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import nn

from cxr_edge.errors import InputError
from cxr_edge.ops.combine import Combiner
from cxr_edge.specs.combination import Combination
from training.ensembles.fit import calibrated
from training.ensembles.neural_weights import as_combination, fit_dense, fit_module
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import AUGMENTED, network_folder
from training.recipes.run import PREDICTIONS, Predictions
from training.shared_files import atomic_write, one_at_a_time, write_text

__all__ = ["ENSEMBLES", "FLANNEL", "Combined", "combine", "combined", "unpruned"]

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]
Said = npt.NDArray[np.int64]
Asked = Callable[[Logits], "tuple[Floats, Said]"]

FLANNEL = "flannel"
ENSEMBLES = ("averaging", "voting", "mlp-1", "mlp-2", "flannel-ce", "flannel-ce-sampling", FLANNEL)


@dataclass(frozen=True, kw_only=True)
class Combined:
    """One fold's model of every kind. probabilities: method -> (N, labels) of all samples. said: method -> (N,) label
    indices, which for voting are not told by the shares alone. combinations: those that a bundle can hold, method ->
    combination. raw: FLANNEL's probabilities before its temperature, (N, labels)."""

    probabilities: Mapping[str, Floats]
    said: Mapping[str, npt.NDArray[np.int64]]
    combinations: Mapping[str, Combination]
    raw: Floats


@dataclass(frozen=True, kw_only=True)
class _Fold:
    """What one fold's combinations are fitted on and asked of. learners: (N, members, labels) logits of fold k's networks.
    whole: the unpruned learners, where they are pruned."""

    run: FlannelRun
    fold: int
    whole: bool = False

    def _stacked(self, fold: int) -> Logits:
        found = [
            Predictions.load(network_folder(self.run, fold, name, whole=self.whole) / PREDICTIONS).logits
            for name in self.run.config.learners
        ]
        return np.stack(found, axis=1)

    @cached_property
    def learners(self) -> Logits:
        return self._stacked(self.fold)

    @cached_property
    def validation(self) -> npt.NDArray[np.int64]:
        """Rows of the fold's own images."""
        return np.flatnonzero(self.run.judged & (self.run.fold_of == self.fold))

    @cached_property
    def fitted_on(self) -> tuple[Logits, npt.NDArray[np.int64]]:
        """Logits (n, members, labels) and truth (n,) of the other folds' images."""
        run, kind = self.run, self.run.config.fitted_on
        others = np.flatnonzero(run.judged & (run.fold_of >= 0) & (run.fold_of != self.fold))
        truth = run.truth(others, run.config.target)
        if kind == "in-sample":
            return self.learners[others], truth
        if kind == "augmented":
            return self._augmented(others, truth)
        logits = np.empty((len(others), *self.learners.shape[1:]), dtype=np.float32)
        for fold in np.unique(run.fold_of[others]).tolist():
            own = run.fold_of[others] == fold
            logits[own] = self._stacked(fold)[others[own]]
        return logits, truth

    def _augmented(
        self, others: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]
    ) -> tuple[Logits, npt.NDArray[np.int64]]:
        parts = []
        for name in self.run.config.learners:
            found = Predictions.load(network_folder(self.run, self.fold, name, whole=self.whole) / AUGMENTED)
            if not np.array_equal(found.rows, np.tile(others, self.run.config.copies)):
                raise InputError(
                    f"{AUGMENTED} of {name}, fold {self.fold}, is of other images or copies: run the stage augmented again"
                )
            parts.append(found.logits)
        return np.stack(parts, axis=1), np.tile(truth, self.run.config.copies)


def combine(run: FlannelRun, chosen: Iterable[int]) -> None:
    """Fit and ask every combination of the folds chosen, where it is not done; a change of `[fit]` does it again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the module is so small that threads only wait for each other
    try:
        with one_at_a_time(run.out / "combined"):
            for fold in chosen:
                if not _is_done(run, fold):
                    _save(run, fold, _combined(_Fold(run=run, fold=fold)))
    finally:
        torch.set_num_threads(threads)


def combined(run: FlannelRun, fold: int) -> Combined:
    """What `combine` made for a fold. Raises InputError where it did not, or for another `[fit]`."""
    if not _is_done(run, fold):
        raise InputError(f"{_file(run, fold)} is missing or of another [fit]: run the stages in order, or all of them")
    made = json.loads(_file(run, fold).with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(_file(run, fold), allow_pickle=False) as stored:
        probabilities, said, raw = (stored[k] for k in ("probabilities", "said", "raw"))
    return Combined(
        probabilities=dict(zip(made["methods"], probabilities, strict=True)),
        said=dict(zip(made["methods"], said, strict=True)),
        combinations={name: Combination.from_json(v) for name, v in made["combinations"].items()},
        raw=raw,
    )


def _file(run: FlannelRun, fold: int) -> Path:
    return run.out / "combined" / f"fold-{fold}.npz"


def _plan(run: FlannelRun, fold: int) -> dict[str, Any]:
    """What a fold's stage 2 is made of: settings, and the predictions of all folds' networks by digest."""
    c = run.config
    asked = [(k, name) for k in range(c.folds) for name in c.learners] + [(fold, name) for name in c.baselines]
    folders = {network_folder(run, k, name, whole=whole) for k, name in asked for whole in (False, True)}
    digests = {f.relative_to(run.out).as_posix(): _digest(f / PREDICTIONS) for f in sorted(folders)}
    return {
        "fit": asdict(c.fit),
        "seed": c.fit_seed,
        "fitted_on": c.fitted_on,
        "copies": c.copies,
        "predictions": digests,
    }


def _digest(file: Path) -> str:
    if not file.exists():
        raise InputError(f"{file} is missing: run the stages in order, or all of them")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _is_done(run: FlannelRun, fold: int) -> bool:
    file = _file(run, fold).with_suffix(".json")
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["plan"] == _plan(run, fold)


def _save(run: FlannelRun, fold: int, made: Combined) -> None:
    """Arrays first, then the JSON that says what they are."""
    file, methods = _file(run, fold), list(made.probabilities)
    file.parent.mkdir(parents=True, exist_ok=True)
    probabilities, said = (np.stack([d[m] for m in methods]) for d in (made.probabilities, made.said))
    with atomic_write(file) as beside:
        np.savez(beside, probabilities=probabilities, said=said, raw=made.raw)
    combinations = {k: c.as_json() for k, c in made.combinations.items()}
    content = {"plan": _plan(run, fold), "methods": methods, "combinations": combinations}
    write_text(file.with_suffix(".json"), json.dumps(content) + "\n")


def _combined(fold: _Fold) -> Combined:
    run, labels = fold.run, len(fold.run.config.labels)
    found: dict[str, tuple[Floats, Said]] = {}
    for i, name in enumerate(run.config.learners):
        found[name] = _likeliest(_softmax(fold.learners[:, i]))
    for name in run.config.baselines:
        found[name] = _likeliest(_softmax(Predictions.load(network_folder(run, fold.fold, name) / PREDICTIONS).logits))
    combinations, perceptrons = _combinations(fold), _perceptrons(fold)
    for name in ENSEMBLES:
        asked = perceptrons[name] if name in perceptrons else _combiner(combinations[name], labels)
        found[name] = asked(fold.learners)
    if run.config.prune is not None:
        found |= _unpruned(replace(fold, whole=True))
    raw, _ = _combiner(replace(combinations[FLANNEL], temperature=1.0), labels)(fold.learners)
    return Combined(
        probabilities={name: p for name, (p, _) in found.items()},
        said={name: said for name, (_, said) in found.items()},
        combinations=combinations,
        raw=raw,
    )


def _unpruned(fold: _Fold) -> dict[str, tuple[Floats, Said]]:
    """The learners as they were before pruning, and FLANNEL of them."""
    run = fold.run
    found = {unpruned(name): _likeliest(_softmax(fold.learners[:, i])) for i, name in enumerate(run.config.learners)}
    combination = _combinations(fold)[FLANNEL]
    return {**found, unpruned(FLANNEL): _combiner(combination, len(run.config.labels))(fold.learners)}


def unpruned(method: str) -> str:
    """What a method is called where it stands beside the one with pruned learners."""
    return f"{method}, unpruned"


def _combinations(fold: _Fold) -> dict[str, Combination]:
    """What the deployed combination can compute, by method; temperatures from the fold's own images, in `sane` only."""
    run, c = fold.run, fold.run.config
    logits, truth = fold.fitted_on
    p, ones = _softmax(logits), (1.0,) * len(c.learners)
    made = {
        "averaging": Combination(strategy="average", member_temperatures=ones, temperature=1.0, parameters={}),
        "voting": Combination(strategy="voting", member_temperatures=ones, temperature=1.0, parameters={}),
    }
    for name, options in _VARIANTS.items():
        made[name] = as_combination(fit_module(p, truth, c.fit, seed=c.fit_seed, **options))
    if c.preset != "sane":
        return made
    rows = fold.validation
    own, own_truth = np.ascontiguousarray(fold.learners[rows]), run.truth(rows, c.target)
    return {k: v if v.strategy == "voting" else calibrated(v, own, own_truth) for k, v in made.items()}


_VARIANTS: Mapping[str, Mapping[str, bool]] = {
    "flannel-ce": {"focal": False},
    "flannel-ce-sampling": {"focal": False, "oversample": True},
    FLANNEL: {"focal": True},
}


def _combiner(combination: Combination, labels: int) -> Asked:
    combiner = Combiner(combination, labels=labels)

    def asked(logits: Logits) -> tuple[Floats, Said]:
        probabilities, winners = combiner.run(np.ascontiguousarray(logits))
        return probabilities.astype(np.float64), winners.astype(np.int64)

    return asked


def _perceptrons(fold: _Fold) -> dict[str, Asked]:
    c, (logits, truth) = fold.run.config, fold.fitted_on
    p = _softmax(logits)
    return {f"mlp-{n}": _dense(fit_dense(p, truth, c.fit, seed=c.fit_seed, layers=n)) for n in (1, 2)}


def _dense(network: nn.Module) -> Asked:
    def asked(logits: Logits) -> tuple[Floats, Said]:
        with torch.no_grad():
            return _likeliest(network(torch.from_numpy(_softmax(logits)).float()).softmax(dim=1).double().numpy())

    return asked


def _likeliest(probabilities: Floats) -> tuple[Floats, Said]:
    return probabilities, probabilities.argmax(axis=1).astype(np.int64)


def _softmax(logits: Logits) -> Floats:
    """Over the labels, in float64."""
    return softmax(logits.astype(np.float64), axis=-1)
