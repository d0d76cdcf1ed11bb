"""Overhead of a screening on a GPU outside the engines, and the work that the host submits per image.

Takes a workload and its engines on a device; returns a `Section` with the engines' own times, their sum and their
critical path (the segmenter, then the slowest member, because members run concurrently), compared with the screening's
stages by the same clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from benchmarks.gpu.device import CountingDevice, Section, Timed, time_work
from benchmarks.gpu.network import EngineOnDevice
from benchmarks.harness.report import Target
from benchmarks.harness.side_by_side import Cell, Table
from benchmarks.harness.workload import Workload
from cxr_edge.backends.base import DeviceEngine
from cxr_edge.bench import percentiles
from cxr_edge.engines import SEGMENTER, EngineSet, NetworkFile, parts
from cxr_edge.gpu.arena import Arena
from cxr_edge.gpu.interface import Device
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Image, Roi, StageTimes
from cxr_edge.screening.gpu_pipeline import DevicePipeline
from cxr_edge.screening.modes import Modes

__all__ = [
    "MAX_LAUNCHES",
    "MAX_RATIO",
    "OwnTime",
    "ScreeningRun",
    "measure",
    "not_measured",
    "own_time",
    "run_screenings",
]

MAX_RATIO = 1.2  # of the screening's time to the engines' own time
MAX_LAUNCHES = 1  # pieces of work submitted per image: the graph

_STAGES = ("lungs_ms", "preprocess_ms", "members_ms", "combine_ms", "download_ms")  # measured by the GPU's clock

Milliseconds = npt.NDArray[np.float64]
Inputs = Sequence[dict[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True)
class OwnTime:
    """Times of one engine alone, on tensors of real images."""

    part: str  # name of the network
    enqueued: Milliseconds = field(repr=False)  # one inference after the other, without a graph
    graph: Timed = field(repr=False)

    @property
    def p50_ms(self) -> float:
        """Return the smaller median, so that slow enqueueing by the host does not make the screening look better."""
        return float(min(np.median(self.enqueued), np.median(self.graph.milliseconds)))


@dataclass(frozen=True, kw_only=True)
class ScreeningRun:
    """Counted screenings, and the work that the host submitted for all of them."""

    times: tuple[StageTimes, ...] = field(repr=False)
    execution_mode: str  # of the pipeline
    launches: int  # graphs
    pieces: int  # single copies and kernels

    @property
    def gpu_ms(self) -> Milliseconds:
        """Return the time from lungs to download, by the GPU's clock."""
        return np.asarray([sum(getattr(t, stage) for stage in _STAGES) for t in self.times])

    @property
    def total_ms(self) -> Milliseconds:
        """Return the time from pixels to probabilities, by the host's clock."""
        return np.asarray([t.total_ms for t in self.times])

    @property
    def submitted_per_image(self) -> float:
        return (self.launches + self.pieces) / len(self.times)


def measure(workload: Workload, engines: EngineSet, *, rounds: int, warmup: int) -> Section:
    """Return section 4, for the engines of one runtime."""
    device = engines.device
    assert device is not None
    loaded = [e for e in (engines.segmenter, *engines.members) if e is not None]
    own_times = [
        own_time(device, engine, part, workload.images, rounds=rounds, warmup=warmup)
        for engine, part in zip(loaded, parts(workload.bundle), strict=True)
        if isinstance(engine, DeviceEngine)
    ]
    run = run_screenings(workload, engines, rounds=rounds, warmup=warmup)
    tables = (_times_table(engines.backend, own_times, run), _launch_table(engines.backend, run))
    return Section(tables=tables, targets=_targets(engines.backend, own_times, run))


def not_measured(backend: str, reason: str) -> Section:
    """Return section 4 for a runtime that cannot run here."""
    table = Table(title=_title(backend), columns=("what", "note"), rows=(("not measured", reason),))
    return Section(tables=(table,), targets=_make_targets(backend, None, None, None))


def own_time(
    device: Device, engine: DeviceEngine, part: NetworkFile, images: Sequence[Image], *, rounds: int, warmup: int
) -> OwnTime:
    """Time one engine alone."""
    inputs = _inputs(engine, part, images)
    bound = EngineOnDevice(engine, device, inputs)
    steps = [bound.run(i) for i in range(warmup + rounds)]
    return OwnTime(
        part=part.name,
        enqueued=np.asarray([s.compute_ms for s in steps[warmup:]]),
        graph=_as_graph(device, engine, inputs[0], rounds, warmup),
    )


def _inputs(engine: DeviceEngine, part: NetworkFile, images: Sequence[Image]) -> Inputs:
    preprocessor = Preprocessor([part.preprocess])
    boxes = [Roi.full(image.width_px, image.height_px) for image in images]
    tensors = [preprocessor.run([image.pixels], [box])[0] for image, box in zip(images, boxes, strict=True)]
    return [{engine.inputs[0].name: tensor} for tensor in tensors]


