"""Figures that two manifests state, side by side: their `metrics` and the counts of their error budgets in, rows out.

A figure with counts gets its exact 95 % interval computed here, whatever the manifest states; one without counts keeps the
manifest's. Two manifests state figures of their own test images: nothing here says that these are the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.changes.differences import value_text
from cxr_edge.compiler.shares import Share
from cxr_edge.specs.json_fields import is_number

__all__ = ["Figure", "FigureRow", "figure_rows", "test_set_rows"]

_KEYS = {"value", "low", "high"}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of one manifest."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    hits: int | None = None

    def __str__(self) -> str:
        interval = "" if self.low is None or self.high is None else f" [{self.low:.3f}, {self.high:.3f}]"
        counts = f" ({self.hits}/{self.n})" if self.hits is not None else f" (n {self.n})" if self.n is not None else ""
        return f"{self.value:.3f}{interval}{counts}"


@dataclass(frozen=True, kw_only=True)
class FigureRow:
    """One figure of both manifests."""

    name: str
    old: Figure | None
    new: Figure | None

    def cells(self) -> tuple[str, str, str, str]:
        """Return the texts of a table's row."""
        difference = "-" if self.old is None or self.new is None else f"{self.new.value - self.old.value:+.3f}"
        old, new = ("-" if f is None else str(f) for f in (self.old, self.new))
        return self.name, old, new, difference

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "old": None if self.old is None else asdict(self.old),
            "new": None if self.new is None else asdict(self.new),
        }


def figure_rows(old: Manifest, new: Manifest) -> tuple[FigureRow, ...]:
    """Return the figures of either manifest, in their order: metrics, then wrong answers by label of the error budgets."""
    sides = [{**dict(_figures(m.metrics, "")), **dict(_budget_figures(m))} for m in (old, new)]
    names = dict.fromkeys((*sides[0], *sides[1]))
    return tuple(FigureRow(name=name, old=sides[0].get(name), new=sides[1].get(name)) for name in names)


def test_set_rows(old: Manifest, new: Manifest) -> tuple[tuple[str, str, str], ...]:
    """Return what the manifests state of their test images: plain values of `metrics`, such as split, images and patients."""
    sides = [
        {k: v for k, v in m.metrics.items() if not isinstance(v, dict | list) and v is not None} for m in (old, new)
    ]
    names = dict.fromkeys((*sides[0], *sides[1]))
    return tuple((name, value_text(sides[0].get(name, "-")), value_text(sides[1].get(name, "-"))) for name in names)


def _figures(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, Figure]]:
    for key, value in values.items():
        name = f"{path} {key}".strip()
        if not isinstance(value, dict):
            continue
        if set(value) >= _KEYS and is_number(value["value"]):
            yield name, _figure(value)
        else:
            yield from _figures(value, name)


def _figure(value: Mapping[str, Any]) -> Figure:
    hits, n = value.get("hits"), value.get("n")
    if type(hits) is int and type(n) is int and 0 <= hits <= n and n > 0:
        return _of_counts(hits, n)
    low, high = (value[k] if is_number(value[k]) else None for k in ("low", "high"))
    return Figure(value=value["value"], low=low, high=high, n=n if type(n) is int else None)


def _budget_figures(manifest: Manifest) -> Iterator[tuple[str, Figure]]:
    for label, limits in ({} if manifest.budget is None else manifest.budget.labels).items():
        if limits.answered:
            yield f"budget, wrong answers {label}", _of_counts(limits.wrong, limits.answered)


def _of_counts(hits: int, n: int) -> Figure:
    share = Share.of(hits, n)
    return Figure(value=hits / n, low=share.low, high=share.high, n=n, hits=hits)
