"""Cost of a network: parameters, multiply-accumulates and measured milliseconds, in total and per convolution.

Pruning by zeros alone does not distinguish cheap channels from expensive ones; the layers' times on the deployed runtime
do. They come from ONNX Runtime's own profile, not from torch, which fuses operators differently.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cxr_edge.errors import BackendError, ContractError, InputError
from training.models.layers import evaluation_mode
from training.models.onnx_export import graph_of

__all__ = ["latency_ms", "layer_times_ms", "macs", "ms_per_channel", "parameters"]

_WARM_UP = 3  # runs: allocation, and the caches of this thread
# Operators that ONNX Runtime fuses with the convolution before them: bias, norm, residual sum, activation.
_AFTER = frozenset(
    ["BatchNormalization", "Add", "Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh"]
)


def parameters(network: nn.Module) -> int:
    """Return the number of trainable values, frozen ones included; buffers (running means) are not counted."""
    return sum(p.numel() for p in network.parameters())


def macs(network: nn.Module, example: Tensor) -> int:
    """Return the multiply-accumulates of all convolutions and dense layers for one image.

    example: (N, C, S, S); the count is per image. Norms, activations, pooling and biases are left out, as papers do.
    """
    with FlopCounterMode(display=False) as counter:
        _run(network, example, ())
    flops: int = counter.get_total_flops()
    return flops // 2 // example.shape[0]


def latency_ms(onnx_file: Path, *, threads: int = 1, repeats: int = 30) -> float:
    """Return the median milliseconds of `session.run` for one image through ONNX Runtime on this machine's CPU.

    threads: intra-op. repeats: timed runs, after three warm-up runs. Raises InputError for values below 1.
    """
    _check(threads, repeats)
    session = onnxruntime.InferenceSession(str(onnx_file), _options(threads), providers=["CPUExecutionProvider"])
    feeds = {i.name: _noise([d if isinstance(d, int) else 1 for d in i.shape]) for i in session.get_inputs()}
    times = []
    for _ in range(_WARM_UP + repeats):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    return median(times[_WARM_UP:])


def layer_times_ms(network: nn.Module, example: Tensor, *, threads: int = 1, repeats: int = 30) -> dict[str, float]:
    """Return each Conv2d's module name -> milliseconds for one image, with its bias, norm, residual sum and activation.

    example: (1, C, S, S). The times come from ONNX Runtime's profile of the optimised network on this machine's CPU: the
    file's Conv nodes are in the order of torch's module calls, and a fused kernel is identified by the name of its output
    value. A time is the mean of the middle half of the runs (a profile counts whole microseconds). Raises BackendError if
    the profile lacks a convolution: the runtime then fused it in a way not known here.
    """
    _check(threads, repeats)
    calls = _calls(network, example)
    with evaluation_mode(network):
        model = graph_of(network, example.repeat(2, 1, 1, 1), ["logits"])  # not slimmed: that changes the nodes' order
    owners = _owners(model.graph)
    if max((i for o in owners.values() for i in o), default=-1) + 1 != len(calls):
        raise ContractError(f"torch calls {len(calls)} convolutions, and its ONNX export holds another number of them")
    owned = _times_by_conv(_profile(model, example, threads, repeats), owners)
    if lost := sorted({name for i, name in enumerate(calls) if i not in owned}):
        raise BackendError(f"ONNX Runtime {onnxruntime.__version__}'s profile has no kernel for {', '.join(lost)}")
    times: dict[str, float] = dict.fromkeys(calls, 0.0)
    for i, name in enumerate(calls):
        times[name] += owned[i]
    return times


def ms_per_channel(network: nn.Module, times_ms: Mapping[str, float]) -> dict[str, float]:
    """Return each convolution's milliseconds per output channel, for `training.pruning.channels.select_channels`."""
    return {name: ms / cast(nn.Conv2d, network.get_submodule(name)).out_channels for name, ms in times_ms.items()}


def _check(threads: int, repeats: int) -> None:
    if threads < 1 or repeats < 1:
        raise InputError(f"threads and repeats must be at least 1, got {threads} and {repeats}")


def _run(network: nn.Module, example: Tensor, hooks: Sequence[Any]) -> None:
    """Run once in evaluation mode; remove the hooks and restore the modes after."""
    try:
        with torch.no_grad(), evaluation_mode(network):
            network(example)
    finally:
        for hook in hooks:
            hook.remove()


def _calls(network: nn.Module, example: Tensor) -> list[str]:
    """Return the Conv2d modules in the order of their calls, one entry per call."""
    calls: list[str] = []
    convs = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    _run(network, example, [m.register_forward_hook(lambda *_, name=n: calls.append(name)) for n, m in convs])
    return calls


def _owners(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Return value or node name -> index of the convolution it computes, or of those it may be fused with (a sum)."""
    uses: dict[str, int] = {}
    for name in [i for n in graph.node for i in n.input] + [o.name for o in graph.output]:
        uses[name] = uses.get(name, 0) + 1
    fixed = {t.name for t in graph.initializer} | {o for n in graph.node if n.op_type == "Constant" for o in n.output}
    owners: dict[str, tuple[int, ...]] = {}
    convs = 0
    for node in graph.node:
        indices: tuple[int, ...] = ()
        if node.op_type == "Conv":
            indices, convs = (convs,), convs + 1
        # A constant factor is folded into the weights; a gate (squeeze and excitation) is a kernel of its own.
        elif node.op_type in _AFTER or (node.op_type == "Mul" and fixed & set(node.input)):
            indices = tuple(i for name in node.input if uses[name] == 1 for i in owners.get(name, ()))
        if indices:
            owners |= dict.fromkeys((node.name, *node.output), indices)
    return owners


def _profile(model: onnx.ModelProto, example: Tensor, threads: int, repeats: int) -> dict[str, float]:
    """Return kernel name -> milliseconds."""
    options = _options(threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for _ in range(_WARM_UP + repeats):
            session.run(None, {"image": _noise(example.shape)})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e3)
    return {name: _middle(times[_WARM_UP:]) for name, times in runs.items()}


def _middle(times: Sequence[float]) -> float:
    quarter = len(times) // 4
    return float(np.mean(sorted(times)[quarter : len(times) - quarter]))


def _times_by_conv(kernels: Mapping[str, float], owners: Mapping[str, tuple[int, ...]]) -> dict[int, float]:
    """Return convolution index -> milliseconds. A sum of two belongs to the one without a kernel of its own."""
    owned: dict[int, float] = {}
    known = [(owners.get(_base_name(name), ()), ms) for name, ms in kernels.items()]
    for candidates, ms in sorted((k for k in known if k[0]), key=lambda k: len(k[0])):
        owner = next((i for i in candidates if i not in owned), candidates[-1])
        owned[owner] = owned.get(owner, 0.0) + ms
    return owned


def _base_name(kernel: str) -> str:
    """Return the value or node name: blocked layouts append a suffix to the value's, fusions prepend a prefix to the node's."""
    return kernel.removesuffix("_nchwc").removeprefix("fused ")


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return options


def _noise(shape: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
