"""Latency of one screening and of each network alone, summarised in the form of `trtexec`.

    cxr-edge build-engine starter && python -m benchmarks.latency

First whole screenings, from decoded pixels and from file bytes, one after the other without pause; then the segmenter and
every member alone, its input tensor in host memory. Copies to and from a GPU (H2D, D2H) are separate from computing, by
the GPU's clock; the whole screening's H2D includes the copy into pinned memory and the launch. On a host there are no
copies, and the table has `-`.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.gpu.network import EngineOnDevice
from benchmarks.harness.report import publish
from benchmarks.harness.script import Benchmark, exit_status, make_parser
from benchmarks.harness.side_by_side import Cell, Table
from benchmarks.harness.spread import DEFAULT_RANKS, columns, parse_percentiles, spread
from benchmarks.harness.workload import (
    SOURCES,
    Workload,
    add_workload,
    at_least_zero,
    header,
    make_screen,
    report_settings,
)
from cxr_edge.backends.base import DeviceEngine, Engine
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.engines import EngineSet, NetworkFile, parts
from cxr_edge.gpu.interface import Device
from cxr_edge.names import path_argument
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Image, Roi, Screening
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "Budget", "Run", "Series", "Steps", "main", "repeat"]

BENCHMARK = Benchmark(name="latency", position=20, quick_options=("--duration", "0", "--warm-up", "0", "--iterations"))

UNSTABLE = 0.01  # trtexec's threshold for the coefficient of variation
TITLES = {"pixels": "Screening from decoded pixels", "bytes": "Screening from file bytes"}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Milliseconds of the steps of one run. None: no such step, or the backend does not measure it separately."""

    decode_ms: float | None = None
    upload_ms: float | None = None
    compute_ms: float | None = None
    download_ms: float | None = None
    enqueue_ms: float | None = None  # of submitting the work to a GPU, while the GPU may already compute


@dataclass(frozen=True, kw_only=True)
class Run:
    """One counted run."""

    start_ms: float  # since the first counted run of the series
    host_ms: float  # by the host's clock, around the whole call
    steps: Steps


