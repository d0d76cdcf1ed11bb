"""Pipeline from one image to the ensemble's probabilities: lungs, preprocess, members, combine.

Takes an `Image`, returns `Outputs`. `HostPipeline` runs on arrays in host memory with any engines;
`gpu_pipeline.DevicePipeline` does the same on a GPU as one CUDA graph. `screener` turns the outputs of either into a
screening.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import Engine, InterruptibleEngine, Interruption
from cxr_edge.backends.cpu_quota import thread_limit
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.engines import SEGMENTER, EngineSet
from cxr_edge.errors import BackendError
from cxr_edge.ops.lung_box import failed_lung_box, lung_box
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import DroppedMember, Flag, Image, Roi, StageTimes
from cxr_edge.screening.deadline import Call, Deadline, Ended, TimedRuns
from cxr_edge.screening.modes import Mode, Modes

__all__ = ["HostPipeline", "Outputs", "Pipeline", "Prepared"]

Tensors = Mapping[str, npt.NDArray[np.float32]]  # outputs of a network by name


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs of the pipeline for one image."""

    roi: Roi  # input region of the members
    flags: tuple[Flag, ...]  # reasons if the roi is a fallback
    mode: Mode  # of the members that answered
    dropped: tuple[DroppedMember, ...]  # the others
    logits: npt.NDArray[np.float32]  # (members, labels), of those that answered
    cams: tuple[npt.NDArray[np.float32], ...]  # (labels, h, w) per member; empty unless every member has one
    probabilities: npt.NDArray[np.float32]  # (labels,), of the ensemble; finite
    winner: int  # index of the label that the combination ranks first
    times: StageTimes  # without decoding
    # (1, 1, S, S), the segmenter's input, for the checker; None on a GPU and without a segmenter
    frame: npt.NDArray[np.float32] | None = None


