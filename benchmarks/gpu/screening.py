"""The whole screening on a GPU beside its peers: same images, same run, from decoded pixels and from the files' bytes.

In: a `Workload`, the engines of every GPU runtime or the reason why it has none, and the peers' networks; out: an
`Answer` with a table for each beginning. Who cannot run here stays in the table; the answers' difference is from fp32
on the CPU.
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
EAGER = "usual, PyTorch eager"
GRAPHS = "usual, PyTorch with CUDA graphs"
HOST_ARRAYS = "usual, ONNX Runtime CUDA, arrays of the host"

Loaded = Mapping[str, EngineSet | str]  # by backend: its engines, or why it has none
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How contenders take turns. settle_ms: rest between two of them."""

    rounds: int
    warmup: int
    settle_ms: int = 0


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One way to screen image i, by what it starts from. runs None: it cannot run here, the note says why."""

    name: str
    runs: Mapping[str, Callable[[int], Probabilities]] | None
    note: str

    def implementation(self, source: str) -> Implementation:
        return Implementation(name=self.name, run=None if self.runs is None else self.runs[source], note=self.note)


@dataclass(frozen=True, kw_only=True)
class Peers:
    """What makes the networks of the usual pipelines; each may raise, and then its message is the reason."""

    eager: Callable[[], GpuNetworks]
    cuda_graphs: Callable[[], GpuNetworks]
    host_arrays: Callable[[], GpuNetworks]


def measure_pipelines(
    title: str, workload: Workload, ways: Sequence[Pipeline], pace: Pace, *, reference: Screener
) -> Section:
    """Question 3. title: what the tables are called, before what they start from. ways: the first that runs is the
    baseline of the ratios.
    """
    tables = tuple(_table(f"{title}, from {source}", workload, source, ways, pace, reference) for source in SOURCES)
    return Section(tables=tables)


def not_measured(title: str, reason: str) -> Section:
    """Question 3 where it cannot be asked at all."""
    return Section(tables=(Table(title=title, columns=("what", "note"), rows=(("not measured", reason),)),))


def _table(
    title: str, workload: Workload, source: str, ways: Sequence[Pipeline], pace: Pace, reference: Screener
) -> Table:
    entrants = [w.implementation(source) for w in ways]
    differences = _differences(entrants, _answers(make_screen(reference, workload, source)), len(workload.images))
    measured = measure(
        entrants,
        rounds=pace.rounds,
        warmup=pace.warmup,
        items=len(workload.images),
        between=WaitForIdle(pace.settle_ms / 1e3),
        lead_in=1,
    )
    return latency_table(title, measured, baseline=_baseline(measured), extra={"max difference": differences})


def _baseline(measured: Sequence[Measured]) -> str:
    """The first that ran, or the first at all if none did."""
    return next((m for m in measured if m.milliseconds.size), measured[0]).implementation.name


def _differences(
    entrants: Sequence[Implementation], judge: Callable[[int], Probabilities], images: int
) -> dict[str, Cell]:
    """Largest difference of the probabilities over all images, after each has seen all of them once.

    That first time is also the warm-up of every image's size: a GPU pipeline captures a graph a class of sizes.
    """
    expected = [judge(i) for i in range(images)]
    found: dict[str, Cell] = {}
    for entrant in entrants:
        if entrant.run is not None:
            for _ in range(2):
                found[entrant.name] = max(max_difference(e, entrant.run(i)) for i, e in enumerate(expected))
    return found


def all_pipelines(
    workload: Workload, loaded: Loaded, cpu: EngineSet | str, peers: Peers, threads: int
) -> list[Pipeline]:
    """Everyone on the networks of the workload's bundle: cxr-edge's ways, then the usual ones."""
    plain = engines.reference(workload.bundle, threads=threads)
    ways = [way for name, found in loaded.items() for way in cxr_edge_pipelines(name, found, workload, threads)]
    ways += [_screener(CPU, cpu, workload, threads), _screener(REFERENCE, plain, workload, threads)]
    return [*ways, *baselines(workload, peers)]


def cxr_edge_pipelines(backend: str, found: EngineSet | str, workload: Workload, threads: int) -> list[Pipeline]:
    """cxr-edge on one GPU runtime, as a graph and forced to plain streams."""
    names = [f"cxr-edge, {backend}, one graph", f"cxr-edge, {backend}, plain streams"]
    if isinstance(found, str):
        return [Pipeline(name=name, runs=None, note=found) for name in names]
    assert found.device is not None
    plain = replace(found, device=GraphlessDevice(found.device))
    return [_screener(name, e, workload, threads) for name, e in zip(names, (found, plain), strict=True)]


def _screener(name: str, found: EngineSet | str, workload: Workload, threads: int) -> Pipeline:
    if isinstance(found, str):
        return Pipeline(name=name, runs=None, note=found)
    try:
        screener = Screener(workload.bundle, found, threads=threads)
    except CxrEdgeError as error:
        return Pipeline(name=name, runs=None, note=one_line(error))
    runs = {source: _answers(make_screen(screener, workload, source)) for source in SOURCES}
    return Pipeline(name=name, runs=runs, note=screener.describe())


def _answers(screen: Callable[[int], Screening]) -> Callable[[int], Probabilities]:
    return lambda i: np.asarray(screen(i).probabilities)


def baselines(workload: Workload, peers: Peers) -> list[Pipeline]:
    """The usual pipelines."""
    made = {EAGER: peers.eager, GRAPHS: peers.cuda_graphs, HOST_ARRAYS: peers.host_arrays}
    return [_peer(name, workload, make) for name, make in made.items()]


def _peer(name: str, workload: Workload, make: Callable[[], GpuNetworks]) -> Pipeline:
    ensemble = EnsembleSpec.of(workload.bundle.manifest)
    try:
        networks = make()
        peers.screen(workload.images[0].pixels, ensemble, networks)
    except Exception as error:  # a peer's libraries raise anything; without it the other rows still stand
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
    """The usual pipelines on the bundle's networks. modules: makes them for torch, or raises; asked once."""
    found, segmenter = parts(workload.bundle), workload.bundle.manifest.segmenter is not None
    specs = [p.preprocess for p in found]
    kept: list[Sequence[object]] = []

    def once() -> Sequence[object]:
        reason = peers.torch_unavailable_reason()
        if reason is not None:
            raise RuntimeError(reason)
        kept[:] = kept or [modules()]
        return kept[0]

    return Peers(
        eager=lambda: peers.eager(once(), segmenter=segmenter),
        cuda_graphs=lambda: peers.cuda_graphs(once(), specs, segmenter=segmenter),
        host_arrays=lambda: peers.onnxruntime_sessions(found, segmenter=segmenter),
    )


def one_line(error: Exception) -> str:
    """An error's words as a table's cell can hold them."""
    return " ".join(str(error).split())[:300] or type(error).__name__
