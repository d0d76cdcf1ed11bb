"""Selection of engines: fallback to the next fastest, and what comes back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cxr_edge.compiler import selection
from cxr_edge.compiler.candidates import RECIPES, Candidate
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.selection import select_engines
from cxr_edge.compiler.timing import Timing
from cxr_edge.compiler.trial import TrialResult


def result_of(*precisions):
    """Return the result of a trial whose candidates passed, fastest first."""
    recipes = {r.name: r for r in RECIPES}
    passed = tuple(Candidate(recipe=recipes[p], file=None, engine=None) for p in precisions)
    rows = tuple(
        Row(part="net", precision=p, status="passed", timing=Timing(p50_ms=1.0 + i, p99_ms=2.0, runs=1))
        for i, p in enumerate(precisions)
    )
    return TrialResult(rows=rows, passed=passed)


@pytest.mark.parametrize(
    ("passed", "steps"),
    [
        (["uint8", "fp16", "fp32"], ["uint8", "fp16", "fp32"]),
        (["uint8", "fp32", "fp16"], ["uint8", "fp32"]),  # nothing after fp32, which changes nothing
        (["uint8", "fp16", "bf16"], ["uint8", "fp16", "bf16"]),
        (["fp32", "uint8"], ["fp32"]),
    ],
)
def test_a_network_falls_back_to_the_next_fastest(passed, steps):
    result = result_of(*passed)
    candidate, selected = result.passed[0], []
    while candidate is not None:
        selected.append(candidate)
        before, candidate = candidate, selection._fallback(result, candidate)
        assert candidate is None or selection._cost_ms(result, before, candidate) > 0
    assert [c.recipe.name for c in selected] == steps
    assert selection._given_up(result, selected[-1]) == steps[:-1]


def _select(results, passes):
    """Return the selected precision of each network, and the sets that were compared. passes: whether a set passes."""
    compared = []

    def compare(candidates):
        names = {name: c.recipe.name for name, c in candidates.items()}
        compared.append(tuple(names.values()))
        return SimpleNamespace(parity=SimpleNamespace(passed=passes(names)))

    selection = select_engines(results, compare, lambda _: None)
    return {name: c.recipe.name for name, c in selection.candidates.items()}, compared


def test_a_network_tries_again_what_it_gave_up_for_another_one():
    results = {"a": result_of("uint8", "fp32"), "b": result_of("uint8", "fp16", "fp32")}
    chosen, compared = _select(results, lambda names: names["b"] == "fp32")
    assert chosen == {"a": "uint8", "b": "fp32"}
    assert compared[0] == ("uint8", "uint8")
    assert len(set(compared)) == len(compared), "no set is compared twice"


def test_a_set_that_passes_at_once_is_compared_once():
    results = {"a": result_of("uint8", "fp32"), "b": result_of("fp32")}
    assert _select(results, lambda names: True) == ({"a": "uint8", "b": "fp32"}, [("uint8", "fp32")])


def test_no_candidates_are_selected_if_no_set_passes():
    results = {"a": result_of("uint8", "fp32"), "b": result_of("fp32", "uint8")}
    chosen, compared = _select(results, lambda names: False)
    assert chosen == {}
    assert compared == [("uint8", "fp32"), ("fp32", "fp32")]
