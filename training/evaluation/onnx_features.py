"""Penultimate features and activation maps of exported members: an ONNX file and canvases in, arrays out.

The features are what the member's last 1x1 convolution, which computes the map `cam`, reads; their mean over the map, times
that convolution's weights, is the logits, so that nothing about the image reaches the decision but through them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from cxr_edge.errors import InputError
from cxr_edge.ops.preprocess import normalize
from cxr_edge.specs.preprocess import PreprocessSpec
from training.shared_files import reading

__all__ = ["member_cams", "member_features"]

_BATCH = 64


def member_features(
    file: Path, lungs: npt.NDArray[np.uint8], spec: PreprocessSpec, *, threads: int
) -> npt.NDArray[np.float32]:
    """Return the penultimate features (N, C), means over the map, on canvases (N, S, S).

    Raises InputError for a member without the output `cam`, or whose `cam` is not computed by a convolution.
    """
    with reading(file):
        model = onnx.load(file)
    maps = next((n for n in model.graph.node if "cam" in n.output), None)
    if maps is None or maps.op_type != "Conv":
        raise InputError(f"{file}: no convolution computes the output cam, so the features before it are not known")
    model.graph.output.append(onnx.helper.make_tensor_value_info(maps.input[0], onnx.TensorProto.FLOAT, None))
    features = _run(model.SerializeToString(), maps.input[0], lungs, spec, threads)
    return np.concatenate([f.mean(axis=(2, 3)) for f in features])


def member_cams(
    file: Path, lungs: npt.NDArray[np.uint8], spec: PreprocessSpec, *, threads: int
) -> npt.NDArray[np.float32]:
    """Return the class activation maps (N, K, h, w) on canvases (N, S, S). Raises InputError for a member without them."""
    with reading(file):
        content = file.read_bytes()
    return np.concatenate(list(_run(content, "cam", lungs, spec, threads)))


def _run(
    model: bytes, output: str, lungs: npt.NDArray[np.uint8], spec: PreprocessSpec, threads: int
) -> Iterator[npt.NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    if output not in {o.name for o in session.get_outputs()}:
        raise InputError(f"the member has no output {output}")
    for start in range(0, len(lungs), _BATCH):
        images = np.stack([normalize(canvas, spec) for canvas in lungs[start : start + _BATCH]])
        yield session.run([output], {"image": images})[0]
