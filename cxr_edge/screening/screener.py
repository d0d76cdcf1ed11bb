"""Screen images: run the pipeline, decide, and optionally compute the heat map.

A `Screener` holds one bundle and its loaded engines. It keeps no state between images, so several threads may share one;
`folder.screen_files` does that for many files. Other processes load their own: it pickles as the instructions to do so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge import defects
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.decoding.decode import decode, name_of
from cxr_edge.decoding.limits import MAX_PIXELS, MIN_SIDE_PX, Limits
from cxr_edge.engines import EngineSet
from cxr_edge.errors import BackendError, BundleError, ContractError, CxrEdgeError, EngineError, InputError
from cxr_edge.forks import keep_in_children
from cxr_edge.names import printable
from cxr_edge.ops import heatmap as heatmaps
from cxr_edge.ops.combine import abstention, decide, decide_findings, member_probabilities, prediction_set
from cxr_edge.records import DegradedState, Failure, Flag, Image, MemberScore, Outcome, Screening, decision_text
from cxr_edge.screening.checker import Checked, ImageChecker
from cxr_edge.screening.modes import Modes, flag_of
from cxr_edge.screening.pipeline import HostPipeline, Outputs, Pipeline
from cxr_edge.screening.resolution import resolution_flags
from cxr_edge.screening.timed_pipeline import TimedPipeline
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.checks import Population

__all__ = ["FileResult", "Screener", "internal_error"]


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """Result of one input file."""

    outcome: Screening | Failure  # a Failure if the file could not be processed
    image: Image | None = None  # None on failure
    traceback: str = ""  # of an unexpected exception


def internal_error(source: str, error: Exception, *, sha256: str = "") -> FileResult:
    """Return the result of a file that ended in an unexpected exception. sha256: of its bytes if they were read."""
    failure = Failure(source=source, reason=defects.reason(error), sha256=sha256)
    return FileResult(outcome=failure, traceback=defects.traceback_text(error))


class Screener:
    """Screens images with one bundle and its engines. Thread-safe.

    GPU engines run as one CUDA graph per image where that is possible; `describe` reports the execution mode.

    threads: number of threads for preprocessing one image on the host; the engines were loaded with their own number.
    answer_all: answer every image; what would have been the reason of a refusal or an abstention becomes a flag.
    population: `adults` or `children`: refuse the others; `any`: refuse neither; None: as the bundle says.
    deadline_ms: milliseconds from the start of decoding to the screening, without the heat map. Members that have not ended by
        then are left out. On the host only.
    whole: every member must answer; an image for which one does not raises BackendError.

    Where a member cannot answer (its engine could not be loaded, it fails, its output is not finite, it is late), the bundle's
    degraded mode of the others decides, and `Screening.degraded` says so; without such a mode `screen` raises BackendError.

    It works in the process that made it. In a child that inherited it by fork, `screen` raises BackendError. Pickled, for
    another process, it is the bundle's path and digest and how the engines were loaded; unpickling opens and loads them there
    and raises BundleError or EngineError if they have changed.

    Raises ContractError if the engines are not those of the bundle, InputError for arguments of other types and for a deadline of
    members that run as one CUDA graph, BackendError for engines that lack a member without a degraded mode of the others.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: EngineSet,
        *,
        threads: int = 1,
        answer_all: bool = False,
        population: Population | None = None,
        deadline_ms: float | None = None,
        whole: bool = False,
    ) -> None:
        _check_arguments(bundle, engines, threads, deadline_ms)
        manifest = bundle.manifest
        _check_engines(manifest, engines)
        self.bundle = bundle
        self.manifest = manifest
        self._engines = engines
        self._options: dict[str, Any] = {
            "threads": threads,
            "answer_all": answer_all,
            "population": population,
            "deadline_ms": deadline_ms,
            "whole": whole,
        }
        self._answer_all = answer_all
        self._modes = Modes(manifest, engines, whole=whole)
        self.operating_point: OperatingPoint = self._modes.loaded.point  # of the members that were loaded
        self._pipeline = _pipeline(manifest, engines, threads, self._modes)
        self._timed = _timed(self._pipeline, deadline_ms)
        self._checker = _checker(bundle, threads, population)
        segmenter = manifest.segmenter
        self._shared = (
            self._checker is not None and segmenter is not None and self._checker.shares(segmenter.preprocess)
        )
        self._process = os.getpid()
        keep_in_children(self)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._engines.reload is None:
            raise EngineError(
                "this Screener cannot be pickled, since its engines were not loaded by load_engines: make it where it is used"
            )
        recipe = _Recipe(
            root=str(self.bundle.root),
            digest=self.bundle.digest,
            reload=self._engines.reload,
            engines=self._engines.describe(),
            limits=self._modes.digest(),
            options=self._options,
        )
        return _screener, (type(self), recipe)

    @property
    def engines(self) -> EngineSet:
        """The loaded engines."""
        return self._engines

    @property
    def threads(self) -> int:
        """The number of threads that preprocess one image."""
        return int(self._options["threads"])

    @property
    def options(self) -> dict[str, Any]:
        """The arguments by which it answers, by name: threads, answer_all, population; deadline_ms and whole where given."""
        unset = {"deadline_ms": None, "whole": False}
        return {name: value for name, value in self._options.items() if unset.get(name, ...) != value}

    @property
    def degraded(self) -> DegradedState | None:
        """The state of every screening, since members could not be loaded; None if all of them were."""
        return self._modes.loaded.state(self._engines.dropped)

    def describe(self) -> str:
        """Return one line for reports: backend, precisions, members that could not be loaded, and the execution mode."""
        return "; ".join(part for part in (self._engines.describe(), self._pipeline.execution_mode) if part)

    def screen(self, image: Image, *, heatmap: bool = False, decode_ms: float = 0.0) -> Screening:
        """Screen one image. Raises InputError for anything else than an `Image`: `load_image` makes one.

        heatmap: also compute the class activation map of the `leading_label`, unless the image is refused. Its time is
        not part of any stage.
        decode_ms: duration of decoding, for the stage times. The decision rule is part of the stage `combine`.
        """
        self._check(image)
        outputs, checked, checks_ms = self._run(image, decode_ms)
        start = perf_counter()
        mode, point = outputs.mode, outputs.mode.point
        degraded = mode.state(outputs.dropped)
        decision, findings, flags = self._decide(outputs)
        outcome, reasons = self._outcome(checked, outputs, decision)
        combine_ms = outputs.times.combine_ms + 1e3 * (perf_counter() - start)
        shown = () if outcome == "refused" else flags
        screening = Screening(
            source=image.source,
            sha256=image.sha256,
            width_px=image.width_px,
            height_px=image.height_px,
            labels=self.manifest.labels,
            probabilities=tuple(float(p) for p in outputs.probabilities),
            forced_decision=decision,
            findings=findings,
            outcome=outcome,
            reason=None if outcome == "answered" else reasons[0],
            prediction_set=None
            if point.budget is None
            else prediction_set(outputs.probabilities, self.manifest.labels, point.budget),
            view=checked.view or image.facts.view,
            view_estimated=checked.view_estimated,
            checks=checked.scores,
            members=_member_scores(outputs),
            degraded=degraded,
            roi=outputs.roi,
            flags=(
                *([] if degraded is None else [flag_of(degraded)]),
                *image.flags,
                *outputs.flags,
                *resolution_flags(mode.specs, outputs.roi, image),
                *(reasons if outcome == "answered" else reasons[1:]),
                *shown,
            ),
            times=replace(
                outputs.times,
                decode_ms=decode_ms,
                checks_ms=outputs.times.checks_ms + checks_ms,
                combine_ms=combine_ms,
            ),
        )
        if not heatmap or outcome == "refused":
            return screening
        return replace(screening, heatmap=self._heatmap(outputs, screening.leading_label, image))

    def screen_file(
        self, path: object, *, heatmap: bool = False, max_pixels: int = MAX_PIXELS, min_side_px: int = MIN_SIDE_PX
    ) -> FileResult:
        """Decode and screen one file, as `decode_and_screen` with these size limits."""
        limits = Limits(max_pixels=max_pixels, min_side_px=min_side_px)
        return self.decode_and_screen(path, limits, heatmap=heatmap)

    def decode_and_screen(
        self, image: object, limits: Limits, *, heatmap: bool = False, source: str | None = None
    ) -> FileResult:
        """Decode and screen one file. Any error, expected or not, becomes a Failure, because the next file may succeed.

        This includes running out of GPU memory: a smaller image may fit. image: a path, or anything else that `load_image`
        takes. source: its name in the result, as of `load_image`.
        """
        start, name = perf_counter(), name_of(image) if source is None else source
        decoded: Image | None = None
        try:
            decoded = decode(image, source=source, limits=limits)
            decode_ms = 1e3 * (perf_counter() - start)
            return FileResult(outcome=self.screen(decoded, heatmap=heatmap, decode_ms=decode_ms), image=decoded)
        except CxrEdgeError as error:
            reason = str(error).removeprefix(f"{printable(name)}: ")
            return FileResult(outcome=Failure(source=name, reason=reason, sha256=_digest(decoded, error)))
        except Exception as error:
            return internal_error(name, error, sha256=_digest(decoded, error))

    def _check(self, image: object) -> None:
        if not isinstance(image, Image):
            raise InputError(
                f"screen takes an Image, found {type(image).__name__}: call screen(load_image(...)) with what was given here"
            )
        if self._process != os.getpid():
            raise BackendError(
                f"this Screener was made in process {self._process}, and fork does not copy its threads: make one in this "
                "process, or start processes by spawn or forkserver and pass them the Screener, which can be pickled"
            )

    def _run(self, image: Image, decode_ms: float) -> tuple[Outputs, Checked, float]:
        """Return the outputs, the checks and their milliseconds. With a deadline the members are last, and can be left out."""
        if self._timed is None:
            outputs = self._pipeline.run(image)
            start = perf_counter()
            checked = self._checked(image, outputs.frame)
            return outputs, checked, 1e3 * (perf_counter() - start)
        return self._timed.run(image, decode_ms, self._checked)

    def _checked(self, image: Image, frame: npt.NDArray[np.float32] | None) -> Checked:
        return _UNCHECKED if self._checker is None else self._checker.run(image, frame if self._shared else None)

    def _decide(self, outputs: Outputs) -> tuple[str, tuple[str, ...] | None, tuple[Flag, ...]]:
        """Return the decision, the present findings (None in a single-label bundle), and the flags."""
        labels, rule = self.manifest.labels, outputs.mode.point.decision
        if not self.manifest.multi_label:
            decided, flags = decide(outputs.probabilities, outputs.winner, labels, rule)
            return decided, None, flags
        findings, flags = decide_findings(outputs.probabilities, labels, rule)
        return decision_text(findings), findings, flags

    def _outcome(self, checked: Checked, outputs: Outputs, decision: str) -> tuple[Outcome, tuple[Flag, ...]]:
        """Return the outcome, and the reasons against an answer, the first first; of a refused image only why it is refused."""
        if checked.refusals and not self._answer_all:
            return "refused", checked.refusals
        budget, labels = outputs.mode.point.budget, self.manifest.labels
        abstained = None if budget is None else abstention(outputs.probabilities, decision, labels, budget)
        reasons = (*checked.refusals, *([abstained] if abstained else []))
        return ("answered" if self._answer_all or not reasons else "abstained"), reasons

    def _heatmap(self, outputs: Outputs, label: str, image: Image) -> npt.NDArray[np.float32] | None:
        cams, mode = outputs.cams, outputs.mode
        if not cams or not all(np.isfinite(cam).all() for cam in cams):
            return None
        weights = mode.combination.parameters.get("weights", [1.0 / len(cams)] * len(cams))
        return heatmaps.combine_maps(cams, weights, self.manifest.labels.index(label), mode.specs, outputs.roi, image)


