"""Summary statistics of durations in the form of `trtexec`: min, max, mean, median and percentiles.

Takes milliseconds, one per run; returns table cells and a line of text that are the same in all scripts. Percentiles are
interpolated between neighbours, where `trtexec` takes the nearest run: with few runs the two differ a little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.side_by_side import Cell
from cxr_edge.bench import percentiles

__all__ = ["DEFAULT_RANKS", "Spread", "columns", "parse_percentiles", "spread"]

DEFAULT_RANKS = (90.0, 95.0, 99.0)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Statistics of the durations of n runs, in milliseconds."""

    n: int
    min_ms: float
    mean_ms: float
    median_ms: float
    max_ms: float
    variation: float  # standard deviation over mean; `trtexec` reports a compute time above 0.01 as unstable
    ranks: tuple[float, ...]  # of the percentiles, from 0 to 100
    percentiles_ms: tuple[float, ...]  # one per rank

    def __post_init__(self) -> None:
        if self.n < 1 or len(self.ranks) != len(self.percentiles_ms):
            raise ValueError(
                f"a spread needs at least one run and a value for each of {len(self.ranks)} percentiles, "
                f"got {self.n} runs and {len(self.percentiles_ms)} values"
            )

    def cells(self) -> tuple[Cell, ...]:
        """Return the cells of the columns `columns(ranks)`."""
        return (self.min_ms, self.mean_ms, self.median_ms, *self.percentiles_ms, self.max_ms, self.variation, self.n)

    def line(self) -> str:
        """Return `min = 1.2 ms, max = ...`, in the order of `trtexec`."""
        values = [("min", self.min_ms), ("max", self.max_ms), ("mean", self.mean_ms), ("median", self.median_ms)]
        values += [(f"percentile({rank:g}%)", ms) for rank, ms in zip(self.ranks, self.percentiles_ms, strict=True)]
        return ", ".join(f"{name} = {ms:.6g} ms" for name, ms in values)


def spread(milliseconds: Sequence[float], ranks: Sequence[float] = DEFAULT_RANKS) -> Spread:
    """Return the statistics of at least one duration."""
    values = np.asarray(milliseconds, dtype=np.float64)
    if not values.size:
        raise ValueError("a spread needs at least one run, got none")
    mean = float(values.mean())
    return Spread(
        n=values.size,
        min_ms=float(values.min()),
        mean_ms=mean,
        median_ms=float(np.median(values)),
        max_ms=float(values.max()),
        variation=float(values.std()) / mean if mean > 0 else 0.0,
        ranks=tuple(ranks),
        percentiles_ms=percentiles(values, ranks),
    )


def columns(ranks: Sequence[float]) -> tuple[str, ...]:
    """Return the headings of the cells of `Spread.cells`."""
    return ("min ms", "mean ms", "median ms", *(f"p{rank:g} ms" for rank in ranks), "max ms", "variation", "n")


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Parse percentiles from 0 to 100, separated by commas as for `trtexec --percentile`. An argparse type."""
    try:
        ranks = tuple(float(part) for part in text.split(","))
    except ValueError:
        ranks = ()
    if not ranks or not all(0 <= rank <= 100 for rank in ranks):
        raise argparse.ArgumentTypeError(f"expected percentiles from 0 to 100, such as 90,95,99, got {text!r}")
    return ranks
