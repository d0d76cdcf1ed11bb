"""Whole screening on a GPU beside baseline pipelines: same images, same run, from decoded pixels and from file bytes.

Takes a `Workload`, the engines of every GPU runtime or the reason why it has none, and the baselines' networks; returns a
`Section` with one table per source. Pipelines that cannot run here stay in the tables; differences of the probabilities
are from fp32 on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from benchmarks.gpu import peers
from benchmarks.gpu.device import GraphlessDevice, Section
from benchmarks.gpu.peers import GpuNetworks
from benchmarks.harness.side_by_side import (
    Cell,
    Implementation,
    Measured,
    Table,
    WaitForIdle,
    latency_table,
    max_difference,
    measure,
)
from benchmarks.harness.workload import SOURCES, Workload, make_screen
from benchmarks.peers import pipelines
from benchmarks.peers.pipelines import EnsembleSpec
from cxr_edge import engines
from cxr_edge.engines import EngineSet, parts
from cxr_edge.errors import CxrEdgeError
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener

__all__ = [
    "CPU",
    "EAGER",
    "GRAPHS",
    "HOST_ARRAYS",
    "REFERENCE",
    "Pace",
    "Peers",
    "Pipeline",
    "all_pipelines",
    "baselines",
    "cxr_edge_pipelines",
    "make_peers",
    "measure_pipelines",
    "not_measured",
    "one_line",
]

CPU = "cxr-edge on the CPU, built engines"
REFERENCE = "cxr-edge on the CPU, fp32 ONNX"
EAGER = "OpenCV/NumPy + PyTorch eager"
GRAPHS = "OpenCV/NumPy + PyTorch with CUDA graphs"
HOST_ARRAYS = "OpenCV/NumPy + ONNX Runtime CUDA, arrays in host memory"

Loaded = Mapping[str, EngineSet | str]  # engines by backend, or the reason why it has none
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Rounds and rests of a measurement."""

    rounds: int
    warmup: int  # uncounted rounds before
    settle_ms: int = 0  # rest between two implementations


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One implementation of the whole screening."""

    name: str
    runs: Mapping[str, Callable[[int], Probabilities]] | None  # screen image i, by source; None: cannot run here
    note: str  # description, or the reason why it cannot run

    def implementation(self, source: str) -> Implementation:
        return Implementation(name=self.name, run=None if self.runs is None else self.runs[source], note=self.note)


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Functions that load the networks of the baselines; an error's message becomes the reason in the table."""

    eager: Callable[[], GpuNetworks]
    cuda_graphs: Callable[[], GpuNetworks]
    host_arrays: Callable[[], GpuNetworks]


def measure_pipelines(
    title: str, workload: Workload, pipelines: Sequence[Pipeline], pace: Pace, *, reference: Screener
) -> Section:
    """Return section 3.

    title: of the tables; the source is appended.
    pipelines: the first one that runs is the baseline of the ratios.
    """
    tables = tuple(
        _table(f"{title}, from {source}", workload, source, pipelines, pace, reference) for source in SOURCES
    )
    return Section(tables=tables)


def not_measured(title: str, reason: str) -> Section:
    """Return section 3 where nothing can be measured."""
    return Section(tables=(Table(title=title, columns=("what", "note"), rows=(("not measured", reason),)),))


def _table(
    title: str, workload: Workload, source: str, pipelines: Sequence[Pipeline], pace: Pace, reference: Screener
) -> Table:
    implementations = [p.implementation(source) for p in pipelines]
    differences = _differences(
        implementations, _probabilities(make_screen(reference, workload, source)), len(workload.images)
    )
    measured = measure(
        implementations,
        rounds=pace.rounds,
        warmup=pace.warmup,
        items=len(workload.images),
        between=WaitForIdle(pace.settle_ms / 1e3),
        lead_in=1,
    )
    return latency_table(title, measured, baseline=_baseline(measured), extra={"max difference": differences})


def _baseline(measured: Sequence[Measured]) -> str:
    """Return the name of the first implementation that ran, or of the first if none did."""
    return next((m for m in measured if m.milliseconds.size), measured[0]).implementation.name


def _differences(
    implementations: Sequence[Implementation], reference: Callable[[int], Probabilities], images: int
) -> dict[str, Cell]:
    """Return the largest difference of the probabilities over all images, in a second pass over them.

    The first pass is the warm-up for every image size: a GPU pipeline captures one graph per class of sizes.
    """
    expected = [reference(i) for i in range(images)]
    differences: dict[str, Cell] = {}
    for implementation in implementations:
        if implementation.run is not None:
            for _ in range(2):
                differences[implementation.name] = max(
                    max_difference(e, implementation.run(i)) for i, e in enumerate(expected)
                )
    return differences


