"""Figures on unseen sites: shares by site at one threshold, the objective that chooses it, and the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.data.guard import Guard, Subgroup
from training.data.records import Record
from training.evaluation.metrics import Bootstrap
from training.evaluation.site_pages import sites_as_markdown
from training.evaluation.sites import LeftOut, SitesResults, VariantRow, best_threshold, objective, site_figures
from training.json_records import as_stored

GUARD = Guard(
    label="covid-19",
    groups={
        "adult_normals": Subgroup(label="normal", adult=True),
        "adult_abnormals": Subgroup(adult=True, without=("normal",)),
    },
)
DRAWS = Bootstrap(seed=1, resamples=50)

# Label, source -> scores. The rare site `tiny` has too few images to count.
SCORES = {
    ("covid-19", "a"): [0.9, 0.8, 0.7, 0.2],
    ("covid-19", "b"): [0.9, 0.6, 0.55, 0.5],
    ("normal", "a"): [0.1, 0.2, 0.3, 0.65],
    ("normal", "c"): [0.1, 0.1, 0.1, 0.1],
    ("tuberculosis", "c"): [0.1, 0.2, 0.52, 0.3],
    ("normal", "tiny"): [0.99],
}


def _left_out(scores: dict[tuple[str, str], list[float]] | None = None) -> LeftOut:
    cells = [(label, source, s) for (label, source), found in (scores or SCORES).items() for s in found]
    records = [
        Record(path=Path("x"), key=f"{i}", patient=f"{i}", label=label, source=source, view="", finding="x", adult=True)
        for i, (label, source, _) in enumerate(cells)
    ]
    return LeftOut(
        scores=np.array([s for *_, s in cells]),
        records=records,
        patients=np.array([r.patient for r in records]),
        views=["AP" if i % 2 else "PA" for i in range(len(records))],
        guard=GUARD,
        least=2,
    )


def test_shares_by_site_at_a_threshold() -> None:
    found = site_figures(_left_out(), DRAWS, threshold=0.51)
    rows = {(r.kind, r.source): (r.called.hits, r.called.n, r.counts) for r in found.rows}
    assert rows == {
        ("covid-19", "a"): (3, 4, True),
        ("covid-19", "b"): (3, 4, True),
        ("adult_normals", "a"): (1, 4, True),
        ("adult_normals", "c"): (0, 4, True),
        ("adult_normals", "tiny"): (1, 1, False),
        ("adult_abnormals", "c"): (1, 4, True),
    }
    assert found.mean == {"covid-19": 0.75, "adult_normals": 0.875, "adult_abnormals": 0.75}
    assert found.worst == {"covid-19": 0.75, "adult_normals": 0.75, "adult_abnormals": 0.75}
    assert found.objective.value == pytest.approx((0.75 + ((0.875 + 0.75) / 2 + 0.75) / 2) / 2)
    assert found.objective.low <= found.objective.value <= found.objective.high


def test_views_add_up_to_the_site() -> None:
    for row in site_figures(_left_out(), DRAWS, threshold=0.5).rows:
        assert sum(f.n for f in row.by_view.values()) == row.called.n
        assert sum(f.hits or 0 for f in row.by_view.values()) == row.called.hits


def test_the_threshold_has_the_highest_objective() -> None:
    left_out = _left_out()
    best = best_threshold(left_out)
    values = [objective(left_out, t, None) for t in np.linspace(0, 1, 501)]
    assert objective(left_out, best, None) == pytest.approx(max(values))


@pytest.mark.parametrize("share", [0.25, 0.75, 1.0])
def test_the_threshold_finds_a_given_share(share: float) -> None:
    left_out = replace(_left_out(), found=share)
    threshold = best_threshold(left_out)
    assert site_figures(left_out, DRAWS).threshold == threshold
    assert site_figures(left_out, DRAWS, threshold=threshold).mean["covid-19"] >= share
    assert site_figures(left_out, DRAWS, threshold=threshold + 1e-6).mean["covid-19"] < share


def test_one_bad_site_lowers_the_objective_more_than_its_share() -> None:
    better = {**SCORES, ("covid-19", "b"): [0.9, 0.8, 0.7, 0.2]}
    worse = {**SCORES, ("covid-19", "b"): [0.1, 0.1, 0.1, 0.1]}
    a, b = (objective(_left_out(s), 0.51, None) for s in (better, worse))
    assert a - b == pytest.approx((0.75 / 2 + 0.75) / 2 / 2)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_calling_all_or_none_gives_half(threshold: float) -> None:
    assert objective(_left_out(), threshold, None) == pytest.approx(0.5)


def test_the_auc_is_of_all_left_out_sites_together() -> None:
    found = site_figures(_left_out(), DRAWS)
    positive = [s for (label, _), v in SCORES.items() if label == "covid-19" for s in v]
    negative = [s for (label, _), v in SCORES.items() if label == "normal" for s in v]
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert found.auc["adult_normals"].value == pytest.approx(np.mean(pairs))


def test_weights_are_counts_of_images() -> None:
    left_out = _left_out()
    weights = np.ones(len(left_out.scores))
    assert objective(left_out, 0.4, weights) == objective(left_out, 0.4, None)
    weights[0] = 0
    expected = {**SCORES, ("covid-19", "a"): SCORES[("covid-19", "a")][1:]}
    assert objective(left_out, 0.4, weights) == pytest.approx(objective(_left_out(expected), 0.4, None))


def test_the_page_has_every_site_and_variant() -> None:
    figures = site_figures(_left_out(), DRAWS)
    rows = {
        name: VariantRow(about=f"about {name}", figures=figures, within={"a": figures.objective}, macro_f1=0.5)
        for name in ("one", "two")
    }
    results = SitesResults(
        name="x", seed=1, guard=GUARD, folds={"f": ("a", "b")}, view_accuracy={"a": 0.7}, variants=rows, before=figures,
        before_name="old", plans={"one": {"epochs": 1}},
    )  # fmt: skip
    page = sites_as_markdown(as_stored(results))
    for part in (
        "| one |",
        "| two |",
        "about two",
        "old, at",
        "| covid-19 | b |",
        "| adult abnormals | c | AP |",
        "a 0.70",
    ):
        assert part in page, part
