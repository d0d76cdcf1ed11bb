"""Screen images: run the pipeline, decide, and optionally compute the heat map.

A `Screener` holds one bundle and its loaded engines. It keeps no state between images, so several threads may share one;
`folder.screen_files` does that for many files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from cxr_edge import defects
from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.decoding.decode import decode, decode_bytes
from cxr_edge.decoding.limits import MAX_PIXELS, MIN_SIDE_PX, Limits
from cxr_edge.engines import EngineSet
from cxr_edge.errors import ContractError, CxrEdgeError
from cxr_edge.names import printable
from cxr_edge.ops import heatmap as heatmaps
from cxr_edge.ops.combine import decide, member_probabilities
from cxr_edge.records import Failure, Image, MemberScore, Roi, Screening
from cxr_edge.screening.pipeline import HostPipeline, Pipeline
from cxr_edge.screening.resolution import resolution_flags

__all__ = ["FileResult", "Screener", "internal_error"]


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """Result of one input file."""

    outcome: Screening | Failure  # a Failure if the file could not be processed
    image: Image | None = None  # None on failure
    traceback: str = ""  # of an unexpected exception


def internal_error(source: str, error: Exception) -> FileResult:
    """Return the result of a file that ended in an unexpected exception."""
    failure = Failure(source=source, reason=defects.reason(error))
    return FileResult(outcome=failure, traceback=defects.traceback_text(error))


class Screener:
    """Screens images with one bundle and its engines. Thread-safe.

    GPU engines run as one CUDA graph per image where that is possible; `describe` reports the execution mode.

    threads: number of threads for preprocessing one image on the host; the engines were loaded with their own number.

    Raises ContractError if the number of engines does not match the bundle.
    """

    def __init__(self, bundle: Bundle, engines: EngineSet, *, threads: int = 1) -> None:
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
        self._pipeline = _pipeline(manifest, engines, threads)

    def describe(self) -> str:
        """Return one line for reports: backend, precisions, and the execution mode."""
        return "; ".join(part for part in (self._engines.describe(), self._pipeline.execution_mode) if part)

    def screen(self, image: Image, *, heatmap: bool = False, decode_ms: float = 0.0) -> Screening:
        """Screen one image.

        heatmap: also compute the class activation map of the decided label. Its time is not part of any stage.
        decode_ms: duration of decoding, for the stage times. The decision rule is part of the stage `combine`.
        """
        outputs = self._pipeline.run(image)
        start = perf_counter()
        labels = self.manifest.labels
        decision, flags = decide(outputs.probabilities, outputs.winner, labels, self.manifest.decision)
        combine_ms = outputs.times.combine_ms + 1e3 * (perf_counter() - start)
        return Screening(
            source=image.source,
            sha256=image.sha256,
            width_px=image.width_px,
            height_px=image.height_px,
            labels=labels,
            probabilities=tuple(float(p) for p in outputs.probabilities),
            decision=decision,
            members=self._member_scores(outputs.logits),
            roi=outputs.roi,
            flags=(*image.flags, *outputs.flags, *resolution_flags(self._specs, outputs.roi, image), *flags),
            times=replace(outputs.times, decode_ms=decode_ms, combine_ms=combine_ms),
            heatmap=self._heatmap(outputs.cams, decision, outputs.roi, image) if heatmap else None,
        )

    def screen_file(
        self, path: str | Path, *, heatmap: bool = False, max_pixels: int = MAX_PIXELS, min_side_px: int = MIN_SIDE_PX
    ) -> FileResult:
        """Decode and screen one file, as `decode_and_screen` with these size limits."""
        limits = Limits(max_pixels=max_pixels, min_side_px=min_side_px)
        return self.decode_and_screen(path, limits, heatmap=heatmap)

    def decode_and_screen(
        self, path: str | Path, limits: Limits, *, heatmap: bool = False, data: bytes | None = None
    ) -> FileResult:
        """Decode and screen one file. Any error, expected or not, becomes a Failure, because the next file may succeed.

        This includes running out of GPU memory: a smaller image may fit. data: the file's bytes where they are already
        in memory; `path` is then only their name.
        """
        start = perf_counter()
        try:
            image = decode_bytes(data, source=str(path), limits=limits) if data is not None else decode(path, limits=limits)
            decode_ms = 1e3 * (perf_counter() - start)
            return FileResult(outcome=self.screen(image, heatmap=heatmap, decode_ms=decode_ms), image=image)
        except CxrEdgeError as error:
            reason = str(error).removeprefix(f"{path}: ").removeprefix(f"{printable(path)}: ")
            return FileResult(outcome=Failure(source=str(path), reason=reason))
        except Exception as error:
            return internal_error(str(path), error)

    def _member_scores(self, logits: npt.NDArray[np.float32]) -> tuple[MemberScore, ...]:
        probabilities = member_probabilities(logits[None], self.manifest.combination)[0]
        return tuple(
            MemberScore(member=m.name, probabilities=tuple(float(p) for p in row))
            for m, row in zip(self.manifest.members, probabilities, strict=True)
        )

    def _heatmap(
        self, cams: tuple[npt.NDArray[np.float32], ...], decision: str, roi: Roi, image: Image
    ) -> npt.NDArray[np.float32] | None:
        if not cams:
            return None
        weights = self.manifest.combination.parameters.get("weights", [1.0 / len(cams)] * len(cams))
        return heatmaps.combine_maps(cams, weights, self.manifest.labels.index(decision), self._specs, roi, image)


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
