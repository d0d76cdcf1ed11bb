"""The spread of many durations as `trtexec` sums it up: min, max, mean, median and percentiles.

In: milliseconds, one a run; out: cells of a table and a line of text, worded alike in all scripts. Percentiles are
interpolated between neighbours, where `trtexec` takes the nearest run: with few runs the two differ a little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.side_by_side import Cell
from cxr_edge.bench import percentiles

__all__ = ["DEFAULT_RANKS", "Spread", "columns", "ranks_argument", "spread"]

DEFAULT_RANKS = (90.0, 95.0, 99.0)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Milliseconds of n runs. ranks: which percentiles, from 0 to 100; percentiles_ms: one a rank.

    variation: standard deviation over mean; `trtexec` calls a compute time above 0.01 unstable.
    """

    n: int
    min_ms: float
    mean_ms: float
    median_ms: float
    max_ms: float
    variation: float
    ranks: tuple[float, ...]
    percentiles_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.n < 1 or len(self.ranks) != len(self.percentiles_ms):
            raise ValueError(
                f"a spread needs one run or more and a value for each of {len(self.ranks)} percentiles, "
                f"got {self.n} runs and {len(self.percentiles_ms)} values"
            )

    def cells(self) -> tuple[Cell, ...]:
        """The cells under `columns(ranks)`."""
        return (self.min_ms, self.mean_ms, self.median_ms, *self.percentiles_ms, self.max_ms, self.variation, self.n)

    def line(self) -> str:
        """`min = 1.2 ms, max = ...`, in the order of `trtexec`."""
        named = [("min", self.min_ms), ("max", self.max_ms), ("mean", self.mean_ms), ("median", self.median_ms)]
        named += [(f"percentile({rank:g}%)", ms) for rank, ms in zip(self.ranks, self.percentiles_ms, strict=True)]
        return ", ".join(f"{name} = {ms:.6g} ms" for name, ms in named)


def spread(milliseconds: Sequence[float], ranks: Sequence[float] = DEFAULT_RANKS) -> Spread:
    """The spread of at least one duration."""
    values = np.asarray(milliseconds, dtype=np.float64)
    if not values.size:
        raise ValueError("a spread needs one run or more, got none")
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
    """The headings over `Spread.cells`."""
    return ("min ms", "mean ms", "median ms", *(f"p{rank:g} ms" for rank in ranks), "max ms", "variation", "n")


def ranks_argument(text: str) -> tuple[float, ...]:
    """argparse type: percentiles from 0 to 100, with commas between them, as `trtexec --percentile` takes them."""
    try:
        ranks = tuple(float(part) for part in text.split(","))
    except ValueError:
        ranks = ()
    if not ranks or not all(0 <= rank <= 100 for rank in ranks):
        raise argparse.ArgumentTypeError(f"expected percentiles from 0 to 100, such as 90,95,99, got {text!r}")
    return ranks
