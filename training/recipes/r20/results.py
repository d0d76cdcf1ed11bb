"""Results of an R20 run: stored predictions in, `Results` for tables and figures out.

Temperatures, weights and stacking are fitted on validation patients; every figure is of test patients. Ensembles are computed
by the deployed C++ combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.engines import reference
from cxr_edge.ops.combine import Combiner
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.combination import Combination
from training.bundles.assemble import images_by_side
from training.data.splits import SIDES, Side
from training.data.targets import Target
from training.ensembles.fit import STRATEGIES, fit
from training.evaluation.bundle import screen_samples
from training.evaluation.metrics import Bootstrap, Predictions
from training.evaluation.statistics import Comparison, PaperRow, compare, paper_row
from training.evaluation.unseen import UnseenImages, UnseenResults, UnseenScores, unseen_results
from training.models import load_network
from training.pruning import cost
from training.pruning.prune import best_step, steps_of
from training.recipes.page import opening_facts, read_leakage, unit_in_words
from training.recipes.r20.config import R20Config
from training.recipes.r20.published import WEIGHTS
from training.recipes.r20.records import (
    EnsembleRows,
    FittedCombination,
    Hyperparameters,
    PrunedMember,
    Results,
    SideCounts,
    Single,
)
from training.recipes.r20.run import R20Run
from training.recipes.r20.stages import best_trial, chosen_step, is_done, member_folder, member_plan, top_members
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.segmenter import SEGMENTER
from training.shared_files import read_json
from training.tasks.confusion import confusion, f1_scores

__all__ = ["Ensembles", "results", "split_in_words"]

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

    def side_mask(self, side: Side) -> npt.NDArray[np.bool_]:
        """Return the mask (N,) of the rows on one side."""
        return self.run.side_mask(side, self.rows)

    @cached_property
    def combinations(self) -> dict[str, Combination]:
        """Strategy -> combination fitted on validation patients; with the paper's weights, too, if their number fits."""
        config, mask = self.run.config, self.side_mask("validation")
        truth, logits = self.run.truth(self.rows[mask], config.target), self.logits[mask]
        calibrate = config.preset == "sane"
        combinations: dict[str, Combination] = {
            s: fit(s, logits, truth, seed=config.fit_seed, calibrate=calibrate) for s in STRATEGIES
        }
        if len(WEIGHTS) == len(self.members):
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
        return [WEIGHTS[r] for r in rank]

    def predictions(self, strategy: str, side: Side = "test") -> Predictions:
        """Return the ensemble's predictions, computed by the deployed combination."""
        mask, config = self.side_mask(side), self.run.config
        combiner = Combiner(self.combinations[strategy], labels=len(config.labels))
        probabilities, predicted = combiner.run(np.ascontiguousarray(self.logits[mask]))
        return self.run.predictions_on(self.rows[mask], probabilities, predicted)


def results(run: R20Run) -> Results:
    """Return the results of all finished stages, without the agreement of maps."""
    c = run.config
    found = Results(
        **opening_facts(c, split_in_words(c)),
        sides={side: _side(run, side) for side in SIDES},
        leakage=read_leakage(run),
        hyperparameters={m: _hyperparameters(run, m) for m in c.members},
        modality=_stage(run, "modality", run.modality_target, tuple(c.members)),
        binary=None if c.binary is None else _stage(run, "binary", c.binary_target, top_members(run)),
        multiclass=_stage(run, "multiclass", c.target, top_members(run)),
    )
    if c.prune_segmenter is not None and (run.out / "pruned" / SEGMENTER).exists():
        steps = tuple(steps_of(run.out / "pruned" / SEGMENTER))
        best = best_step(steps, tolerance=c.prune_segmenter.tolerance).number
        found = replace(found, segmenter_steps=steps, segmenter_step=best)
    return found if found.multiclass is None else _with_ensembles(run, found)