def all_pipelines(
    workload: Workload, loaded: Loaded, cpu: EngineSet | str, peers: Peers, threads: int
) -> list[Pipeline]:
    """Return all pipelines on the networks of the workload's bundle: cxr-edge's, then the baselines."""
    plain = engines.reference(workload.bundle, threads=threads)
    pipelines = [
        p for name, engine_set in loaded.items() for p in cxr_edge_pipelines(name, engine_set, workload, threads)
    ]
    pipelines += [_screener(CPU, cpu, workload, threads), _screener(REFERENCE, plain, workload, threads)]
    return [*pipelines, *baselines(workload, peers)]


def cxr_edge_pipelines(backend: str, loaded: EngineSet | str, workload: Workload, threads: int) -> list[Pipeline]:
    """Return cxr-edge on one GPU runtime, as a graph and with plain streams."""
    names = [f"cxr-edge, {backend}, one graph", f"cxr-edge, {backend}, plain streams"]
    if isinstance(loaded, str):
        return [Pipeline(name=name, runs=None, note=loaded) for name in names]
    assert loaded.device is not None
    plain = replace(loaded, device=GraphlessDevice(loaded.device))
    return [_screener(name, e, workload, threads) for name, e in zip(names, (loaded, plain), strict=True)]


def _screener(name: str, loaded: EngineSet | str, workload: Workload, threads: int) -> Pipeline:
    if isinstance(loaded, str):
        return Pipeline(name=name, runs=None, note=loaded)
    try:
        screener = Screener(workload.bundle, loaded, threads=threads)
    except CxrEdgeError as error:
        return Pipeline(name=name, runs=None, note=one_line(error))
    runs = {source: _probabilities(make_screen(screener, workload, source)) for source in SOURCES}
    return Pipeline(name=name, runs=runs, note=screener.describe())


def _probabilities(screen: Callable[[int], Screening]) -> Callable[[int], Probabilities]:
    return lambda i: np.asarray(screen(i).probabilities)


def baselines(workload: Workload, peers: Peers) -> list[Pipeline]:
    """Return the baseline pipelines."""
    loaders = {EAGER: peers.eager, GRAPHS: peers.cuda_graphs, HOST_ARRAYS: peers.host_arrays}
    return [_baseline_pipeline(name, workload, load) for name, load in loaders.items()]


def _baseline_pipeline(name: str, workload: Workload, load: Callable[[], GpuNetworks]) -> Pipeline:
    ensemble = EnsembleSpec.from_manifest(workload.bundle.manifest)
    try:
        networks = load()
        peers.screen(workload.images[0].pixels, ensemble, networks)
    except Exception as error:  # a baseline's libraries may raise anything; the other rows stay valid without it
        return Pipeline(name=name, runs=None, note=one_line(error))
    pixels = [image.pixels for image in workload.images]
    return Pipeline(
        name=name,
        runs={
            "pixels": lambda i: peers.screen(pixels[i], ensemble, networks),
            "bytes": lambda i: peers.screen(pipelines.decode(workload.files[i]), ensemble, networks),
        },
        note="preprocessing with OpenCV and NumPy on the host",
    )


def make_peers(workload: Workload, modules: Callable[[], Sequence[object]]) -> Peers:
    """Return the loaders of the baselines for the bundle's networks. modules: makes torch modules or raises; called once."""
    networks, segmenter = parts(workload.bundle), workload.bundle.manifest.segmenter is not None
    specs = [p.preprocess for p in networks]
    cached: list[Sequence[object]] = []

    def modules_once() -> Sequence[object]:
        reason = peers.torch_unavailable_reason()
        if reason is not None:
            raise RuntimeError(reason)
        cached[:] = cached or [modules()]
        return cached[0]

    return Peers(
        eager=lambda: peers.eager(modules_once(), segmenter=segmenter),
        cuda_graphs=lambda: peers.cuda_graphs(modules_once(), specs, segmenter=segmenter),
        host_arrays=lambda: peers.onnxruntime_sessions(networks, segmenter=segmenter),
    )


def one_line(error: Exception) -> str:
    """Return an error's message on one line of at most 300 characters, for a table cell."""
    return " ".join(str(error).split())[:300] or type(error).__name__
