"""ONNX export: a trained torch network and its preprocessing in, a checked file out.

The file holds the digest of its preprocessing (`cxr_edge.preprocess_digest`) and takes any batch size; the export fails if
ONNX Runtime and torch do not compute the same outputs.
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

from cxr_edge.errors import ContractError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.shared_files import atomic_write

__all__ = ["DIGEST_KEY", "SegmenterForExport", "export"]

DIGEST_KEY = "cxr_edge.preprocess_digest"
_OPSET = 17
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
    network = network.eval().to(memory_format=torch.contiguous_format)
    example = torch.randn(2, *spec.tensor_shape, generator=torch.Generator().manual_seed(0))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as beside:
        _write(network, example, outputs, beside)
        _add_metadata(beside, spec)
        difference = _difference_to_torch(network, spec, outputs, beside)
        if not difference <= _TOLERANCE:
            raise ContractError(
                f"{file.name}: ONNX and torch differ by {difference:.2g} of the largest output, the tolerance is "
                f"{_TOLERANCE:g}: not exported"
            )
    return difference


def _write(network: nn.Module, example: Tensor, outputs: Sequence[str], file: Path) -> None:
    torch.onnx.export(
        network,
        (example,),
        str(file),
        input_names=["image"],
        output_names=list(outputs),
        dynamic_axes={name: {0: "N"} for name in ("image", *outputs)},
        opset_version=_OPSET,
        do_constant_folding=True,
        # The tracing exporter: these networks have no control flow, and its graphs are simple, with any opset.
        dynamo=False,
    )


def _add_metadata(file: Path, spec: PreprocessSpec) -> None:
    model = onnx.load(file)
    model = _slim(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    onnx.helper.set_model_props(model, {DIGEST_KEY: spec.digest()})
    model.producer_name, model.producer_version, model.doc_string = "cxr-edge training", "", ""
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, file)


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
