"""Small classifiers as other programs write them: onnx.helper alone, random weights, two convolutions and a head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cxr_edge.imports.draft import ReadNetwork
from cxr_edge.imports.member_graph import MemberGraph, member_graph
from cxr_edge.imports.original import Original, read_original
from cxr_edge.imports.output_columns import columns_of, label_probabilities
from cxr_edge.imports.trained_input import TrainedInput
from cxr_edge.ops.combine import softmax
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Image, Roi

__all__ = ["Compared", "Design", "compared", "drawn", "network", "saved"]

SIDE = 16
FEATURES = 6


@dataclass(frozen=True, kw_only=True)
class Design:
    """Variations of the network."""

    channels: int = 1
    columns: int = 3
    nhwc: bool = False
    batch: int | str = "N"
    side: int | str = SIDE
    head: str = "gemm"  # gemm, matmul, matmul-add, conv, first (convolution, then pooling), flatten, norm, nhwc-mean
    end: str | None = None  # Softmax, Sigmoid, LogSoftmax, HardSigmoid
    bias: bool = True
    weights: str = "float32"
    input: str = "float32"
    opset: int = 17
    scale: float = 1.0  # of the first convolution: for inputs of large values
    names: tuple[str, str] = ("input_1", "output_1")


@dataclass
class _Nodes:
    """Nodes and constants that are added one after the other."""

    design: Design
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, values: npt.ArrayLike, dtype: str | None = None) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype or self.design.weights), name))
        return name


def network(design: Design, seed: int = 0) -> onnx.ModelProto:
    """Return the network of a design."""
    rng, n = np.random.default_rng(seed), _Nodes(design)
    x = _body(n, rng, design.names[0])
    x = _head(n, rng, x)
    if design.end is not None:
        x = n.add(design.end, x, **({"axis": 1} if "oft" in design.end else {}))
    if design.weights != "float32" and design.input == "float32":
        x = n.add("Cast", x, to=TensorProto.FLOAT)
    n.nodes[-1].output[0] = design.names[1]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(design.input))
    sides = [design.side, design.side]
    shape = [design.batch, *sides, design.channels] if design.nhwc else [design.batch, design.channels, *sides]
    given = helper.make_tensor_value_info(design.names[0], element, shape)
    result = element if design.input == "float16" else TensorProto.FLOAT
    found = helper.make_tensor_value_info(design.names[1], result, [design.batch, design.columns])
    graph = helper.make_graph(n.nodes, "trained elsewhere", [given], [found], n.constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", design.opset)], ir_version=8)


def _body(n: _Nodes, rng: np.random.Generator, x: str) -> str:
    design = n.design
    if design.input not in ("float32", design.weights):
        x = n.add("Cast", x, to=TensorProto.FLOAT)
    elif design.weights != design.input:
        x = n.add("Cast", x, to=helper.np_dtype_to_tensor_dtype(np.dtype(design.weights)))
    x = n.add("Transpose", x, perm=[0, 3, 1, 2]) if design.nhwc else x
    for channels, out, scale in ((design.channels, FEATURES, design.scale), (FEATURES, FEATURES, 1.0)):
        weight = n.constant(rng.normal(0, scale, (out, channels, 3, 3)))
        x = n.add("Conv", x, weight, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
        x = n.add("Relu", n.add("Add", x, n.constant(rng.normal(0, 0.3, (1, out, 1, 1)))))
    return x


def _head(n: _Nodes, rng: np.random.Generator, x: str) -> str:
    design, columns = n.design, n.design.columns
    bias = n.constant(rng.normal(0, 0.2, columns))
    if design.head == "first":
        kernel = n.constant(rng.normal(0, 0.5, (columns, FEATURES, 1, 1)))
        return n.add("Flatten", n.add("GlobalAveragePool", n.add("Conv", x, kernel, bias, kernel_shape=[1, 1])))
    if design.head == "conv":
        kernel = n.constant(rng.normal(0, 0.5, (columns, FEATURES, 1, 1)))
        return n.add("Flatten", n.add("Conv", n.add("GlobalAveragePool", x), kernel, bias, kernel_shape=[1, 1]))
    if design.head == "nhwc-mean":
        x = n.add("Transpose", x, perm=[0, 2, 3, 1])
        x = n.add("ReduceMean", x, axes=[1, 2], keepdims=0)
    elif design.head == "flatten":
        x = n.add("Flatten", n.add("MaxPool", x, kernel_shape=[4, 4]))
    elif isinstance(design.batch, int):  # as exporters write a view of a fixed batch
        x = n.add("GlobalAveragePool", x)
        x = n.add("Reshape", x, n.constant([design.batch, FEATURES], "int64"))
    else:
        x = n.add("Flatten", n.add("GlobalAveragePool", x))
    if design.head == "norm":
        x = n.add("Tanh", x)
    weight = rng.normal(0, 0.5, (FEATURES, columns))
    if design.head.startswith("matmul"):
        x = n.add("MatMul", x, n.constant(weight))
        return n.add("Add", bias, x) if design.head == "matmul-add" else x
    if not design.bias and design.opset >= 11:
        return n.add("Gemm", x, n.constant(weight.T), transB=1)
    return n.add("Gemm", x, n.constant(weight.T), bias, transB=1)


def saved(model: onnx.ModelProto, folder: Path, name: str = "net.onnx") -> Path:
    """Write the model and return its path."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def drawn(count: int = 4) -> list[Image]:
    """Return small images of different textures, 8 and 16 bit."""
    images = []
    for i in range(count):
        rng = np.random.default_rng(i)
        cells = rng.integers(0, 256, (4 * 2**i, 5 * 2**i)).repeat(48 // 2**i, 0).repeat(40 // 2**i, 1)
        pixels = (cells * 257).astype(np.uint16) if i % 2 else cells.astype(np.uint8)
        images.append(Image.from_array(pixels))
    return images


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A member beside its original on `drawn` images."""

    original: Original
    member: MemberGraph
    expected: npt.NDArray[np.float64]  # probabilities (images, labels) of the original
    logits: npt.NDArray[np.float64]
    cam: npt.NDArray[np.float64] | None
    read: ReadNetwork

    @property
    def difference(self) -> float:
        """Largest difference of a probability."""
        return float(np.abs(softmax(self.logits) - self.expected).max())


def compared(path: Path, trained: TrainedInput, labels: Sequence[str], **declared: Any) -> Compared:
    """Read a network, make the member, and run both, the member on all images at once."""
    original = read_original(path, trained, output=declared.pop("output_name", None))
    images = drawn()
    boxes = [Roi.full(i.width_px, i.height_px) for i in images]
    raw = np.stack([original.run(i, b) for i, b in zip(images, boxes, strict=True)])
    columns = columns_of(original, raw, labels, **declared)
    member = member_graph(original, columns)
    onnx.checker.check_model(member.model, full_check=True)
    (tensors,) = Preprocessor([original.deployed().spec]).run([i.pixels for i in images], boxes)
    session = onnxruntime.InferenceSession(member.model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"image": tensors}), strict=True))
    return Compared(
        original=original,
        member=member,
        expected=label_probabilities(columns, raw),
        logits=outputs["logits"].astype(np.float64),
        cam=outputs.get("cam"),
        read=ReadNetwork(name="net", original=original, columns=columns, raw=raw, expected=None),
    )