def _with_ensembles(run: R20Run, found: Results) -> Results:
    unpruned = Ensembles.load(run, "multiclass")
    if not is_done(run, "pruned", unpruned.members):
        return replace(found, ensembles=EnsembleRows(unpruned=_ensembles(unpruned)))
    pruned, reason = Ensembles.load(run, "pruned"), _not_compared_reason(run)
    return replace(
        found,
        ensembles=EnsembleRows(unpruned=_ensembles(unpruned), pruned=_ensembles(pruned)),
        combinations={s: _combination(k) for s, k in pruned.combinations.items()},
        pruned={m: _pruned(run, m) for m in pruned.members},
        comparisons=_comparisons(run, unpruned, pruned, with_bundle=reason is None),
        not_compared=reason,
        unseen=_unseen(run, unpruned, pruned),
    )


def split_in_words(config: R20Config) -> str:
    """Return a description of the split, for titles."""
    shares = "/".join(f"{100 * s:g}" for s in config.side_shares.values())
    return f"{unit_in_words(config)}, {shares} % train/validation/test"


def _side(run: R20Run, side: Side) -> SideCounts:
    here = [s for s in run.samples if s.side == side]
    counts = {label: sum(s.record.label == label for s in here) for label in run.config.labels}
    return SideCounts(images=len(here), patients=len({s.group for s in here}), labels=counts)


def _hyperparameters(run: R20Run, member: str) -> Hyperparameters:
    plan, trial = member_plan(run, member, run.config.modality), best_trial(run, member)
    spec = trial.network(run.config.network(member, 2))
    file = run.out / "search" / f"{member}.json"
    return Hyperparameters(
        momentum=plan.momentum if plan.optimizer == "sgd" else None,
        learning_rate=plan.learning_rate,
        weight_decay=plan.weight_decay,
        dropout=spec.dropout,
        optimizer=plan.optimizer,
        activation=spec.activation,
        trials=len(read_json(file)["finished"]) if file.exists() else 0,
    )


def _stage(run: R20Run, stage: str, target: Target, members: Sequence[str]) -> dict[str, Single] | None:
    """Return the networks of a stage; None if it is not finished."""
    return {m: _single(run, stage, m, target) for m in members} if is_done(run, stage, members) else None


def _single(run: R20Run, stage: str, member: str, target: Target) -> Single:
    network, _ = load_network(member_folder(run, stage, member))
    return Single(row=_member_row(run, stage, member, target), parameters=cost.parameters(network))


def _member_row(run: R20Run, stage: str, member: str, target: Target) -> PaperRow:
    return _row(_member_predictions(run, stage, member, target), target.labels, run)


def _row(predictions: Predictions, labels: Sequence[str], run: R20Run) -> PaperRow:
    return paper_row(predictions, labels, Bootstrap.of(run.config), preset=run.config.preset)


def _ensembles(ensembles: Ensembles) -> dict[str, PaperRow]:
    run = ensembles.run
    return {s: _row(ensembles.predictions(s), run.config.labels, run) for s in ensembles.combinations}


def _combination(combination: Combination) -> FittedCombination:
    weights = combination.parameters.get("weights")
    return FittedCombination(
        member_temperatures=tuple(combination.member_temperatures),
        temperature=combination.temperature,
        weights=None if weights is None else tuple(weights),
    )


def _member_predictions(
    run: R20Run, stage: str, member: str, target: Target | None = None, side: Side = "test"
) -> Predictions:
    """Return a member's predictions on one side; target: of the stage, None for all labels."""
    outputs = SampleLogits.load(member_folder(run, stage, member) / PREDICTIONS)
    return run.predictions(side, outputs, run.config.target if target is None else target)


