"""Screening on a GPU as one CUDA graph: a `Pipeline` that captures a screening's work and plays it back.

The first image of a size class runs plainly, which is the warm-up that capture needs; then its work is captured, and every
later image is one copy into pinned memory and one launch. Kernels read the image's size from its header on the device, so
that the graph depends on the class alone: sizes rounded up by at most an eighth.
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
from cxr_edge.ops.lung_box import LungVerdict, roi_and_flag
from cxr_edge.records import Flag, GrayPixels, Image, Roi, StageTimes
from cxr_edge.screening.gpu_enqueue import Frame, ScreeningWork
from cxr_edge.screening.pipeline import Outputs

__all__ = ["DevicePipeline", "size_class"]

_LEAST_CLASS = 1 << 16  # bytes; below it a graph a class would gain nothing
_TRIAL_SIDE = 96  # of the picture with which a pipeline is tried when it is made
_SAME = 1e-3  # probabilities of the plain run and of the graph on that picture may differ so far


def size_class(n_bytes: int) -> int:
    """`n_bytes` rounded up to the next eighth of its power of two, so that few graphs serve images of all sizes."""
    step = max(1 << (n_bytes - 1).bit_length(), _LEAST_CLASS) >> 4
    return -(-max(n_bytes, _LEAST_CLASS) // step) * step


class DevicePipeline:
    """A `Pipeline` on one GPU. Several threads may use it; they take turns.

    how: `one CUDA graph an image`, or that it runs on plain streams and why. Raises BackendError if a trial picture cannot
    be screened, ContractError for engines that do not fit the manifest.
    """

    def __init__(
        self,
        manifest: Manifest,
        segmenter: DeviceEngine | None,
        members: tuple[DeviceEngine, ...],
        device: Device,
    ) -> None:
        self._manifest, self._device = manifest, device
        self._lock = threading.Lock()
        self._graphs: dict[int, Graph] = {}
        self._refused: str | None = None
        with device.current():
            self._work = ScreeningWork(manifest, segmenter, members, device)
            self._frame = self._room_for(_LEAST_CLASS)
        self._try()

    @property
    def how(self) -> str:
        """In what manner it works, for the report."""
        what = "one CUDA graph an image" if self._refused is None else f"plain CUDA streams (no graph: {self._refused})"
        return f"{what}, on {self._device.name}"

    def run(self, image: Image) -> Outputs:
        """See `Pipeline`."""
        results, times = self._screen(image.pixels)
        roi, flags = self._roi(results, image)
        names = [m.name for m in self._manifest.members]
        cams = [results[f"cam {name}"][0] for name in names if f"cam {name}" in results]
        return Outputs(
            roi=roi,
            flags=flags,
            logits=np.stack([results[f"logits {name}"][0] for name in names]),
            cams=tuple(cams) if len(cams) == len(names) else (),
            probabilities=results["probabilities"],
            winner=int(results["winner"][0]),
            times=times,
        )

    def _try(self) -> None:
        """Screen a made-up picture plainly and by the graph, which is believed only if it gives the same answer."""
        picture = np.random.default_rng(0).integers(0, 256, (_TRIAL_SIDE, _TRIAL_SIDE), np.uint8)
        plain = self._screen(picture)[0]["probabilities"]
        if self._refused is None:
            try:
                self._screen(np.zeros_like(picture), plainly=True)  # nothing shall be left of the answer
                by_graph = self._screen(picture)[0]["probabilities"]
            except BackendError as error:
                self._refused = str(error)
            else:
                if not np.allclose(plain, by_graph, atol=_SAME):
                    self._refused = f"it answered {by_graph.tolist()} for {plain.tolist()}"
        if self._refused is not None:
            self._graphs.clear()
            self._screen(picture)  # must work now

    def _screen(self, pixels: GrayPixels, *, plainly: bool = False) -> tuple[dict[str, npt.NDArray[Any]], StageTimes]:
        """plainly: without the graph, also if there is one."""
        with self._lock, self._device.current():
            start = perf_counter()
            size = size_class(frame_bytes(pixels))
            self._grow(size)
            put_frame(pixels, self._frame.pinned)
            graph = None if plainly else self._graphs.get(size)
            if graph is not None:
                graph.launch(self._work.stream)
            else:
                self._work.enqueue(self._part(size), in_graph=False)
            self._device.synchronize(self._work.stream)
            results, times = self._work.results(), self._times(1e3 * (perf_counter() - start))
            if size not in self._graphs and self._refused is None:
                self._capture(size)
            return results, times

    def _grow(self, size: int) -> None:
        """Make room for frames of `size` bytes. Graphs hold addresses, so larger memory makes the old ones void."""
        if self._frame.memory.n_bytes < size:
            self._graphs.clear()
            self._frame = self._room_for(size)

    def _room_for(self, size: int) -> Frame:
        pinned = self._device.pinned(size)
        pinned[:] = 0
        return Frame(pinned=pinned, memory=self._device.allocate(size))

    def _part(self, size: int) -> Frame:
        return Frame(pinned=self._frame.pinned[:size], memory=self._frame.memory)

    def _capture(self, size: int) -> None:
        frame = self._part(size)
        try:
            self._graphs[size] = self._device.capture(
                self._work.stream, lambda: self._work.enqueue(frame, in_graph=True)
            )
        except BackendError as error:
            self._refused = str(error)

    def _times(self, whole_ms: float) -> StageTimes:
        """The stages by the GPU's clock; what remains of the whole is the image's way there, with the launch."""
        stages = self._work.stage_ms()
        del stages["upload"]
        return StageTimes(
            decode_ms=0.0,
            upload_ms=max(whole_ms - sum(stages.values()), 0.0),
            **{f"{name}_ms": ms for name, ms in stages.items()},
        )

    def _roi(self, results: dict[str, npt.NDArray[Any]], image: Image) -> tuple[Roi, tuple[Flag, ...]]:
        segmenter, size = self._manifest.segmenter, {"width_px": image.width_px, "height_px": image.height_px}
        if segmenter is None:
            return Roi.full(image.width_px, image.height_px), ()
        record = results["record"][0]
        x0, y0, x1, y1 = (int(v) for v in record["found"])
        roi, flag = roi_and_flag(LungVerdict(int(record["verdict"])), (x0, y0, x1, y1), **size, rule=segmenter.lung_box)
        if roi.as_tuple() != tuple(int(v) for v in record["seen"]):
            raise ContractError(f"the GPU's members saw the box {record['seen'].tolist()}, its verdict says {roi}")
        return roi, (flag,) if flag else ()
