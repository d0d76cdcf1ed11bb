"""What follows when the gate refuses a reduced precision: the layers that hurt are found and stepped back to fp32.

A recipe and a ranking of its layers come in; the candidate that passes with the fewest layers in fp32 comes out, or the
last that did not. How a candidate is made and judged is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from cxr_edge.compiler.candidates import Candidate, Recipe
from cxr_edge.compiler.report import Row
from cxr_edge.compiler.sensitivity import Harm

__all__ = ["SEARCH_S", "Attempt", "Search"]

Attempt = Callable[[Recipe], tuple[Row, Candidate | None]]

SEARCH_S = 300.0  # no new candidate is made after that: compiling one may take a minute on a GPU


@dataclass(frozen=True, kw_only=True)
class Search:
    """recipe: that was refused. harms: worst first, at least one. units: of all layers, the outputs that stay fp32 with
    each. attempt: makes and judges a recipe. say: takes lines of progress.
    """

    recipe: Recipe
    harms: tuple[Harm, ...]
    units: dict[str, frozenset[str]]
    attempt: Attempt
    say: Callable[[str], None]

    def run(self) -> tuple[Row, Candidate | None]:
        """Keep the worst 1, 2, 4, ... in fp32, up to half of the layers, then fewer again if that passes too."""
        end = time.perf_counter() + SEARCH_S
        limit = self._most()
        failed, count = 0, 1
        best = self._try(count)
        while best[0].status == "refused" and 2 * count <= limit and time.perf_counter() < end:
            failed, count = count, 2 * count
            best = self._try(count)
        while best[1] is not None and count - failed > 1 and time.perf_counter() < end:
            middle = (failed + count) // 2
            tried = self._try(middle)
            if tried[1] is None:
                failed = middle
                continue
            best[1].file.unlink()
            best, count = tried, middle
        return best

    def _most(self) -> int:
        """How many of the harms make up half of the layers."""
        sizes = [sum(len(h.layers) for h in self.harms[: i + 1]) for i in range(len(self.harms))]
        return sum(size <= len(self.units) // 2 for size in sizes)

    def _try(self, count: int) -> tuple[Row, Candidate | None]:
        kept = self.harms[:count]
        names = [name for harm in kept for name in harm.layers]
        recipe = self.recipe.mixed(frozenset[str]().union(*(self.units[name] for name in names)))
        self.say(f"{recipe.name} with {len(names)} of {len(self.units)} layers in fp32")
        row, candidate = self.attempt(recipe)
        if row.status == "refused":
            row = replace(row, reason=f"even with {len(names)} of {len(self.units)} layers in fp32: {row.reason}")
        return replace(row, kept_float=kept), candidate
