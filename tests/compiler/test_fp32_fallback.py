"""How many layers go back to fp32: as few as it takes, no more than half, and nothing is left lying about."""

from __future__ import annotations

import pytest

from cxr_edge.compiler import fp32_fallback
from cxr_edge.compiler.candidates import RECIPES, Candidate
from cxr_edge.compiler.fp32_fallback import Search
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.sensitivity import Harm

INT8 = next(r for r in RECIPES if r.name == "int8")


class Gate:
    """Passes what keeps at least `enough` layers in fp32; remembers how many were kept each time."""

    def __init__(self, folder, enough, status="refused"):
        self.folder, self.enough, self.status = folder, enough, status
        self.tried, self.said = [], []

    def attempt(self, recipe):
        count = len(recipe.keep_float) // 2  # each unit has two outputs
        self.tried.append(count)
        if count < self.enough:
            return Row(part="net", precision=recipe.name, status=self.status, reason="too far off"), None
        file = self.folder / f"{count}.onnx"
        file.write_text("engine")
        return Row(part="net", precision=recipe.name, status="passed"), Candidate(recipe=recipe, file=file, engine=None)

    def search(self, layers=16, group=1):
        names = [f"layer_{i}" for i in range(layers)]
        groups = [tuple(names[i : i + group]) for i in range(0, layers, group)]
        return Search(
            recipe=INT8,
            harms=tuple(Harm(layers=g, moved=1.0 / (i + 1)) for i, g in enumerate(groups)),
            units={name: frozenset([name, f"{name}_relu"]) for name in names},
            attempt=self.attempt,
            say=self.said.append,
        ).run()


@pytest.mark.parametrize(
    ("enough", "tried"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 4, 3]), (4, [1, 2, 4, 3]), (5, [1, 2, 4, 8, 6, 5]), (7, [1, 2, 4, 8, 6, 7])],
)
def test_the_fewest_that_pass_are_kept(enough, tried, tmp_path):
    gate = Gate(tmp_path, enough)
    row, candidate = gate.search()
    assert gate.tried == tried
    assert (row.precision, row.status) == ("int8-mixed", "passed")
    assert [h.layers for h in row.kept_float] == [(f"layer_{i}",) for i in range(enough)]
    assert candidate.recipe.keep_float == {n for i in range(enough) for n in (f"layer_{i}", f"layer_{i}_relu")}
    assert [p.name for p in tmp_path.iterdir()] == [candidate.file.name]
    assert gate.said[0] == "int8-mixed with 1 of 16 layers in fp32"


def test_half_of_the_layers_is_the_most(tmp_path):
    gate = Gate(tmp_path, 9)
    row, candidate = gate.search()
    assert (gate.tried, candidate) == ([1, 2, 4, 8], None)
    assert row.reason == "even with 8 of 16 layers in fp32: too far off"
    assert len(row.kept_float) == 8


def test_a_candidate_that_cannot_be_made_ends_the_search(tmp_path):
    gate = Gate(tmp_path, 9, status="failed")
    row, _ = gate.search()
    assert (gate.tried, row.status, row.reason) == ([1], "failed", "too far off")


def test_layers_that_were_not_told_apart_go_together(tmp_path):
    gate = Gate(tmp_path, 6)
    row, _ = gate.search(layers=16, group=3)
    assert gate.tried == [3, 6]
    assert [len(h.layers) for h in row.kept_float] == [3, 3]


@pytest.mark.parametrize(("enough", "status"), [(4, "passed"), (9, "refused")])
def test_after_its_time_it_takes_what_there_is(enough, status, tmp_path, monkeypatch):
    gate = Gate(tmp_path, enough)
    monkeypatch.setattr(fp32_fallback.time, "perf_counter", lambda: len(gate.tried) * fp32_fallback.SEARCH_S / 3)
    row, _ = gate.search()
    assert gate.tried == [1, 2, 4]
    assert (row.status, len(row.kept_float)) == (status, 4)
