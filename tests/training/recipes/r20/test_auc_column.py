"""The AUC column of Tables 3 to 7: micro, which matches the paper's rows of voting; and pages written again from results.json."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.training.recipes.r20.test_results import _run
from tests.training.recipes.r20.test_tables import _found, tables_of
from training.bundles.assemble import images_by_side
from training.evaluation.metrics import Bootstrap, Figure, Predictions, interval
from training.evaluation.statistics import Comparison, compare, paper_row
from training.json_records import as_json, from_json
from training.recipes.r20 import report, results
from training.recipes.r20.published import ENSEMBLES
from training.recipes.r20.records import Results

LABELS = ("normal", "bacterial", "covid-19")
PUBLISHED = sorted((Path(__file__).parents[4] / "docs" / "results").glob("r20-*/results.json"))
N = 504  # test images of the paper


def _interval(figure: dict[str, Any]) -> str:
    return interval(from_json(Figure, figure))


def _votes(right: int) -> Predictions:
    """Return one-hot votes for 504 images, `right` of them correct; all errors are of a rare label, so that averages differ."""
    right_labels = np.random.default_rng(right).choice(3, N, p=[0.6, 0.39, 0.01])
    truth = np.where(np.arange(N) < right, right_labels, 2)
    predicted = np.where(np.arange(N) < right, truth, 0)
    return Predictions(
        true=truth, predicted=predicted, probabilities=np.eye(3)[predicted], patients=np.arange(N).astype(str)
    )


@pytest.mark.parametrize("kind", ["unpruned", "pruned"])
def test_one_hot_votes_have_the_printed_auc(kind: str) -> None:
    """(3 Acc + 1) / 4 of 491 and 495 right of 504: 0.9807 and 0.9866, with the printed interval in preset `code`."""
    accuracy, auc, *_ = ENSEMBLES["majority voting", kind]
    votes = _votes(round(float(accuracy) * N))
    row = as_json(paper_row(votes, LABELS, Bootstrap(seed=1, resamples=2), preset="code"))
    found = {**_found(), "ensembles": {k: {"voting": row} for k in ("unpruned", "pruned")}}
    cell = tables_of(found)["table-7-pruned-ensembles"].rows[0][2]
    micro = row["auc"]["micro"]
    assert micro["value"] == pytest.approx((3 * row["accuracy"]["value"] + 1) / 4, abs=1e-6)
    printed, *ends = (float(v) for v in re.findall(r"[\d.]+", auc))
    assert round(micro["value"], 4) == printed
    assert (micro["low"], micro["high"]) == pytest.approx(ends, abs=1.5e-4)  # the paper's are of the rounded AUC
    assert cell == _interval(micro)
    assert cell != _interval(row["auc"]["weighted"])


def test_every_paper_table_has_micro_macro_and_weighted() -> None:
    found = _found()
    rows = {
        "table-3-modality": found["modality"]["vgg"]["row"],
        "table-4-task": found["binary"]["vgg"]["row"],
        "table-5-ensembles": found["ensembles"]["unpruned"]["average"],
        "table-6-pruned": found["pruned"]["vgg"]["unpruned_row"],
        "table-7-pruned-ensembles": found["ensembles"]["unpruned"]["average"],
    }
    made = tables_of(found)
    for name, row in rows.items():
        cells = dict(zip(made[name].head, made[name].rows[0], strict=True))
        for head, key in (("AUC", "micro"), ("macro-AUC", "macro"), ("weighted AUC", "weighted")):
            assert cells[head] == _interval(row["auc"][key]), (name, head)
        assert len({cells["AUC"], cells["macro-AUC"], cells["weighted AUC"]}) == 3, name
        assert "AUC: micro" in made[name].note


@pytest.mark.parametrize("file", PUBLISHED, ids=[p.parent.name for p in PUBLISHED])
def test_published_pages_and_tables_match_their_json(file: Path, tmp_path: Path) -> None:
    """If this fails, write them again: `python -m training.recipes.r20.report docs/results/r20-cpu docs/results/r20-latency`."""
    folder = tmp_path / "page"
    shutil.copytree(file.parent, folder, ignore=shutil.ignore_patterns("*.csv", "index.md"))
    assert report.main([str(folder)]) == 0
    for made in (*folder.glob("*.csv"), folder / "index.md", folder / "results.json"):
        assert made.read_text() == (file.parent / made.name).read_text(), made.name


def test_published_csv_has_the_micro_auc() -> None:
    for file in PUBLISHED:
        found = json.loads(file.read_text())
        lines = [x for x in (file.parent / "table-4-task.csv").read_text().splitlines() if not x.startswith("#")]
        cells = {row["task and model"]: row["AUC"] for row in csv.DictReader(lines)}
        for member, of in found["multiclass"].items():
            assert cells[f"all labels: {member}"] == _interval(of["row"]["auc"]["micro"])


def _pair() -> Comparison:
    one, other = _votes(480), _votes(480)
    other = replace(other, probabilities=np.random.default_rng(0).dirichlet(np.ones(3), N))
    return compare("a", "b", one, other, LABELS, Bootstrap(seed=1, resamples=5))


def test_the_page_compares_aucs_by_delong() -> None:
    pair = _pair()
    page = _paired(pair)
    assert "| compared | micro-AUC | AUC normal | AUC bacterial | AUC covid-19 |" in page
    assert "DeLong" in page
    found = pair.auc_by_label["covid-19"]
    assert f"{found.difference:+.4f} (p {found.p:.3g})" in page
    assert "DeLong" not in _paired(replace(pair, micro_auc_difference=None, auc_by_label=None))


def _paired(pair: Comparison, **more: Any) -> str:
    found = from_json(Results, {k: _found()[k] for k in _found() if k not in ("multiclass", "pruned")})
    return "\n".join(report._paired(replace(found, comparisons=(pair,), **more)))


def test_a_bundle_of_another_split_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its training images may be among our test images."""
    run, opened = _run(compare_with="some"), SimpleNamespace(manifest=SimpleNamespace(provenance={}))
    monkeypatch.setattr(results.Bundle, "open", lambda name: opened)
    opened.manifest.provenance["images"] = images_by_side(run.samples)
    assert results._not_compared_reason(run) is None
    moved = {**images_by_side(run.samples), "test": {"kcx/normal": 1}}
    for images in (moved, None):
        opened.manifest.provenance["images"] = images
        refused = results._not_compared_reason(run)
        assert "bundle some" in refused
        page = _paired(_pair(), not_compared=refused)
        assert f"Not compared: {refused}." in page
    assert results._not_compared_reason(_run()) is None
