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
from cxr_edge.records import Failure, Flag, Image, MemberScore, Outcome, Roi, Screening, decision_text
from cxr_edge.screening.checker import Checked, ImageChecker
from cxr_edge.screening.pipeline import HostPipeline, Outputs, Pipeline
from cxr_edge.screening.resolution import resolution_flags
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

    It works in the process that made it. In a child that inherited it by fork, `screen` raises BackendError. Pickled, for
    another process, it is the bundle's path and digest and how the engines were loaded; unpickling opens and loads them there
    and raises BundleError or EngineError if they have changed.

    Raises ContractError if the number of engines does not match the bundle, InputError for arguments of other types.
    """

    def __init__(
        self,
        bundle: Bundle,
        engines: EngineSet,
        *,
        threads: int = 1,
        answer_all: bool = False,
        population: Population | None = None,
    ) -> None:
        _check_arguments(bundle, engines, threads)
        manifest = bundle.manifest
        if len(engines.members) != len(manifest.members) or (engines.segmenter is None) != (manifest.segmenter is None):
            raise ContractError(
                f"the bundle has {len(manifest.members)} members and "
                f"{'a' if manifest.segmenter else 'no'} segmenter, the engines do not match: build them again"
            )
        self.bundle = bundle
        self.manifest = manifest
        self._specs = tuple(m.preprocess for m in manifest.members)
        self._engines = engines
        self._options: dict[str, Any] = {"threads": threads, "answer_all": answer_all, "population": population}
        self._answer_all = answer_all
        point = OperatingPoint(decision=manifest.decision, budget=manifest.budget)
        self.operating_point = engines.operating_point or point
        self._pipeline = _pipeline(manifest, engines, threads)
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
            limits=self.operating_point.digest(),
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
        """The arguments by which it answers, by name: threads, answer_all, population."""
        return dict(self._options)

    def describe(self) -> str:
        """Return one line for reports: backend, precisions, and the execution mode."""
        return "; ".join(part for part in (self._engines.describe(), self._pipeline.execution_mode) if part)

    def screen(self, image: Image, *, heatmap: bool = False, decode_ms: float = 0.0) -> Screening:
        """Screen one image. Raises InputError for anything else than an `Image`: `load_image` makes one.

        heatmap: also compute the class activation map of the `leading_label`, unless the image is refused. Its time is
        not part of any stage.
        decode_ms: duration of decoding, for the stage times. The decision rule is part of the stage `combine`.
        """
        self._check(image)
        outputs = self._pipeline.run(image)
        start = perf_counter()
        checked = _UNCHECKED if self._checker is None else self._checker.run(image, self._frame(outputs))
        checks_done = perf_counter()
        decision, findings, flags = self._decide(outputs)
        outcome, reasons = self._outcome(checked, outputs, decision)
        budget = self.operating_point.budget
        combine_ms = outputs.times.combine_ms + 1e3 * (perf_counter() - checks_done)
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
            if budget is None
            else prediction_set(outputs.probabilities, self.manifest.labels, budget),
            view=checked.view or image.facts.view,
            view_estimated=checked.view_estimated,
            checks=checked.scores,
            members=self._member_scores(outputs.logits),
            roi=outputs.roi,
            flags=(
                *image.flags,
                *outputs.flags,
                *resolution_flags(self._specs, outputs.roi, image),
                *(reasons if outcome == "answered" else reasons[1:]),
                *(() if outcome == "refused" else flags),
            ),
            times=replace(
                outputs.times,
                decode_ms=decode_ms,
                checks_ms=outputs.times.checks_ms + 1e3 * (checks_done - start),
                combine_ms=combine_ms,
            ),
        )
        if not heatmap or outcome == "refused":
            return screening
        return replace(screening, heatmap=self._heatmap(outputs.cams, screening.leading_label, outputs.roi, image))

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

    def _decide(self, outputs: Outputs) -> tuple[str, tuple[str, ...] | None, tuple[Flag, ...]]:
        """Return the decision, the present findings (None in a single-label bundle), and the flags."""
        labels, rule = self.manifest.labels, self.operating_point.decision
        if not self.manifest.multi_label:
            decided, flags = decide(outputs.probabilities, outputs.winner, labels, rule)
            return decided, None, flags
        findings, flags = decide_findings(outputs.probabilities, labels, rule)
        return decision_text(findings), findings, flags

    def _frame(self, outputs: Outputs) -> npt.NDArray[np.float32] | None:
        return outputs.frame if self._shared else None

    def _outcome(self, checked: Checked, outputs: Outputs, decision: str) -> tuple[Outcome, tuple[Flag, ...]]:
        """Return the outcome, and the reasons against an answer, the first first; of a refused image only why it is refused."""
        if checked.refusals and not self._answer_all:
            return "refused", checked.refusals
        budget, labels = self.operating_point.budget, self.manifest.labels
        abstained = None if budget is None else abstention(outputs.probabilities, decision, labels, budget)
        reasons = (*checked.refusals, *([abstained] if abstained else []))
        return ("answered" if self._answer_all or not reasons else "abstained"), reasons

    def _member_scores(self, logits: npt.NDArray[np.float32]) -> tuple[MemberScore, ...]:
        probabilities = member_probabilities(logits[None], self.manifest.combination)[0]
        return tuple(
            MemberScore(member=m.name, probabilities=tuple(float(p) for p in row))
            for m, row in zip(self.manifest.members, probabilities, strict=True)
        )

    def _heatmap(
        self, cams: tuple[npt.NDArray[np.float32], ...], label: str, roi: Roi, image: Image
    ) -> npt.NDArray[np.float32] | None:
        if not cams:
            return None
        weights = self.manifest.combination.parameters.get("weights", [1.0 / len(cams)] * len(cams))
        return heatmaps.combine_maps(cams, weights, self.manifest.labels.index(label), self._specs, roi, image)


def _digest(decoded: Image | None, error: Exception) -> str:
    """Return the SHA-256 of an input that failed, before or after it was decoded; empty if it was not read."""
    return decoded.sha256 if decoded is not None else error.sha256 if isinstance(error, InputError) else ""


def _check_arguments(bundle: object, engines: object, threads: object) -> None:
    if not isinstance(bundle, Bundle):
        raise InputError(f"Screener takes an opened bundle, found {type(bundle).__name__}: pass Bundle.open(...)")
    if not isinstance(engines, EngineSet):
        raise InputError(f"Screener takes loaded engines, found {type(engines).__name__}: pass load_engines(bundle)")
    if not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is a whole number of 1 or more, got {threads!r}")


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """Instructions for making the same screener in another process."""

    root: str
    digest: str
    reload: Callable[[Bundle], EngineSet]
    engines: str  # their description
    limits: str  # digest of the operating point
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
    if screener.operating_point.digest() != recipe.limits:
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


def _pipeline(manifest: Manifest, engines: EngineSet, threads: int) -> Pipeline:
    """Return the GPU pipeline if the engines and the core's kernels run on a GPU, else the host pipeline."""
    if engines.device is None:
        return HostPipeline(manifest, engines, threads=threads)
    from cxr_edge.screening.gpu_pipeline import DevicePipeline
    from cxr_edge.screening.gpu_self_test import kernel_failure

    reason = kernel_failure(engines.device)
    if reason is not None:
        mode = f"preprocessing on the host, since the core's kernels do not run: {reason}"
        return HostPipeline(manifest, engines, threads=threads, execution_mode=mode)
    return DevicePipeline(manifest, engines.segmenter, engines.members, engines.device)  # type: ignore[arg-type]
