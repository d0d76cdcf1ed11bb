"""ONNX export: a trained torch network and its preprocessing in, a checked file out.

The file holds the digest of its preprocessing (`cxr_edge.preprocess_digest`) and takes any batch size; the export fails if
ONNX Runtime and torch do not compute the same outputs. The graph comes from torch.export (docs/decisions/0013-exporter.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_edge.errors import ContractError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.models.layers import without_compilation
from training.shared_files import atomic_write

__all__ = ["DIGEST_KEY", "SegmenterForExport", "export", "graph_of"]

DIGEST_KEY = "cxr_edge.preprocess_digest"
_OPSET = 18  # the lowest that torch.export's exporter writes
_IR_VERSION = 8  # of that opset; the exporter writes a later one, which ONNX Runtime 1.17 does not read
# Relative to an output's largest magnitude: float32 sums in another order differ by much less.
_TOLERANCE = 1e-3


class SegmenterForExport(nn.Module):
    """The segmenter with the sigmoid that the bundle contract requires."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        mask: Tensor = self.network(image).sigmoid()
        return mask


def export(network: nn.Module, spec: PreprocessSpec, outputs: Sequence[str], file: Path) -> float:
    """Write `network` (its outputs named `outputs`, in order) to `file`.

    Returns the largest difference to torch, relative to the output's largest magnitude: logits and maps have no scale of
    their own. Raises ContractError, and leaves no file, if that difference is above the tolerance.
    """
    network = without_compilation(network).eval().to(memory_format=torch.contiguous_format)
    example = torch.randn(2, *spec.tensor_shape, generator=torch.Generator().manual_seed(0))
    model = _with_metadata(_slim(graph_of(network, example, outputs)), spec)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as beside:
        onnx.save(model, beside)
        difference = _difference_to_torch(network, spec, outputs, beside)
        if not difference <= _TOLERANCE:
            raise ContractError(
                f"{file.name}: ONNX and torch differ by {difference:.2g} of the largest output, the tolerance is "
                f"{_TOLERANCE:g}: not exported"
            )
    return difference


def graph_of(network: nn.Module, example: Tensor, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the network's ONNX graph, its convolutions in the order of their calls: input `image`, any batch size.

    network: in evaluation mode. example: (2, C, S, S); of one image, the batch size would be constant. Raises InputError if
    torch.export cannot follow the network.
    """
    try:
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["image"],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            f"{type(network).__name__} cannot be exported to ONNX, because torch.export cannot follow it: "
            f"{_cause(error)}: its forward pass may not depend on the values of the image"
        ) from error
    assert program is not None
    return program.model_proto


def _cause(error: BaseException) -> str:
    """Return the first line of what the exporter failed at; its own message is a report of pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


def _with_metadata(model: onnx.ModelProto, spec: PreprocessSpec) -> onnx.ModelProto:
    """Add the digest; remove what the exporter notes about this machine (stack traces with paths) and its own version."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for part in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.helper.set_model_props(model, {DIGEST_KEY: spec.digest()})
    model.producer_name, model.producer_version, model.ir_version = "cxr-edge training", "", _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold and simplify the model if onnxslim is installed; the parity check follows in both cases."""
    try:
        import onnxslim
    except ImportError:
        return model
    slimmed = onnxslim.slim(model)
    return model if slimmed is None else slimmed


def _difference_to_torch(network: nn.Module, spec: PreprocessSpec, outputs: Sequence[str], file: Path) -> float:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for images in (1, 3):
        x = torch.randn(images, *spec.tensor_shape, generator=torch.Generator().manual_seed(images))
        with torch.no_grad():
            expected = network(x)
        expected = (expected,) if isinstance(expected, Tensor) else tuple(expected)
        actual = session.run(list(outputs), {"image": x.numpy()})
        worst = max(worst, *(_difference(e.numpy(), a) for e, a in zip(expected, actual, strict=True)))
    return worst


def _difference(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> float:
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    return float(np.abs(expected - actual).max()) / scale
