"""Mixed precision: when a candidate fails the parity check, keep its most sensitive layers in fp32.

A recipe and a ranking of its layers come in; the candidate that passes with the fewest layers in fp32 comes out, or the
last one that failed. Building and comparing a candidate is left to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cxr_edge.compiler.candidates import Candidate, Recipe
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.sensitivity import LayerSensitivity

__all__ = ["SEARCH_S", "Attempt", "FallbackSearch"]

SEARCH_S = 300.0  # no new candidate is built after that: compiling one may take a minute on a GPU


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One recipe that was built and compared: its row of the report, and the candidate if it passed."""

    row: Row
    candidate: Candidate | None = None


@dataclass(frozen=True, kw_only=True)
class FallbackSearch:
    """Search for the fewest layers in fp32 with which a rejected recipe passes."""

    recipe: Recipe  # the rejected one
    sensitivities: tuple[LayerSensitivity, ...]  # most sensitive first, at least one
    layer_outputs: dict[str, frozenset[str]]  # of all layers, the outputs that stay fp32 with each
    attempt: Callable[[Recipe], Attempt]  # builds and compares a recipe
    say: Callable[[str], None]  # takes lines of progress

    def run(self) -> Attempt:
        """Keep the most sensitive 1, 2, 4, ... in fp32, up to half of the layers; if one passes, try fewer again."""
        end = time.perf_counter() + SEARCH_S
        limit = self._max_count()
        failed, count = 0, 1
        best = self._try(count)
        while best.row.status == "rejected" and 2 * count <= limit and time.perf_counter() < end:
            failed, count = count, 2 * count
            best = self._try(count)
        while best.candidate is not None and count - failed > 1 and time.perf_counter() < end:
            middle = (failed + count) // 2
            attempt = self._try(middle)
            if attempt.candidate is None:
                failed = middle
                continue
            best.candidate.file.unlink()
            best, count = attempt, middle
        return best

    def _max_count(self) -> int:
        """Return how many of the sensitivities make up half of the layers."""
        entries = self.sensitivities
        sizes = [sum(len(s.layers) for s in entries[: i + 1]) for i in range(len(entries))]
        return sum(size <= len(self.layer_outputs) // 2 for size in sizes)

    def _try(self, count: int) -> Attempt:
        in_fp32 = self.sensitivities[:count]
        names = [name for s in in_fp32 for name in s.layers]
        recipe = self.recipe.mixed(frozenset[str]().union(*(self.layer_outputs[name] for name in names)))
        share = f"{len(names)} of {len(self.layer_outputs)} layers in fp32"
        self.say(f"{recipe.name} with {share}")
        attempt = self.attempt(recipe)
        row = replace(attempt.row, fp32_layers=in_fp32)
        if row.status == "rejected":
            row = replace(row, reason=f"even with {share}: {row.reason}")
        return replace(attempt, row=row)
