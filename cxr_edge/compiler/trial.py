"""Trial of one network: build its candidates, compare them with the fp32 reference, time them, rank them.

A `Trial` (network, images, comparison) comes in; the rows of the report and the candidates that passed, fastest first,
come out. Networks of a bundle and single networks share this code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import Backend, CompileOptions, Engine
from cxr_edge.compiler import candidates
from cxr_edge.compiler.calibrate import Ranges
from cxr_edge.compiler.candidates import Candidate, Recipe
from cxr_edge.compiler.comparison import Comparison
from cxr_edge.compiler.fp32_fallback import Attempt, FallbackSearch
from cxr_edge.compiler.graph.simplify import Simplified
from cxr_edge.compiler.report import Row, Status
from cxr_edge.compiler.sensitivity import Study, layer_outputs, rank_layers
from cxr_edge.compiler.timing import Timing, time_engines
from cxr_edge.engines import NetworkFile
from cxr_edge.errors import CxrEdgeError

__all__ = ["BuildContext", "Reference", "Trial", "TrialResult", "run_trial"]

_LISTED_LAYERS = 3  # most sensitive layers in a rejected candidate's row
_NO_RANGES = "int8 needs activation ranges, and there are none here: give X-rays with --calibration DIR"

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """Shared build context: the same for all networks of a build."""

    backend: Backend
    options: CompileOptions
    recipes: tuple[Recipe, ...]  # to try, in this order
    scratch: Path
    say: Callable[[str], None]  # takes lines of progress


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The fp32 network, and what it gives on the images of the build."""

    engine: Engine
    output: str  # name of the compared output: the logits or the mask
    inputs: Sequence[Tensor] = field(repr=False)  # one (1, C, H, W) per image
    outputs: Sequence[Tensor] = field(repr=False)  # the compared output per image, without the batch axis
    run_s: float  # duration of one inference

    @classmethod
    def run(cls, engine: Engine, network: NetworkFile, inputs: Sequence[Tensor]) -> Reference:
        """Run the fp32 network on `inputs`."""
        output, start = network.outputs[0], time.perf_counter()
        outputs = _outputs(engine, output, inputs)
        run_s = (time.perf_counter() - start) / len(inputs)
        return cls(engine=engine, output=output, inputs=inputs, outputs=outputs, run_s=run_s)

    def stacked(self) -> Tensor:
        """Return the outputs as one array, images first."""
        return np.stack(list(self.outputs))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One network, and the reference that its candidates are compared with."""

    network: NetworkFile
    simplified: Simplified
    reference: Reference
    ranges: Ranges | None
    compare: Comparison  # of the network's first output by reference and candidate, image by image


@dataclass(frozen=True, kw_only=True)
class TrialResult:
    """Result of a trial."""

    rows: tuple[Row, ...]  # one per recipe tried, none of them `selected` yet
    passed: tuple[Candidate, ...]  # fastest first


def run_trial(trial: Trial, context: BuildContext) -> TrialResult:
    """Build, compare and time all candidates of one network; a rejected one is tried again in mixed precision."""
    loop = _CandidateLoop(trial, context)
    attempts: dict[str, Attempt] = {}
    for recipe in context.recipes:
        context.say(f"{trial.network.name}: {recipe.name}")
        attempts |= {a.row.precision: a for a in loop.attempts(recipe)}
    passed = {name: a.candidate for name, a in attempts.items() if a.candidate is not None}
    engines = {"reference": trial.reference.engine, **{name: c.engine for name, c in passed.items()}}
    timings = time_engines(engines, {"image": trial.reference.inputs[0]})
    rows = (_timed(a.row, timings.get(name), timings["reference"]) for name, a in attempts.items())
    order = sorted(passed, key=lambda name: timings[name].p50_ms)
    return TrialResult(rows=tuple(rows), passed=tuple(passed[name] for name in order))


def _timed(row: Row, timing: Timing | None, reference: Timing) -> Row:
    return row if timing is None else replace(row, timing=timing, speed_up=reference.p50_ms / timing.p50_ms)


class _CandidateLoop:
    """Builds and checks every candidate of one network against the fp32 reference outputs."""

    def __init__(self, trial: Trial, context: BuildContext) -> None:
        self._trial, self._context = trial, context

    def attempts(self, recipe: Recipe) -> list[Attempt]:
        """Try `recipe`, and its mixed variant if it is rejected."""
        attempt = self.attempt(recipe)
        if attempt.row.status != "rejected" or not recipe.tries_mixed:
            return [attempt]
        try:
            return self._fall_back(recipe, attempt)
        except CxrEdgeError as error:
            return [attempt, Attempt(row=self._row(recipe.mixed(frozenset()), "failed", str(error)))]

    def attempt(self, recipe: Recipe) -> Attempt:
        """Build and compare one candidate; its file is deleted unless it passed."""
        trial, context = self._trial, self._context
        if recipe.scheme is not None and trial.ranges is None:
            return Attempt(row=self._row(recipe, "skipped", _NO_RANGES))
        try:
            candidate = candidates.make_candidate(
                recipe, trial.network, trial.simplified, trial.ranges, context.backend, context.options, context.scratch
            )
            reference = trial.reference
            actual = _outputs(candidate.engine, reference.output, reference.inputs)
            parity = trial.compare(reference.outputs, actual)
        except CxrEdgeError as error:
            return Attempt(row=self._row(recipe, "failed", str(error)))
        row = self._row(recipe, "passed" if parity.passed else "rejected", "; ".join(parity.reasons) or None)
        row = replace(row, size_bytes=candidate.file.stat().st_size, parity=parity)
        if parity.passed:
            return Attempt(row=row, candidate=candidate)
        candidate.file.unlink()
        return Attempt(row=row)

    def _fall_back(self, recipe: Recipe, rejected: Attempt) -> list[Attempt]:
        """Find the sensitive layers of a rejected candidate, and search how many of them must stay in fp32."""
        model, name = self._trial.simplified.model, self._trial.network.name
        outputs = layer_outputs(model, candidates.reducible_layers(recipe, model))
        self._context.say(f"{name}: {recipe.name} is rejected, measuring the sensitivity of {len(outputs)} layers")
        ranking = rank_layers(self._study(recipe, outputs))
        rejected = Attempt(row=replace(rejected.row, sensitive_layers=ranking.sensitivities[:_LISTED_LAYERS]))
        if ranking.skipped or len(outputs) < 2:
            reason = ranking.skipped or "it has one layer, which would leave nothing in reduced precision"
            return [rejected, Attempt(row=self._row(recipe.mixed(frozenset()), "skipped", reason))]
        search = FallbackSearch(
            recipe=recipe,
            sensitivities=ranking.sensitivities,
            layer_outputs=outputs,
            attempt=self.attempt,
            say=lambda line: self._context.say(f"{name}: {line}"),
        )
        return [rejected, search.run()]

    def _study(self, recipe: Recipe, outputs: dict[str, frozenset[str]]) -> Study:
        trial, model, reference = self._trial, self._trial.simplified.model, self._trial.reference
        return Study(
            model=model,
            layer_outputs=outputs,
            reduced=lambda keep: candidates.rewrite_for_cpu(recipe.mixed(keep), model, trial.ranges),
            output=reference.output,
            inputs=reference.inputs,
            expected=reference.outputs,
            run_s=reference.run_s,
            threads=self._context.options.threads,
        )

    def _row(self, recipe: Recipe, status: Status, reason: str | None) -> Row:
        return Row(part=self._trial.network.name, precision=recipe.name, status=status, reason=reason)


def _outputs(engine: Engine, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the output `name` for every image, without the batch axis."""
    return [np.asarray(engine.run({"image": x})[name][0], np.float32) for x in inputs]
