"""A site's calibration of a bundle with degraded modes: each mode has an operating point of the same cases."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cxr_edge import Bundle, load_image
from cxr_edge.bundle import write_bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.engines import reference
from cxr_edge.screening.screener import Screener
from cxr_edge.site.calibrate import SiteRequest, calibrate
from cxr_edge.site.mode_figures import KnownImages, mode_figures
from cxr_edge.site.report import SiteReport
from cxr_edge.specs.budget import ErrorBudget, LabelLimits, OperatingPoint
from cxr_edge.specs.combination import Combination, Decision
from cxr_edge.specs.degraded import CountedShare
from tests.builders.site_cases import draw_case, write_cases
from tests.builders.toy_bundle import build_toy_bundle
from tests.screening.test_degraded import NanEngine, with_engines


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("site") / "cases", {"normal": 50, "bacterial": 50})


@pytest.fixture(scope="module")
def calibrated(cases: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, SiteReport]:
    """Return the old manifest, and the report."""
    folder = tmp_path_factory.mktemp("calibrated")
    bundle = build_toy_bundle(folder / "toy", degraded=True)
    return bundle.manifest, calibrate(bundle, cases, folder / "new", SiteRequest())


def test_every_mode_has_the_sites_point(calibrated: tuple[Manifest, SiteReport]) -> None:
    old, report = calibrated
    new = Bundle.open(report.out).manifest
    assert [m.members for m in new.degraded] == [m.members for m in old.degraded]
    for mode, before in zip(new.degraded, old.degraded, strict=True):
        assert mode.combination == before.combination
        assert mode.budget is not None
        assert mode.budget.labels["normal"].cases == 50
        assert mode.budget.labels["viral"].answer_from is None
        assert mode.measured_on == "100 cases of the site"
        assert mode.figures.answered is not None
        assert mode.figures_of_all.answered == CountedShare(hits=100, n=100)
        assert mode.figures_of_all.macro_f1 == 1.0
    note = next(n for n in report.notes if "degraded modes" in n)
    assert note.startswith("the 6 degraded modes (without some members) have limits of the same cases")
    assert note in (report.out / "model-card.md").read_text()


def test_the_calibrated_bundle_goes_on_without_a_member(calibrated: tuple[Manifest, SiteReport]) -> None:
    bundle = Bundle.open(calibrated[1].out)
    screener = Screener(bundle, with_engines(bundle, NanEngine, {"plain"}))
    screening = screener.screen(load_image(draw_case("normal", 900)))
    assert screening.degraded is not None
    assert screening.degraded.missing == ("plain",)
    assert screening.outcome in ("answered", "abstained")
    assert "on 100 cases of the site" in screening.degraded.describe()
    assert Screener(bundle, reference(bundle)).screen(load_image(draw_case("normal", 900))).decision == "normal"


def test_labels_without_cases_keep_the_modes_limits_if_asked(cases: Path, tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path / "toy", degraded=True)
    limits = LabelLimits(set_from=0.125, answer_from=0.25, cases=80, answered=60, wrong=0)
    promise = {"max_wrong": 0.05, "confidence": 0.9, "coverage": 0.95, "fitted_on": "x"}
    budget = ErrorBudget(**promise, labels={"viral": limits})  # type: ignore[arg-type]
    own = dataclasses.replace(budget, labels={"viral": dataclasses.replace(limits, answer_from=0.5)})
    modes = tuple(dataclasses.replace(m, budget=own) for m in bundle.manifest.degraded)
    write_bundle(bundle.root, dataclasses.replace(bundle.manifest, budget=budget, degraded=modes))
    calibrate(Bundle.open(bundle.root), cases, tmp_path / "new", SiteRequest(keep_absent=True))
    new = Bundle.open(tmp_path / "new").manifest
    assert new.budget is not None
    assert new.budget.labels["viral"].answer_from == 0.25
    assert {m.budget.labels["viral"].answer_from for m in new.degraded if m.budget is not None} == {0.5}


def test_figures_by_hand() -> None:
    """Two images of a, one of b, one of c called a, and one without a label called b."""
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3], [0.1, 0.7, 0.2]])
    images = KnownImages(
        labels=("a", "b", "c"),
        logits=np.log(p)[:, None].astype(np.float32),
        true=np.array([0, 0, 1, 2, -1]),
        patients=np.array(list("vwxyz")),
    )
    average = Combination(strategy="average", member_temperatures=(1.0,), temperature=1.0, parameters={})
    limits = LabelLimits(set_from=0.0, answer_from=0.7, cases=1, answered=1, wrong=0)
    budget = ErrorBudget(
        max_wrong=0.1, confidence=0.9, coverage=0.9, fitted_on="x", labels=dict.fromkeys("abc", limits)
    )
    point = OperatingPoint(decision=Decision(thresholds={}, uncertain_below=0.0), budget=budget)
    found = mode_figures(images.cases(average), point, "b")
    f1 = [2 * 1 / (2 + 2), 2 * 1 / (1 + 2), 0.0]
    assert found.images == 4
    assert found.macro_f1 == pytest.approx(np.mean(f1), abs=1e-6)
    areas = [(2 + 1) / 4, 1.0, 1.0]  # of a: 0.8 and 0.3 against 0.1 and 0.5
    assert found.macro_auc == pytest.approx(np.mean(areas), abs=1e-6)
    assert found.sensitivity == CountedShare(hits=1, n=1)
    assert found.specificity == CountedShare(hits=2, n=4)
    assert found.answered == CountedShare(hits=2, n=4)
    plain = mode_figures(images.cases(average), dataclasses.replace(point, budget=None), None)
    assert (plain.sensitivity, plain.specificity, plain.answered) == (None, None, None)
