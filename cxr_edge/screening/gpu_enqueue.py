"""The work of one screening on a device: its memory, its engines bound to it, and the order in which it goes to the streams.

A manifest, device engines and a device come in; `enqueue` puts upload, lungs, preprocessing, members, combination and
download on the streams, to run at once or to be captured, and `results` reads what came back. Nothing is allocated after
the making, and in between nothing returns to the host, the lung box least of all.
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
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["RECORD", "STAGES", "Frame", "ScreeningWork"]

STAGES = ("upload", "lungs", "preprocess", "members", "combine", "download")

RECORD = np.dtype([("seen", "<i4", 4), ("found", "<i4", 4), ("verdict", "<i4")])  # `LungRecord` of cxr/device.h


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Where an image lies: pinned on the host, of the same size on the device."""

    pinned: npt.NDArray[np.uint8]
    memory: Buffer


@dataclass(frozen=True, kw_only=True)
class _Network:
    """An engine bound to addresses. tensor: its input. done: passed when it is."""

    run: Callable[[], None]
    tensor: Buffer
    stream: Stream
    done: Event


@dataclass(frozen=True, kw_only=True)
class _Segmenter:
    """The segmenter with what makes a box of its mask."""

    network: _Network
    preprocessor: _core.DevicePreprocessor
    mask: Buffer
    mask_shape: tuple[int, int]
    rule: _core.LungRule
    scratch: Buffer


class ScreeningWork:
    """Made with the device current, as all its methods are called. stream: on which a screening begins and ends."""

    def __init__(
        self,
        manifest: Manifest,
        segmenter: DeviceEngine | None,
        members: tuple[DeviceEngine, ...],
        device: Device,
    ) -> None:
        self._device = device
        self.stream = device.stream()
        self._kernels = device.kernels(self.stream)
        self._arena = _arena(manifest, members)
        self._results, self._pinned = device.allocate(self._arena.n_bytes), device.pinned(self._arena.n_bytes)
        self._logits = [self._address(f"logits {m.name}") for m in manifest.members]
        self._preprocessor = _core.DevicePreprocessor([core_spec(m.preprocess) for m in manifest.members])
        self._combiner = _core.DeviceCombiner(Combiner(manifest.combination, labels=len(manifest.labels)).core)
        self._parameters = self._on_device(self._combiner.parameters())
        self._segmenter = self._with_box(manifest, segmenter) if segmenter is not None else None
        self._members = tuple(
            self._bound(
                engine,
                member.preprocess,
                {t.name: self._address(f"{t.name} {member.name}") for t in engine.outputs},
                device.stream(),
            )
            for member, engine in zip(manifest.members, members, strict=True)
        )
        self._scratch = device.allocate(self._scratch_bytes())
        self._fork, self._marks = device.event(), [device.event() for _ in range(len(STAGES) + 1)]

    def enqueue(self, frame: Frame, *, in_graph: bool) -> None:
        """Everything, in order, with a mark between the stages. in_graph: it is being captured."""
        image = frame.memory.address
        stages: tuple[Callable[[], None], ...] = (
            lambda: self._device.upload(image, frame.pinned, self.stream),
            lambda: self._find_lungs(image),
            lambda: self._preprocess(self._preprocessor, image, [m.tensor for m in self._members], lungs=self._box),
            self._run_members,
            self._combine,
            lambda: self._device.download(self._pinned, self._results.address, self.stream),
        )
        self._device.record(self._marks[0], self.stream, in_graph=in_graph)
        for stage, mark in zip(stages, self._marks[1:], strict=True):
            stage()
            self._device.record(mark, self.stream, in_graph=in_graph)

    def results(self) -> dict[str, npt.NDArray[Any]]:
        """Copies of what the last screening left: `record` (RECORD, with a segmenter), `probabilities`, `winner`, and
        `logits NAME` and `cam NAME` of members."""
        return self._arena.views(self._pinned.copy())

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds between the marks of the last screening, by stage."""
        spans = [self._device.elapsed_ms(a, b) for a, b in pairwise(self._marks)]
        return dict(zip(STAGES, spans, strict=True))

    @property
    def _box(self) -> int:
        """Address of the lung record, which begins with the box that members see; 0 without a segmenter."""
        return self._address("record") if self._segmenter else 0

    def _address(self, name: str) -> int:
        return self._results.address + self._arena.offset(name)

    def _on_device(self, array: npt.NDArray[Any]) -> Buffer:
        buffer = self._device.allocate(array.nbytes)
        self._device.upload(buffer.address, array, self.stream)
        self._device.synchronize(self.stream)
        return buffer

    def _with_box(self, manifest: Manifest, engine: DeviceEngine) -> _Segmenter:
        assert manifest.segmenter is not None
        spec, (_, _, rows, columns) = manifest.segmenter.preprocess, engine.output_shapes(1)["mask"]
        mask = self._device.allocate(4 * rows * columns)
        return _Segmenter(
            network=self._bound(engine, spec, {"mask": mask.address}, self.stream),
            preprocessor=_core.DevicePreprocessor([core_spec(spec)]),
            mask=mask,
            mask_shape=(rows, columns),
            rule=core_rule(manifest.segmenter.lung_box),
            scratch=self._device.allocate(_core.lung_scratch_bytes(rows, columns)),
        )

    def _bound(self, engine: DeviceEngine, spec: PreprocessSpec, outputs: dict[str, int], stream: Stream) -> _Network:
        tensor = self._device.allocate(int(np.prod(spec.tensor_shape)) * np.dtype(spec.dtype).itemsize)
        run = engine.bind({"image": tensor.address, **outputs}, batch=1, stream=stream.handle)
        return _Network(run=run, tensor=tensor, stream=stream, done=self._device.event())

    def _scratch_bytes(self) -> int:
        """Preprocessing and combination follow each other on one stream, so they share their working memory."""
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
            record=self._box,
        )

    def _run_members(self) -> None:
        """Each on its own stream, after the tensors are there; the screening goes on when all are done."""
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
    """The results, which go back in one copy; the members' logits lie at equal distances, as the combination wants them.

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
            raise ContractError(f"{name}: expected logits of shape (1, {labels}), the engine gives {outputs['logits']}")
        arena.add(f"logits {name}", outputs["logits"], np.float32)
    for name, outputs in shapes.items():
        if "cam" in outputs:
            arena.add(f"cam {name}", outputs["cam"], np.float32)
    return arena