def _pruned(run: R20Run, member: str) -> PrunedMember:
    config, steps = run.config, steps_of(run.out / "pruned" / member)
    best, original = best_step(steps, tolerance=config.prune.tolerance), steps[0]
    return PrunedMember(
        row=_member_row(run, "pruned", member, config.target),
        unpruned_row=_member_row(run, "multiclass", member, config.target),
        step=best.number,
        folder=chosen_step(run, member).relative_to(run.out).as_posix(),
        channels=best.channels,
        parameters=best.parameters,
        macs=best.macs,
        milliseconds=best.milliseconds,
        unpruned_channels=original.channels,
        unpruned_parameters=original.parameters,
        unpruned_macs=original.macs,
        unpruned_milliseconds=original.milliseconds,
        steps=tuple(steps),
    )


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


def _comparisons(run: R20Run, unpruned: Ensembles, pruned: Ensembles, *, with_bundle: bool) -> tuple[Comparison, ...]:
    """Return paired tests on the same test images: effects of pruning, of combining, and differences from another bundle."""
    predictions, pairs = _methods(run, unpruned, pruned, "test"), _pairs(unpruned)
    if run.config.compare_with is not None and with_bundle:
        name = f"bundle {run.config.compare_with}"
        predictions[name] = _other_bundle_predictions(run, pruned)
        pairs += [(f"{s}, pruned", name) for s in ("average", "weighted-average")]
    draws = Bootstrap.of(run.config)
    return tuple(compare(a, b, predictions[a], predictions[b], run.config.labels, draws) for a, b in pairs)


def _methods(run: R20Run, unpruned: Ensembles, pruned: Ensembles, side: Side) -> dict[str, Predictions]:
    """Return the predictions of members and ensembles, unpruned and pruned, by name."""
    predictions: dict[str, Predictions] = {}
    for m in unpruned.members:
        predictions[f"{m}, unpruned"] = _member_predictions(run, "multiclass", m, side=side)
        predictions[f"{m}, pruned"] = _member_predictions(run, "pruned", m, side=side)
    for strategy in unpruned.combinations:
        predictions[f"{strategy}, unpruned"] = unpruned.predictions(strategy, side)
        predictions[f"{strategy}, pruned"] = pruned.predictions(strategy, side)
    return predictions


def _pairs(ensembles: Ensembles) -> list[tuple[str, str]]:
    """Return the names of the pairs that are compared: pruned with unpruned, and the weighted average with its members."""
    pairs = [(f"{n}, pruned", f"{n}, unpruned") for n in (*ensembles.members, *ensembles.combinations)]
    return [*pairs, *(("weighted-average, pruned", f"{m}, pruned") for m in ensembles.members)]


def _unseen(run: R20Run, unpruned: Ensembles, pruned: Ensembles) -> UnseenResults | None:
    """Return the results on `unseen_sources`; None without them, or without a guarded label."""
    config, rows = run.config, run.unseen_rows
    if config.guarded is None or not len(rows):
        return None
    images = UnseenImages(
        records=[run.samples[i].record for i in rows], patients=run.patients(rows), guard=config.guarded
    )
    k, found = config.labels.index(config.guarded.label), _methods(run, unpruned, pruned, "unseen")
    scores = {m: UnseenScores(scores=p.probabilities[:, k], called=p.predicted == k) for m, p in found.items()}
    return unseen_results(images, scores, _pairs(unpruned), Bootstrap.of(config))


def _other_bundle_predictions(run: R20Run, pruned: Ensembles) -> Predictions:
    """Return another bundle's predictions on the same test images, restricted to this run's labels and renormalised."""
    c, rows = run.config, pruned.rows[pruned.side_mask("test")]
    bundle = Bundle.open(c.compare_with or "")
    screener = Screener(bundle, reference(bundle, threads=1), whole=True)
    screened = screen_samples(screener, [run.samples[i] for i in rows], threads=c.threads)
    columns = [bundle.manifest.labels.index(label) for label in c.labels]
    probabilities = screened.probabilities[:, columns]
    normalised = probabilities / np.maximum(probabilities.sum(axis=1, keepdims=True), 1e-12)
    return run.predictions_on(rows, normalised, probabilities.argmax(axis=1))
