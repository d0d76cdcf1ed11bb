"""Throughput and latency of screening for minutes without pause, with clocks, temperature, power and throttling.

    cxr-edge build-engine starter && python -m benchmarks.sustained --minutes 10

A fanless computer is fast until it is warm. Throughput and latency are reported per window of ten seconds, with the
sensor readings that the machine provides. At the end the last quarter of the time is compared with the first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from benchmarks.harness.report import publish
from benchmarks.harness.script import Benchmark, exit_status, make_parser
from benchmarks.harness.side_by_side import Cell, Table
from benchmarks.harness.workload import (
    SOURCES,
    Workload,
    add_source,
    add_workload,
    at_least_zero,
    header,
    make_screen,
    report_settings,
)
from benchmarks.sensors import Record, Sample, Sampler, all_sensors
from cxr_edge.bench import percentiles
from cxr_edge.cli.arguments import at_least_one, load_engines
from cxr_edge.records import Screening
from cxr_edge.screening.screener import Screener

__all__ = ["BENCHMARK", "Quarters", "TimedScreening", "main", "screen_for"]

BENCHMARK = Benchmark(name="sustained", position=50, only_if_named=True, quick_options=("--minutes",))

WARM_UP = 10
# Less than this share of the first quarter counts as slower, or as a lower clock; smaller changes are noise.
SLOWER_BELOW = 0.97
# Power reading shown per window: the first of these that is available; the whole machine before a part of it.
POWERS = (
    "vin_power_w", "vdd_in_power_w", "pom_5v_in_power_w", "power_w", "vdd_gpu_soc_power_w", "package_0_power_w",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TimedScreening:
    """Time of one screening."""

    at_s: float  # its end, by `time.perf_counter`
    latency_ms: float


@dataclass(frozen=True, kw_only=True)
class Quarters:
    """A figure in the first and in the last quarter of the time; None where it is not available."""

    first: float | None
    last: float | None

    @property
    def ratio(self) -> float | None:
        return None if self.first is None or self.last is None or self.first == 0 else self.last / self.first


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON. Return 3 if the bundle, its engines or an image cannot be used."""
    args = _parser().parse_args(argv)
    return exit_status(BENCHMARK.name, lambda: _measure(args, Workload.from_args(args)))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(BENCHMARK, __doc__)
    add_workload(parser, BENCHMARK.name)
    add_source(parser, "bytes")
    parser.add_argument("--minutes", type=_above_zero, default=5, metavar="N", help="duration (%(default)s)")
    parser.add_argument(
        "--window-s", type=_above_zero, default=10, metavar="S", help="window of the table (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=at_least_one, default=1, metavar="N",
        help="images screened concurrently, one thread each; 1 (default): sequentially, with --threads",
    )  # fmt: skip
    parser.add_argument(
        "--sample-s", type=_above_zero, default=1, metavar="S", help="interval of sensor readings (%(default)s)"
    )
    parser.add_argument(
        "--gpu", type=int, default=0, metavar="N", help="number of the NVIDIA GPU to monitor (%(default)s)"
    )
    return parser


def _above_zero(text: str) -> float:
    """Parse a number above 0. An argparse type."""
    value = at_least_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def _measure(args: argparse.Namespace, workload: Workload) -> None:
    threads = args.threads if args.workers == 1 else 1
    engines = load_engines(args, workload.bundle, threads=threads)
    screener = Screener(workload.bundle, engines, threads=threads)
    screen = make_screen(screener, workload, args.source)
    facts = report_settings(workload, screener, threads)
    facts |= {"workers": args.workers, "minutes": args.minutes, "warm-up": f"{WARM_UP} screenings"}
    print(header("cxr-edge without pause", facts, engines))
    for i in range(WARM_UP):
        screen(i)
    with Sampler(all_sensors(gpu=args.gpu), interval_s=args.sample_s) as sampler:
        begin = perf_counter()
        finished = screen_for(60 * args.minutes, screen, args.workers)
        end = perf_counter()
    record = sampler.record()
    publish(
        name=BENCHMARK.name,
        question="Does the speed stay the same when it screens for minutes without pause?",
        interval=SOURCES[args.source],
        settings=facts,
        tables=[
            _verdict(finished, record, begin, end),
            _windows(finished, record, begin, args.window_s),
            _readings(record, begin, end),
        ],
        targets=(),
        notes=(
            "The first and the last quarter of the time are compared. `Slowed down` and `fell` mean less than "
            f"{SLOWER_BELOW:.0%} of the first quarter.",
            f"Reading the sensors took {record.cpu_share:.2%} of one core. Not read: "
            + ("; ".join(f"{sensor}: {reason}" for sensor, reason in record.absent) or "none")
            + ".",
        ),
        out=args.out,
    )


def screen_for(seconds: float, screen: Callable[[int], Screening], workers: int) -> list[TimedScreening]:
    """Screen images for `seconds`, `workers` concurrently, at least one per worker. Return them in order of their ends."""
    stop_at = perf_counter() + seconds

    def work(worker: int) -> list[TimedScreening]:
        done: list[TimedScreening] = []
        while not done or perf_counter() < stop_at:
            start = perf_counter()
            screen(worker + workers * len(done))
            end = perf_counter()
            done.append(TimedScreening(at_s=end, latency_ms=1e3 * (end - start)))
        return done

    with ThreadPoolExecutor(workers, thread_name_prefix="screen") as pool:
        by_worker = list(pool.map(work, range(workers)))
    return sorted((f for done in by_worker for f in done), key=lambda f: f.at_s)


