"""Baseline screening on a GPU: OpenCV and NumPy, with the networks in PyTorch or ONNX Runtime.

Takes pixels, an ensemble specification and networks; returns the ensemble's probabilities. PyTorch is measured eager and
as CUDA graphs; ONNX Runtime takes arrays in host memory. Because OpenCV runs on the host, the lung mask must be
downloaded before the members can start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness.side_by_side import unavailable_reason
from benchmarks.peers import opencv_numpy
from benchmarks.peers.pipelines import EnsembleSpec
from cxr_edge.engines import NetworkFile
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = [
    "GpuNetworks",
    "convert_networks",
    "cuda_graphs",
    "eager",
    "onnxruntime_sessions",
    "screen",
    "torch_unavailable_reason",
]

Floats = npt.NDArray[np.float32]
Module = Callable[[Any], Any]  # torch module: image (N, C, H, W) -> mask or logits

_CUDA = "CUDAExecutionProvider"
_WARM_UP_RUNS = 3  # before a capture, as PyTorch's notes on CUDA graphs require


@dataclass(frozen=True, kw_only=True)
class GpuNetworks:
    """Networks of one ensemble, loaded onto a GPU."""

    segmenter: Callable[[Floats], Floats] | None  # image (1, C, H, W) -> mask
    members: Callable[[Sequence[Floats]], Floats]  # one image per member -> logits (members, labels)


def screen(pixels: GrayPixels, ensemble: EnsembleSpec, networks: GpuNetworks) -> npt.NDArray[np.float64]:
    """Return probabilities (labels) for one decoded image."""
    height, width = pixels.shape
    frame = lung_box = Roi.full(width, height)
    if ensemble.segmenter is not None and networks.segmenter is not None:
        mask = networks.segmenter(_tensors(pixels, [frame], [ensemble.segmenter])[0])[0, 0]
        lung_box = opencv_numpy.lung_roi(mask, width_px=width, height_px=height, rule=ensemble.lung_box)
    rois = [frame if spec.region == "frame" else lung_box for spec in ensemble.members]
    logits = networks.members(_tensors(pixels, rois, ensemble.members))
    return np.asarray(opencv_numpy.combine(logits[None], ensemble.combination)[0])


def _tensors(pixels: GrayPixels, rois: Sequence[Roi], specs: Sequence[PreprocessSpec]) -> list[Floats]:
    tensors = opencv_numpy.opencv_tensors(pixels, rois, specs)
    return [tensor.astype(spec.dtype, copy=False) for tensor, spec in zip(tensors, specs, strict=True)]


def torch_unavailable_reason() -> str | None:
    """Return why PyTorch cannot use the GPU here; None if it can."""
    reason = unavailable_reason("torch")
    if reason is not None:
        return reason
    import torch

    return None if torch.cuda.is_available() else "torch sees no GPU: pip install a torch built for this driver's CUDA"


def convert_networks(networks: Sequence[NetworkFile]) -> list[Module]:
    """Convert ONNX files to torch modules that return the first required output. Needs onnx2torch."""
    import onnx
    from onnx2torch import convert

    modules: list[Module] = []
    for network in networks:
        names = [o.name for o in onnx.load(str(network.onnx), load_external_data=False).graph.output]
        modules.append(_SingleOutput(convert(str(network.onnx)), names.index(network.outputs[0])))
    return modules


class _SingleOutput:
    """Wrapper of a module with several outputs that returns one of them."""

    def __init__(self, module: Any, index: int) -> None:
        self._module, self._index = module, index

    def to(self, device: str) -> _SingleOutput:
        self._module = self._module.eval().to(device)
        return self

    def __call__(self, image: Any) -> Any:
        output = self._module(image)
        return output[self._index] if isinstance(output, list | tuple) else output


def eager(modules: Sequence[Any], *, segmenter: bool, device: str = "cuda") -> GpuNetworks:
    """Return eager PyTorch in inference mode; one copy downloads all members' logits. cuDNN may benchmark algorithms."""
    import torch

    torch.backends.cudnn.benchmark = True
    on_device = [m.to(device) for m in modules]

    def run(subset: Sequence[Any], images: Sequence[Floats]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            outputs = [m(torch.from_numpy(x).to(device)) for m, x in zip(subset, images, strict=True)]
            return np.asarray(torch.cat(outputs).float().cpu().numpy())

    return _networks(run, on_device, segmenter)


def _networks(
    run: Callable[[Sequence[Any], Sequence[Floats]], Floats], loaded: list[Any], segmenter: bool
) -> GpuNetworks:
    """Split networks into segmenter and members. run: runs networks on one image each, returns outputs concatenated."""
    first, rest = loaded[:1], loaded[1 if segmenter else 0 :]
    return GpuNetworks(
        segmenter=(lambda image: run(first, [image])) if segmenter else None,
        members=lambda images: run(rest, images),
    )


def cuda_graphs(modules: Sequence[Any], specs: Sequence[PreprocessSpec], *, segmenter: bool) -> GpuNetworks:
    """Capture two CUDA graphs on static inputs: the segmenter, and all members. specs: one per module. Needs a GPU."""
    on_device = [m.to("cuda") for m in modules]
    first = _TorchGraph(on_device[:1], specs[:1]) if segmenter else None
    rest = _TorchGraph(on_device[1 if segmenter else 0 :], specs[1 if segmenter else 0 :])
    return GpuNetworks(segmenter=None if first is None else lambda image: first([image]), members=rest)


class _TorchGraph:
    """Modules captured together; a call copies the images to the inputs, replays, and copies the outputs to the host."""

    def __init__(self, modules: Sequence[Module], specs: Sequence[PreprocessSpec]) -> None:
        import torch

        self._torch = torch
        dtypes = [getattr(torch, s.dtype) for s in specs]
        with torch.inference_mode():
            self._inputs = [
                torch.zeros(1, *s.tensor_shape, dtype=dtype, device="cuda")
                for s, dtype in zip(specs, dtypes, strict=True)
            ]
            self._warm_up(modules)
            self._graph = torch.cuda.CUDAGraph()
            # thread_local: threads of other runtimes do not affect this capture.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._output = self._run(modules)

    def _warm_up(self, modules: Sequence[Module]) -> None:
        torch = self._torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_RUNS):
                self._run(modules)
        torch.cuda.current_stream().wait_stream(side)

    def _run(self, modules: Sequence[Module]) -> Any:
        return self._torch.cat([m(x) for m, x in zip(modules, self._inputs, strict=True)]).float()

    def __call__(self, images: Sequence[Floats]) -> Floats:
        torch = self._torch
        with torch.inference_mode():
            for static, image in zip(self._inputs, images, strict=True):
                static.copy_(torch.from_numpy(image))
            self._graph.replay()
            return np.asarray(self._output.cpu().numpy())


def onnxruntime_sessions(networks: Sequence[NetworkFile], *, segmenter: bool, provider: str = _CUDA) -> GpuNetworks:
    """Load sessions that take and return arrays in host memory. Raises RuntimeError if the provider does not work."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise RuntimeError(f"ONNX Runtime has {', '.join(available)} here: pip install onnxruntime-gpu in its place")
    sessions = [(onnxruntime.InferenceSession(str(p.onnx), providers=[provider]), p.outputs[0]) for p in networks]
    if any(provider not in s.get_providers() for s, _ in sessions):  # it falls back to the CPU without an error
        raise RuntimeError(f"{provider} does not start here: check the versions of CUDA's and cuDNN's libraries")

    def run(subset: Sequence[Any], images: Sequence[Floats]) -> Floats:
        return np.concatenate([s.run([name], {"image": x})[0] for (s, name), x in zip(subset, images, strict=True)])

    return _networks(run, sessions, segmenter)
