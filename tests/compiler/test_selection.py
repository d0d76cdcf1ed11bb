"""Selection of engines: fallback to fp32 or to the next fastest."""

from __future__ import annotations

import pytest

from cxr_edge.compiler import selection
from cxr_edge.compiler.candidates import RECIPES, Candidate
from cxr_edge.compiler.report import Row
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
