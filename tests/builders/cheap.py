"""Makes bundles cheap for tests of whole recipes, whose figures mean nothing: `make_cheap(monkeypatch.setattr)`.

Fewer steps of stacking, candidates for known answers, and limits that calibration tries: two thirds of the processor time of a
bundle of networks that are trained for a few steps. `trace_exports` takes torch's older exporter, which needs a tenth of the
time of torch.export's for networks of a few layers. Without monkeypatch, in a process of its own: `make_cheap()`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from cxr_edge.compiler import calibrate, known_answers
from training.ensembles import fit, multi_label
from training.models import onnx_export
from training.pruning import cost

__all__ = ["make_cheap", "trace_exports"]

Replace = Callable[[Any, str, Any], None]


def make_cheap(replace: Replace = setattr) -> None:
    """Replace the constants by `replace`."""
    replace(fit, "_STACKING_STEPS", 10)
    replace(multi_label, "_STEPS", 10)
    replace(known_answers, "_CANDIDATES_PER_ANSWER", 2)
    replace(calibrate, "_CUTS", calibrate._CUTS[::20])


def trace_exports(replace: Replace = setattr) -> None:
    """Export by tracing. Not for tests of the export, nor for journeys."""
    for module in (onnx_export, cost):
        replace(module, "graph_of", _traced)


def _traced(network: nn.Module, example: Tensor, outputs: Sequence[str]) -> onnx.ModelProto:
    names = {"input_names": ["image"], "output_names": list(outputs)}
    axes = {name: {0: "N"} for name in ("image", *outputs)}
    with warnings.catch_warnings(), io.BytesIO() as file:
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), file, **names, dynamic_axes=axes, opset_version=18, dynamo=False)  # type: ignore[arg-type]
        return onnx.load_from_string(file.getvalue())
