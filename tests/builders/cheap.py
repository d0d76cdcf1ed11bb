"""Makes bundles cheap for tests of whole recipes, whose figures mean nothing: `make_cheap(monkeypatch.setattr)`.

Fewer steps of stacking, candidates for known answers, and limits that calibration tries: two thirds of the processor time of a
bundle of networks that are trained for a few steps. Without monkeypatch, in a process of its own: `make_cheap()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cxr_edge.compiler import calibrate
from training.bundles import write
from training.ensembles import fit

__all__ = ["make_cheap"]


def make_cheap(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace the constants by `replace`."""
    replace(fit, "_STACKING_STEPS", 10)
    replace(write, "_CANDIDATES_PER_KNOWN_ANSWER", 2)
    replace(calibrate, "_CUTS", calibrate._CUTS[::20])
