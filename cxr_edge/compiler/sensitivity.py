"""Which layers of a network reduced precision hurts: each alone is reduced, and the change of the output is measured.

A `Study` says what to reduce and what to compare with; a ranking, worst first, comes out. All of it runs through ONNX
Runtime on the CPU, whatever the build is for: the graph is the same for every backend.
"""

from __future__ import annotations

import heapq
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.graph.graph import Graph

__all__ = ["BUDGET_S", "IMAGES", "Harm", "Ranking", "Study", "rank_layers", "units"]

IMAGES = 8  # the ranking needs the order of magnitude, not the last digit
BUDGET_S = 60.0
_LEAST_RUNS = 4  # fewer groups than this tell nothing about layers

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What reduced precision in `layers` (output names; more than one where time did not allow to tell them apart) does.

    moved: root mean square change of the judged output, over the standard deviation of that output in float32; None
    where it was not finite any more.
    """

    layers: tuple[str, ...]
    moved: float | None

    def __str__(self) -> str:
        """`trunk.2.0/Conv + trunk.3.0/Conv (12.00%)`: names in short, change in per cent of the output's spread."""
        moved = "not finite" if self.moved is None else f"{self.moved:.2%}"
        return f"{' + '.join(map(_short, self.layers))} ({moved})"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """harms: worst first. skipped: why there are none, else None."""

    harms: tuple[Harm, ...] = ()
    skipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """One network and one reduced precision.

    units: what is reduced together, by layer: the outputs of the layer's nodes. reduced: the network with all nodes but
    those of the given outputs in reduced precision, as ONNX Runtime can run it. inputs, wanted: the images, at most
    `IMAGES` are used, and the judged output of the fp32 network for them. run_s: how long that takes for one image.
    """

    model: onnx.ModelProto = field(repr=False)
    units: dict[str, frozenset[str]] = field(repr=False)
    reduced: Callable[[frozenset[str]], onnx.ModelProto]
    output: str
    inputs: Sequence[Tensor] = field(repr=False)
    wanted: Sequence[Tensor] = field(repr=False)
    run_s: float
    threads: int = 1


def rank_layers(study: Study, *, budget_s: float = BUDGET_S) -> Ranking:
    """Measure the harm of every layer, worst first.

    Where `budget_s` does not pay for all, layers are first measured in groups of neighbours, and the worst group is split
    until the time is up. Nothing is measured, and the ranking says so, where it would not even pay for a few groups.
    """
    least_s = _LEAST_RUNS * min(IMAGES, len(study.inputs)) * study.run_s
    if least_s > budget_s:
        return Ranking(
            skipped=f"one image takes {study.run_s:.1f} s in fp32, so that to find the layers that hurt would take more "
            f"than {least_s:.0f} s (at most {budget_s:.0f} s are spent on it)"
        )
    measure = _Measurement(study)
    end = time.perf_counter() + budget_s
    layers = tuple(study.units)
    first = _Measured.of(measure, layers[:1])
    groups = _groups(layers[1:], int(budget_s / first.seconds))
    return Ranking(harms=_by_harm(_split_the_worst([first, *(_Measured.of(measure, g) for g in groups)], measure, end)))


def units(model: onnx.ModelProto, layers: Sequence[str]) -> dict[str, frozenset[str]]:
    """The outputs of each layer's nodes: its own, and those of nodes without weights whose latest input is its work.

    So every node after the first layer belongs to exactly one: a Relu to its convolution, an Add to the later branch.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    place = {layer: i for i, layer in enumerate(layers)}
    owner: dict[str, int] = {}
    for node in Graph(copy).nodes:
        inherited = [owner[name] for name in node.input if name in owner]
        mine = place.get(node.output[0], max(inherited, default=-1))
        if mine >= 0:
            owner.update(dict.fromkeys(node.output, mine))
    return {layer: frozenset(name for name, i in owner.items() if i == place[layer] and name) for layer in layers}


def _short(name: str) -> str:
    """A name as PyTorch's exporter makes it without what it says twice: /a/a.1/a.1.0/Conv_output_0 is a.1.0/Conv."""
    words = name.removesuffix("_output_0").strip("/").split("/")
    return "/".join(w for i, w in enumerate(words) if not (i + 1 < len(words) and words[i + 1].startswith(f"{w}.")))


@dataclass(frozen=True)
class _Measured:
    """A group of layers and its harm; infinite where the output was not finite."""

    layers: tuple[str, ...]
    moved: float
    seconds: float

    @classmethod
    def of(cls, measure: _Measurement, layers: tuple[str, ...]) -> _Measured:
        start = time.perf_counter()
        moved = measure(layers)
        return cls(layers, moved, max(time.perf_counter() - start, 1e-6))


class _Measurement:
    """Called with layers, gives the change of the output when only these are reduced."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._chosen = np.unique(np.linspace(0, len(study.inputs) - 1, IMAGES).round().astype(int))
        self._wanted = np.stack([study.wanted[i] for i in self._chosen])
        self._spread = max(float(np.stack(list(study.wanted)).std()), 1e-6)
        self._all = frozenset(name for node in study.model.graph.node for name in node.output)

    def __call__(self, layers: tuple[str, ...]) -> float:
        study = self._study
        reduced = frozenset[str]().union(*(study.units[layer] for layer in layers))
        with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
            path = Path(folder, "reduced.onnx")
            onnx.save(study.reduced(self._all - reduced), path)
            engine = OnnxRuntimeBackend().load_reference(path, CompileOptions(threads=study.threads))
        got = np.stack([engine.run({"image": study.inputs[i]})[study.output][0] for i in self._chosen])
        with np.errstate(invalid="ignore", over="ignore"):
            moved = float(np.sqrt(np.mean((got.astype(np.float64) - self._wanted) ** 2))) / self._spread
        return moved if np.isfinite(moved) else float("inf")


def _groups(layers: tuple[str, ...], runs: int) -> list[tuple[str, ...]]:
    """`layers` one by one if so many runs are to be had, else in neighbourhoods that take half of the runs."""
    count = len(layers) if len(layers) <= runs else max(_LEAST_RUNS, runs // 2)
    edges = np.linspace(0, len(layers), min(count, len(layers)) + 1).round().astype(int)
    return [layers[a:b] for a, b in itertools.pairwise(edges)]


def _split_the_worst(groups: list[_Measured], measure: _Measurement, end: float) -> list[_Measured]:
    """Split the worst group in two, again and again, while there is time and one of more than one layer."""
    found = [g for g in groups if len(g.layers) == 1]
    waiting = [(-g.moved, i, g) for i, g in enumerate(groups) if len(g.layers) > 1]
    heapq.heapify(waiting)
    serial = len(groups)
    while waiting and time.perf_counter() < end:
        worst = heapq.heappop(waiting)[2]
        middle = len(worst.layers) // 2
        for half in (worst.layers[:middle], worst.layers[middle:]):
            made = _Measured.of(measure, half)
            serial += 1
            if len(half) == 1:
                found.append(made)
            else:
                heapq.heappush(waiting, (-made.moved, serial, made))
    return found + [g for _, _, g in waiting]


def _by_harm(measured: list[_Measured]) -> tuple[Harm, ...]:
    order = sorted(measured, key=lambda m: m.moved, reverse=True)
    return tuple(Harm(layers=m.layers, moved=m.moved if np.isfinite(m.moved) else None) for m in order)