class Pipeline(Protocol):
    """Runs one image through the ensemble. Thread-safe."""

    @property
    def execution_mode(self) -> str:
        """Execution mode for reports (CUDA graph, streams, host) with the reason for a fallback; empty for a plain host."""
        ...

    def run(self, image: Image) -> Outputs:
        """Return the outputs for one image."""
        ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Inputs of the members for one image."""

    roi: Roi
    flags: tuple[Flag, ...]
    frame: npt.NDArray[np.float32] | None  # as of `Outputs`
    tensors: tuple[npt.NDArray[np.float32], ...]  # per loaded member
    lungs_ms: float
    preprocess_ms: float

    @property
    def spent(self) -> str:
        """Milliseconds of the two steps, in words."""
        return f"finding the lungs {self.lungs_ms:.1f} ms, preprocessing {self.preprocess_ms:.1f} ms"


class HostPipeline:
    """The pipeline on the host's processor and memory; its engines may run on any device.

    threads: number of threads for preprocessing one image.
    execution_mode: text for reports.
    modes: of the bundle with these engines; None: every member must answer.

    A run raises BackendError if members are missing and the bundle has no degraded mode of the others.
    """

    def __init__(
        self,
        manifest: Manifest,
        engines: EngineSet,
        *,
        threads: int,
        execution_mode: str = "",
        modes: Modes | None = None,
    ) -> None:
        self.execution_mode = execution_mode
        self._manifest, self._engines = manifest, engines
        self._modes = modes or Modes(manifest, engines, whole=True)
        self._members = dict(zip(engines.member_names, engines.members, strict=True))
        self._runs = TimedRuns()
        threads = min(threads, thread_limit())
        self._preprocessor = Preprocessor(list(self._modes.loaded.specs), threads=threads)
        self._lung_preprocessor = (
            Preprocessor([manifest.segmenter.preprocess], threads=threads) if manifest.segmenter else None
        )

    def run(self, image: Image) -> Outputs:
        """See `Pipeline`."""
        return self.classify(self.prepare(image))

    def prepare(self, image: Image, deadline: Deadline | None = None) -> Prepared:
        """Find the lungs and preprocess. deadline: the segmenter has half of the time left; the full frame is used without it."""
        start = perf_counter()
        roi, flags, frame = self._find_lungs(image, deadline)
        lungs_done = perf_counter()
        tensors = self._preprocessor.run([image.pixels], [roi])
        return Prepared(
            roi=roi,
            flags=flags,
            frame=frame,
            tensors=tuple(tensors),
            lungs_ms=1e3 * (lungs_done - start),
            preprocess_ms=1e3 * (perf_counter() - lungs_done),
        )

    def classify(self, prepared: Prepared, deadline: Deadline | None = None) -> Outputs:
        """Run the members and combine those that answered. deadline: members that have not ended by then are left out."""
        start = perf_counter()
        ended = self._run_members(prepared.tensors, deadline)
        members_done = perf_counter()
        results = ended.results
        combined = self._modes.combine({name: o["logits"][0] for name, o in results.items()}, _dropped(ended))
        cams = tuple(results[name]["cam"][0] for name in combined.mode.names if "cam" in results[name])
        times = StageTimes(
            decode_ms=0.0,
            lungs_ms=prepared.lungs_ms,
            preprocess_ms=prepared.preprocess_ms,
            members_ms=1e3 * (members_done - start),
            combine_ms=1e3 * (perf_counter() - members_done),
        )
        return Outputs(
            roi=prepared.roi,
            flags=prepared.flags,
            mode=combined.mode,
            dropped=combined.dropped,
            logits=combined.logits,
            cams=cams if len(cams) == len(combined.mode.names) else (),
            probabilities=combined.probabilities,
            winner=combined.winner,
            times=times,
            frame=prepared.frame,
        )

    def _find_lungs(
        self, image: Image, deadline: Deadline | None
    ) -> tuple[Roi, tuple[Flag, ...], npt.NDArray[np.float32] | None]:
        """Return the lung box, or the full frame with a flag for the reason (no flag without a segmenter), and its input."""
        segmenter, frame = self._manifest.segmenter, Roi.full(image.width_px, image.height_px)
        if segmenter is None or self._engines.segmenter is None or self._lung_preprocessor is None:
            return frame, (), None
        (tensor,) = self._lung_preprocessor.run([image.pixels], [frame])
        mask, failure = self._mask(self._engines.segmenter, tensor, deadline)
        if mask is None:
            return frame, (failed_lung_box(failure),), tensor
        roi, flag = lung_box(mask, width_px=image.width_px, height_px=image.height_px, rule=segmenter.lung_box)
        return roi, (flag,) if flag else (), tensor

    def _mask(
        self, engine: Engine, tensor: npt.NDArray[np.float32], deadline: Deadline | None
    ) -> tuple[npt.NDArray[np.float32] | None, str]:
        """Return the segmenter's mask, or None and the reason why there is none to use."""
        if deadline is None:
            outputs: Tensors = engine.run({"image": tensor})
        else:
            ended = self._runs.run([_call(SEGMENTER, engine, tensor)], deadline.halved())
            if SEGMENTER in ended.errors:
                raise ended.errors[SEGMENTER]
            if SEGMENTER in ended.late:
                return None, "the segmenter had not ended after half of the time that the deadline allows"
            outputs = ended.results[SEGMENTER]
        mask = outputs["mask"][0, 0]
        return (mask, "") if np.isfinite(mask).all() else (None, "the segmenter's mask is not finite")

    def _run_members(self, tensors: Iterable[npt.NDArray[np.float32]], deadline: Deadline | None) -> Ended[Tensors]:
        """Run the loaded members. Raises what they raise, except a failure of the runtime, which is among the errors."""
        pairs = [(name, engine, t) for (name, engine), t in zip(self._members.items(), tensors, strict=True)]
        if deadline is not None:
            ended = self._runs.run([_call(*pair) for pair in pairs], deadline)
        else:
            ended = Ended()
            for name, engine, tensor in pairs:
                try:
                    ended.results[name] = engine.run({"image": tensor})
                except BackendError as error:
                    ended.errors[name] = error
        for failure in ended.errors.values():
            if not isinstance(failure, BackendError):
                raise failure
        return ended


def _call(name: str, engine: Engine, tensor: npt.NDArray[np.float32]) -> Call[Tensors]:
    inputs: dict[str, npt.NDArray[Any]] = {"image": tensor}

    def run(interruption: Interruption) -> Tensors:
        if isinstance(engine, InterruptibleEngine):
            return engine.run_until(inputs, interruption)
        return engine.run(inputs)

    return Call(name=name, run=run)


def _dropped(ended: Ended[Tensors]) -> list[DroppedMember]:
    """Return the members without a result, with the reasons."""
    reasons = {name: f"it failed: {error}" for name, error in ended.errors.items()} | ended.late
    return [DroppedMember(member=name, reason=reason) for name, reason in reasons.items()]
