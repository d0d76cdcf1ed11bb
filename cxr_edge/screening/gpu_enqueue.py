"""Buffers, bound engines and stream order of one screening on a GPU.

In: a manifest, device engines and a device. `enqueue` puts upload, lungs, preprocessing, members, combination and download on
the streams, to run immediately or to be captured, and `results` reads the downloaded values. All memory is allocated in the
constructor. Between upload and download no data returns to the host, not even the lung box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

import cxr_edge._core as _core
from cxr_edge.backends.base import DeviceEngine
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.errors import ContractError
from cxr_edge.gpu.arena import Arena
from cxr_edge.gpu.interface import Buffer, Device, Event, Stream
from cxr_edge.ops.combine import Combiner
from cxr_edge.ops.lung_box import core_rule
from cxr_edge.ops.preprocess import core_spec
from cxr_edge.records import STAGES
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["GPU_STAGES", "RECORD", "Frame", "GpuScreening"]

GPU_STAGES = tuple(stage for stage in STAGES if stage not in ("decode", "checks"))  # those run on the host

RECORD = np.dtype([("crop", "<i4", 4), ("detected", "<i4", 4), ("status", "<i4")])  # `LungRecord` of cxr/device.h


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Memory of an image, on the host and on the device."""

    pinned: npt.NDArray[np.uint8]  # page-locked host memory
    memory: Buffer  # of at least that size


@dataclass(frozen=True, kw_only=True)
class _Network:
    """An engine bound to addresses."""

    run: Callable[[], None]
    tensor: Buffer  # its input
    stream: Stream
    done: Event  # passed after the run


@dataclass(frozen=True, kw_only=True)
class _Segmenter:
    """The segmenter, with the rule and the buffers for the lung box of its mask."""

    network: _Network
    preprocessor: _core.DevicePreprocessor
    mask: Buffer
    mask_shape: tuple[int, int]  # rows, columns
    rule: _core.LungRule
    scratch: Buffer


