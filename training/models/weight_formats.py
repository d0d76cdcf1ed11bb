"""Weights of networks trained elsewhere: TorchScript, an ExportedProgram or ONNX in, tensors out.

Nothing is unpickled but tensors and nothing of a file is run: of an ExportedProgram only the table of weights and their bytes
are read, not its graph, its constants or its sample inputs, which torch unpickles.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from cxr_edge.errors import InputError

__all__ = [
    "exported_program_weights",
    "is_exported_program",
    "is_onnx",
    "is_torchscript",
    "onnx_weights",
    "torchscript_weights",
]

_CONFIG = "data/weights/model_weights_config.json"  # of torch 2.8 and later
_STATE = "serialized_state_dict.pt"  # of earlier ones
# Numbers of torch's serialised types that weights have.
_DTYPES: Mapping[int, torch.dtype] = {
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    13: torch.bfloat16,
}


def is_torchscript(file: Path) -> bool:
    """Return whether the file is a TorchScript archive."""
    return any(name.endswith("/constants.pkl") for name in _members(file))


def torchscript_weights(file: Path) -> Mapping[str, Tensor]:
    """Return parameters and buffers by name. Raises RuntimeError for a damaged file."""
    weights: Mapping[str, Tensor] = torch.jit.load(str(file), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    return weights


def is_exported_program(file: Path) -> bool:
    """Return whether the file was written by `torch.export.save`."""
    return any(name.endswith((_CONFIG, _STATE)) for name in _members(file))


def exported_program_weights(file: Path) -> Mapping[str, Tensor]:
    """Return parameters and buffers by name. Raises ValueError, KeyError or zipfile.BadZipFile for a damaged file."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        state = next((name for name in names if name.endswith(_STATE)), None)
        if state is not None:
            found: Mapping[str, Tensor] = torch.load(
                io.BytesIO(archive.read(state)), map_location="cpu", weights_only=True
            )
            return found
        config = next(name for name in names if name.endswith(_CONFIG))
        folder = config.rpartition("/")[0]
        entries = json.loads(archive.read(config))["config"]
        return {name: _tensor(archive.read(f"{folder}/{e['path_name']}"), e) for name, e in entries.items()}


def _tensor(content: bytes, entry: Mapping[str, Any]) -> Tensor:
    """Return a tensor from its bytes. Raises ValueError for a type or bytes that weights do not have."""
    if entry["use_pickle"]:
        loaded: Tensor = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return loaded
    meta = entry["tensor_meta"]
    dtype = _DTYPES.get(meta["dtype"])
    if dtype is None:
        raise ValueError(f"weights of type {meta['dtype']}")
    values = torch.frombuffer(bytearray(content), dtype=dtype)
    sizes, strides = ([n["as_int"] for n in meta[key]] for key in ("sizes", "strides"))
    return torch.as_strided(values, sizes, strides, meta["storage_offset"]["as_int"]).clone()


def _members(file: Path) -> list[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return []


def is_onnx(file: Path) -> bool:
    """Return whether the file is an ONNX network, by its suffix."""
    return file.suffix.lower() == ".onnx"


def onnx_weights(file: Path, trunk: nn.Module, prefix: str, channels: int) -> Mapping[str, Tensor]:
    """Return the weights of an ONNX file under the names of `trunk`, the same network without its classifier, less `prefix`.

    Both are walked in the order in which they compute. Exporters fold a batch norm into the convolution before it: the trunk's
    convolution then gets the folded weights, and its batch norm adds the folded bias and changes nothing else.
    channels: of the trunk's input. Raises InputError for a file that is damaged, or of another network.
    """
    try:
        ops = list(_onnx_layers(onnx.load(str(file)).graph))
    except Exception as error:  # onnx raises protobuf's own types, which differ between versions
        raise InputError(f"{file} is no ONNX file that can be read: {str(error).splitlines()[0][:160]}") from error
    found: dict[str, Tensor] = {}
    bias: Tensor | None = None  # folded, of the convolution before
    for name, layer in _layers_in_order(trunk, channels):
        if isinstance(layer, nn.Conv2d):
            _no_bias_left(file, bias)
            found[f"{name}.weight"], *biases = _next(file, ops, "Conv", name)
            bias = biases[0] if biases else None
            if layer.bias is not None:
                found[f"{name}.bias"] = torch.zeros_like(layer.bias) if bias is None else bias
                bias = None
        elif bias is not None:
            found |= _adding(name, layer, bias)
            bias = None
        else:
            found |= dict(
                zip((f"{name}.{k}" for k in _NORM), _next(file, ops, "BatchNormalization", name), strict=True)
            )
    _no_bias_left(file, bias)
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


_REMEDY = "name the architecture that it was exported from, or give a state dict"
_NORM = ("weight", "bias", "running_mean", "running_var")  # in the order of ONNX's inputs


def _next(file: Path, ops: list[tuple[str, list[Tensor]]], kind: str, name: str) -> list[Tensor]:
    """Return the weights of the next operator, which must be of this kind."""
    if not ops or ops[0][0] != kind:
        found = ops[0][0] if ops else "nothing more"
        raise InputError(
            f"{file} is of another network: the architecture has {kind} {name}, and the file has {found} there; {_REMEDY}"
        )
    return ops.pop(0)[1]


def _no_bias_left(file: Path, bias: Tensor | None) -> None:
    if bias is not None:
        raise InputError(
            f"{file} is of another network: a convolution has a bias that the architecture has no place for; {_REMEDY}"
        )


def _adding(name: str, norm: nn.BatchNorm2d, bias: Tensor) -> dict[str, Tensor]:
    """Return the values of a batch norm that adds `bias` and changes nothing else."""
    ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
    values = (ones, bias, zeros, ones - norm.eps)
    return dict(zip((f"{name}.{k}" for k in _NORM), values, strict=True))


def _onnx_layers(graph: onnx.GraphProto) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield operator and weights of the convolutions and batch norms, in the order of the graph."""
    values = {i.name: i for i in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
        elif node.op_type in ("Conv", "BatchNormalization"):
            arrays = [numpy_helper.to_array(values[name]) for name in node.input[1:] if name]
            yield node.op_type, [torch.from_numpy(np.array(a, dtype=np.float32)) for a in arrays]


def _layers_in_order(trunk: nn.Module, channels: int) -> list[tuple[str, nn.Conv2d | nn.BatchNorm2d]]:
    """Return convolutions and batch norms in the order in which they compute."""
    order: list[tuple[str, nn.Conv2d | nn.BatchNorm2d]] = []
    layers = [(n, m) for n, m in trunk.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [m.register_forward_pre_hook(lambda *_, n=n, m=m: order.append((n, m))) for n, m in layers]
    training = trunk.training
    try:
        with torch.no_grad():
            trunk.eval()(torch.zeros(1, channels, _PROBE_PX, _PROBE_PX))
    finally:
        trunk.train(training)
        for hook in hooks:
            hook.remove()
    return order


_PROBE_PX = 96  # large enough for every trunk
