"""Paired timing of several implementations in one run, and tables of the results.

Takes implementations, each a function of an item number; returns their durations. Every round runs all implementations
in a new shuffled order (fixed seed), so that changing clocks and other work on the machine affect all alike. A ratio is
the median over the rounds of two implementations' times in the same round. An implementation that cannot run here stays
in the table with the reason.
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
    "Evictor",
    "Implementation",
    "Measured",
    "Table",
    "WaitForIdle",
    "latency_table",
    "max_difference",
    "measure",
    "unavailable_reason",
]

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One implementation of the measured work."""

    name: str
    run: Callable[[int], Any] | None  # processes item i; None if it cannot run here, for the reason in `note`
    prepare: Callable[[], object] | None = (
        None  # called before each run, untimed: sets a global thread count, for example
    )
    note: str = ""

    def __post_init__(self) -> None:
        if self.run is None and not self.note:
            raise ValueError(f"the implementation {self.name!r} has no function to run and no note with the reason")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Durations of one implementation."""

    implementation: Implementation
    milliseconds: npt.NDArray[np.float64] = field(repr=False)  # one per round; empty if it cannot run here

    @property
    def p50_ms(self) -> float:
        return float(np.median(self.milliseconds))

    def ratio_to(self, other: Measured) -> float | None:
        """Return the median over the rounds of this time divided by the other's; None if either did not run."""
        if not self.milliseconds.size or not other.milliseconds.size:
            return None
        return float(np.median(self.milliseconds / other.milliseconds))


@dataclass(frozen=True, kw_only=True)
class Table:
    """Table of a report. Every row has one cell per column."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{self.title!r} has {len(self.columns)} columns, got a row of {len(row)}: {row}")


class Evictor:
    """Callable that evicts other data from the processor's caches by reading a buffer of `mebibytes`."""

    def __init__(self, mebibytes: int = 128) -> None:
        self._buffer = np.ones(mebibytes << 17, dtype=np.uint64)

    def __call__(self) -> None:
        self._buffer.sum()


class WaitForIdle:
    """Callable that waits until idle threads of the previous implementation have stopped spinning on the cores."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self) -> None:
        sleep(self._seconds)


def measure(
    implementations: Sequence[Implementation],
    *,
    rounds: int,
    warmup: int,
    items: int = 1,
    between: Callable[[], object] | None = None,
    lead_in: int = 0,
) -> list[Measured]:
    """Time every implementation once per round, all on item (round modulo items), after `warmup` uncounted rounds.

    The garbage collector is disabled during the timed interval.

    between: called before each implementation's turn, untimed.
    lead_in: untimed runs at the start of a turn, so that caches hold the implementation's own data and its threads are
        awake, whichever implementation ran before.
    """
    runnable = [c for c in implementations if c.run is not None]
    times: dict[str, list[float]] = {c.name: [] for c in implementations}
    if len(times) != len(implementations):
        raise ValueError(f"the implementations' names must differ, got {[c.name for c in implementations]}")
    order = random.Random(0)
    for number in range(-warmup, rounds):
        order.shuffle(runnable)
        for implementation in runnable:
            if between is not None:
                between()
            for _ in range(lead_in):
                _run_once(implementation, number % items)
            elapsed_ms = _run_once(implementation, number % items)
            if number >= 0:
                times[implementation.name].append(elapsed_ms)
    return [Measured(implementation=c, milliseconds=np.asarray(times[c.name])) for c in implementations]


def _run_once(implementation: Implementation, item: int) -> float:
    assert implementation.run is not None
    gc.collect(0)  # before `prepare`, which may be a rest that only the run should end
    if implementation.prepare is not None:
        implementation.prepare()
    gc.disable()
    try:
        start = perf_counter()
        result = implementation.run(item)
        elapsed_ms = 1e3 * (perf_counter() - start)
    finally:
        gc.enable()
    del result  # freeing the result is not part of the interval
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
    """Return a table of p50, p90, p99, n and ratio to the implementation named `baseline`, one row per implementation.

    unit: `ms` or `us`.
    per_run: units of work per run; times are per unit.
    extra: further columns, by column name and then by implementation name.
    """
    scale = {"ms": 1.0, "us": 1e3}[unit] / per_run
    base = next(m for m in measured if m.implementation.name == baseline)
    more = extra or {}
    columns = ("implementation", *(f"{q} {unit}" for q in ("p50", "p90", "p99")), "n", "ratio", *more, "note")
    rows = []
    for m in measured:
        added = tuple(column.get(m.implementation.name) for column in more.values())
        rows.append((m.implementation.name, *_percentiles(m, scale), m.ratio_to(base), *added, m.implementation.note))
    return Table(title=title, columns=columns, rows=tuple(rows))


def _percentiles(measured: Measured, scale: float) -> tuple[Cell, ...]:
    values = measured.milliseconds
    if not values.size:
        return None, None, None, 0
    return (*(v * scale for v in percentiles(values)), values.size)


def unavailable_reason(package: str) -> str | None:
    """Import a package; return None if that succeeds, else the reason for an implementation's note."""
    if find_spec(package) is None:
        return f"not installed: pip install {package}"
    try:
        import_module(package)
    except Exception as error:  # a package built for another version of its dependencies may raise anything
        return f"installed, but cannot be imported: {str(error).splitlines()[0][:100] if str(error) else error!r}"
    return None


def max_difference(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Return the largest absolute difference of two arrays of the same shape."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"expected arrays of the same shape, got {first.shape} and {second.shape}")
    return float(np.abs(first - second).max())
