"""Selection of one engine per network: the fastest that passed, provided that the ensemble passes too.

Trial results come in, an `EngineSelection` comes out. While the selected engines together fail the parity check, the
network that loses least time by it falls back to a slower candidate; what was given up for another network's fault comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cxr_edge.compiler.candidates import Candidate
from cxr_edge.compiler.ensemble import EnsembleResult
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.trial import TrialResult

__all__ = ["EngineSelection", "select_engines"]


@dataclass(frozen=True, kw_only=True)
class EngineSelection:
    """Selected candidate per network."""

    candidates: Mapping[str, Candidate]  # by name of the network; empty if no set passed
    ensemble: EnsembleResult | None  # of all of them together; None if some network has no candidate

    def final_row(self, row: Row, result: TrialResult) -> Row:
        """Return a row with its final status: selected, or passed or rejected with the reason."""
        if row.status != "passed":
            return row
        selected = self.candidates.get(row.part)
        if selected is None and self.ensemble is not None:
            return replace(row, status="rejected", reason="the engines together did not pass")
        if selected is not None and selected.recipe.name == row.precision:
            return replace(row, status="selected")
        if selected is not None and row.precision in _given_up(result, selected):
            return replace(row, status="rejected", reason="the engines together did not pass with it")
        return row


def select_engines(
    results: Mapping[str, TrialResult],
    compare: Callable[[Mapping[str, Candidate]], EnsembleResult],
    say: Callable[[str], None],
) -> EngineSelection:
    """Select fast candidates of the networks such that the ensemble passes.

    Each network's fastest candidate first. Until the set passes, the network that loses least time by it takes its next one; then
    each network tries again what it gave up, since it may have been another one's fault.

    results: by name of the network. compare: checks the ensemble with these candidates.
    """
    selected = {name: r.passed[0] for name, r in results.items() if r.passed}
    if len(selected) < len(results):
        return EngineSelection(candidates=selected, ensemble=None)
    compared: dict[tuple[str, ...], EnsembleResult] = {}

    def result_of(candidates: Mapping[str, Candidate]) -> EnsembleResult:
        key = tuple(c.recipe.name for c in candidates.values())
        if key not in compared:
            say("comparing the selected engines together")
            compared[key] = compare(candidates)
        return compared[key]

    while not (ensemble := result_of(selected)).parity.passed:
        fallbacks = {name: c for name, r in results.items() if (c := _fallback(r, selected[name]))}
        if not fallbacks:
            return EngineSelection(candidates={}, ensemble=ensemble)
        cheapest = min(fallbacks, key=lambda name: _cost_ms(results[name], selected[name], fallbacks[name]))
        selected[cheapest] = fallbacks[cheapest]
    for name in sorted(results, key=lambda n: -_cost_ms(results[n], results[n].passed[0], selected[n])):
        for candidate in _faster(results[name], selected[name]):
            if result_of({**selected, name: candidate}).parity.passed:
                selected[name] = candidate
                break
    return EngineSelection(candidates=selected, ensemble=result_of(selected))


def _faster(result: TrialResult, candidate: Candidate) -> tuple[Candidate, ...]:
    return result.passed[: result.passed.index(candidate)]


def _fallback(result: TrialResult, candidate: Candidate) -> Candidate | None:
    """Return the next fastest candidate, for one that fails the ensemble check; None after fp32 and after the last one."""
    if candidate.recipe.kind == "fp32":
        return None
    slower = result.passed[result.passed.index(candidate) + 1 :]
    return slower[0] if slower else None


def _cost_ms(result: TrialResult, candidate: Candidate, fallback: Candidate) -> float:
    p50 = {r.precision: r.timing.p50_ms for r in result.rows if r.timing}
    return p50[fallback.recipe.name] - p50[candidate.recipe.name]


def _given_up(result: TrialResult, selected: Candidate) -> list[str]:
    """Return the names of the candidates that were selected before `selected` and failed the ensemble check."""
    names: list[str] = []
    candidate: Candidate | None = result.passed[0]
    while candidate is not None and candidate is not selected:
        names.append(candidate.recipe.name)
        candidate = _fallback(result, candidate)
    return names