class GpuScreening:
    """One screening's work. The constructor and all methods are called with the device current."""

    def __init__(
        self,
        manifest: Manifest,
        segmenter: DeviceEngine | None,
        members: tuple[DeviceEngine, ...],
        device: Device,
    ) -> None:
        self._device = device
        self.stream = device.stream()  # a screening begins and ends on it
        self._kernels = device.kernels(self.stream)
        self._arena = _arena(manifest, members)
        self._results, self._pinned = device.allocate(self._arena.n_bytes), device.pinned(self._arena.n_bytes)
        self._logits = [self._address(f"logits {m.name}") for m in manifest.members]
        self._preprocessor = _core.DevicePreprocessor([core_spec(m.preprocess) for m in manifest.members])
        self._combiner = Combiner(manifest.combination, labels=len(manifest.labels)).core
        self._parameters = self._copy_to_device(self._combiner.values())
        self._segmenter = self._bind_segmenter(manifest, segmenter) if segmenter is not None else None
        self._members = tuple(
            self._bind(
                engine,
                member.preprocess,
                {t.name: self._address(f"{t.name} {member.name}") for t in engine.outputs},
                device.stream(),
            )
            for member, engine in zip(manifest.members, members, strict=True)
        )
        self._scratch = device.allocate(self._scratch_bytes())
        self._fork, self._marks = device.event(), [device.event() for _ in range(len(GPU_STAGES) + 1)]

    def enqueue(self, frame: Frame, *, in_graph: bool) -> None:
        """Enqueue all stages in order, with a mark between them. in_graph: the work is being captured."""
        image = frame.memory.address
        stages: tuple[Callable[[], None], ...] = (
            lambda: self._device.upload(image, frame.pinned, self.stream),
            lambda: self._find_lungs(image),
            lambda: self._preprocess(self._preprocessor, image, [m.tensor for m in self._members], lungs=self._lungs),
            self._run_members,
            self._combine,
            lambda: self._device.download(self._pinned, self._results.address, self.stream),
        )
        self._device.record(self._marks[0], self.stream, in_graph=in_graph)
        for stage, mark in zip(stages, self._marks[1:], strict=True):
            stage()
            self._device.record(mark, self.stream, in_graph=in_graph)

    def results(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of the last screening's results by name.

        `record` (RECORD, with a segmenter), `probabilities`, `winner`, and `logits NAME` and `cam NAME` per member.
        """
        return self._arena.views(self._pinned.copy())

    def stage_ms(self) -> dict[str, float]:
        """Return the milliseconds of each stage of the last screening."""
        spans = [self._device.elapsed_ms(a, b) for a, b in pairwise(self._marks)]
        return dict(zip(GPU_STAGES, spans, strict=True))

    @property
    def _lungs(self) -> int:
        """Address of the lung record, which begins with the crop for the classifiers; 0 without a segmenter."""
        return self._address("record") if self._segmenter else 0

    def _address(self, name: str) -> int:
        return self._results.address + self._arena.offset(name)

    def _copy_to_device(self, array: npt.NDArray[Any]) -> Buffer:
        buffer = self._device.allocate(array.nbytes)
        self._device.upload(buffer.address, array, self.stream)
        self._device.synchronize(self.stream)
        return buffer

    def _bind_segmenter(self, manifest: Manifest, engine: DeviceEngine) -> _Segmenter:
        assert manifest.segmenter is not None
        spec, (_, _, rows, columns) = manifest.segmenter.preprocess, engine.output_shapes(1)["mask"]
        mask = self._device.allocate(4 * rows * columns)
        return _Segmenter(
            network=self._bind(engine, spec, {"mask": mask.address}, self.stream),
            preprocessor=_core.DevicePreprocessor([core_spec(spec)]),
            mask=mask,
            mask_shape=(rows, columns),
            rule=core_rule(manifest.segmenter.lung_box),
            scratch=self._device.allocate(_core.lung_scratch_bytes(rows, columns)),
        )

    def _bind(self, engine: DeviceEngine, spec: PreprocessSpec, outputs: dict[str, int], stream: Stream) -> _Network:
        tensor = self._device.allocate(int(np.prod(spec.tensor_shape)) * np.dtype(spec.dtype).itemsize)
        run = engine.bind({"image": tensor.address, **outputs}, batch=1, stream=stream.handle)
        return _Network(run=run, tensor=tensor, stream=stream, done=self._device.event())

    def _scratch_bytes(self) -> int:
        """Return the size of the scratch memory, which preprocessing and combination share: they run one after the other."""
        first = self._segmenter.preprocessor.scratch_bytes if self._segmenter else 0
        return max(first, self._preprocessor.scratch_bytes, self._combiner.scratch_bytes)

    def _preprocess(
        self, preprocessor: _core.DevicePreprocessor, image: int, tensors: list[Buffer], *, lungs: int
    ) -> None:
        outputs = [t.address for t in tensors]
        self._kernels.preprocess(preprocessor, frame=image, lungs=lungs, scratch=self._scratch.address, outputs=outputs)

    def _find_lungs(self, image: int) -> None:
        s = self._segmenter
        if s is None:
            return
        self._preprocess(s.preprocessor, image, [s.network.tensor], lungs=0)
        s.network.run()
        self._kernels.lung_box(
            mask=s.mask.address,
            rows=s.mask_shape[0],
            columns=s.mask_shape[1],
            rule=s.rule,
            frame=image,
            scratch=s.scratch.address,
            record=self._lungs,
        )

    def _run_members(self) -> None:
        """Run each member on its own stream, after preprocessing; later work on the main stream waits for all of them."""
        self._device.record(self._fork, self.stream)
        for member in self._members:
            self._device.wait(member.stream, self._fork)
            member.run()
            self._device.record(member.done, member.stream)
        for member in self._members:
            self._device.wait(self.stream, member.done)

    def _combine(self) -> None:
        first, *rest = self._logits
        self._kernels.combine(
            self._combiner,
            parameters=self._parameters.address,
            logits=first,
            member_stride=(rest[0] - first) // 4 if rest else 0,
            scratch=self._scratch.address,
            probabilities=self._address("probabilities"),
            winner=self._address("winner"),
        )


def _arena(manifest: Manifest, members: tuple[DeviceEngine, ...]) -> Arena:
    """Lay out the results for one download, with the members' logits at equal distances, as the combination needs them.

    Raises ContractError for logits of another shape than (1, labels).
    """
    labels, arena = len(manifest.labels), Arena()
    if manifest.segmenter is not None:
        arena.add("record", (1,), RECORD)
    arena.add("probabilities", (labels,), np.float32)
    arena.add("winner", (1,), np.int32)
    shapes = {m.name: engine.output_shapes(1) for m, engine in zip(manifest.members, members, strict=True)}
    for name, outputs in shapes.items():
        if outputs["logits"] != (1, labels):
            raise ContractError(f"{name}: expected logits of shape (1, {labels}), got {outputs['logits']}")
        arena.add(f"logits {name}", outputs["logits"], np.float32)
    for name, outputs in shapes.items():
        if "cam" in outputs:
            arena.add(f"cam {name}", outputs["cam"], np.float32)
    return arena
