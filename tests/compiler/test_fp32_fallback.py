"""Search for the layers in fp32: as few as necessary, no more than half, and no file is left over."""

from __future__ import annotations

import pytest

from cxr_edge.compiler import fp32_fallback
from cxr_edge.compiler.candidates import RECIPES, Candidate
from cxr_edge.compiler.fp32_fallback import Attempt, FallbackSearch
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.sensitivity import LayerSensitivity

INT8 = next(r for r in RECIPES if r.name == "int8")


class Gate:
    """Accepts recipes with at least `enough` layers in fp32; records the number of each attempt."""

    def __init__(self, folder, enough, status="rejected"):
        self.folder, self.enough, self.status = folder, enough, status
        self.tried, self.progress = [], []

    def attempt(self, recipe):
        count = len(recipe.keep_float) // 2  # each layer has two outputs
        self.tried.append(count)
        if count < self.enough:
            return Attempt(row=Row(part="net", precision=recipe.name, status=self.status, reason="too far off"))
        file = self.folder / f"{count}.onnx"
        file.write_text("engine")
        row = Row(part="net", precision=recipe.name, status="passed")
        return Attempt(row=row, candidate=Candidate(recipe=recipe, file=file, engine=None))

    def search(self, layers=16, group=1):
        names = [f"layer_{i}" for i in range(layers)]
        groups = [tuple(names[i : i + group]) for i in range(0, layers, group)]
        return FallbackSearch(
            recipe=INT8,
            sensitivities=tuple(
                LayerSensitivity(layers=g, relative_change=1.0 / (i + 1)) for i, g in enumerate(groups)
            ),
            layer_outputs={name: frozenset([name, f"{name}_relu"]) for name in names},
            attempt=self.attempt,
            say=self.progress.append,
        ).run()


@pytest.mark.parametrize(
    ("enough", "tried"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 4, 3]), (4, [1, 2, 4, 3]), (5, [1, 2, 4, 8, 6, 5]), (7, [1, 2, 4, 8, 6, 7])],
)
def test_the_fewest_layers_that_pass_are_selected(enough, tried, tmp_path):
    gate = Gate(tmp_path, enough)
    attempt = gate.search()
    row, candidate = attempt.row, attempt.candidate
    assert gate.tried == tried
    assert (row.precision, row.status) == ("int8-mixed", "passed")
    assert [s.layers for s in row.fp32_layers] == [(f"layer_{i}",) for i in range(enough)]
    assert candidate.recipe.keep_float == {n for i in range(enough) for n in (f"layer_{i}", f"layer_{i}_relu")}
    assert [p.name for p in tmp_path.iterdir()] == [candidate.file.name]
    assert gate.progress[0] == "int8-mixed with 1 of 16 layers in fp32"


def test_at_most_half_of_the_layers(tmp_path):
    gate = Gate(tmp_path, 9)
    attempt = gate.search()
    row, candidate = attempt.row, attempt.candidate
    assert (gate.tried, candidate) == ([1, 2, 4, 8], None)
    assert row.reason == "even with 8 of 16 layers in fp32: too far off"
    assert len(row.fp32_layers) == 8


def test_a_candidate_that_cannot_be_built_ends_the_search(tmp_path):
    gate = Gate(tmp_path, 9, status="failed")
    row = gate.search().row
    assert (gate.tried, row.status, row.reason) == ([1], "failed", "too far off")


def test_layers_measured_as_one_group_stay_together(tmp_path):
    gate = Gate(tmp_path, 6)
    row = gate.search(layers=16, group=3).row
    assert gate.tried == [3, 6]
    assert [len(s.layers) for s in row.fp32_layers] == [3, 3]


@pytest.mark.parametrize(("enough", "status"), [(4, "passed"), (9, "rejected")])
def test_after_its_time_limit_it_returns_the_last_attempt(enough, status, tmp_path, monkeypatch):
    gate = Gate(tmp_path, enough)
    monkeypatch.setattr(fp32_fallback.time, "perf_counter", lambda: len(gate.tried) * fp32_fallback.SEARCH_S / 3)
    row = gate.search().row
    assert gate.tried == [1, 2, 4]
    assert (row.status, len(row.fp32_layers)) == (status, 4)
