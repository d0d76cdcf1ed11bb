"""Leave-sites-out loop: a configuration of folds and variants in, JSON and Markdown out: `python -m training.sites`.

Trains every variant once per fold without the fold's sources (what is finished stays; a killed run goes on), and compares the
variants on the images of the sources that they never saw. Two processes can share the work: `--fold a` and `--fold b`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.engines import reference
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.screening.screener import Screener
from training.data.dataset import data_folder
from training.data.guard import Guard
from training.evaluation.bundle import screen_samples
from training.evaluation.metrics import Bootstrap, Figure, auc_figure, bootstrap
from training.evaluation.site_pages import sites_as_markdown
from training.evaluation.sites import LeftOut, SiteFigures, SitesResults, VariantRow, objective, site_figures
from training.json_records import as_stored, write_json
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.segmenter import segment
from training.recipes.sites import SitePredictions, SitesConfig, SitesRun, load_sites
from training.shared_files import write_text
from training.tasks.confusion import confusion, f1_scores

__all__ = ["evaluate_sites", "main"]

_LEAST_WITHIN = 15  # images of both kinds that a source needs for an AUC of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.sites`. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.sites", description=__doc__)
    add_run_arguments(parser, config="training/configs/sites.toml", run=("--run", "runs/sites"))
    add_out_argument(parser, "docs/results/sites")
    parser.add_argument("--fold", nargs="+", help="train these folds only, and write no results")
    parser.add_argument("--variant", nargs="+", help="train and compare these variants only; default: all")
    args = parser.parse_args(arguments)
    try:
        run = SitesRun(_selected(load_sites(args.config), args.variant), data_folder(args.data), args.run)
        folds = _known(args.fold, run.config.folds, "fold")
        run.check_tasks()
        segment(run)
        for name in run.config.variants:
            for fold in folds:
                print(f"variant {name}, fold {fold}", file=sys.stderr, flush=True)
                run.train(name, fold)
        if args.fold:
            return 0
        results = evaluate_sites(run)
    except CxrEdgeError as error:
        print(f"training.sites: {error}", file=sys.stderr)
        return 2
    write_json(args.out.with_suffix(".json"), results)
    write_text(args.out.with_suffix(".md"), sites_as_markdown(results))
    return 0


def _selected(config: SitesConfig, names: Sequence[str] | None) -> SitesConfig:
    return config.selected(_known(names, config.variants, "variant"))


def _known(names: Sequence[str] | None, of: Mapping[str, object], what: str) -> list[str]:
    """Return the names; all of `of` without any. Raises InputError for an unknown one."""
    if unknown := sorted(set(names or ()) - set(of)):
        raise InputError(f"no {what} is called {', '.join(unknown)}: known are {', '.join(of)}")
    return list(names or of)


def evaluate_sites(run: SitesRun) -> SitesResults:
    """Return the comparison of the configuration's variants; every network is trained unless its folder holds it."""
    config, draws = run.config, Bootstrap.of(run.config)
    before = None if config.before is None else Bundle.open(config.before)
    rows, first = {}, None
    for name, variant in config.variants.items():
        left_out, found = _predictions(run, name)
        figures = site_figures(left_out, draws)
        rows[name] = VariantRow(
            about=variant.about,
            figures=figures,
            within=_within(run, name, found, draws),
            macro_f1=float(np.mean([_macro_f1(run, name, p) for p in found])),
            difference=None if first is None else _difference((left_out, figures), first, draws),
        )
        first = first or (left_out, figures)
    results = SitesResults(
        name=config.name,
        seed=config.seed,
        guard=_guard(run),
        folds=config.folds,
        found=config.found,
        view_accuracy={source: a.across for source, a in run.views.accuracy.items()},
        variants=rows,
        before=None if before is None else _before(run, before, draws),
        before_name=None if before is None else f"{before.manifest.name} {before.manifest.version}",
        plans=run.plans(),
    )
    return as_stored(results)


def _guard(run: SitesRun) -> Guard:
    guard = run.config.guarded
    assert guard is not None  # load_sites refuses it
    return guard