def _as_graph(
    device: Device, engine: DeviceEngine, inputs: dict[str, npt.NDArray[np.float32]], rounds: int, warmup: int
) -> Timed:
    arena = Arena()
    for name, array in inputs.items():
        arena.add(name, array.shape, array.dtype)
    shapes = engine.output_shapes(1)
    for tensor in engine.outputs:
        arena.add(tensor.name, shapes[tensor.name], tensor.dtype)
    names = [*inputs, *shapes]
    with device.current():
        stream, memory, pinned = device.stream(), device.allocate(arena.n_bytes), device.pinned(arena.n_bytes)
        pinned[:] = 0
        for name, array in inputs.items():
            arena.views(pinned)[name][...] = array
        device.upload(memory.address, pinned, stream)
        addresses = {name: memory.address + arena.offset(name) for name in names}
        enqueue = engine.bind(addresses, batch=1, stream=stream.handle)
        return time_work(device, stream, enqueue, rounds=rounds, warmup=warmup)


def run_screenings(workload: Workload, engines: EngineSet, *, rounds: int, warmup: int) -> ScreeningRun:
    """Screen decoded images, one after the other, and count the work that the host submits for them."""
    assert engines.device is not None
    device, images, manifest = CountingDevice(engines.device), workload.images, workload.bundle.manifest
    modes = Modes(manifest, engines, whole=True)
    pipeline = DevicePipeline(manifest, engines.segmenter, engines.members, device, modes)  # type: ignore[arg-type]
    for i in range(2 * len(images) + warmup):  # every image size must have been captured before counting
        pipeline.run(images[i % len(images)])
    device.launches = device.pieces = 0
    times = tuple(pipeline.run(images[i % len(images)]).times for i in range(rounds))
    return ScreeningRun(
        times=times, execution_mode=pipeline.execution_mode, launches=device.launches, pieces=device.pieces
    )


def _title(backend: str) -> str:
    return f"4. The engines' share of a screening, {backend}"


def _sum_and_path(own_times: Sequence[OwnTime]) -> tuple[float, float]:
    """Return the sum of the engines' own times, and the time of their critical path."""
    segmenter = sum(own.p50_ms for own in own_times if own.part == SEGMENTER)
    members = [own.p50_ms for own in own_times if own.part != SEGMENTER]
    return segmenter + sum(members), segmenter + max(members)


def _times_table(backend: str, own_times: Sequence[OwnTime], run: ScreeningRun) -> Table:
    total, path = _sum_and_path(own_times)
    rows: list[tuple[Cell, ...]] = []
    for own in own_times:
        rows.append((f"{own.part} alone, enqueued", *_spread(own.enqueued), None, None, ""))
        rows.append((f"{own.part} alone, as a graph", *_spread(own.graph.milliseconds), None, None, own.graph.note))
    empty: tuple[Cell, ...] = (None,) * 5
    note = "the smaller median of each engine"
    rows.append(("sum of the engines' own times", total, *empty, note))
    rows.append(("critical path: segmenter, slowest member", path, *empty, note))
    for name, values, note in (
        ("screening, lungs to download, GPU's clock", run.gpu_ms, run.execution_mode),
        (
            "screening, pixels to probabilities, host's clock",
            run.total_ms,
            "including the transfer of the image to the GPU",
        ),
    ):
        p50 = float(np.median(values))
        rows.append((name, *_spread(values), p50 / total, p50 / path, note))
    columns = ("what", "p50 ms", "p90 ms", "p99 ms", "n", "over the sum", "over the path", "note")
    return Table(title=_title(backend), columns=columns, rows=tuple(rows))


def _spread(values: Milliseconds) -> tuple[Cell, ...]:
    return (*percentiles(values), values.size)


def _launch_table(backend: str, run: ScreeningRun) -> Table:
    n = len(run.times)
    rows = (
        ("graphs launched", run.launches, run.launches / n),
        ("copies and kernels one by one", run.pieces, run.pieces / n),
    )
    return Table(
        title=f"4. Work submitted by the host, {backend}", columns=("what", f"{n} images", "per image"), rows=rows
    )


def _targets(backend: str, own_times: Sequence[OwnTime], run: ScreeningRun) -> tuple[Target, ...]:
    total, path = _sum_and_path(own_times)
    p50 = float(np.median(run.gpu_ms))
    return _make_targets(backend, p50 / total, p50 / path, run.submitted_per_image)


def _make_targets(backend: str, total: float | None, path: float | None, submitted: float | None) -> tuple[Target, ...]:
    return (
        Target(text=f"screening's GPU stages over the sum of the engines' own times, {backend}", required=MAX_RATIO,
               at_least=False, measured=total),
        Target(text=f"the same over their critical path, {backend}", required=MAX_RATIO, at_least=False, measured=path),
        Target(text=f"pieces of work that the host submits per image, {backend}", required=MAX_LAUNCHES, at_least=False,
               measured=submitted),
    )  # fmt: skip
