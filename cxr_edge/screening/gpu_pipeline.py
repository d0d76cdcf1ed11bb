"""Screening on a GPU as one CUDA graph: a `Pipeline` that captures the work of a screening and replays it.

The first image of a size class runs eagerly, which is the warm-up that a capture needs; then its work is captured, and every
later image is one copy into pinned memory and one graph launch. The kernels read the image size from its header on the
device, so that the graph depends only on the size class: the size rounded up by at most an eighth.
"""

from __future__ import annotations

import threading
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.backends.base import DeviceEngine
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.gpu.interface import Device, Graph, frame_bytes, put_frame
from cxr_edge.ops.lung_box import LungBoxStatus, roi_from_result
from cxr_edge.records import Flag, GrayPixels, Image, Roi, StageTimes
from cxr_edge.screening.gpu_enqueue import Frame, GpuScreening
from cxr_edge.screening.modes import Modes
from cxr_edge.screening.pipeline import Outputs

__all__ = ["DevicePipeline", "size_class"]

_SMALLEST_CLASS = 1 << 16  # bytes; smaller classes would gain nothing
_CHECK_SIDE_PX = 96  # of the synthetic image that checks a new pipeline
# Maximum difference of the probabilities between the eager run and the graph: a runtime may select other kernels while it is
# captured, which changes rounding; a missing dependency in the graph gives far larger differences.
_GRAPH_TOLERANCE = 1e-3


def size_class(n_bytes: int) -> int:
    """Round `n_bytes` up to the next eighth of its power of two, so that few graphs serve images of all sizes."""
    step = max(1 << (n_bytes - 1).bit_length(), _SMALLEST_CLASS) >> 4
    return -(-max(n_bytes, _SMALLEST_CLASS) // step) * step


class DevicePipeline:
    """A `Pipeline` on one GPU. Several threads may use it; they take turns.

    manifest: of the members that were loaded (`Manifest.reduced_to`). modes: of the whole bundle with these engines.

    Raises BackendError if a synthetic image cannot be screened, ContractError for engines that do not fit the manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        segmenter: DeviceEngine | None,
        members: tuple[DeviceEngine, ...],
        device: Device,
        modes: Modes,
    ) -> None:
        self._manifest, self._device, self._modes = manifest, device, modes
        self._lock = threading.Lock()
        self._graphs: dict[int, Graph] = {}
        self._no_graph_reason: str | None = None
        with device.current():
            self._screening = GpuScreening(manifest, segmenter, members, device)
            self._frame = self._allocate_frame(_SMALLEST_CLASS)
        self._check_graph()

    @property
    def execution_mode(self) -> str:
        """Execution mode for reports, with the reason if no graph is used."""
        if self._no_graph_reason is None:
            return f"one CUDA graph per image, on {self._device.name}"
        return f"plain CUDA streams (no graph: {self._no_graph_reason}), on {self._device.name}"

    def run(self, image: Image) -> Outputs:
        """Screen one image; see `Pipeline`."""
        results, times = self._screen(image.pixels)
        roi, flags = self._roi(results, image)
        logits = {m.name: results[f"logits {m.name}"][0] for m in self._manifest.members}
        found = self._modes.combined(logits, results["probabilities"], int(results["winner"][0]))
        cams = [results[f"cam {name}"][0] for name in found.mode.names if f"cam {name}" in results]
        return Outputs(
            roi=roi,
            flags=flags,
            mode=found.mode,
            dropped=found.dropped,
            logits=found.logits,
            cams=tuple(cams) if len(cams) == len(found.mode.names) else (),
            probabilities=found.probabilities,
            winner=found.winner,
            times=times,
        )

    def _check_graph(self) -> None:
        """Run a synthetic image eagerly and through the captured graph; disable the graph if the results differ."""
        image = np.random.default_rng(0).integers(0, 256, (_CHECK_SIDE_PX, _CHECK_SIDE_PX), np.uint8)
        eager = self._screen(image)[0]["probabilities"]
        if self._no_graph_reason is None:
            try:
                self._screen(np.zeros_like(image), eager=True)  # overwrites the results
                by_graph = self._screen(image)[0]["probabilities"]
            except BackendError as error:
                self._no_graph_reason = str(error)
            else:
                if not np.allclose(eager, by_graph, atol=_GRAPH_TOLERANCE, equal_nan=True):
                    self._no_graph_reason = f"it returned {by_graph.tolist()}, expected {eager.tolist()}"
        if self._no_graph_reason is not None:
            self._graphs.clear()
            self._screen(image)  # must work now

    def _screen(self, pixels: GrayPixels, *, eager: bool = False) -> tuple[dict[str, npt.NDArray[Any]], StageTimes]:
        """Screen one image. eager: without the graph, even if there is one."""
        with self._lock, self._device.current():
            start = perf_counter()
            size = size_class(frame_bytes(pixels))
            self._grow(size)
            put_frame(pixels, self._frame.pinned)
            graph = None if eager else self._graphs.get(size)
            if graph is not None:
                graph.launch(self._screening.stream)
            else:
                self._screening.enqueue(self._frame_of(size), in_graph=False)
            self._device.synchronize(self._screening.stream)
            results, times = self._screening.results(), self._times(1e3 * (perf_counter() - start))
            if size not in self._graphs and self._no_graph_reason is None:
                self._capture(size)
            return results, times

    def _grow(self, size: int) -> None:
        """Ensure memory for frames of `size` bytes. Graphs hold addresses, so new memory invalidates them."""
        if self._frame.memory.n_bytes < size:
            self._graphs.clear()
            self._frame = self._allocate_frame(size)

    def _allocate_frame(self, size: int) -> Frame:
        pinned = self._device.pinned(size)
        pinned[:] = 0
        return Frame(pinned=pinned, memory=self._device.allocate(size))

    def _frame_of(self, size: int) -> Frame:
        """Return the frame for an image of `size` bytes: the upload copies the pinned part only."""
        return Frame(pinned=self._frame.pinned[:size], memory=self._frame.memory)

    def _capture(self, size: int) -> None:
        frame = self._frame_of(size)
        try:
            self._graphs[size] = self._device.capture(
                self._screening.stream, lambda: self._screening.enqueue(frame, in_graph=True)
            )
        except BackendError as error:
            self._no_graph_reason = str(error)

    def _times(self, total_ms: float) -> StageTimes:
        """Return the stage times of the GPU's clock; the rest of the total is the upload with the launch."""
        stages = self._screening.stage_ms()
        del stages["upload"]
        return StageTimes(
            decode_ms=0.0,
            upload_ms=max(total_ms - sum(stages.values()), 0.0),
            **{f"{name}_ms": ms for name, ms in stages.items()},
        )

    def _roi(self, results: dict[str, npt.NDArray[Any]], image: Image) -> tuple[Roi, tuple[Flag, ...]]:
        segmenter, size = self._manifest.segmenter, {"width_px": image.width_px, "height_px": image.height_px}
        if segmenter is None:
            return Roi.full(image.width_px, image.height_px), ()
        record = results["record"][0]
        x0, y0, x1, y1 = (int(v) for v in record["detected"])
        roi, flag = roi_from_result(
            LungBoxStatus(int(record["status"])), (x0, y0, x1, y1), **size, rule=segmenter.lung_box
        )
        if roi.as_tuple() != tuple(int(v) for v in record["crop"]):
            raise ContractError(f"the GPU cropped to the box {record['crop'].tolist()}, expected {roi} by its status")
        return roi, (flag,) if flag else ()
