"""Pipeline from one image to the ensemble's probabilities: lungs, preprocess, members, combine.

Takes an `Image`, returns `Outputs`. `HostPipeline` runs on arrays in host memory with any engines;
`gpu_pipeline.DevicePipeline` does the same on a GPU as one CUDA graph. `screener` turns the outputs of either into a
screening.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.cpu_quota import thread_limit
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.engines import EngineSet
from cxr_edge.ops.combine import Combiner
from cxr_edge.ops.lung_box import lung_box
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Flag, Image, Roi, StageTimes

__all__ = ["HostPipeline", "Outputs", "Pipeline"]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Outputs of the pipeline for one image."""

    roi: Roi  # input region of the members
    flags: tuple[Flag, ...]  # reasons if the roi is a fallback
    logits: npt.NDArray[np.float32]  # (members, labels)
    cams: tuple[npt.NDArray[np.float32], ...]  # (labels, h, w) per member; empty unless every member has one
    probabilities: npt.NDArray[np.float32]  # (labels,), of the ensemble
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


class HostPipeline:
    """The pipeline on the host's processor and memory; its engines may run on any device.

    threads: number of threads for preprocessing one image.
    execution_mode: text for reports.
    """

    def __init__(self, manifest: Manifest, engines: EngineSet, *, threads: int, execution_mode: str = "") -> None:
        self.execution_mode = execution_mode
        self._manifest, self._engines = manifest, engines
        threads = min(threads, thread_limit())
        self._preprocessor = Preprocessor([m.preprocess for m in manifest.members], threads=threads)
        self._lung_preprocessor = (
            Preprocessor([manifest.segmenter.preprocess], threads=threads) if manifest.segmenter else None
        )
        self._combiner = Combiner(manifest.combination, labels=len(manifest.labels))

    def run(self, image: Image) -> Outputs:
        """See `Pipeline`."""
        start = perf_counter()
        roi, flags, frame = self._find_lungs(image)
        lungs_done = perf_counter()
        tensors = self._preprocessor.run([image.pixels], [roi])
        preprocess_done = perf_counter()
        logits, cams = self._run_members(tensors)
        members_done = perf_counter()
        probabilities, winners = self._combiner.run(logits[None])
        combine_done = perf_counter()
        times = StageTimes(
            decode_ms=0.0,
            lungs_ms=1e3 * (lungs_done - start),
            preprocess_ms=1e3 * (preprocess_done - lungs_done),
            members_ms=1e3 * (members_done - preprocess_done),
            combine_ms=1e3 * (combine_done - members_done),
        )
        return Outputs(
            roi=roi,
            flags=flags,
            logits=logits,
            cams=cams,
            probabilities=probabilities[0],
            winner=int(winners[0]),
            times=times,
            frame=frame,
        )

    def _find_lungs(self, image: Image) -> tuple[Roi, tuple[Flag, ...], npt.NDArray[np.float32] | None]:
        """Return the lung box, or the full frame with a flag for the reason (no flag without a segmenter), and its input."""
        segmenter, frame = self._manifest.segmenter, Roi.full(image.width_px, image.height_px)
        if segmenter is None or self._engines.segmenter is None or self._lung_preprocessor is None:
            return frame, (), None
        (tensor,) = self._lung_preprocessor.run([image.pixels], [frame])
        mask = self._engines.segmenter.run({"image": tensor})["mask"][0, 0]
        roi, flag = lung_box(mask, width_px=image.width_px, height_px=image.height_px, rule=segmenter.lung_box)
        return roi, (flag,) if flag else (), tensor

    def _run_members(
        self, tensors: Iterable[npt.NDArray[np.float32]]
    ) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[np.float32], ...]]:
        outputs = [engine.run({"image": t}) for engine, t in zip(self._engines.members, tensors, strict=True)]
        logits = np.stack([o["logits"][0] for o in outputs])
        cams = tuple(o["cam"][0] for o in outputs if "cam" in o)
        return logits, cams if len(cams) == len(outputs) else ()
