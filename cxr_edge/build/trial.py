"""One network through the whole trial: candidates made, gated against the fp32 reference, timed, ranked.

A `Trial` says what to compare with; `run_trial` gives the rows of the report and the candidates that passed, fastest
first. Bundles and lone networks are tried by the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import Backend, CompileOptions, Engine
from cxr_edge.build import candidates
from cxr_edge.build.autotune import Timing, time_engines
from cxr_edge.build.calibrate import Ranges
from cxr_edge.build.candidates import Candidate, PrecisionChoice, Recipe
from cxr_edge.build.gate import Verdict
from cxr_edge.build.report import Row
from cxr_edge.build.simplify import Simplified
from cxr_edge.engines import Part
from cxr_edge.errors import CxrEdgeError

__all__ = ["Outcome", "Tools", "Trial", "run_trial"]

_NO_RANGES = "int8 needs activation ranges, and there are none here: give X-rays with --calibration DIR"

Tensor = npt.NDArray[np.float32]
Judge = Callable[[Sequence[Tensor], Sequence[Tensor]], Verdict]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """What every trial of a build shares. say: prints a line of progress."""

    backend: Backend
    options: CompileOptions
    precision: PrecisionChoice
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
    """rows: one a recipe tried, as `passed`, `refused` or `failed`. passed: the candidates, fastest first."""

    rows: tuple[Row, ...]
    passed: tuple[Candidate, ...]


def run_trial(trial: Trial, tools: Tools) -> Outcome:
    """Make, judge and time all candidates of one network."""
    wanted = [run(trial.reference, trial.output, x) for x in trial.inputs]
    rows: dict[str, Row] = {}
    passed: dict[str, Candidate] = {}
    for recipe in candidates.recipes(tools.precision, tools.backend):
        tools.say(f"{trial.part.name}: {recipe.name}")
        rows[recipe.name], candidate = _try(recipe, trial, tools, wanted)
        if candidate is not None:
            passed[recipe.name] = candidate
    timings = _timings(trial, passed)
    rows = {name: _timed(row, timings.get(name), timings["reference"]) for name, row in rows.items()}
    order = sorted(passed, key=lambda name: timings[name].p50_ms)
    return Outcome(rows=tuple(rows.values()), passed=tuple(passed[name] for name in order))


def run(engine: Engine, output: str, image: Tensor) -> Tensor:
    """One output for one image, without the batch axis."""
    return np.asarray(engine.run({"image": image})[output][0], np.float32)


def _try(recipe: Recipe, trial: Trial, tools: Tools, wanted: Sequence[Tensor]) -> tuple[Row, Candidate | None]:
    name = trial.part.name
    if recipe.scheme is not None and trial.ranges is None:
        return Row(part=name, precision=recipe.name, status="skipped", reason=_NO_RANGES), None
    try:
        made = candidates.make(
            recipe, trial.part, trial.simplified, trial.ranges, tools.backend, tools.options, tools.scratch
        )
        verdict = trial.judge(wanted, [run(made.engine, trial.output, x) for x in trial.inputs])
    except CxrEdgeError as error:
        return Row(part=name, precision=recipe.name, status="failed", reason=str(error)), None
    row = Row(
        part=name,
        precision=recipe.name,
        status="passed" if verdict.passed else "refused",
        reason="; ".join(verdict.reasons) or None,
        size_bytes=made.file.stat().st_size,
        verdict=verdict,
    )
    if verdict.passed:
        return row, made
    made.file.unlink()
    return row, None


def _timings(trial: Trial, passed: dict[str, Candidate]) -> dict[str, Timing]:
    engines = {"reference": trial.reference, **{name: c.engine for name, c in passed.items()}}
    return time_engines(engines, {"image": trial.inputs[0]})


def _timed(row: Row, timing: Timing | None, reference: Timing) -> Row:
    return row if timing is None else replace(row, timing=timing, speed_up=reference.p50_ms / timing.p50_ms)