def _windows(finished: Sequence[TimedScreening], record: Record, begin: float, window_s: float) -> Table:
    """Return one row per full window; a single row if the run was shorter than one."""
    duration_s = finished[-1].at_s - begin
    count = max(1, int(duration_s / window_s))
    readings = [*_clocks(record), *_power(record)]
    rows: list[tuple[Cell, ...]] = []
    for i in range(count):
        since, until = begin + i * window_s, begin + min((i + 1) * window_s, duration_s)
        latencies = [f.latency_ms for f in finished if since < f.at_s <= until]
        samples = [s for s in record.samples if since <= s.at_s < until]
        figures = percentiles(latencies, (50, 99)) if latencies else (None, None)
        rows.append(
            (
                i * window_s, len(latencies), len(latencies) / (until - since), *figures,
                *(_mean(samples, *reading) for reading in readings), _hottest(samples), _slowed_by(samples),
            )
        )  # fmt: skip
    columns = ("from s", "n", "images/s", "p50 ms", "p99 ms", *(f"{name}, {sensor}" for sensor, name in readings))
    return Table(title="Windows", columns=(*columns, "hottest C", "slowed by"), rows=tuple(rows))


def _readings(record: Record, begin: float, end: float) -> Table:
    names = dict.fromkeys((s.sensor, name) for s in record.samples for name in s.state.values)
    rows: list[tuple[Cell, ...]] = []
    for sensor, name in names:
        values = _values(record.samples, sensor, name)
        quarters = _reading_quarters(record, sensor, name, begin, end)
        spread = (min(values), float(np.mean(values)), max(values), len(values))
        rows.append((sensor, name, quarters.first, quarters.last, *spread))
    columns = ("sensor", "reading", "first quarter", "last quarter", "min", "mean", "max", "samples")
    return Table(title="Sensors", columns=columns, rows=tuple(rows))


def _verdict(finished: Sequence[TimedScreening], record: Record, begin: float, end: float) -> Table:
    first, last = _quarter(begin, end)
    early, late = ([f.latency_ms for f in finished if a < f.at_s <= b] for a, b in (first, last))
    quarter_s = (end - begin) / 4
    speed = Quarters(first=len(early) / quarter_s, last=len(late) / quarter_s)
    p50 = Quarters(first=_median(early), last=_median(late))
    rows = [
        (
            "images/s",
            speed.first,
            speed.last,
            speed.ratio,
            _verdict_text(speed.ratio, "slowed down", "did not slow down"),
        ),
        ("p50 ms", p50.first, p50.last, p50.ratio, ""),
    ]
    for sensor, name in _clocks(record):
        clock = _reading_quarters(record, sensor, name, begin, end)
        verdict = _verdict_text(clock.ratio, "the clock fell", "the clock did not fall")
        if len(set(_values(record.samples, sensor, name))) == 1:
            verdict = "the same in every sample: locked, or the nominal clock that virtual machines report"
        rows.append((f"{name}, {sensor}", clock.first, clock.last, clock.ratio, verdict))
    rows.append(
        ("slowed by, as reported by the machine", None, None, None, _slowed_by(record.samples) or "no reason reported")
    )
    columns = ("figure", "first quarter", "last quarter", "ratio", "verdict")
    return Table(title="Did it slow down?", columns=columns, rows=tuple(rows))


def _verdict_text(ratio: float | None, fell: str, steady: str) -> str:
    return "unknown: no values in a quarter" if ratio is None else fell if ratio < SLOWER_BELOW else steady


def _quarter(begin: float, end: float) -> tuple[tuple[float, float], tuple[float, float]]:
    quarter = (end - begin) / 4
    return (begin, begin + quarter), (end - quarter, end)


def _reading_quarters(record: Record, sensor: str, name: str, begin: float, end: float) -> Quarters:
    first, last = (
        _mean([s for s in record.samples if since <= s.at_s <= until], sensor, name)
        for since, until in _quarter(begin, end)
    )
    return Quarters(first=first, last=last)


def _clocks(record: Record) -> list[tuple[str, str]]:
    """Return sensor and reading of all clocks."""
    return sorted({(s.sensor, name) for s in record.samples for name in s.state.values if name.endswith("clock_mhz")})


def _power(record: Record) -> list[tuple[str, str]]:
    """Return sensor and reading of the first available power in POWERS; an empty list if there is none."""
    known = {name: s.sensor for s in record.samples for name in s.state.values}
    return [(known[name], name) for name in POWERS if name in known][:1]


def _values(samples: Sequence[Sample], sensor: str, name: str) -> list[float]:
    return [s.state.values[name] for s in samples if s.sensor == sensor and name in s.state.values]


def _mean(samples: Sequence[Sample], sensor: str, name: str) -> float | None:
    values = _values(samples, sensor, name)
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return percentiles(values, (50,))[0] if values else None


def _hottest(samples: Sequence[Sample]) -> float | None:
    return max((v for s in samples for name, v in s.state.values.items() if name.endswith("_c")), default=None)


def _slowed_by(samples: Sequence[Sample]) -> str:
    return ", ".join(dict.fromkeys(reason for s in samples for reason in s.state.slowed_by))


if __name__ == "__main__":
    sys.exit(main())