def _digest(decoded: Image | None, error: Exception) -> str:
    """Return the SHA-256 of an input that failed, before or after it was decoded; empty if it was not read."""
    return decoded.sha256 if decoded is not None else error.sha256 if isinstance(error, InputError) else ""


def _member_scores(outputs: Outputs) -> tuple[MemberScore, ...]:
    probabilities = member_probabilities(outputs.logits[None], outputs.mode.combination)[0]
    return tuple(
        MemberScore(member=name, probabilities=tuple(float(p) for p in row))
        for name, row in zip(outputs.mode.names, probabilities, strict=True)
    )


def _check_arguments(bundle: object, engines: object, threads: object, deadline_ms: object) -> None:
    if not isinstance(bundle, Bundle):
        raise InputError(f"Screener takes an opened bundle, found {type(bundle).__name__}: pass Bundle.open(...)")
    if not isinstance(engines, EngineSet):
        raise InputError(f"Screener takes loaded engines, found {type(engines).__name__}: pass load_engines(bundle)")
    if not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is a whole number of 1 or more, got {threads!r}")
    number = isinstance(deadline_ms, int | float) and not isinstance(deadline_ms, bool)
    if deadline_ms is not None and not (number and 0 < float(deadline_ms) < float("inf")):  # type: ignore[arg-type]
        raise InputError(f"deadline_ms is a number of milliseconds above 0, got {deadline_ms!r}")


