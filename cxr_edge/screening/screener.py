"""From a decoded image to its screening: the pipeline's outputs, the decision, the heat map.

A `Screener` holds one bundle and its loaded engines. It keeps no state between images, so several threads may use one
at once; `screen_files` does that for a folder, with as many images in flight as there are workers and no more.
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
from cxr_edge.decoding.decode import MAX_PIXELS, MIN_SIDE_PX, decode
from cxr_edge.engines import EngineSet
from cxr_edge.errors import ContractError, CxrEdgeError
from cxr_edge.names import printable
from cxr_edge.ops import heatmap as heatmaps
from cxr_edge.ops.combine import decide, member_probabilities
from cxr_edge.records import Failure, Image, MemberScore, Roi, Screening
from cxr_edge.screening.pipeline import HostPipeline, Pipeline

__all__ = ["FileResult", "Screener", "internal_error"]


@dataclass(frozen=True, kw_only=True)
class FileResult:
    """The result of one file: its screening and the image, or the failure and no image.

    trace: the traceback of an unexpected exception, else empty.
    """

    outcome: Screening | Failure
    image: Image | None = None
    trace: str = ""


def internal_error(source: str, error: Exception) -> FileResult:
    """The row of a file whose work ended in an unexpected exception."""
    return FileResult(outcome=Failure(source=source, reason=defects.reason(error)), trace=defects.traceback_text(error))


class Screener:
    """One bundle, its engines, ready to screen.

    threads: threads that preprocessing one image on the host may use; the engines were loaded with their own. Engines of
    a GPU screen on it as one graph where that is possible; `describe` says what is done.
    Raises ContractError if the engines are not this bundle's in number.
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
        """One line for reports: backend, precisions, and on a GPU in what manner it is used."""
        return "; ".join(part for part in (self._engines.describe(), self._pipeline.how) if part)

    def screen(self, image: Image, *, heatmap: bool = False, decode_ms: float = 0.0) -> Screening:
        """Screen one image. heatmap: also make the class activation map of the decided label.

        decode_ms: what decoding took, for the stage times. The decision's rule counts to combining, the heat map to no
        stage.
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
            flags=(*image.flags, *outputs.flags, *flags),
            times=replace(outputs.times, decode_ms=decode_ms, combine_ms=combine_ms),
            heatmap=self._heatmap(outputs.cams, decision, outputs.roi, image) if heatmap else None,
        )

    def screen_file(
        self, path: str | Path, *, heatmap: bool = False, max_pixels: int = MAX_PIXELS, min_side_px: int = MIN_SIDE_PX
    ) -> FileResult:
        """Decode and screen one file. Whatever goes wrong, foreseen or not, becomes a Failure; the next file may go well.

        Running out of the GPU's memory is such a case: a smaller image may fit.
        """
        start = perf_counter()
        try:
            image = decode(path, max_pixels=max_pixels, min_side_px=min_side_px)
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
    """On the GPU if the engines run there and so do the core's kernels; else on the host, saying why."""
    if engines.device is None:
        return HostPipeline(manifest, engines, threads=threads)
    from cxr_edge.screening.gpu_pipeline import DevicePipeline
    from cxr_edge.screening.gpu_self_test import kernel_failure

    reason = kernel_failure(engines.device)
    if reason is not None:
        how = f"preprocessing on the host, since the core's kernels do not run: {reason}"
        return HostPipeline(manifest, engines, threads=threads, how=how)
    return DevicePipeline(manifest, engines.segmenter, engines.members, engines.device)  # type: ignore[arg-type]
