"""What a run of R20's pipeline found: stored predictions in, one JSON object out, from which tables and figures are made.

Everything that is fitted (temperatures, weights, stacking) is fitted on validation patients; every figure is of test
patients. Ensembles are computed by the deployed C++ combination.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.engines import reference
from cxr_edge.ops.combine import Combiner
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.combination import Combination
from training.bundles.assemble import images_by_side
from training.data.splits import SIDES
from training.data.targets import Target, binary, modality
from training.ensembles.fit import STRATEGIES, fit
from training.evaluation.bundle import screen_samples
from training.evaluation.metrics import Predictions
from training.evaluation.statistics import compare, paper_row
from training.models import load_network
from training.pruning import cost
from training.pruning.prune import best_step, steps_of
from training.recipes.r20.config import R20Config
from training.recipes.r20.run import R20Run
from training.recipes.r20.stages import best_trial, chosen_step, is_done, member_folder, member_plan, top_members
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.segmenter import SEGMENTER
from training.tasks.confusion import confusion, f1_scores

__all__ = ["Ensembles", "results", "split_in_words"]

Json = dict[str, Any]
PAPER_WEIGHTED = "weighted-average, paper's weights"


@dataclass(frozen=True, kw_only=True)
class Ensembles:
    """The members of one kind, whole or pruned, combined in every way. logits: (N, members, labels) of `rows`."""

    run: R20Run
    members: tuple[str, ...]
    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]

    @classmethod
    def load(cls, run: R20Run, stage: str) -> Ensembles:
        """stage: `multiclass` or `pruned`."""
        members = top_members(run)
        found = [SampleLogits.load(member_folder(run, stage, m) / PREDICTIONS) for m in members]
        return cls(run=run, members=members, rows=found[0].rows, logits=np.stack([f.logits for f in found], axis=1))

    def side_mask(self, side: str) -> npt.NDArray[np.bool_]:
        return np.array([self.run.samples[i].side == side for i in self.rows], dtype=bool)

    @cached_property
    def combinations(self) -> dict[str, Combination]:
        """Strategy -> what validation patients made of it; with the paper's weights where there are as many members."""
        config, on = self.run.config, self.side_mask("validation")
        truth, logits = self.run.truth(self.rows[on], config.target), self.logits[on]
        calibrate = config.preset == "sane"
        made = {s: fit(s, logits, truth, seed=config.fit_seed, calibrate=calibrate) for s in STRATEGIES}
        if len(config.paper_weights) == len(self.members):
            weights = self._paper_weights(logits, truth)
            made[PAPER_WEIGHTED] = fit(
                "weighted-average", logits, truth, seed=config.fit_seed, calibrate=calibrate, weights=weights
            )
        return made

    def _paper_weights(self, logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> list[float]:
        """The printed weights, the largest to the member with the best validation F, as the paper gives them."""
        tables = [confusion(truth, one, logits.shape[2]) for one in logits.argmax(axis=2).T]
        f = [np.average(f1_scores(table), weights=table.sum(axis=1)) for table in tables]
        rank = np.argsort(np.argsort([-v for v in f], kind="stable"))
        return [self.run.config.paper_weights[r] for r in rank]

    def predictions(self, strategy: str, side: str = "test") -> Predictions:
        """The ensemble's answers, by the deployed combination."""
        on, config = self.side_mask(side), self.run.config
        combiner = Combiner(self.combinations[strategy], labels=len(config.labels))
        probabilities, winners = combiner.run(np.ascontiguousarray(self.logits[on]))
        rows = self.rows[on]
        return Predictions(
            true=self.run.truth(rows, config.target),
            predicted=winners.astype(np.int64),
            probabilities=probabilities.astype(np.float64),
            patients=self.run.patients(rows),
        )


def results(run: R20Run) -> Json:
    """Results of all stages that were run, as a JSON object; `training.recipes.r20.tables` reads it."""
    c = run.config
    found: Json = {
        "config": c.name,
        "preset": c.preset,
        "seed": c.seed,
        "resamples": c.resamples,
        "split": split_in_words(c),
        "labels": list(c.labels),
        "sides": _sides(run),
        "leakage": json.loads((run.out / "leakage.json").read_text(encoding="utf-8")),
        "hyperparameters": {m: _hyperparameters(run, m) for m in c.members},
    }
    kinds: dict[str, Target] = {"modality": modality(), "binary": binary(), "multiclass": c.target}
    for stage, target in kinds.items():
        members = tuple(c.members) if stage == "modality" else top_members(run)
        if is_done(run, stage, members):
            found[stage] = {m: _single(run, stage, m, target) for m in members}
    if c.prune_segmenter is not None and (run.out / "pruned" / SEGMENTER).exists():
        steps = steps_of(run.out / "pruned" / SEGMENTER)
        found["segmenter_steps"] = [asdict(s) for s in steps]
        found["segmenter_step"] = best_step(steps, tolerance=c.prune_segmenter.tolerance).number
    if "multiclass" in found:
        whole = Ensembles.load(run, "multiclass")
        found["ensembles"] = {"unpruned": _ensembles(whole)}
        if is_done(run, "pruned", whole.members):
            pruned = Ensembles.load(run, "pruned")
            found["ensembles"]["pruned"] = _ensembles(pruned)
            found["combinations"] = {s: _combination(k) for s, k in pruned.combinations.items()}
            found["pruned"] = {m: _pruned(run, m) for m in pruned.members}
            refused = _not_compared_reason(run)
            found["comparisons"] = _comparisons(run, whole, pruned, with_bundle=refused is None)
            if refused is not None:
                found["not_compared"] = refused
    return found


def split_in_words(config: R20Config) -> str:
    """How the sides were made."""
    what = "image by image, as the published code: it leaks" if config.unit == "image" else "by patient"
    shares = "/".join(f"{100 * s:g}" for s in config.side_shares.values())
    return f"{what}, {shares} % train/validation/test"


def _sides(run: R20Run) -> dict[str, dict[str, Any]]:
    found = {}
    for side in SIDES:
        here = [s for s in run.samples if s.side == side]
        counts = {label: sum(s.record.label == label for s in here) for label in run.config.labels}
        found[side] = {"images": len(here), "patients": len({s.group for s in here}), "labels": counts}
    return found


def _hyperparameters(run: R20Run, member: str) -> Json:
    plan, trial = member_plan(run, member, run.config.modality), best_trial(run, member)
    spec = trial.network(run.config.network(member, 2))
    file = run.out / "search" / f"{member}.json"
    trials = len(json.loads(file.read_text(encoding="utf-8"))["finished"]) if file.exists() else 0
    return {
        "momentum": plan.momentum if plan.optimizer == "sgd" else None,
        "learning_rate": plan.learning_rate,
        "weight_decay": plan.weight_decay,
        "dropout": spec.dropout,
        "optimizer": plan.optimizer,
        "activation": spec.activation,
        "trials": trials,
    }


def _row(answers: Predictions, labels: Sequence[str], run: R20Run) -> Json:
    c = run.config
    row = paper_row(answers, labels, seed=c.seed, resamples=c.resamples, preset=c.preset).as_json()
    return {**row, "confusion": confusion(answers.true, answers.predicted, len(labels)).astype(int).tolist()}


def _single(run: R20Run, stage: str, member: str, target: Target) -> Json:
    folder = member_folder(run, stage, member)
    answers = run.predictions("test", SampleLogits.load(folder / PREDICTIONS), target)
    network, _ = load_network(folder)
    return {"row": _row(answers, target.labels, run), "parameters": cost.parameters(network)}


def _ensembles(ensembles: Ensembles) -> Json:
    return {
        s: _row(ensembles.predictions(s), ensembles.run.config.labels, ensembles.run) for s in ensembles.combinations
    }


def _combination(combination: Combination) -> Json:
    """What tells a combination from another of its strategy; a stacking network's weights are in the bundle."""
    weights = {"weights": list(combination.parameters["weights"])} if "weights" in combination.parameters else {}
    return {
        "member_temperatures": list(combination.member_temperatures),
        "temperature": combination.temperature,
        **weights,
    }


def _member_predictions(run: R20Run, stage: str, member: str) -> Predictions:
    """A member's answers to the multi-class task."""
    return run.predictions(
        "test", SampleLogits.load(member_folder(run, stage, member) / PREDICTIONS), run.config.target
    )


def _pruned(run: R20Run, member: str) -> Json:
    config, steps = run.config, steps_of(run.out / "pruned" / member)
    best, whole = best_step(steps, tolerance=config.prune.tolerance), steps[0]
    answers, unpruned = (_member_predictions(run, stage, member) for stage in ("pruned", "multiclass"))
    return {
        "row": _row(answers, config.labels, run),
        "unpruned_row": _row(unpruned, config.labels, run),
        "step": best.number,
        "folder": chosen_step(run, member).relative_to(run.out).as_posix(),
        **{k: getattr(best, k) for k in ("channels", "parameters", "macs", "milliseconds")},
        **{f"unpruned_{k}": getattr(whole, k) for k in ("channels", "parameters", "macs", "milliseconds")},
        "steps": [asdict(s) for s in steps],
    }


def _not_compared_reason(run: R20Run) -> str | None:
    """Why `compare_with` is not compared; None if it is, or was not given. Our test images may have trained another split's."""
    if run.config.compare_with is None:
        return None
    trained_on = Bundle.open(run.config.compare_with).manifest.provenance.get("images")
    if trained_on == images_by_side(run.samples):
        return None
    return (
        f"bundle {run.config.compare_with}, whose images by side, source and label are not this run's: it may have been "
        "trained on our test images; train it on this data and split first"
    )


def _comparisons(run: R20Run, whole: Ensembles, pruned: Ensembles, *, with_bundle: bool) -> list[Json]:
    """Paired tests on the same test images: what pruning, combining and the retraining changed."""
    said: dict[str, Predictions] = {}
    for m in whole.members:
        said[f"{m}, unpruned"], said[f"{m}, pruned"] = (
            _member_predictions(run, stage, m) for stage in ("multiclass", "pruned")
        )
    for strategy in whole.combinations:
        said[f"{strategy}, unpruned"] = whole.predictions(strategy)
        said[f"{strategy}, pruned"] = pruned.predictions(strategy)
    pairs = [(f"{n}, pruned", f"{n}, unpruned") for n in (*whole.members, *whole.combinations)]
    pairs += [(f"{s}, pruned", f"{m}, pruned") for s in ("weighted-average",) for m in whole.members]
    if run.config.compare_with is not None and with_bundle:
        name = f"bundle {run.config.compare_with}"
        said[name] = _other_bundle_predictions(run, pruned)
        pairs += [(f"{s}, pruned", name) for s in ("average", "weighted-average")]
    c = run.config
    return [compare(a, b, said[a], said[b], c.labels, seed=c.seed, resamples=c.resamples) for a, b in pairs]


def _other_bundle_predictions(run: R20Run, pruned: Ensembles) -> Predictions:
    """What another bundle says of the same test images, its probabilities kept to our labels and normalised."""
    c, on = run.config, pruned.side_mask("test")
    rows = pruned.rows[on]
    bundle = Bundle.open(c.compare_with or "")
    screener = Screener(bundle, reference(bundle, threads=1))
    screened = screen_samples(screener, [run.samples[i] for i in rows], threads=c.threads)
    columns = [bundle.manifest.labels.index(label) for label in c.labels]
    kept = screened.probabilities[:, columns]
    return Predictions(
        true=run.truth(rows, c.target),
        predicted=kept.argmax(axis=1).astype(np.int64),
        probabilities=kept / np.maximum(kept.sum(axis=1, keepdims=True), 1e-12),
        patients=run.patients(rows),
    )