def _check_engines(manifest: Manifest, engines: EngineSet) -> None:
    """Raise ContractError unless there is an engine, or a reason why there is none, of every network."""
    dropped = {d.member for d in engines.dropped}
    expected = tuple(m.name for m in manifest.members if m.name not in dropped)
    same = engines.member_names == expected and len(engines.members) == len(expected)
    if not same or (engines.segmenter is None) != (manifest.segmenter is None):
        raise ContractError(
            f"the bundle has {len(manifest.members)} members and "
            f"{'a' if manifest.segmenter else 'no'} segmenter, the engines do not match: build them again"
        )


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """Instructions for making the same screener in another process."""

    root: str
    digest: str
    reload: Callable[[Bundle], EngineSet]
    engines: str  # their description
    limits: str  # digest of the operating points
    options: dict[str, Any]  # of the Screener


def _screener(kind: type[Screener], recipe: _Recipe) -> Screener:
    """Make the screener again. Raises BundleError or EngineError if bundle or engines are not those of the recipe."""
    bundle = Bundle.open(recipe.root)
    if bundle.digest != recipe.digest:
        raise BundleError(
            f"the bundle in {recipe.root} has changed since the Screener was pickled: expected digest {recipe.digest[:12]}..., "
            f"it has {bundle.digest[:12]}...; make the Screener again"
        )
    engines = recipe.reload(bundle)
    if engines.describe() != recipe.engines:
        raise EngineError(
            f"the engines have changed since the Screener was pickled: expected {recipe.engines}, found "
            f"{engines.describe()}; make the Screener again"
        )
    screener = kind(bundle, engines, **recipe.options)
    if screener._modes.digest() != recipe.limits:
        raise EngineError(
            "the engines were built again since the Screener was pickled, and their limits (operating point) have changed; make "
            "the Screener again"
        )
    return screener


