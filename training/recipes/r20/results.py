"""Results of an R20 run: stored predictions in, one JSON object for tables and figures out.

Temperatures, weights and stacking are fitted on validation patients; every figure is of test patients. Ensembles are computed
by the deployed C++ combination.
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
from training.data.targets import Target
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
from training.recipes.r20.tasks import modality
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.segmenter import SEGMENTER
from training.tasks.confusion import confusion, f1_scores

__all__ = ["Ensembles", "results", "split_in_words"]

Json = dict[str, Any]
PAPER_WEIGHTED = "weighted-average, paper's weights"


@dataclass(frozen=True, kw_only=True)
class Ensembles:
    """Ensembles of the pruned or unpruned members, with every combination strategy."""

    run: R20Run
    members: tuple[str, ...]
    rows: npt.NDArray[np.int64]  # (N,), indices of the run's samples
    logits: npt.NDArray[np.float32]  # (N, members, labels)

    @classmethod
    def load(cls, run: R20Run, stage: str) -> Ensembles:
        """Load the members' logits of a stage, `multiclass` or `pruned`."""
        members = top_members(run)
        outputs = [SampleLogits.load(member_folder(run, stage, m) / PREDICTIONS) for m in members]
        logits = np.stack([o.logits for o in outputs], axis=1)
        return cls(run=run, members=members, rows=outputs[0].rows, logits=logits)

    def side_mask(self, side: str) -> npt.NDArray[np.bool_]:
        """Return the mask (N,) of the rows on one side."""
        return np.array([self.run.samples[i].side == side for i in self.rows], dtype=bool)

    @cached_property
    def combinations(self) -> dict[str, Combination]:
        """Strategy -> combination fitted on validation patients; with the paper's weights, too, if their number fits."""
        config, mask = self.run.config, self.side_mask("validation")
        truth, logits = self.run.truth(self.rows[mask], config.target), self.logits[mask]
        calibrate = config.preset == "sane"
        combinations: dict[str, Combination] = {
            s: fit(s, logits, truth, seed=config.fit_seed, calibrate=calibrate) for s in STRATEGIES
        }
        if len(config.paper_weights) == len(self.members):
            weights = self._paper_weights(logits, truth)
            combinations[PAPER_WEIGHTED] = fit(
                "weighted-average", logits, truth, seed=config.fit_seed, calibrate=calibrate, weights=weights
            )
        return combinations

    def _paper_weights(self, logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> list[float]:
        """Return the printed weights per member; the member with the best validation F has the largest, as in the paper."""
        tables = [confusion(truth, one, logits.shape[2]) for one in logits.argmax(axis=2).T]
        f = [np.average(f1_scores(table), weights=table.sum(axis=1)) for table in tables]
        rank = np.argsort(np.argsort([-v for v in f], kind="stable"))
        return [self.run.config.paper_weights[r] for r in rank]

    def predictions(self, strategy: str, side: str = "test") -> Predictions:
        """Return the ensemble's predictions, computed by the deployed combination."""
        mask, config = self.side_mask(side), self.run.config
        combiner = Combiner(self.combinations[strategy], labels=len(config.labels))
        probabilities, predicted = combiner.run(np.ascontiguousarray(self.logits[mask]))
        rows = self.rows[mask]
        return Predictions(
            true=self.run.truth(rows, config.target),
            predicted=predicted.astype(np.int64),
            probabilities=probabilities.astype(np.float64),
            patients=self.run.patients(rows),
        )


def results(run: R20Run) -> Json:
    """Return the results of all finished stages as a JSON object, the input of `training.recipes.r20.tables`."""
    c = run.config
    content: Json = {
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
    binary = {} if c.binary is None else {"binary": c.binary_target}
    kinds: dict[str, Target] = {"modality": modality(), **binary, "multiclass": c.target}
    for stage, target in kinds.items():
        members = tuple(c.members) if stage == "modality" else top_members(run)
        if is_done(run, stage, members):
            content[stage] = {m: _single(run, stage, m, target) for m in members}
    if c.prune_segmenter is not None and (run.out / "pruned" / SEGMENTER).exists():
        steps = steps_of(run.out / "pruned" / SEGMENTER)
        content["segmenter_steps"] = [asdict(s) for s in steps]
        content["segmenter_step"] = best_step(steps, tolerance=c.prune_segmenter.tolerance).number
    if "multiclass" in content:
        unpruned = Ensembles.load(run, "multiclass")
        content["ensembles"] = {"unpruned": _ensembles(unpruned)}
        if is_done(run, "pruned", unpruned.members):
            pruned = Ensembles.load(run, "pruned")
            content["ensembles"]["pruned"] = _ensembles(pruned)
            content["combinations"] = {s: _combination(k) for s, k in pruned.combinations.items()}
            content["pruned"] = {m: _pruned(run, m) for m in pruned.members}
            reason = _not_compared_reason(run)
            content["comparisons"] = _comparisons(run, unpruned, pruned, with_bundle=reason is None)
            if reason is not None:
                content["not_compared"] = reason
    return content


def split_in_words(config: R20Config) -> str:
    """Return a description of the split, for titles."""
    what = "image by image, as the published code: it leaks" if config.unit == "image" else "by patient"
    shares = "/".join(f"{100 * s:g}" for s in config.side_shares.values())
    return f"{what}, {shares} % train/validation/test"


def _sides(run: R20Run) -> dict[str, dict[str, Any]]:
    sides: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        here = [s for s in run.samples if s.side == side]
        counts = {label: sum(s.record.label == label for s in here) for label in run.config.labels}
        sides[side] = {"images": len(here), "patients": len({s.group for s in here}), "labels": counts}
    return sides


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


def _row(predictions: Predictions, labels: Sequence[str], run: R20Run) -> Json:
    c = run.config
    row = paper_row(predictions, labels, seed=c.seed, resamples=c.resamples, preset=c.preset).as_json()
    return {**row, "confusion": confusion(predictions.true, predictions.predicted, len(labels)).astype(int).tolist()}


def _single(run: R20Run, stage: str, member: str, target: Target) -> Json:
    folder = member_folder(run, stage, member)
    predictions = run.predictions("test", SampleLogits.load(folder / PREDICTIONS), target)
    network, _ = load_network(folder)
    return {"row": _row(predictions, target.labels, run), "parameters": cost.parameters(network)}


def _ensembles(ensembles: Ensembles) -> Json:
    return {
        s: _row(ensembles.predictions(s), ensembles.run.config.labels, ensembles.run) for s in ensembles.combinations
    }


def _combination(combination: Combination) -> Json:
    """Return the fitted parameters of a combination, except those of stacking, which are in the bundle."""
    weights = {"weights": list(combination.parameters["weights"])} if "weights" in combination.parameters else {}
    return {
        "member_temperatures": list(combination.member_temperatures),
        "temperature": combination.temperature,
        **weights,
    }


def _member_predictions(run: R20Run, stage: str, member: str) -> Predictions:
    """Return a member's predictions on the multi-class task."""
    return run.predictions(
        "test", SampleLogits.load(member_folder(run, stage, member) / PREDICTIONS), run.config.target
    )


def _pruned(run: R20Run, member: str) -> Json:
    config, steps = run.config, steps_of(run.out / "pruned" / member)
    best, original = best_step(steps, tolerance=config.prune.tolerance), steps[0]
    predictions, unpruned = (_member_predictions(run, stage, member) for stage in ("pruned", "multiclass"))
    return {
        "row": _row(predictions, config.labels, run),
        "unpruned_row": _row(unpruned, config.labels, run),
        "step": best.number,
        "folder": chosen_step(run, member).relative_to(run.out).as_posix(),
        **{k: getattr(best, k) for k in ("channels", "parameters", "macs", "milliseconds")},
        **{f"unpruned_{k}": getattr(original, k) for k in ("channels", "parameters", "macs", "milliseconds")},
        "steps": [asdict(s) for s in steps],
    }


def _not_compared_reason(run: R20Run) -> str | None:
    """Return the reason for not comparing with the bundle `compare_with`; None if it is compared, or not configured.

    A bundle of another split may have been trained on this run's test images.
    """
    if run.config.compare_with is None:
        return None
    trained_on = Bundle.open(run.config.compare_with).manifest.provenance.get("images")
    if trained_on == images_by_side(run.samples):
        return None
    return (
        f"bundle {run.config.compare_with}, whose images by side, source and label are not this run's: it may have been "
        "trained on our test images; train it on this data and split first"
    )


def _comparisons(run: R20Run, unpruned: Ensembles, pruned: Ensembles, *, with_bundle: bool) -> list[Json]:
    """Return paired tests on the same test images: effects of pruning, of combining, and differences from another bundle."""
    predictions: dict[str, Predictions] = {}
    for m in unpruned.members:
        predictions[f"{m}, unpruned"] = _member_predictions(run, "multiclass", m)
        predictions[f"{m}, pruned"] = _member_predictions(run, "pruned", m)
    for strategy in unpruned.combinations:
        predictions[f"{strategy}, unpruned"] = unpruned.predictions(strategy)
        predictions[f"{strategy}, pruned"] = pruned.predictions(strategy)
    pairs = [(f"{n}, pruned", f"{n}, unpruned") for n in (*unpruned.members, *unpruned.combinations)]
    pairs += [("weighted-average, pruned", f"{m}, pruned") for m in unpruned.members]
    if run.config.compare_with is not None and with_bundle:
        name = f"bundle {run.config.compare_with}"
        predictions[name] = _other_bundle_predictions(run, pruned)
        pairs += [(f"{s}, pruned", name) for s in ("average", "weighted-average")]
    c = run.config
    return [
        compare(a, b, predictions[a], predictions[b], c.labels, seed=c.seed, resamples=c.resamples) for a, b in pairs
    ]


def _other_bundle_predictions(run: R20Run, pruned: Ensembles) -> Predictions:
    """Return another bundle's predictions on the same test images, restricted to this run's labels and renormalised."""
    c, rows = run.config, pruned.rows[pruned.side_mask("test")]
    bundle = Bundle.open(c.compare_with or "")
    screener = Screener(bundle, reference(bundle, threads=1))
    screened = screen_samples(screener, [run.samples[i] for i in rows], threads=c.threads)
    columns = [bundle.manifest.labels.index(label) for label in c.labels]
    probabilities = screened.probabilities[:, columns]
    return Predictions(
        true=run.truth(rows, c.target),
        predicted=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities / np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12),
        patients=run.patients(rows),
    )
