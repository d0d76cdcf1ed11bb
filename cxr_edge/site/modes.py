"""Degraded modes on a site's cases: the bundle's modes and the cases in, modes with the site's operating points out.

Each mode is fitted like the ensemble of all members, on the same cases, so that a calibrated bundle goes on without a member,
too. The modes' figures are then of these cases.
"""

from __future__ import annotations

from dataclasses import replace

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.site.fit import FittedPoint, PointRequest, fit_point
from cxr_edge.site.mode_figures import KnownImages, mode_figures
from cxr_edge.site.screened import ScreenedCases
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.degraded import DegradedMode, ModeFigures

__all__ = ["at_sharpness", "fit_modes", "notes_on_modes"]

_DIGITS = 4  # of a temperature


def at_sharpness(combination: Combination, sharpness: float) -> Combination:
    """Return the combination with its temperature divided by `sharpness`."""
    temperature = round(combination.temperature / sharpness, _DIGITS) or combination.temperature
    return replace(combination, temperature=temperature)


def fit_modes(
    manifest: Manifest, screened: ScreenedCases, wanted: PointRequest, point: FittedPoint
) -> tuple[DegradedMode, ...]:
    """Return the bundle's modes, fitted on the cases. wanted, point: of all members."""
    if not manifest.degraded:
        return ()
    cases = screened.predictions
    images = KnownImages(labels=cases.labels, logits=screened.logits, true=cases.true, patients=cases.patients)
    whole = images.cases(at_sharpness(manifest.combination, point.sharpness))
    of_all = mode_figures(whole, OperatingPoint(decision=point.decision, budget=point.budget), _guard(manifest))
    names = [m.name for m in manifest.members]
    return tuple(
        _fitted(mode, images, [names.index(n) for n in mode.members], wanted, of_all) for mode in manifest.degraded
    )


def _guard(manifest: Manifest) -> str | None:
    return manifest.degraded[0].guard


def _fitted(
    mode: DegradedMode, images: KnownImages, rows: list[int], wanted: PointRequest, of_all: ModeFigures
) -> DegradedMode:
    kept = {} if mode.budget is None else {k: v for k, v in mode.budget.labels.items() if k in wanted.kept}
    own = replace(wanted, decision=mode.decision, kept=kept, temperature=mode.combination.strategy != "voting")
    point = fit_point(images.cases(mode.combination, rows), own)
    combination = at_sharpness(mode.combination, point.sharpness)
    at = OperatingPoint(decision=point.decision, budget=point.budget)
    return replace(
        mode,
        combination=combination,
        decision=point.decision,
        budget=point.budget,
        measured_on=f"{of_all.images} cases of the site",
        figures=mode_figures(images.cases(combination, rows), at, mode.guard),
        figures_of_all=of_all,
    )


def notes_on_modes(modes: tuple[DegradedMode, ...]) -> list[str]:
    """Return what a person should know of the fitted modes."""
    if not modes:
        return []
    silent = [
        " and ".join(m.members)
        for m in modes
        if m.budget is not None and all(one.answer_from is None for one in m.budget.labels.values())
    ]
    never = f"; {', '.join(silent)} alone never answer" if silent else ""
    return [f"the {len(modes)} degraded modes (without some members) have limits of the same cases{never}."]
