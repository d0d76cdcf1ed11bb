"""Shares of images with exact intervals, for reports of builds: counts in, their text and JSON out."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_edge.ops.binomial import exact_interval

__all__ = ["Share"]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of n images with its exact 95 % interval."""

    hits: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, n: int) -> Share:
        """Return the share with its interval; of no images it is anything from 0 to 1. Raises ValueError as `exact_interval`."""
        low, high = exact_interval(hits, n) if n else (0.0, 1.0)
        return cls(hits=hits, n=n, low=low, high=high)

    def __str__(self) -> str:
        """Format as `0.950 [0.904, 0.978] (152/160)`, or `-` without images."""
        return f"{self.hits / self.n:.3f} [{self.low:.3f}, {self.high:.3f}] ({self.hits}/{self.n})" if self.n else "-"
