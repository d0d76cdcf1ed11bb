"""Measure contenders fairly in one run, and record the outcome: the ground that every benchmark script stands on.

In: contenders, each a function that answers item number i; out: their durations and tables of them. Every round runs
all contenders, in an order shuffled anew (fixed seed), so that drifting clocks and other work on the machine fall on
all alike. A ratio is the median over the rounds of two contenders' times in the same round. A contender that cannot
run here stays in the table with the reason.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter, sleep
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bench import percentiles

__all__ = [
    "Contender",
    "Evictor",
    "Measured",
    "Settle",
    "Table",
    "latency_table",
    "max_difference",
    "measure",
    "missing",
]

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to do the work. run: answers item i; None if it cannot run here, and then `note` says why.

    prepare: called before each run, outside the interval (to set a library's global thread count, say).
    """

    name: str
    run: Callable[[int], Any] | None
    prepare: Callable[[], object] | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.run is None and not self.note:
            raise ValueError(f"the contender {self.name!r} has nothing to run and no note that says why")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A contender's durations, one a round; empty for one that cannot run here."""

    contender: Contender
    milliseconds: npt.NDArray[np.float64] = field(repr=False)

    @property
    def p50_ms(self) -> float:
        return float(np.median(self.milliseconds))

    def times_as_long_as(self, other: Measured) -> float | None:
        """Median over the rounds of this contender's time divided by the other's; None if either did not run."""
        if not self.milliseconds.size or not other.milliseconds.size:
            return None
        return float(np.median(self.milliseconds / other.milliseconds))


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it is printed and as JSON holds it. Every row has a cell a column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title!r} has {len(self.columns)} columns, got a row of {len(row)}: {row}")


class Evictor:
    """Called between runs, pushes everything else out of the processor's caches by reading a buffer of `mebibytes`."""

    def __init__(self, mebibytes: int = 128) -> None:
        self._buffer = np.ones(mebibytes << 17, dtype=np.uint64)

    def __call__(self) -> None:
        self._buffer.sum()


class Settle:
    """Called between runs, waits until the last contender's idle threads have stopped to spin on the cores."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self) -> None:
        sleep(self._seconds)


def measure(
    contenders: Sequence[Contender],
    *,
    rounds: int,
    warmup: int,
    items: int = 1,
    between: Callable[[], object] | None = None,
    lead_in: int = 0,
) -> list[Measured]:
    """Time every contender once a round, all on item (round modulo items), after `warmup` uncounted rounds.

    between: called before each contender's turn. lead_in: uncounted runs that open a turn, so that a contender finds
    its own data in the caches and its own threads awake, not what the one before left. Both are outside the interval,
    in which the garbage collector rests.
    """
    able = [c for c in contenders if c.run is not None]
    times: dict[str, list[float]] = {c.name: [] for c in contenders}
    if len(times) != len(contenders):
        raise ValueError(f"the contenders' names must differ, got {[c.name for c in contenders]}")
    order = random.Random(0)
    for number in range(-warmup, rounds):
        order.shuffle(able)
        for contender in able:
            if between is not None:
                between()
            for _ in range(lead_in):
                _run_once(contender, number % items)
            elapsed_ms = _run_once(contender, number % items)
            if number >= 0:
                times[contender.name].append(elapsed_ms)
    return [Measured(contender=c, milliseconds=np.asarray(times[c.name])) for c in contenders]


def _run_once(contender: Contender, item: int) -> float:
    assert contender.run is not None
    gc.collect(0)  # before the preparation, which may be a rest that nothing shall end but the run
    if contender.prepare is not None:
        contender.prepare()
    gc.disable()
    try:
        start = perf_counter()
        result = contender.run(item)
        elapsed_ms = 1e3 * (perf_counter() - start)
    finally:
        gc.enable()
    del result  # freeing the answer is not part of the interval
    return elapsed_ms


def latency_table(
    title: str,
    measured: Sequence[Measured],
    *,
    baseline: str,
    unit: str = "ms",
    per_run: int = 1,
    extra: Mapping[str, Mapping[str, Cell]] | None = None,
) -> Table:
    """p50, p90, p99, n and the ratio to the contender named `baseline`, one row a contender.

    unit: `ms` or `us`. per_run: units of work in one run; times are given for one unit. extra: more columns, by their
    names and then by contender.
    """
    scale = {"ms": 1.0, "us": 1e3}[unit] / per_run
    base = next(m for m in measured if m.contender.name == baseline)
    more = extra or {}
    columns = ("contender", *(f"{q} {unit}" for q in ("p50", "p90", "p99")), "n", "ratio", *more, "note")
    rows = []
    for m in measured:
        added = tuple(column.get(m.contender.name) for column in more.values())
        rows.append((m.contender.name, *_percentiles(m, scale), m.times_as_long_as(base), *added, m.contender.note))
    return Table(title=title, columns=columns, rows=tuple(rows))


def _percentiles(measured: Measured, scale: float) -> tuple[Cell, ...]:
    values = measured.milliseconds
    if not values.size:
        return None, None, None, 0
    return (*(v * scale for v in percentiles(values)), values.size)


def missing(package: str) -> str | None:
    """Why a peer's package cannot be used here, for a contender's note; None if it can. Imports it."""
    if find_spec(package) is None:
        return f"not installed: pip install {package}"
    try:
        import_module(package)
    except Exception as error:  # a peer built for another version of its own dependencies raises anything
        return f"installed, but cannot be imported: {str(error).splitlines()[0][:100] if str(error) else error!r}"
    return None


def max_difference(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The largest absolute difference of two arrays of one shape."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"expected arrays of one shape, got {first.shape} and {second.shape}")
    return float(np.abs(first - second).max())
