"""Notes for a person on a site's cases and on what was fitted on them: cases and limits in, sentences out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.calibration import guarded_label
from cxr_edge.site.cases import Case
from cxr_edge.site.fit import FittedPoint
from cxr_edge.site.screened import ScreenedCases

__all__ = ["notes_on_cases", "notes_on_point", "training_sources"]


def notes_on_cases(screened: ScreenedCases, manifest: Manifest) -> list[str]:
    """Return what limits the worth of the cases."""
    return [
        *_left_out(screened),
        *_sites(screened),
        *_confounded(screened.cases),
        *_sources(screened.cases, manifest),
        *_again(screened, manifest),
    ]


def _left_out(screened: ScreenedCases) -> Iterator[str]:
    """Yield how many cases are left out, and why; without their names, since the card has these notes."""
    if screened.left_out:
        reasons = ", ".join(f"{n} {code}" for code, n in sorted(Counter(screened.left_out).items()))
        given = len(screened.cases) + len(screened.left_out)
        yield f"{len(screened.left_out)} of {given} cases are left out, since the bundle would not answer them: {reasons}."


def _sites(screened: ScreenedCases) -> Iterator[str]:
    sites = {case.site for case in screened.cases}
    if len(sites) > 1:
        return
    if len(set(screened.sizes)) == 1:
        width, height = screened.sizes[0]
        what = f"all cases have {width}x{height} pixels and name one site or none, as of one scanner"
    else:
        what = f"all cases are of the site {next(iter(sites))!r}" if sites != {""} else "the cases name no site"
    yield f"{what}: the promise holds for patients and scanners like these alone."


def _confounded(cases: Sequence[Case]) -> Iterator[str]:
    """Yield a note for each pair of labels that no site has both of: the site may tell them apart."""
    by_label: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        by_label[case.label].add(case.site)
    labels = sorted(by_label)
    for i, label in enumerate(labels):
        for other in labels[i + 1 :]:
            if not by_label[label] & by_label[other]:
                yield (
                    f"no site has both {label} and {other}: their scanners alone may tell them apart, and nothing here "
                    "shows that "
                    "the bundle does; collect both at one site."
                )


def training_sources(manifest: Manifest) -> set[str]:
    """Return the names of the collections that trained a bundle, as far as its provenance states them."""
    sides = manifest.provenance.get("images", {})
    images = [key for side in sides.values() for key in side] if isinstance(sides, dict) else []
    return {str(key).split("/")[0] for key in images}


def _sources(cases: Sequence[Case], manifest: Manifest) -> Iterator[str]:
    if same := sorted({case.site for case in cases} & training_sources(manifest)):
        yield (
            f"the bundle was trained on images of {', '.join(same)}, which the cases name as a site: cases that trained it make "
            "every promise too good; leave them out."
        )


def _again(screened: ScreenedCases, manifest: Manifest) -> Iterator[str]:
    site = manifest.provenance.get("site", {})
    if isinstance(site, dict) and site.get("cases_sha256") == screened.digest:
        yield "the bundle was calibrated on these very cases before: the figures before are not of new cases."


def notes_on_point(point: FittedPoint, manifest: Manifest, never: Collection[str]) -> list[str]:
    """Return what the fitted operating point does not do."""
    notes = []
    budget, guard = point.budget, guarded_label(manifest.decision)
    if absent := [label for label, limits in budget.labels.items() if not limits.cases and limits.answer_from is None]:
        notes.append(f"no cases of {', '.join(absent)}: never answered, and in every prediction set.")
    if given_up := [k for k, limits in budget.labels.items() if limits.cases and k in never]:
        notes.append(f"{', '.join(given_up)} is never answered, as requested.")
    answerless = [k for k, limits in budget.labels.items() if limits.cases and limits.answer_from is None]
    if silent := [k for k in answerless if k not in never]:
        notes.append(f"{', '.join(silent)} is never answered: at no limit could {budget.max_wrong:.1%} be shown.")
    if guard is not None and not point.threshold_fitted:
        old = manifest.decision.thresholds[guard]
        notes.append(f"the threshold of {guard} stays {old:g}: the cases do not show one that keeps the promise.")
    if not point.temperature_patients:
        notes.append(
            "the temperature stays: probabilities are those of the training, and the limits do not need them exact."
        )
    return notes
