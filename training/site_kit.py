"""Measure the site kit on sites that trained nothing: the run of `training.sites` in, a page out: `python -m training.site_kit`.

For every site with patients enough, and for the sites of a fold together, 200 cases are drawn, an operating point is fitted to
them as `cxr-edge calibrate` does, and the other patients of the site show what it promised and what it did. Nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.calibration import LabelledCases, Promise, one_per_patient
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.specs.combination import Decision
from training.bundles.budget import labelled_cases
from training.data.dataset import Sample, data_folder
from training.evaluation.site_kit import KitSite, TrustResults, kit_row
from training.evaluation.trust_figures import reliability, reliability_picture, risk_coverage, risk_coverage_picture
from training.evaluation.trust_page import trust_page
from training.json_records import as_stored, write_json
from training.recipes.arguments import add_out_argument, add_run_arguments
from training.recipes.run import PREDICTIONS, SampleLogits
from training.recipes.sites import SitesRun, load_sites, stacked
from training.shared_files import write_text

__all__ = ["main", "sites_of", "study"]

_BUDGETS = (0.05, 0.1, 0.2, 0.3)  # of the answers of a label
_ALL_LABELS = "all labels"
_FOUND = 0.85  # of the guarded label by the rule before, without `found` in the configuration
_MAX_CALLED = 0.05  # of others, called the guarded label


def main(arguments: Sequence[str] | None = None) -> int:
    """Write OUT.json, OUT.md and two pictures. Returns 0, or 2 for invalid inputs."""
    args = _parser().parse_args(arguments)
    try:
        run = SitesRun(load_sites(args.config), data_folder(args.data), args.run)
        results = study(run, args.variant, drawn=args.cases, draws=args.draws, least=args.least_patients)
    except CxrEdgeError as error:
        print(f"training.site_kit: {error}", file=sys.stderr)
        return 2
    write_json(args.out.with_suffix(".json"), results)
    write_text(args.out.with_suffix(".md"), trust_page(results, pictures=args.out.name))
    _pictures(results, args.out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.site_kit", description=__doc__)
    add_run_arguments(parser, config="training/configs/sites.toml", run=("--run", "runs/sites"))
    add_out_argument(parser, "docs/results/trust")
    parser.add_argument(
        "--variant",
        nargs="+",
        required=True,
        help="trained variants of the run, whose mean is the bundle that is calibrated",
    )
    parser.add_argument("--cases", type=int, default=200, help="patients of a draw (%(default)s)")
    parser.add_argument("--draws", type=int, default=200, help="draws of each site (%(default)s)")
    parser.add_argument(
        "--least-patients",
        type=int,
        default=300,
        help="of a site with a row of its own; more than --cases (%(default)s)",
    )
    return parser


def study(run: SitesRun, variants: Sequence[str], *, drawn: int, draws: int, least: int) -> TrustResults:
    """Return the figures of every site and budget. least: patients of a site with a row of its own.

    Raises InputError for variants without predictions, and if no site has patients enough.
    """
    guard = run.config.guard
    if guard is None:
        raise InputError("the study needs a guarded label: name it in the configuration (guard)")
    if not 0 < drawn < least or draws < 1:
        raise InputError(
            "--cases is less than --least-patients, so that patients are left to measure on, and --draws is 1 or more; "
            f"got {drawn}, "
            f"{least} and {draws}"
        )
    sites, small, mixed = [], [], []
    for fold in run.config.folds:
        found = list(sites_of(run, variants, fold))
        found += [s.only_guarded() for s in found if s.pooled and s.cases.counts[guard]]
        sites += [s for s in found if not _why_not(s, least)]
        small += [f"{s.name}: {_why_not(s, least)}" for s in found if _why_not(s, least)]
        mixed.append(_mixed(run, variants, fold))
    if not sites:
        raise InputError(f"no left-out site has {least} patients and two labels: {'; '.join(small)}")
    rows = [
        kit_row(site, Promise(max_wrong=value, max_called=_MAX_CALLED), drawn=drawn, draws=draws, seed=run.config.seed)
        for site in sites
        for value in _BUDGETS
    ]
    curves = {s.name: _top(s.cases) for s in sites if s.question == _ALL_LABELS}
    known = [_top(cases) for cases in mixed]
    return as_stored(
        TrustResults(
            variants=tuple(variants),
            guard=guard,
            found=run.config.found or _FOUND,
            seed=run.config.seed,
            confidence=Promise().confidence,
            coverage=Promise().coverage,
            folds=run.config.folds,
            rows=tuple(rows),
            left_out=tuple(small),
            reliability={
                "validation patients of the sites that trained": reliability(*_joined(known)),
                **{f"left out: {name}": reliability(*top) for name, top in curves.items()},
            },
            risk={
                "validation patients of the sites that trained": risk_coverage(*_joined(known)),
                **{f"left out: {name}": risk_coverage(*top) for name, top in curves.items()},
            },
        )
    )


def _why_not(site: KitSite, least: int) -> str:
    """Return why a site has no row of its own; empty if it has one."""
    occurring = {label: n for label, n in site.cases.counts.items() if n}
    counts = ", ".join(f"{n} {label}" for label, n in occurring.items())
    if len(site.cases.true) < least:
        return f"fewer than {least} patients with a label ({counts})"
    return f"one label only ({counts})" if len(occurring) < 2 else ""


def sites_of(run: SitesRun, variants: Sequence[str], fold: str) -> Iterator[KitSite]:
    """Yield the left-out sites of a fold, and all of them together, with the predictions of networks that never saw them.

    An image of a finding that is no label, such as a pneumonia of unknown cause, counts as the label `other`, as a site would
    call it; without that label it is left out.
    """
    predictions = _FoldPredictions(run, variants, fold)
    sources = run.config.folds[fold]
    for source in sources:
        yield predictions.site(source, (source,), pooled=False)
    yield predictions.site(f"all of {fold}", sources, pooled=True)


class _FoldPredictions:
    """Mean probabilities of trained variants in one fold, with the decision before any calibration on site."""

    def __init__(self, run: SitesRun, variants: Sequence[str], fold: str) -> None:
        parts = [found for name in variants for found in _trained(run, name, fold)]
        self.run, config = run, run.config.of_variant(variants[0])
        self.labels, self.target = config.labels, config.target
        logits, rows = stacked(parts), parts[0].rows
        left_out = np.array([run.samples[i].record.source in run.config.folds[fold] for i in rows], dtype=bool)
        self.combination = run.combination(logits[~left_out], rows[~left_out], config.target)
        self.logits, self.rows, self.left_out = logits, rows, left_out
        self.decision = self._decision(run.config.found or _FOUND)

    def _decision(self, found: float) -> Decision:
        """Return the rule of the starter: the guarded label first, from where this share of its validation patients is found."""
        cases, _ = self.cases(~self.left_out)
        guard = self.run.config.guard or ""
        k = self.labels.index(guard)
        own = cases.probabilities[cases.true == k, k]
        if not len(own):
            raise InputError(
                f"no validation patient of a fold has {guard}, so that no threshold can be chosen: give other folds"
            )
        threshold = round(float(np.quantile(own, 1 - found)), 4)
        return Decision(thresholds={guard: threshold}, uncertain_below=0.0, first=(guard,))

    def cases(self, mask: npt.NDArray[np.bool_]) -> tuple[LabelledCases, list[Sample]]:
        """Return one image of each patient of a mask (N,) of the predicted rows, and its samples."""
        samples = [self.run.samples[i] for i in self.rows[mask]]
        true = np.array([self._true(s) for s in samples], dtype=np.int64)
        cases = labelled_cases(self.combination, self.logits[mask], true, [s.group for s in samples], self.labels)
        own = [s for s, k in zip(samples, true, strict=True) if k >= 0]
        chosen = one_per_patient(cases.patients, seed=self.run.config.seed)
        return cases.only(chosen), [own[i] for i in chosen]

    def _true(self, sample: Sample) -> int:
        label = sample.record.label
        if label in self.target.partial and "other" in self.labels:
            return self.labels.index("other")
        return self.target.label_index(label)

    def site(self, name: str, sources: Sequence[str], *, pooled: bool) -> KitSite:
        mask = self.left_out & np.array([self.run.samples[i].record.source in sources for i in self.rows], dtype=bool)
        cases, samples = self.cases(mask)
        normals = [s.record.adult and s.record.label == "normal" for s in samples]
        about = f"sources {', '.join(sources)}: label and source go together" if pooled else "one source"
        return KitSite(
            name=name,
            about=about,
            pooled=pooled,
            question=_ALL_LABELS,
            cases=cases,
            adult_normals=np.array(normals, dtype=bool),
            decision=self.decision,
        )


def _trained(run: SitesRun, variant: str, fold: str) -> list[SampleLogits]:
    """Return the predictions of a variant's networks in a fold. Raises InputError where nothing was trained."""
    if variant not in run.config.variants:
        raise InputError(f"no variant is called {variant}: known are {', '.join(run.config.variants)}")
    names = run.config.variants[variant].average or (variant,)
    for name in names:
        folder = run.out / "folds" / name / fold
        if not list(folder.rglob(PREDICTIONS)):
            raise InputError(
                f"{folder} has no {PREDICTIONS}: train it first, with python -m training.sites --variant {name} --run {run.out}"
            )
    return run.train(variant, fold)


def _mixed(run: SitesRun, variants: Sequence[str], fold: str) -> LabelledCases:
    """Return the validation patients of the sources that trained."""
    predictions = _FoldPredictions(run, variants, fold)
    return predictions.cases(~predictions.left_out)[0]


def _top(cases: LabelledCases) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return the top probability and whether it is the true label's, per case."""
    return cases.probabilities.max(axis=1).astype(np.float64), cases.probabilities.argmax(axis=1) == cases.true


def _joined(
    parts: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _pictures(results: TrustResults, out: Path) -> None:
    title = f"mean of {', '.join(results.variants)}, one image of each patient, seed {results.seed}"
    folder: Mapping[str, Path] = {k: out.with_name(f"{out.name}-{k}.png") for k in ("reliability", "risk-coverage")}
    reliability_picture(results.reliability, f"Reliability: {title}", folder["reliability"])
    risk_coverage_picture(results.risk, f"Risk and coverage by the top probability: {title}", folder["risk-coverage"])


if __name__ == "__main__":
    sys.exit(main())