def _predictions(run: SitesRun, variant: str) -> tuple[LeftOut, list[SitePredictions]]:
    """Return the guarded label's scores on left-out images of all folds, and the predictions in each fold."""
    column = run.config.of_variant(variant).labels.index(_guard(run).label)
    found = [run.predict_fold(variant, fold) for fold in run.config.folds]
    rows = np.concatenate([p.rows[p.left_out] for p in found])
    return _left_out(run, rows, np.concatenate([p.probabilities[p.left_out, column] for p in found])), found


def _left_out(run: SitesRun, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> LeftOut:
    samples = [run.samples[i] for i in rows]
    return LeftOut(
        scores=scores,
        records=[s.record for s in samples],
        patients=np.array([s.group for s in samples]),
        views=[run.views.views[s.record.key] for s in samples],
        guard=_guard(run),
        least=run.config.least_site_images,
        found=run.config.found,
    )


def _difference(own: tuple[LeftOut, SiteFigures], first: tuple[LeftOut, SiteFigures], draws: Bootstrap) -> Figure:
    """Return the objective minus the first variant's, with the interval of a paired bootstrap."""
    (left_out, figures), (other, others) = own, first

    def measure(weights: npt.NDArray[np.float64] | None) -> npt.NDArray[np.float64]:
        return np.array([objective(left_out, figures.threshold, weights) - objective(other, others.threshold, weights)])

    return bootstrap(measure, left_out.patients, draws)[0]


def _within(run: SitesRun, name: str, found: Sequence[SitePredictions], draws: Bootstrap) -> dict[str, Figure]:
    """Return source -> AUC of the guarded label against normals among its validation patients, of sources with both."""
    guard = _guard(run)
    column = run.config.of_variant(name).labels.index(guard.label)
    scores: dict[int, list[float]] = {}
    for p in found:
        for row, score in zip(p.rows[~p.left_out].tolist(), p.probabilities[~p.left_out, column].tolist(), strict=True):
            scores.setdefault(row, []).append(score)
    rows = [i for i in scores if run.samples[i].record.label in (guard.label, "normal")]
    result = {}
    for source in sorted({run.samples[i].record.source for i in rows}):
        own = [i for i in rows if run.samples[i].record.source == source]
        positive = np.array([run.samples[i].record.label == guard.label for i in own])
        if min(positive.sum(), (~positive).sum()) >= _LEAST_WITHIN:
            means = np.array([np.mean(scores[i]) for i in own])
            result[source] = auc_figure(means, positive, np.array([run.samples[i].group for i in own]), draws)
    return result


def _macro_f1(run: SitesRun, variant: str, found: SitePredictions) -> float:
    """Return the macro-F1 of validation patients."""
    target = run.config.of_variant(variant).target
    true = run.truth(found.rows, target)
    known = ~found.left_out & (true >= 0)
    table = confusion(true[known], found.probabilities[known].argmax(axis=1), len(target.labels))
    return float(f1_scores(table)[table.sum(axis=1) > 0].mean())


def _before(run: SitesRun, bundle: Bundle, draws: Bootstrap) -> SiteFigures | None:
    """Return the figures of a bundle on left-out sources that it was not trained on, at its own threshold."""
    guard, decision = _guard(run).label, bundle.manifest.decision
    seen = {key.split("/")[0] for side in bundle.manifest.provenance.get("images", {}).values() for key in side}
    sources = {s for fold in run.config.folds.values() for s in fold} - seen
    rows = np.array([i for i, s in enumerate(run.samples) if s.record.source in sources], dtype=np.int64)
    if guard not in bundle.manifest.labels or not len(rows):
        return None
    screener = Screener(bundle, reference(bundle, threads=1), whole=True)
    screened = screen_samples(screener, [run.samples[i] for i in rows], threads=run.config.threads)
    scores = screened.probabilities[:, bundle.manifest.labels.index(guard)]
    return site_figures(_left_out(run, rows, scores), draws, threshold=decision.thresholds.get(guard))


if __name__ == "__main__":
    sys.exit(main())
