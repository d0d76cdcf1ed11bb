"""Evaluation of findings: groups, left-out sites, pages; all from predictions that are worked out here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.builders.finding_records import finding_record
from training.data.guard import Subgroup
from training.data.records import Record
from training.evaluation.finding_bundle import group_findings
from training.evaluation.finding_metrics import FindingPredictions
from training.evaluation.finding_sites import finding_sites, finding_sites_table
from training.evaluation.metrics import Bootstrap

DRAWS = Bootstrap(seed=1, resamples=20)
LABELS = ("a", "b", "c")


def _predictions(n: int = 120, seed: int = 0) -> tuple[FindingPredictions, list[Record]]:
    """Records of two sources and both sexes, half of them without a stated sex; c is unknown at t."""
    rng = np.random.default_rng(seed)
    values = ["".join("01"[int(v)] for v in rng.random(3) < (0.4, 0.3, 0.5)) for _ in range(n)]
    values = [v[:2] + "?" if i % 2 else v for i, v in enumerate(values)]
    records = [finding_record(f"{i}", v, source="st"[i % 2]) for i, v in enumerate(values)]
    records = [replace(r, sex=("F", "M", "", "")[i % 4], age_years=50.0) for i, r in enumerate(records)]
    truth = np.array([[{"1": 1, "0": 0, "?": np.nan}[c] for c in v] for v in values], dtype=np.float32)
    p = np.clip(0.4 * np.nan_to_num(truth) + 0.6 * rng.random((n, 3)), 0, 1)
    patients = np.array([r.patient for r in records])
    return FindingPredictions(truth=truth, present=p >= 0.5, probabilities=p, patients=patients), records


def test_groups_are_those_that_are_stated() -> None:
    p, records = _predictions()
    groups = group_findings(p, records, LABELS, DRAWS)
    assert {k: set(v) for k, v in groups.items()} == {
        "source": {"s", "t"},
        "view": {"PA"},
        "age": {"40 to 59"},
        "sex": {"F", "M", "not stated"},
    }
    own = np.array([r.source == "s" for r in records])
    row = groups["source"]["s"].labels["a"]
    assert row.auroc.value == pytest.approx(roc_auc_score(p.truth[own, 0], p.probabilities[own, 0]))
    called = p.present[own, 0] & (p.truth[own, 0] == 1)
    assert (row.sensitivity.hits, row.sensitivity.n) == (called.sum(), (p.truth[own, 0] == 1).sum())
    unknown = groups["source"]["t"].labels["c"]
    assert (unknown.known, unknown.present) == (0, 0)
    assert np.isnan(unknown.auroc.value)


def test_watched_groups_are_those_with_a_finding_present() -> None:
    p, records = _predictions()
    watch = {
        "with c": Subgroup(label="c"),
        "nothing": Subgroup(label="no finding"),
        "neither": Subgroup(without=("a", "c")),
    }
    groups = group_findings(p, records, LABELS, DRAWS, watch)["watch"]
    present = p.truth == 1
    assert groups["with c"].images == present[:, 2].sum()
    assert groups["nothing"].images == (~present.any(axis=1)).sum()
    assert groups["neither"].images == (~present[:, [0, 2]].any(axis=1)).sum()
    assert groups["neither"].labels["a"].present == 0


def test_sites_are_compared_by_their_mean_over_findings_with_images_enough() -> None:
    p, records = _predictions()
    at = {s: p.only(np.array([r.source == s for r in records])) for s in "st"}
    at["u"] = p.only(np.arange(120) < 6)
    sites = finding_sites(at, LABELS, DRAWS, least=10)
    area = {(r.site, r.label): r.auroc.value for r in sites.rows}
    assert sites.by_site == {
        "s": pytest.approx(np.mean([area["s", k] for k in "abc"])),
        "t": pytest.approx(np.mean([area["t", k] for k in "ab"])),
    }
    assert sites.worst == min(sites.by_site.values())
    assert sites.mean == pytest.approx(np.mean(list(sites.by_site.values())))
    assert sites.worst_by_label["a"] == min(area["s", "a"], area["t", "a"])
    assert sites.mean_by_label == {
        "a": pytest.approx((area["s", "a"] + area["t", "a"]) / 2),
        "b": pytest.approx((area["s", "b"] + area["t", "b"]) / 2),
        "c": pytest.approx(area["s", "c"]),
    }
    table = finding_sites_table(sites)
    assert "| u (too few to count) | a |" in table
    assert f"| worst site | a |  |  | {sites.worst_by_label['a']:.3f} |" in table


def test_sites_without_a_finding_that_counts_have_no_mean() -> None:
    p, _ = _predictions()
    sites = finding_sites({"s": p.only(np.arange(120) < 4)}, LABELS, DRAWS)
    assert (sites.by_site, sites.worst_by_label) == ({}, {})
    assert np.isnan(sites.worst)
    assert np.isnan(sites.mean)
