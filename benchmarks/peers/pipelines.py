"""Baseline screening pipelines: OpenCV, NumPy and one runtime, step after step.

Takes a file's bytes, an ensemble specification and loaded networks; returns the ensemble's probabilities. The end-to-end
benchmark compares these pipelines, each with another runtime, with cxr-edge.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.peers import opencv_numpy
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.records import GrayPixels, Roi
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.lung_box import LungBoxRule
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = [
    "EnsembleSpec",
    "Networks",
    "decode",
    "onnxruntime_networks",
    "openvino_networks",
    "screen",
    "torch_networks",
]

Network = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]  # image (1, C, H, W) -> mask or logits


@dataclass(frozen=True, kw_only=True)
class EnsembleSpec:
    """Specification of a screening, independent of the implementation."""

    segmenter: PreprocessSpec | None  # None: the members see the whole frame
    lung_box: LungBoxRule
    members: tuple[PreprocessSpec, ...]
    combination: Combination

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> EnsembleSpec:
        """Return the specification of a bundle's ensemble."""
        s = manifest.segmenter
        return cls(
            segmenter=s.preprocess if s else None,
            lung_box=s.lung_box if s else LungBoxRule(),
            members=tuple(m.preprocess for m in manifest.members),
            combination=manifest.combination,
        )


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Networks of one ensemble, loaded into one runtime."""

    segmenter: Network | None
    members: tuple[Network, ...]


def screen(
    data: bytes, ensemble: EnsembleSpec, networks: Networks, *, box: Roi | None = None
) -> npt.NDArray[np.float64]:
    """Return probabilities (labels) for one file.

    box: crop to use instead of the lung box, for random weights, whose mask is random; the lung box is still computed.
    """
    pixels = decode(data)
    lung_box = _lung_box(pixels, ensemble, networks)
    frame = Roi.full(pixels.shape[1], pixels.shape[0])
    rois = [frame if spec.region == "frame" else box or lung_box for spec in ensemble.members]
    tensors = opencv_numpy.opencv_tensors(pixels, rois, ensemble.members)
    logits = [network(tensor)[0] for network, tensor in zip(networks.members, tensors, strict=True)]
    return np.asarray(opencv_numpy.combine(np.stack(logits)[None], ensemble.combination)[0])


def decode(data: bytes) -> GrayPixels:
    """Decode gray pixels with OpenCV, or pydicom if it is DICOM (12 bits shifted to 16, no window, no LUT)."""
    if data[128:132] != b"DICM":
        return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE))
    import pydicom

    image = pydicom.dcmread(io.BytesIO(data))
    pixels = image.pixel_array
    if image.PhotometricInterpretation == "MONOCHROME1":
        pixels = (1 << image.BitsStored) - 1 - pixels
    return np.asarray(pixels << (16 - image.BitsStored) if pixels.dtype == np.uint16 else pixels)


def _lung_box(pixels: GrayPixels, ensemble: EnsembleSpec, networks: Networks) -> Roi:
    height, width = pixels.shape
    frame = Roi.full(width, height)
    if ensemble.segmenter is None or networks.segmenter is None:
        return frame
    (tensor,) = opencv_numpy.opencv_tensors(pixels, [frame], [ensemble.segmenter])
    mask = networks.segmenter(tensor)[0, 0]
    return opencv_numpy.lung_roi(mask, width_px=width, height_px=height, rule=ensemble.lung_box)


def onnxruntime_networks(files: Sequence[Path], *, segmenter: bool, threads: int, spinning: bool) -> Networks:
    """Load sessions with all graph optimizations, which is the default.

    spinning: idle threads spin, which is the default, too; with several sessions these threads take the cores from each
        other, so that sessions without spinning are often faster.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    sessions = [onnxruntime.InferenceSession(str(f), options, providers=providers) for f in files]

    def network(session: Any) -> Network:
        name = session.get_inputs()[0].name
        return lambda image: session.run(None, {name: image})[0]

    return _networks([network(s) for s in sessions], segmenter)


def openvino_networks(files: Sequence[Path], *, segmenter: bool, threads: int, precision: str | None) -> Networks:
    """Compile models for latency on the CPU. precision: `f32`, or None for OpenVINO's own choice on this machine."""
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    if precision is not None:
        config["INFERENCE_PRECISION_HINT"] = precision
    core = openvino.Core()
    requests = [core.compile_model(str(f), "CPU", config).create_infer_request() for f in files]

    def network(request: Any) -> Network:
        return lambda image: request.infer({0: image})[0]

    return _networks([network(r) for r in requests], segmenter)


def torch_networks(modules: Sequence[Any], *, segmenter: bool, threads: int) -> Networks:
    """Return eager PyTorch modules in inference mode; sets the process's number of torch threads."""
    import torch

    torch.set_num_threads(threads)

    def network(module: Any) -> Network:
        module.eval()

        def run(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            with torch.inference_mode():
                output = module(torch.from_numpy(image))
            return np.asarray((output[0] if isinstance(output, tuple) else output).numpy())

        return run

    return _networks([network(m) for m in modules], segmenter)


def _networks(loaded: Sequence[Network], segmenter: bool) -> Networks:
    return Networks(segmenter=loaded[0] if segmenter else None, members=tuple(loaded[1 if segmenter else 0 :]))
