"""One screening on a GPU: upload, lungs, preprocess, members on their own streams, combine, download, as one graph.

An image comes in, `Outputs` go out; in between nothing returns to the host, the lung box least of all. The first image of
a size class runs plainly and is the warm-up that capture needs; then its work is captured, and every later image is one
copy into pinned memory and one launch. Kernels read the image's size from its header on the device, so that the graph
depends on the class alone: sizes rounded up by at most an eighth.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge import _core
from cxr_edge.backends.base import DeviceEngine
from cxr_edge.combine import Combiner
from cxr_edge.device.arena import Arena
from cxr_edge.device.memory import Buffer, Device, Event, Graph, Stream, frame_bytes, put_frame
from cxr_edge.errors import BackendError, ContractError
from cxr_edge.lungs import LungVerdict, core_rule, roi_and_flag
from cxr_edge.manifest import Manifest
from cxr_edge.pipeline import Outputs
from cxr_edge.preprocess import PreprocessSpec, core_spec
from cxr_edge.records import Flag, GrayPixels, Image, Roi, StageTimes

__all__ = ["DevicePipeline", "size_class"]

_LEAST_CLASS = 1 << 16  # bytes; below it a graph a class would gain nothing
_STAGES = ("upload", "lungs", "preprocess", "members", "combine", "download")
_WARM_UP_SIDE = 64  # of the blank image with which a pipeline is tried when it is made

_RECORD = np.dtype([("seen", "<i4", 4), ("found", "<i4", 4), ("verdict", "<i4")])


def size_class(n_bytes: int) -> int:
    """`n_bytes` rounded up to the next eighth of its power of two, so that few graphs serve images of all sizes."""
    step = max(1 << (n_bytes - 1).bit_length(), _LEAST_CLASS) >> 4
    return -(-max(n_bytes, _LEAST_CLASS) // step) * step


@dataclass(frozen=True, kw_only=True)
class _Network:
    """An engine bound to its addresses. out: its outputs on the device."""

    run: Callable[[], None]
    tensor: Buffer
    stream: Stream
    done: Event


class DevicePipeline:
    """A `Pipeline` on one GPU. Several threads may use it; they take turns.

    how: `one CUDA graph an image`, or that it runs on plain streams and why. Raises BackendError if a blank image cannot
    be screened, ContractError for engines that do not run on device memory.
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
            self._stream = device.stream()
            self._kernels = device.kernels(self._stream)
            self._plan_memory(segmenter, members)
            self._bind(segmenter, members)
            self._marks = [device.event() for _ in range(len(_STAGES) + 1)]
            self._fork = device.event()
            self._frame, self._pinned = self._memory_for_frames(_LEAST_CLASS)
        blank = np.zeros((_WARM_UP_SIDE, _WARM_UP_SIDE), np.uint8)
        self._run_pixels(blank)
        self._run_pixels(blank)  # by the graph, if it could be captured: a launch that fails must fail here

    @property
    def how(self) -> str:
        """In what manner it works, for the report."""
        what = "one CUDA graph an image" if self._refused is None else f"plain CUDA streams ({self._refused})"
        return f"{what}, on {self._device.name}"

    def run(self, image: Image) -> Outputs:
        """See `Pipeline`."""
        results, times = self._run_pixels(image.pixels)
        roi, flags = self._roi(results, image)
        logits = np.stack([results[f"logits {m.name}"][0] for m in self._manifest.members])
        cams = [results[f"cam {m.name}"][0] for m in self._manifest.members if f"cam {m.name}" in results]
        return Outputs(
            roi=roi,
            flags=flags,
            logits=logits,
            cams=tuple(cams) if len(cams) == len(self._manifest.members) else (),
            probabilities=results["probabilities"],
            winner=int(results["winner"][0]),
            times=times,
        )

    def _plan_memory(self, segmenter: DeviceEngine | None, members: tuple[DeviceEngine, ...]) -> None:
        """All memory but the image's: tensors, what the kernels need, and the arena of results, which is one download."""
        manifest, device = self._manifest, self._device
        self._lungs_first = (
            _core.DevicePreprocessor([core_spec(manifest.segmenter.preprocess)]) if manifest.segmenter else None
        )
        self._members_next = _core.DevicePreprocessor([core_spec(m.preprocess) for m in manifest.members])
        self._combiner = _core.DeviceCombiner(Combiner(manifest.combination, labels=len(manifest.labels)).core)
        arena = Arena()
        arena.add("record", (1,), _RECORD)
        arena.add("probabilities", (len(manifest.labels),), np.float32)
        arena.add("winner", (1,), np.int32)
        for member, engine in zip(manifest.members, members, strict=True):
            arena.add(f"logits {member.name}", _logits_shape(member.name, engine, len(manifest.labels)), np.float32)
        for member, engine in zip(manifest.members, members, strict=True):
            if "cam" in engine.output_shapes(1):
                arena.add(f"cam {member.name}", engine.output_shapes(1)["cam"], np.float32)
        self._arena = arena
        self._results = device.allocate(arena.n_bytes)
        self._pinned_results = device.pinned(arena.n_bytes)
        first, scratch = self._lungs_first, [self._members_next.scratch_bytes, self._combiner.scratch_bytes]
        self._scratch = device.allocate(max(scratch + ([first.scratch_bytes] if first else [])))
        self._parameters = device.allocate(self._combiner.parameters().nbytes)
        self._parameters_host = self._combiner.parameters()
        device.upload(self._parameters.address, self._parameters_host, self._stream)
        device.synchronize(self._stream)

    def _bind(self, segmenter: DeviceEngine | None, members: tuple[DeviceEngine, ...]) -> None:
        spec = self._manifest.segmenter.preprocess if self._manifest.segmenter else None
        self._segmenter = None
        if segmenter is not None and spec is not None:
            _, _, rows, columns = segmenter.output_shapes(1)["mask"]
            self._mask = self._device.allocate(4 * rows * columns)
            self._mask_shape = rows, columns
            self._lung_scratch = self._device.allocate(_core.lung_scratch_bytes(rows, columns))
            self._segmenter = self._bound(segmenter, spec, {"mask": self._mask.address}, self._stream)
        self._members = tuple(
            self._bound(engine, member.preprocess, self._output_addresses(member.name, engine), self._device.stream())
            for member, engine in zip(self._manifest.members, members, strict=True)
        )

    def _output_addresses(self, member: str, engine: DeviceEngine) -> dict[str, int]:
        names = [t.name for t in engine.outputs]
        return {n: self._results.address + self._arena.offset(f"{n} {member}") for n in names}

    def _bound(self, engine: DeviceEngine, spec: PreprocessSpec, outputs: dict[str, int], stream: Stream) -> _Network:
        tensor = self._device.allocate(int(np.prod(spec.tensor_shape)) * np.dtype(spec.dtype).itemsize)
        run = engine.bind({"image": tensor.address, **outputs}, batch=1, stream=stream.handle)
        return _Network(run=run, tensor=tensor, stream=stream, done=self._device.event())

    def _run_pixels(self, pixels: GrayPixels) -> tuple[dict[str, npt.NDArray[Any]], StageTimes]:
        with self._lock, self._device.current():
            start = perf_counter()
            size = size_class(frame_bytes(pixels))
            self._grow(size)
            put_frame(pixels, self._pinned)
            graph = self._graphs.get(size)
            if graph is not None:
                graph.launch(self._stream)
            else:
                self._enqueue(size, in_graph=False)
            self._device.synchronize(self._stream)
            results = self._arena.views(self._pinned_results.copy())
            times = self._times(1e3 * (perf_counter() - start))
            if graph is None and self._refused is None:
                self._capture(size)
            return results, times

    def _grow(self, size: int) -> None:
        """Make room for frames of `size` bytes. Graphs hold addresses, so larger memory makes the old ones void."""
        if self._frame.n_bytes < size:
            self._graphs.clear()
            self._frame, self._pinned = self._memory_for_frames(size)

    def _memory_for_frames(self, size: int) -> tuple[Buffer, npt.NDArray[np.uint8]]:
        pinned = self._device.pinned(size)
        pinned[:] = 0
        return self._device.allocate(size), pinned

    def _capture(self, size: int) -> None:
        try:
            self._graphs[size] = self._device.capture(self._stream, lambda: self._enqueue(size, in_graph=True))
        except BackendError as error:
            self._refused = f"no graph: {error}"

    def _enqueue(self, size: int, *, in_graph: bool) -> None:
        """All of a screening's work, in stream order; marks between the stages."""
        device, stream, marks = self._device, self._stream, iter(self._marks)

        def mark() -> None:
            device.record(next(marks), stream, in_graph=in_graph)

        mark()
        device.upload(self._frame.address, self._pinned[:size], stream)
        mark()
        self._enqueue_lungs()
        mark()
        self._preprocess(self._members_next, [m.tensor.address for m in self._members], lungs=self._record)
        mark()
        self._enqueue_members()
        mark()
        self._enqueue_combination()
        mark()
        device.download(self._pinned_results, self._results.address, stream)
        mark()

    @property
    def _record(self) -> int:
        """Address of the lung record, which begins with the box that members see; 0 without a segmenter."""
        return self._results.address + self._arena.offset("record") if self._segmenter else 0

    def _preprocess(self, planned: _core.DevicePreprocessor, outputs: list[int], *, lungs: int) -> None:
        self._kernels.preprocess(
            planned, frame=self._frame.address, lungs=lungs, scratch=self._scratch.address, outputs=outputs
        )

    def _enqueue_lungs(self) -> None:
        segmenter = self._manifest.segmenter
        if self._segmenter is None or self._lungs_first is None or segmenter is None:
            return
        self._preprocess(self._lungs_first, [self._segmenter.tensor.address], lungs=0)
        self._segmenter.run()
        rows, columns = self._mask_shape
        self._kernels.lung_box(
            mask=self._mask.address,
            rows=rows,
            columns=columns,
            rule=core_rule(segmenter.lung_box),
            frame=self._frame.address,
            scratch=self._lung_scratch.address,
            record=self._record,
        )

    def _enqueue_members(self) -> None:
        self._device.record(self._fork, self._stream)
        for member in self._members:
            self._device.wait(member.stream, self._fork)
            member.run()
            self._device.record(member.done, member.stream)
        for member in self._members:
            self._device.wait(self._stream, member.done)

    def _enqueue_combination(self) -> None:
        names = [f"logits {m.name}" for m in self._manifest.members]
        offsets = [self._arena.offset(name) for name in names]
        stride = (offsets[1] - offsets[0]) // 4 if len(offsets) > 1 else len(self._manifest.labels)
        self._kernels.combine(
            self._combiner,
            parameters=self._parameters.address,
            logits=self._results.address + offsets[0],
            member_stride=stride,
            scratch=self._scratch.address,
            probabilities=self._results.address + self._arena.offset("probabilities"),
            winner=self._results.address + self._arena.offset("winner"),
        )

    def _times(self, whole_ms: float) -> StageTimes:
        """The stages by the GPU's clock; what remains of the whole is the image's way there, with the launch."""
        marks = self._marks
        spans = [self._device.elapsed_ms(a, b) for a, b in pairwise(marks)]
        stages = dict(zip(_STAGES, spans, strict=True))
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


def _logits_shape(member: str, engine: DeviceEngine, labels: int) -> tuple[int, ...]:
    shape = engine.output_shapes(1)["logits"]
    if shape != (1, labels):
        raise ContractError(f"{member}: expected logits of shape (1, {labels}), the engine gives {shape}")
    return shape
