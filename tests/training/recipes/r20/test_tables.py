"""The paper's tables from results: our rows match the results, and printed rows match the paper."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from training.evaluation.metrics import Bootstrap, Predictions
from training.evaluation.statistics import paper_row
from training.json_records import as_json, from_json
from training.markdown import Table
from training.recipes.r20.published import ENSEMBLES, MODALITY, PRUNED, TASK
from training.recipes.r20.records import Results
from training.recipes.r20.tables import tables

LABELS = ("normal", "bacterial", "covid-19")


def _row(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(3), 60)
    predictions = Predictions(
        true=rng.integers(0, 3, 60), predicted=p.argmax(axis=1), probabilities=p, patients=np.arange(60).astype(str)
    )
    return as_json(paper_row(predictions, LABELS, Bootstrap(seed=1, resamples=10), preset="sane"))


def tables_of(found: dict[str, Any]) -> dict[str, Table]:
    """Return the tables of a results.json."""
    return tables(from_json(Results, found))


def _found() -> dict[str, Any]:
    plan = {"momentum": 0.95, "learning_rate": 1e-3, "weight_decay": 1e-6, "dropout": 0.5, "optimizer": "sgd"}
    costs = {"parameters": 500, "macs": 2_000_000, "milliseconds": 1.5, "channels": 40}
    unpruned = {f"unpruned_{k}": 2 * v for k, v in costs.items()}
    return {
        "preset": "sane", "config": "c", "seed": 3, "resamples": 10, "split": "by patient", "labels": list(LABELS),
        "sides": {}, "leakage": {},
        "hyperparameters": {"vgg": {**plan, "activation": "relu", "trials": 7}},
        "modality": {"vgg": {"row": _row(0), "parameters": 1000}},
        "binary": {"vgg": {"row": _row(1), "parameters": 1000}},
        "multiclass": {"vgg": {"row": _row(2), "parameters": 1000}},
        "ensembles": {"unpruned": {"average": _row(3)}, "pruned": {"average": _row(4)}},
        "pruned": {"vgg": {"row": _row(5), "unpruned_row": _row(2), "step": 4, "folder": "f", **costs, **unpruned, "steps": []}},
    }  # fmt: skip


def test_all_tables_are_made_with_preset_n_split_and_seed() -> None:
    made = tables_of(_found())
    assert [name[:7] for name in made] == ["table-2", "table-3", "table-4", "table-5", "table-6", "table-7", "by-labe"]
    for name, table in made.items():
        if name != "table-2-hyperparameters":
            for what in ("preset sane", "n = 60", "by patient", "seed 3"):
                assert what in table.title, (name, what)


def test_tables_of_stages_that_did_not_run_are_left_out() -> None:
    found = _found()
    for key in ("pruned", "binary", "multiclass", "ensembles"):
        del found[key]
    assert set(tables_of(found)) == {"table-2-hyperparameters", "table-3-modality"}


def test_figures_match_the_results() -> None:
    found = _found()
    row = found["ensembles"]["pruned"]["average"]
    made = tables_of(found)["table-7-pruned-ensembles"]
    ours = next(r for r in made.rows if r[0] == "average, pruned")
    assert f"{row['accuracy']['value']:.3f}" in ours[1]
    assert ours[3] == f"{row['sensitivity']['weighted']['value']:.4f}"
    assert float(ours[3]) == pytest.approx(row["accuracy"]["value"], abs=1e-4)  # weighted sensitivity is accuracy


def test_reductions_are_relative_to_unpruned() -> None:
    table = tables_of(_found())["table-6-pruned"]
    assert table.rows[1][-2:] == ("50.00", "50.00")


def test_csv_reads_back() -> None:
    table = tables_of(_found())["table-4-task"]
    lines = [line for line in table.as_csv().splitlines() if not line.startswith("#")]
    rows = list(csv.reader(io.StringIO("\n".join(lines))))
    assert tuple(rows[0]) == table.head
    assert tuple(map(tuple, rows[1:])) == table.rows
    assert table.title in table.as_markdown()


def test_rows_must_match_the_head() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Table(title="t", head=("a", "b"), rows=(("1",),))


def test_printed_reductions_follow_from_printed_parameters() -> None:
    """Check `published` for typing errors, by the paper's own numbers."""
    for name in ("VGG-16", "VGG-19", "Inception-V3"):
        unpruned, pruned = PRUNED[f"{name}, unpruned"], PRUNED[f"{name}, pruned"]
        less = 100 * (1 - int(pruned[6].replace(",", "")) / int(unpruned[6].replace(",", "")))
        assert less == pytest.approx(float(pruned[7]), abs=0.06), name


def test_printed_sensitivity_is_accuracy_where_it_is_class_weighted() -> None:
    rows = (
        [v for (stage, _), v in TASK.items() if stage == "multiclass"]
        + list(ENSEMBLES.values())
        + list(PRUNED.values())
    )
    assert all(float(r[0]) == float(r[2]) for r in rows)
    assert len(MODALITY) == 9


def test_the_binary_task_is_named_by_the_guarded_label() -> None:
    names = [row[0] for row in tables_of({**_found(), "positive": "viral"})["table-4-task"].rows]
    assert names[:2] == ["normal / viral: vgg", "all labels: vgg"]
    assert "paper, normal / COVID-19: VGG-16" in names
    assert tables_of(_found())["table-4-task"].rows[0][0] == "normal / COVID-19: vgg"


def test_an_earlier_run_stands_beside() -> None:
    earlier = {**_found(), "ensembles": {"unpruned": {"average": _row(9)}, "pruned": {"voting": _row(8)}}, "pruned": {}}
    made = tables(from_json(Results, _found()), from_json(Results, earlier))["before"]
    rows = {row[0]: row for row in made.rows}
    assert set(rows) == {"vgg, unpruned", "average, unpruned"}
    assert rows["vgg, unpruned"][1:5] == rows["vgg, unpruned"][5:]  # the same row in both
    assert rows["average, unpruned"][1:5] != rows["average, unpruned"][5:]
