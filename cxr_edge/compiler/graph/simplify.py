"""Simplification of an exported ONNX file: constants folded, batch norms absorbed, operators that int8 supports.

Exporters leave shape arithmetic, batch norms and transposed convolutions, each of which would split an int8 graph in
pieces. Two simplifiers fold constants (onnx-simplifier or onnxslim if one is installed, then ONNX Runtime's own basic
level); two exact rewrites of this module follow. The result must give the original's outputs on random input, otherwise an
error is raised: a simplifier's fault must not reach a patient.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from cxr_edge.backends.base import CompileOptions, Engine
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.compiler.graph.graph import STANDARD_DOMAINS, Graph, attribute, copied
from cxr_edge.errors import BackendError, ContractError

__all__ = ["Simplified", "check_parity", "simplify"]

# Relative to the largest output: fp32 sums in another order, with a margin.
PARITY_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Simplified:
    """The simplified model, and notes for the report."""

    model: onnx.ModelProto
    notes: tuple[str, ...]  # the simplifier used or missing; the difference from the original


def simplify(path: Path) -> Simplified:
    """Simplify the ONNX file `path` (fp32, input `image` (N, C, H, W)).

    Raises ContractError if the simplified network gives other outputs than the original.
    """
    original = onnx.load(path)
    model, note = _by_package(original)
    model = _fold(model)
    graph = Graph(model)
    _means_to_pools(graph)
    _transposed_to_depth(graph)
    _check_domains(model)
    del model.metadata_props[:]
    model.metadata_props.extend(original.metadata_props)
    difference = check_parity(original, model)
    return Simplified(model=model, notes=(note, f"simplified network differs by {difference:.1e} from the original"))


def check_parity(reference: onnx.ModelProto, other: onnx.ModelProto, *, images: int = 2, seed: int = 0) -> float:
    """Return the largest output difference on random images, relative to the reference's largest output.

    Raises ContractError beyond PARITY_TOLERANCE.
    """
    engines = _load(reference), _load(other)
    shape = tuple(images if d is None else d for d in engines[0].inputs[0].shape)
    x = np.random.default_rng(seed).standard_normal(shape).astype(engines[0].inputs[0].dtype)
    name = engines[0].inputs[0].name
    expected, actual = (engine.run({name: x}) for engine in engines)
    if set(expected) != set(actual):
        raise ContractError(f"the simplified network has the outputs {sorted(actual)}, the original {sorted(expected)}")
    difference = max(_difference(expected[key], actual[key]) for key in expected)
    if not difference <= PARITY_TOLERANCE:
        raise ContractError(
            f"the simplified network differs from the original by {difference:.2e} of its largest output on random "
            f"images, at most {PARITY_TOLERANCE:.0e} is allowed: this is a fault of the simplifier, please report the network; "
            f"uninstalling {' or '.join(_PACKAGES)} may help meanwhile"
        )
    return difference


def _difference(expected: npt.NDArray[np.float32], actual: npt.NDArray[np.float32]) -> float:
    largest = max(float(np.abs(expected).max()), 1e-6)
    return float(np.abs(expected - actual).max()) / largest if expected.shape == actual.shape else float("inf")


def _load(model: onnx.ModelProto) -> Engine:
    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
        path = Path(folder, "network.onnx")
        onnx.save(model, path)
        return OnnxRuntimeBackend().load_reference(path, CompileOptions())


def _by_package(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Simplify with the first of the known packages that is installed, or copy; also return a note for the report."""
    name = next((n for n in _PACKAGES if importlib.util.find_spec(n) is not None), None)
    if name is None:
        return copied(
            model
        ), "neither onnxsim nor onnxslim is installed: only the runtime's own simplifications were applied"
    package = importlib.import_module(name)
    try:
        simplified = _PACKAGES[name](package, copied(model))
    except Exception as error:  # a simplifier may fail in any way; the original is equivalent, only larger
        return copied(model), f"{name} failed and was not used: {type(error).__name__}"
    return simplified, f"simplified by {name} {package.__version__}"


