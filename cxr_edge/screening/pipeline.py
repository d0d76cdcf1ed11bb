"""What happens to one image between its pixels and the decision: lungs, preprocess, members, combine.

An image comes in, `Outputs` go out. `HostPipeline` does it with arrays in host memory and any engines;
`device.pipeline.DevicePipeline` does the same on a GPU as one graph. `screener` makes the screening of either's outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.engines import EngineSet
from cxr_edge.ops.combine import Combiner
from cxr_edge.ops.lung_box import lung_box
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Flag, Image, Roi, StageTimes

__all__ = ["HostPipeline", "Outputs", "Pipeline"]


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Of one image. logits: (members, labels). cams: (labels, h, w) a member; empty unless every member gives one.

    roi: what the members saw, with the flags that say why. probabilities: (labels), of the ensemble. winner: the label
    that the combination put first. times: without decoding.
    """

    roi: Roi
    flags: tuple[Flag, ...]
    logits: npt.NDArray[np.float32]
    cams: tuple[npt.NDArray[np.float32], ...]
    probabilities: npt.NDArray[np.float32]
    winner: int
    times: StageTimes


class Pipeline(Protocol):
    """May be used by several threads at once."""

    @property
    def how(self) -> str:
        """In what manner it works, in words for the report; empty where there is nothing to say."""
        ...

    def run(self, image: Image) -> Outputs: ...


class HostPipeline:
    """The pipeline on the host's processor and memory, whatever the engines run on.

    threads: that preprocessing one image may use. how: for the report.
    """

    def __init__(self, manifest: Manifest, engines: EngineSet, *, threads: int, how: str = "") -> None:
        self.how = how
        self._manifest, self._engines = manifest, engines
        self._preprocessor = Preprocessor([m.preprocess for m in manifest.members], threads=threads)
        self._lung_preprocessor = (
            Preprocessor([manifest.segmenter.preprocess], threads=threads) if manifest.segmenter else None
        )
        self._combiner = Combiner(manifest.combination, labels=len(manifest.labels))

    def run(self, image: Image) -> Outputs:
        """See `Pipeline`."""
        start = perf_counter()
        roi, flags = self._find_lungs(image)
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
        )

    def _find_lungs(self, image: Image) -> tuple[Roi, tuple[Flag, ...]]:
        """The lung box, or the full frame with the flag that says why (none if there is no segmenter)."""
        segmenter, frame = self._manifest.segmenter, Roi.full(image.width_px, image.height_px)
        if segmenter is None or self._engines.segmenter is None or self._lung_preprocessor is None:
            return frame, ()
        (tensor,) = self._lung_preprocessor.run([image.pixels], [frame])
        mask = self._engines.segmenter.run({"image": tensor})["mask"][0, 0]
        roi, flag = lung_box(mask, width_px=image.width_px, height_px=image.height_px, rule=segmenter.lung_box)
        return roi, (flag,) if flag else ()

    def _run_members(
        self, tensors: Iterable[npt.NDArray[np.float32]]
    ) -> tuple[npt.NDArray[np.float32], tuple[npt.NDArray[np.float32], ...]]:
        outputs = [engine.run({"image": t}) for engine, t in zip(self._engines.members, tensors, strict=True)]
        logits = np.stack([o["logits"][0] for o in outputs])
        cams = tuple(o["cam"][0] for o in outputs if "cam" in o)
        return logits, cams if len(cams) == len(outputs) else ()