_UNCHECKED = Checked(scores={}, refusals=(), view="", view_estimated=False)


def _checker(bundle: Bundle, threads: int, population: Population | None) -> ImageChecker | None:
    """Return the bundle's checker, or None. Raises InputError for a population that a bundle without one cannot tell."""
    if bundle.manifest.checker is not None:
        return ImageChecker(bundle, threads=threads, population=population)
    if population not in (None, "any"):
        raise InputError(
            f"population {population!r} needs a bundle with a checker, which {bundle.manifest.name!r} lacks: leave it out"
        )
    return None


def _pipeline(manifest: Manifest, engines: EngineSet, threads: int, modes: Modes) -> Pipeline:
    """Return the GPU pipeline if the engines and the core's kernels run on a GPU, else the host pipeline."""
    if engines.device is None:
        return HostPipeline(manifest, engines, threads=threads, modes=modes)
    from cxr_edge.screening.gpu_pipeline import DevicePipeline
    from cxr_edge.screening.gpu_self_test import kernel_failure

    reason = kernel_failure(engines.device)
    if reason is not None:
        mode = f"preprocessing on the host, since the core's kernels do not run: {reason}"
        return HostPipeline(manifest, engines, threads=threads, execution_mode=mode, modes=modes)
    loaded = manifest if modes.loaded.degraded is None else manifest.reduced_to(modes.loaded.names)
    return DevicePipeline(loaded, engines.segmenter, engines.members, engines.device, modes)  # type: ignore[arg-type]


def _timed(pipeline: Pipeline, deadline_ms: float | None) -> TimedPipeline | None:
    if deadline_ms is None:
        return None
    if not isinstance(pipeline, HostPipeline):
        raise InputError(
            "a deadline needs engines that run on the host: on this GPU all members run as one CUDA graph, of which none can be "
            "left out; take other engines (--backend onnxruntime), or leave the deadline out"
        )
    return TimedPipeline(pipeline, deadline_ms)
