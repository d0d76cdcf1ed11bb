"""One network through the whole trial: candidates made, gated against the fp32 reference, timed, ranked.

A `Trial` says what to compare with; `run_trial` gives the rows of the report and the candidates that passed, fastest
first. Bundles and lone networks are tried by the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import Backend, CompileOptions, Engine
from cxr_edge.compiler import candidates
from cxr_edge.compiler.calibrate import Ranges
from cxr_edge.compiler.candidates import Candidate, Recipe
from cxr_edge.compiler.fp32_fallback import Search
from cxr_edge.compiler.graph.simplify import Simplified
from cxr_edge.compiler.parity import Verdict
from cxr_edge.compiler.report import Row, Status
from cxr_edge.compiler.sensitivity import Study, rank_layers, units
from cxr_edge.compiler.timing import Timing, time_engines
from cxr_edge.engines import Part
from cxr_edge.errors import CxrEdgeError

__all__ = ["Outcome", "Tools", "Trial", "run_trial"]

_HURT = 3  # layers that a refused candidate's row names
_NO_RANGES = "int8 needs activation ranges, and there are none here: give X-rays with --calibration DIR"

Tensor = npt.NDArray[np.float32]
Judge = Callable[[Sequence[Tensor], Sequence[Tensor]], Verdict]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every trial of a build shares. recipes: to try, in order. say: prints a line of progress."""

    backend: Backend
    options: CompileOptions
    recipes: tuple[Recipe, ...]
    scratch: Path
    say: Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One network and what its candidates are held against.

    output: the output that is judged. inputs: one (1, C, H, W) an image. judge: compares that output of the reference
    and of a candidate, image by image.
    """

    part: Part
    simplified: Simplified
    reference: Engine
    ranges: Ranges | None
    output: str
    inputs: Sequence[Tensor]
    judge: Judge


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """rows: one a recipe tried, none of them `kept` yet. passed: the candidates, fastest first."""

    rows: tuple[Row, ...]
    passed: tuple[Candidate, ...]


def run_trial(trial: Trial, tools: Tools) -> Outcome:
    """Make, judge and time all candidates of one network; what the gate refuses is tried again as a mixed one."""
    course = _Course(trial, tools)
    rows: dict[str, Row] = {}
    passed: dict[str, Candidate] = {}
    for recipe in tools.recipes:
        tools.say(f"{trial.part.name}: {recipe.name}")
        for row, candidate in course.results(recipe):
            rows[row.precision] = row
            if candidate is not None:
                passed[row.precision] = candidate
    timings = _timings(trial, passed)
    rows = {name: _timed(row, timings.get(name), timings["reference"]) for name, row in rows.items()}
    order = sorted(passed, key=lambda name: timings[name].p50_ms)
    return Outcome(rows=tuple(rows.values()), passed=tuple(passed[name] for name in order))


def run(engine: Engine, output: str, image: Tensor) -> Tensor:
    """One output for one image, without the batch axis."""
    return np.asarray(engine.run({"image": image})[output][0], np.float32)


class _Course:
    """One network's way through the recipes, with the reference's answers, which all of them are held against."""

    def __init__(self, trial: Trial, tools: Tools) -> None:
        self._trial, self._tools = trial, tools
        start = time.perf_counter()
        self._wanted = [run(trial.reference, trial.output, x) for x in trial.inputs]
        self._run_s = (time.perf_counter() - start) / len(trial.inputs)

    def results(self, recipe: Recipe) -> list[tuple[Row, Candidate | None]]:
        """The row and candidate of `recipe`, and of its mixed kin if the gate refused it."""
        row, candidate = self.attempt(recipe)
        if row.status != "refused" or not recipe.steps_back:
            return [(row, candidate)]
        try:
            return self._step_back(recipe, row)
        except CxrEdgeError as error:
            return [(row, None), (self._row(recipe.mixed(frozenset()), "failed", str(error)), None)]

    def attempt(self, recipe: Recipe) -> tuple[Row, Candidate | None]:
        """Make and judge one candidate; its file is gone unless it passed."""
        trial, tools = self._trial, self._tools
        if recipe.scheme is not None and trial.ranges is None:
            return self._row(recipe, "skipped", _NO_RANGES), None
        try:
            made = candidates.make(
                recipe, trial.part, trial.simplified, trial.ranges, tools.backend, tools.options, tools.scratch
            )
            verdict = trial.judge(self._wanted, [run(made.engine, trial.output, x) for x in trial.inputs])
        except CxrEdgeError as error:
            return self._row(recipe, "failed", str(error)), None
        status: Status = "passed" if verdict.passed else "refused"
        row = self._row(recipe, status, "; ".join(verdict.reasons) or None)
        row = replace(row, size_bytes=made.file.stat().st_size, verdict=verdict)
        if verdict.passed:
            return row, made
        made.file.unlink()
        return row, None

    def _step_back(self, recipe: Recipe, refused: Row) -> list[tuple[Row, Candidate | None]]:
        trial, tools, model = self._trial, self._tools, self._trial.simplified.model
        parts = units(model, candidates.layers(recipe, model))
        tools.say(f"{trial.part.name}: {recipe.name} is refused, finding out which of {len(parts)} layers hurt")
        ranking = rank_layers(self._study(recipe, parts))
        refused = replace(refused, hurt=ranking.harms[:_HURT])
        mixed = recipe.mixed(frozenset())
        if ranking.skipped or len(parts) < 2:
            reason = ranking.skipped or "it has one layer, which would leave nothing in reduced precision"
            return [(refused, None), (self._row(mixed, "skipped", reason), None)]
        search = Search(
            recipe=recipe,
            harms=ranking.harms,
            units=parts,
            attempt=self.attempt,
            say=lambda line: tools.say(f"{trial.part.name}: {line}"),
        )
        return [(refused, None), search.run()]

    def _study(self, recipe: Recipe, parts: dict[str, frozenset[str]]) -> Study:
        trial, model = self._trial, self._trial.simplified.model
        return Study(
            model=model,
            units=parts,
            reduced=lambda keep: candidates.on_reference(recipe.mixed(keep), model, trial.ranges),
            output=trial.output,
            inputs=trial.inputs,
            wanted=self._wanted,
            run_s=self._run_s,
            threads=self._tools.options.threads,
        )

    def _row(self, recipe: Recipe, status: Status, reason: str | None) -> Row:
        return Row(part=self._trial.part.name, precision=recipe.name, status=status, reason=reason)


def _timings(trial: Trial, passed: dict[str, Candidate]) -> dict[str, Timing]:
    engines = {"reference": trial.reference, **{name: c.engine for name, c in passed.items()}}
    return time_engines(engines, {"image": trial.inputs[0]})


def _timed(row: Row, timing: Timing | None, reference: Timing) -> Row:
    return row if timing is None else replace(row, timing=timing, speed_up=reference.p50_ms / timing.p50_ms)