@dataclass(frozen=True, kw_only=True)
class Series:
    """All runs of one subject: a kind of screening, or one network."""

    name: str
    device: bool  # whether it computes on a GPU
    runs: tuple[Run, ...]
    wall_s: float  # from the start of the first counted run to the end of the last
    warm_up_runs: int

    @property
    def per_second(self) -> float:
        return len(self.runs) / self.wall_s

    def rows(self) -> dict[str, list[float] | None]:
        """Return the milliseconds of every run per step, in the order of the output; None for a step not measured."""
        compute = "GPU compute" if self.device else "Compute"
        steps = {"Decode": "decode", "Enqueue": "enqueue", "H2D": "upload", compute: "compute", "D2H": "download"}
        host = {"End-to-end host latency": [run.host_ms for run in self.runs]}
        return {**host, **{title: self._step(f"{step}_ms") for title, step in steps.items()}}

    def _step(self, name: str) -> list[float] | None:
        times = [getattr(run.steps, name) for run in self.runs]
        return None if None in times else times


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Length of a measurement; both minimums must be met."""

    iterations: int  # minimum number of counted runs
    duration_s: float  # minimum duration of the counted runs
    warm_up_ms: float  # minimum duration of the uncounted runs before


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _measure(args, Workload.from_args(args)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_workload(parser, BENCHMARK.name)
    group = parser.add_argument_group("measurement, names and defaults as in trtexec")
    group.add_argument(
        "--iterations", type=at_least_one, default=10, metavar="N", help="minimum number of counted runs (%(default)s)"
    )
    group.add_argument(
        "--duration", type=at_least_zero, default=3, metavar="S", help="minimum seconds of counted runs (%(default)s)"
    )
    group.add_argument(
        "--warm-up",
        type=at_least_zero,
        default=200,
        metavar="MS",
        help="minimum milliseconds of uncounted runs before (%(default)s)",
    )
    group.add_argument(
        "--percentile", type=parse_percentiles, default=DEFAULT_RANKS, metavar="P,P", help="(default: 90,95,99)"
    )
    group.add_argument(
        "--export-times", type=path_argument, metavar="FILE", help="JSON file with the times of every run"
    )
    return parser


def _measure(args: argparse.Namespace, workload: Workload) -> None:
    engines = load_engines(args, workload.bundle, threads=args.threads)
    budget = Budget(iterations=args.iterations, duration_s=args.duration, warm_up_ms=args.warm_up)
    screener = Screener(workload.bundle, engines, threads=args.threads)
    facts = report_settings(workload, screener, args.threads)
    facts |= {
        "warm-up": f"{args.warm_up:g} ms",
        "counted": f"{args.iterations} runs and {args.duration:g} s at least",
    }
    print(header("cxr-edge latency", facts, engines))
    results = [_screening(screener, workload, source, engines, budget) for source in SOURCES]
    results += _networks(workload, engines, args.threads, budget)
    publish(
        name=BENCHMARK.name,
        question="How long does one screening take, and each network alone?",
        interval="; ".join(f"from {name}: {text}" for name, text in SOURCES.items())
        + "; a network alone: Engine.run from a tensor in host memory to its outputs there; loading excluded",
        settings=facts,
        tables=[_throughput(results), *(_table(s, args.percentile) for s in results)],
        targets=(),
        notes=(
            "Runs follow each other without pause, one at a time; the garbage collector is disabled.",
            "Compute is everything but decode and copies: of a whole screening the lungs, preprocess, members and "
            "combine steps.",
            "`variation`: standard deviation over mean. `-`: no such step, or not measured separately by the backend.",
        ),
        out=args.out,
        text="\n\n".join(_text(s, args.percentile) for s in results),
    )
    if args.export_times:
        _export(args.export_times, results)


def repeat(name: str, run: Callable[[int], Steps], budget: Budget, *, device: bool = False) -> Series:
    """Call run(0), run(1), ... uncounted (at least once), then counted, as long as the budget requires."""
    warm_up_runs = 0
    begin = perf_counter()
    while warm_up_runs == 0 or 1e3 * (perf_counter() - begin) < budget.warm_up_ms:
        run(warm_up_runs)
        warm_up_runs += 1
    gc.collect()
    gc.disable()
    try:
        runs = _counted(run, budget)
    finally:
        gc.enable()
    wall_s = (runs[-1].start_ms + runs[-1].host_ms) / 1e3
    return Series(name=name, device=device, runs=tuple(runs), wall_s=wall_s, warm_up_runs=warm_up_runs)


def _counted(run: Callable[[int], Steps], budget: Budget) -> list[Run]:
    runs: list[Run] = []
    begin = perf_counter()
    while len(runs) < budget.iterations or perf_counter() - begin < budget.duration_s:
        start = perf_counter()
        steps = run(len(runs))
        end = perf_counter()
        runs.append(Run(start_ms=1e3 * (start - begin), host_ms=1e3 * (end - start), steps=steps))
    return runs


def _screening(screener: Screener, workload: Workload, source: str, engines: EngineSet, budget: Budget) -> Series:
    screen = make_screen(screener, workload, source)
    return repeat(TITLES[source], lambda i: _steps(screen(i)), budget, device=engines.device is not None)


def _steps(screening: Screening) -> Steps:
    times = screening.times
    compute_ms = times.total_ms - times.decode_ms - times.upload_ms - times.download_ms
    return Steps(
        decode_ms=times.decode_ms or None,
        upload_ms=times.upload_ms or None,  # 0 on the host
        compute_ms=compute_ms,
        download_ms=times.download_ms or None,
    )


def _networks(workload: Workload, engines: EngineSet, threads: int, budget: Budget) -> list[Series]:
    loaded = [e for e in (engines.segmenter, *engines.members) if e is not None]
    results = []
    for part, engine, precision in zip(parts(workload.bundle), loaded, engines.precisions, strict=True):
        run = _engine_run(engine, part, workload.images, threads, engines.device)
        title = f"{part.name} alone, {precision}"
        results.append(repeat(title, run, budget, device=engines.device is not None))
    return results


def _engine_run(
    engine: Engine, part: NetworkFile, images: Sequence[Image], threads: int, device: Device | None
) -> Callable[[int], Steps]:
    """Return a function that runs `engine` on tensors of real images; on a device from pinned memory, step by step."""
    preprocessor = Preprocessor([part.preprocess], threads=threads)
    inputs = []
    for image in images:
        (tensor,) = preprocessor.run([image.pixels], [Roi.full(image.width_px, image.height_px)])
        inputs.append({engine.inputs[0].name: tensor})
    if device is not None and isinstance(engine, DeviceEngine):
        bound = EngineOnDevice(engine, device, inputs)
        return lambda i: Steps(**asdict(bound.run(i)))

    def run(i: int) -> Steps:
        start = perf_counter()
        engine.run(inputs[i % len(inputs)])
        return Steps(compute_ms=1e3 * (perf_counter() - start))

    return run


def _throughput(results: Sequence[Series]) -> Table:
    return Table(
        title="Throughput, one run after the other",
        columns=("what", "runs/s", "runs", "wall s", "warm-up runs"),
        rows=tuple((s.name, s.per_second, len(s.runs), s.wall_s, s.warm_up_runs) for s in results),
    )


def _table(series: Series, ranks: Sequence[float]) -> Table:
    headings = columns(ranks)
    rows: list[tuple[Cell, ...]] = []
    for title, times in series.rows().items():
        rows.append((title, *((None,) * len(headings) if times is None else spread(times, ranks).cells())))
    return Table(title=series.name, columns=("step", *headings), rows=tuple(rows))


def _text(series: Series, ranks: Sequence[float]) -> str:
    lines = [f"=== Performance summary: {series.name} ===", f"Throughput: {series.per_second:.6g} qps"]
    for title, times in series.rows().items():
        lines.append(f"{title}: {'-' if times is None else spread(times, ranks).line()}")
    lines.append(
        f"Total host wall time: {series.wall_s:.6g} s, {len(series.runs)} runs after {series.warm_up_runs} uncounted"
    )
    variation = spread([run.host_ms for run in series.runs]).variation
    if variation > UNSTABLE:
        lines.append(
            f"* Unstable: standard deviation {variation:.1%} of the mean. Lock the clocks, stop other work, run longer."
        )
    return "\n".join(lines)


def _export(file: Path, results: Sequence[Series]) -> None:
    """Write one object per series with all its runs, as `trtexec --exportTimes` does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(series) for series in results], indent=1, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
    print(f"times of every run written to {file}")


if __name__ == "__main__":
    sys.exit(main())
