"""The study of the site kit: draws of a drawn site, its page and pictures, and the command on networks of `training.sites`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.calibration import Promise
from cxr_edge.specs.combination import Decision
from tests.builders.image_collections import write_adults, write_collections
from tests.calibration.populations import draw
from tests.training.test_sites import CONFIG
from training import site_kit, sites
from training.evaluation.site_kit import KitSite, Spread, TrustResults, kit_row
from training.evaluation.trust_figures import reliability, reliability_picture, risk_coverage, risk_coverage_picture
from training.evaluation.trust_page import trust_page
from training.json_records import as_stored, read_json, write_json
from training.recipes import run as run_module

pytestmark = pytest.mark.filterwarnings("ignore")


def _site(strength: float, n: int = 600) -> KitSite:
    cases = draw(n, np.random.default_rng(1), strength=strength)
    decision = Decision(thresholds={"covid-19": 0.05}, uncertain_below=0.0, first=("covid-19",))
    return KitSite(
        name="drawn",
        about="",
        pooled=False,
        question="all labels",
        cases=cases,
        adult_normals=cases.true == 0,
        decision=decision,
    )


def test_a_good_network_answers_and_keeps_its_promise() -> None:
    row = kit_row(_site(strength=4.0), Promise(), drawn=300, draws=20, seed=1)
    assert row.called_before.value > 0.1  # at a threshold of 0.05
    assert row.called.mean < 0.05
    assert row.wrong.mean < 0.05
    assert row.unanswered.mean < 0.6
    assert row.broken < 0.4
    assert row.calls_broken < 0.3
    assert row.silent == 0
    assert row.covered.mean > 0.93


def test_a_network_that_knows_nothing_answers_nothing() -> None:
    row = kit_row(_site(strength=0.0), Promise(), drawn=200, draws=5, seed=1)
    assert row.silent == 5
    assert row.unanswered == Spread(mean=1.0, low=1.0, high=1.0)
    assert np.isnan(row.wrong.mean)
    assert row.broken == 0


def test_a_patient_twice_is_refused() -> None:
    site = _site(strength=1.0, n=4)
    with pytest.raises(ValueError, match="several images"):
        replace(site, cases=replace(site.cases, patients=np.array(["a", "a", "b", "c"])))


def test_curves_by_hand() -> None:
    top, right = np.linspace(0.1, 1.0, 10), np.array([False] * 5 + [True] * 5)
    assert reliability(top, right)[0] == (pytest.approx(0.1), 0.0, 1)
    assert reliability(top, right)[-1] == (pytest.approx(1.0), 1.0, 1)
    curve = dict(risk_coverage(top, right))
    assert (curve[0.5], curve[1.0]) == (0.0, 0.5)


def test_page_and_pictures(tmp_path: Path) -> None:
    rows = tuple(
        kit_row(site, Promise(max_wrong=value), drawn=200, draws=3, seed=1)
        for site in (_site(strength=3.0), replace(_site(strength=0.0), name="pool", pooled=True).only_guarded())
        for value in (0.05, 0.2)
    )
    top, right = np.random.default_rng(1).random(100), np.random.default_rng(2).random(100) > 0.5
    results = as_stored(
        TrustResults(
            variants=("a", "b"), guard="covid-19", found=0.85, seed=1,
            confidence=0.9, coverage=0.95, folds={"one": ("x", "y")}, rows=rows,
            left_out=("y: fewer than 300 patients",), reliability={"x": reliability(top, right)},
            risk={"x": risk_coverage(top, right)},
        )
    )  # fmt: skip
    page = trust_page(results, pictures="trust")
    for text in (
        "| single sites, all labels | unanswered: at most 14% |",
        "nothing answered",
        "python -m training.site_kit --variant a b",
    ):
        assert text in page
    assert "Without a row of its own, y: fewer than 300 patients." in page
    assert "![Share of right decisions over the probability of the decision](trust-reliability.png)" in page
    write_json(tmp_path / "trust.json", results)
    assert trust_page(read_json(TrustResults, tmp_path / "trust.json"), pictures="trust") == page
    reliability_picture(results.reliability, "Reliability", tmp_path / "a.png")
    risk_coverage_picture(results.risk, "Risk", tmp_path / "b.png")
    assert min(f.stat().st_size for f in tmp_path.glob("*.png")) > 5000


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run_module, "VIEW_NETWORK", "narrow-vgg")
    monkeypatch.setattr(run_module, "VIEW_WEIGHTS", None)
    data = write_collections(tmp_path / "data", patients=8, size_px=64)
    write_adults(data / "adults", patients=8)
    (tmp_path / "sites.toml").write_text(CONFIG)
    shared = ["--data", str(data), "--config", str(tmp_path / "sites.toml"), "--run", str(tmp_path / "run")]
    study = [
        *shared,
        "--out",
        str(tmp_path / "trust"),
        "--cases",
        "6",
        "--draws",
        "2",
        "--least-patients",
        "8",
        "--variant",
    ]
    assert site_kit.main([*study, "pairs"]) == 2
    assert "train it first" in capsys.readouterr().err
    assert sites.main([*shared, "--variant", "pairs", "--out", str(tmp_path / "sites")]) == 0
    assert site_kit.main([*study, "pairs"]) == 0
    found = json.loads((tmp_path / "trust.json").read_text())
    assert {row["site"] for row in found["rows"]} >= {"nih", "all of one", "all of two"}
    assert {row["max_wrong"] for row in found["rows"]} == {0.05, 0.1, 0.2, 0.3}
    assert any(text.startswith("twitter: ") for text in found["left_out"])
    assert (tmp_path / "trust-reliability.png").exists()
    assert site_kit.main([*study, "none"]) == 2
    assert site_kit.main([*study, "pairs", "--cases", "8"]) == 2
    assert "--cases is less than --least-patients" in capsys.readouterr().err
