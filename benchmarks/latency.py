"""How long does one screening take, and each network alone? A summary as `trtexec` prints it.

    cxr-edge build-engine starter && python -m benchmarks.latency

First whole screenings, from decoded pixels and from files' bytes, one after the other without pause; then the segmenter
and every member alone, its input tensor in host memory. Copies to and from a GPU (H2D, D2H) stand apart from computing, by
the GPU's clock, and the whole screening's H2D holds the copy into pinned memory and the launch; on a host there are no
copies, and the table says `-`.
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
from benchmarks.harness.side_by_side import Cell, Table
from benchmarks.harness.spread import DEFAULT_RANKS, columns, ranks_argument, spread
from benchmarks.harness.workload import SOURCES, Workload, add_workload, at_least_zero, head, screening, settings
from cxr_edge.backends.base import DeviceEngine, Engine
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.engines import EngineSet, NetworkFile, parts
from cxr_edge.errors import CxrEdgeError
from cxr_edge.gpu.interface import Device
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Image, Roi, Screening
from cxr_edge.screening.screener import Screener

__all__ = ["Budget", "Run", "Section", "Steps", "main", "repeat"]

UNSTABLE = 0.01  # trtexec's threshold for the coefficient of variation
WHOLE = {"pixels": "Screening from decoded pixels", "bytes": "Screening from file bytes"}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Milliseconds of the steps of one run. None: there is no such step, or the backend does not tell it apart.

    enqueue_ms: handing the work to a GPU, which goes on while the GPU computes.
    """

    decode_ms: float | None = None
    upload_ms: float | None = None
    compute_ms: float | None = None
    download_ms: float | None = None
    enqueue_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One counted run. start_ms: since its section's first. host_ms: by the host's clock, around the whole call."""

    start_ms: float
    host_ms: float
    steps: Steps


@dataclass(frozen=True, kw_only=True)
class Section:
    """All runs of one thing. device: it computes on a GPU. wall_s: from the first counted run to the last's end."""

    name: str
    device: bool
    runs: tuple[Run, ...]
    wall_s: float
    warm_up_runs: int

    @property
    def per_second(self) -> float:
        return len(self.runs) / self.wall_s

    def rows(self) -> dict[str, list[float] | None]:
        """Milliseconds of every run by step, in the order of the output; None for a step that is not told apart."""
        compute = "GPU compute" if self.device else "Compute"
        steps = {"Decode": "decode", "Enqueue": "enqueue", "H2D": "upload", compute: "compute", "D2H": "download"}
        host = {"End-to-end host latency": [run.host_ms for run in self.runs]}
        return {**host, **{title: self._step(f"{step}_ms") for title, step in steps.items()}}

    def _step(self, name: str) -> list[float] | None:
        found = [getattr(run.steps, name) for run in self.runs]
        return None if None in found else found


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to measure: so many runs and so many seconds at least, both; before them warm_up_ms uncounted."""

    iterations: int
    duration_s: float
    warm_up_ms: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    try:
        workload = Workload.of(args)
        engines = load_engines(args, workload.bundle, threads=args.threads)
        _measure(args, workload, engines)
    except CxrEdgeError as error:
        print(f"latency: {error}", file=sys.stderr)
        return 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n")[0])
    add_workload(parser, "latency")
    group = parser.add_argument_group("measuring, named and preset as in trtexec")
    group.add_argument(
        "--iterations", type=at_least_one, default=10, metavar="N", help="counted runs at least (%(default)s)"
    )
    group.add_argument(
        "--duration", type=at_least_zero, default=3, metavar="S", help="seconds of them at least (%(default)s)"
    )
    group.add_argument(
        "--warm-up", type=at_least_zero, default=200, metavar="MS", help="milliseconds uncounted before (%(default)s)"
    )
    group.add_argument(
        "--percentile", type=ranks_argument, default=DEFAULT_RANKS, metavar="P,P", help="(default: 90,95,99)"
    )
    group.add_argument("--export-times", type=Path, metavar="FILE", help="JSON file with the times of every run")
    return parser


def _measure(args: argparse.Namespace, workload: Workload, engines: EngineSet) -> None:
    budget = Budget(iterations=args.iterations, duration_s=args.duration, warm_up_ms=args.warm_up)
    screener = Screener(workload.bundle, engines, threads=args.threads)
    facts = settings(workload, screener, args.threads)
    facts |= {
        "warm-up": f"{args.warm_up:g} ms",
        "counted": f"{args.iterations} runs and {args.duration:g} s at least",
    }
    print(head("cxr-edge latency", facts, engines))
    sections = [_whole(screener, workload, source, engines, budget) for source in SOURCES]
    sections += _alone(workload, engines, args.threads, budget)
    publish(
        name="latency",
        question="How long does one screening take, and each network alone?",
        interval="; ".join(f"from {name}: {text}" for name, text in SOURCES.items())
        + "; a network alone: Engine.run from a tensor in host memory to its outputs there; loading left out",
        settings=facts,
        tables=[_throughput(sections), *(_table(s, args.percentile) for s in sections)],
        targets=(),
        notes=(
            "Runs follow each other without pause, one at a time; the garbage collector rests.",
            "Compute is everything but decode and copies: of a whole screening the lungs, preprocess, members and "
            "combine steps.",
            "`variation`: standard deviation over mean. `-`: no such step, or the backend does not tell it apart.",
        ),
        out=args.out,
        text="\n\n".join(_text(s, args.percentile) for s in sections),
    )
    if args.export_times:
        _export(args.export_times, sections)


def repeat(name: str, run: Callable[[int], Steps], budget: Budget, *, device: bool = False) -> Section:
    """Call run(0), run(1), ... within the budget, first uncounted. At least one uncounted call is made."""
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
    return Section(name=name, device=device, runs=tuple(runs), wall_s=wall_s, warm_up_runs=warm_up_runs)


def _counted(run: Callable[[int], Steps], budget: Budget) -> list[Run]:
    runs: list[Run] = []
    begin = perf_counter()
    while len(runs) < budget.iterations or perf_counter() - begin < budget.duration_s:
        start = perf_counter()
        steps = run(len(runs))
        end = perf_counter()
        runs.append(Run(start_ms=1e3 * (start - begin), host_ms=1e3 * (end - start), steps=steps))
    return runs


def _whole(screener: Screener, workload: Workload, source: str, engines: EngineSet, budget: Budget) -> Section:
    screen = screening(screener, workload, source)
    return repeat(WHOLE[source], lambda i: _stages(screen(i)), budget, device=engines.device is not None)


def _stages(screening: Screening) -> Steps:
    times = screening.times
    compute_ms = times.total_ms - times.decode_ms - times.upload_ms - times.download_ms
    return Steps(
        decode_ms=times.decode_ms or None,
        upload_ms=times.upload_ms or None,  # 0 where the host does all
        compute_ms=compute_ms,
        download_ms=times.download_ms or None,
    )


def _alone(workload: Workload, engines: EngineSet, threads: int, budget: Budget) -> list[Section]:
    loaded = [e for e in (engines.segmenter, *engines.members) if e is not None]
    sections = []
    for part, engine, precision in zip(parts(workload.bundle), loaded, engines.precisions, strict=True):
        run = _engine_run(engine, part, workload.images, threads, engines.device)
        title = f"{part.name} alone, {precision}"
        sections.append(repeat(title, run, budget, device=engines.device is not None))
    return sections


def _engine_run(
    engine: Engine, part: NetworkFile, images: Sequence[Image], threads: int, device: Device | None
) -> Callable[[int], Steps]:
    """Runs `engine` on tensors of real images; on a device from pinned memory, with its steps told apart."""
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


def _throughput(sections: Sequence[Section]) -> Table:
    return Table(
        title="Throughput, one run after the other",
        columns=("what", "runs/s", "runs", "wall s", "warm-up runs"),
        rows=tuple((s.name, s.per_second, len(s.runs), s.wall_s, s.warm_up_runs) for s in sections),
    )


def _table(section: Section, ranks: Sequence[float]) -> Table:
    headings = columns(ranks)
    rows: list[tuple[Cell, ...]] = []
    for title, times in section.rows().items():
        rows.append((title, *((None,) * len(headings) if times is None else spread(times, ranks).cells())))
    return Table(title=section.name, columns=("step", *headings), rows=tuple(rows))


def _text(section: Section, ranks: Sequence[float]) -> str:
    lines = [f"=== Performance summary: {section.name} ===", f"Throughput: {section.per_second:.6g} qps"]
    for title, times in section.rows().items():
        lines.append(f"{title}: {'-' if times is None else spread(times, ranks).line()}")
    lines.append(
        f"Total host wall time: {section.wall_s:.6g} s, {len(section.runs)} runs after {section.warm_up_runs} uncounted"
    )
    variation = spread([run.host_ms for run in section.runs]).variation
    if variation > UNSTABLE:
        lines.append(
            f"* Unstable: standard deviation {variation:.1%} of the mean. Fix the clocks, stop other work, run longer."
        )
    return "\n".join(lines)


def _export(file: Path, sections: Sequence[Section]) -> None:
    """One object a section with all its runs, as `trtexec --exportTimes` writes them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps([asdict(section) for section in sections], indent=1, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")
    print(f"times of every run written to {file}")


if __name__ == "__main__":
    sys.exit(main())