def _onnxsim(package: Any, model: onnx.ModelProto) -> onnx.ModelProto:
    simplified, _ = package.simplify(model, check_n=0)  # our own parity check follows
    return simplified


def _onnxslim(package: Any, model: onnx.ModelProto) -> onnx.ModelProto:
    return package.slim(model)


# onnx-simplifier first; onnxslim is pure Python, for platforms where the other has no wheel.
_PACKAGES: dict[str, Callable[[Any, onnx.ModelProto], onnx.ModelProto]] = {"onnxsim": _onnxsim, "onnxslim": _onnxslim}


def _fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Apply ONNX Runtime's basic optimisations: constant folding, batch norms into convolutions; standard operators only."""
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(model, before)
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(after)
        try:
            onnxruntime.InferenceSession(str(before), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises its own types, none of which share a public base
            raise BackendError(f"ONNX Runtime could not read the network: {str(error)[:300]}") from error
        return onnx.load(after)


def _check_domains(model: onnx.ModelProto) -> None:
    foreign = sorted({n.domain for n in model.graph.node} - set(STANDARD_DOMAINS))
    if foreign:
        raise ContractError(f"the network uses operators outside the ONNX standard ({', '.join(foreign)})")
    standard = [o for o in model.opset_import if o.domain in STANDARD_DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(standard)


def _means_to_pools(graph: Graph) -> None:
    """Replace ReduceMean over height and width with keepdims by GlobalAveragePool, which has an int8 kernel."""
    new = []
    for node in graph.nodes:
        keeps_axes = node.op_type == "ReduceMean" and attribute(node, "keepdims", 1) == 1
        if keeps_axes and _axes(graph, node) in ([2, 3], [-2, -1]):
            node = helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), name=node.name)
        new.append(node)
    graph.replace_nodes(new)


def _axes(graph: Graph, node: onnx.NodeProto) -> Sequence[int]:
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1:
        axes = graph.constants.get(node.input[1])
    return sorted(int(a) for a in np.ravel(np.asarray(axes))) if axes is not None else []


def _transposed_to_depth(graph: Graph) -> None:
    """Replace a transposed convolution with stride equal to its kernel by a 1x1 convolution and a DepthToSpace; exact."""
    new: list[onnx.NodeProto] = []
    for node in graph.nodes:
        weight = graph.constants.get(node.input[1]) if node.op_type == "ConvTranspose" else None
        new += [node] if weight is None or not _tiles(node, weight.shape) else _as_depth(graph, node, weight)
    graph.replace_nodes(new)


def _tiles(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    """Return True if the output patches of a transposed convolution are adjacent, without overlap or gap."""
    if len(shape) != 4 or shape[2] != shape[3] or attribute(node, "group", 1) != 1:
        return False
    defaults = {"dilations": [1, 1], "pads": [0, 0, 0, 0], "output_padding": [0, 0], "strides": [1, 1]}
    given = {name: list(attribute(node, name, default)) for name, default in defaults.items()}  # type: ignore[call-overload]
    automatic = attribute(node, "auto_pad", b"NOTSET") != b"NOTSET" or attribute(node, "output_shape") is not None
    return not automatic and given == {**defaults, "strides": [shape[2], shape[3]]}


def _as_depth(graph: Graph, node: onnx.NodeProto, weight: npt.NDArray[np.generic]) -> list[onnx.NodeProto]:
    inputs, outputs, side, _ = weight.shape
    out = node.output[0]
    # DepthToSpace in CRD order reads channel c, row i, column j at (c * side + i) * side + j.
    flat = np.transpose(weight, (1, 2, 3, 0)).reshape(outputs * side * side, inputs, 1, 1)
    names = [node.input[0], graph.add_constant(f"{out}_flat", flat)]
    if len(node.input) > 2 and node.input[2]:
        bias = np.repeat(graph.constants[node.input[2]], side * side)
        names.append(graph.add_constant(f"{out}_bias", bias))
    return [
        helper.make_node("Conv", names, [f"{out}_depth"], name=f"{out}_conv"),
        helper.make_node("DepthToSpace", [f"{out}_depth"], [out], name=out, blocksize=side, mode="CRD"),
    ]
