"""Network as it was trained elsewhere: an ONNX file in; its input's layout, its output and a way to run it out.

ONNX files are untrusted input: the checks of `bundle.onnx_check` come first. Opsets before 13 are converted. Everything
that cannot be recognised is an error that names the option that declares it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from cxr_edge.backends.base import CompileOptions
from cxr_edge.backends.onnxruntime import first_line, quiet_session_options, runtime, text_path
from cxr_edge.bundle.onnx_check import OLDEST_OPSET, read_model
from cxr_edge.bundle.onnx_signature import Shape, quoted, tensor_shape
from cxr_edge.compiler.graph.graph import opset
from cxr_edge.digests import sha256_file
from cxr_edge.errors import BackendError, BundleError, ContractError, InputError
from cxr_edge.imports.plain_input import plain_input
from cxr_edge.imports.trained_input import DeployedInput, Layout, TrainedInput
from cxr_edge.records import Image, Roi

__all__ = ["Original", "read_original"]

_OLDEST_CONVERTED_OPSET = 7  # of onnx.version_converter
_WHOLE = ("uint8", "uint16", "int8", "int16", "int32", "int64")
_REAL = ("float32", "float16", "float64", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Original:
    """One network as it was trained."""

    path: Path
    sha256: str
    model: onnx.ModelProto = field(repr=False)  # opset 13 or later
    first_opset: int  # of the file
    trained: TrainedInput
    input: str  # name
    dtype: str  # of the input
    layout: Layout
    size: int  # side of the input in pixels
    channels: Literal[1, 3]
    batch: int | None  # None: dynamic
    output: str  # name
    session: Any = field(repr=False)  # of ONNX Runtime, on the unchanged file

    def deployed(self) -> DeployedInput:
        """Return the input that a member made of this network has."""
        return self.trained.deployed(self.size, self.channels)

    def run(self, image: Image, box: Roi) -> npt.NDArray[np.float64]:
        """Return the output's values (columns) for one image, preprocessed as in training. Raises ContractError."""
        tensor = plain_input(
            image.pixels,
            box,
            self.trained,
            size=self.size,
            channels=self.channels,
            layout=self.layout,
            dtype=self.dtype if self.dtype != "bfloat16" else "float32",
        )
        batch = np.repeat(tensor, self.batch or 1, axis=0)
        try:
            (values,) = self.session.run([self.output], {self.input: batch})
        except Exception as error:  # the runtime raises its own types, none of which share a public base
            raise ContractError(f"{self.path.name} cannot be run on an image: {first_line(error)}") from error
        values = np.asarray(values, np.float64)
        columns = values[0].size if values.ndim > 1 else 0
        if values.shape[:1] != (len(batch),) or columns == 0 or columns != max(values.shape[1:]):
            raise ContractError(
                f"{self.path.name}: the output {quoted(self.output)} has the shape {values.shape} for {len(batch)} image(s), "
                "expected one row per image and one column per label: choose another output with --output-name"
            )
        return np.asarray(values[0].reshape(-1))


def read_original(path: Path, trained: TrainedInput, *, output: str | None = None) -> Original:
    """Read one ONNX file. output: name of the output with the labels; None: the only one.

    Raises BundleError for a file that cannot be used, ContractError for an input that is no X-ray, InputError for what has
    to be declared.
    """
    model = read_model(path, oldest_opset=_OLDEST_CONVERTED_OPSET, unused_domains=True)
    first_opset = opset(model)
    model = _standard(model, path)
    info = _input(model, path)
    shape, dtype = tensor_shape(info), _dtype(info)
    if len(shape) != 4 or dtype not in (*_REAL, *_WHOLE):
        raise ContractError(
            f"{path.name}: its input {quoted(info.name)} is {dtype} of shape {shape}, expected a batch of images, (N, C, H, W) "
            "or (N, H, W, C)"
        )
    layout = _layout(shape, trained, path)
    channels, size = _channels(shape, layout, trained, path), _size(shape, layout, trained, path)
    if dtype in _WHOLE and trained.range == (0.0, 1.0):
        raise InputError(f"{path.name}: its input is {dtype}, so it takes no values of 0..1: give --preprocess bytes")
    return Original(
        path=path,
        sha256=sha256_file(path),
        model=model,
        first_opset=first_opset,
        trained=trained,
        input=info.name,
        dtype=dtype,
        layout=layout,
        size=size,
        channels=channels,
        batch=shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None,
        output=_output([o.name for o in model.graph.output], output, path),
        session=_session(path),
    )


def _standard(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Return the model without unused domains, in opset 13 or later."""
    standard = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    if opset(model) >= OLDEST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # of onnx's C++ core, without a public base
        raise BundleError(
            f"{path.name} has opset {opset(model)}, and onnx could not convert it to {OLDEST_OPSET} ({first_line(error)}): "
            f"export it again with opset {OLDEST_OPSET} or later"
        ) from None


def _input(model: onnx.ModelProto, path: Path) -> Any:
    constants = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(quoted(i.name) for i in inputs) or "none"
        raise ContractError(
            f"{path.name} must have one input, an image; it has {names}: export it with its other inputs as constants"
        )
    return inputs[0]


def _dtype(info: Any) -> str:
    element = info.type.tensor_type.elem_type
    if element == onnx.TensorProto.BFLOAT16:
        return "bfloat16"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)
    except KeyError:
        return f"of type {element}"


def _layout(shape: Shape, trained: TrainedInput, path: Path) -> Layout:
    if trained.layout is not None:
        return trained.layout
    if shape[1] in (1, 3):
        return "nchw"
    if shape[3] in (1, 3):
        return "nhwc"
    raise InputError(
        f"{path.name}: its input has the shape {shape}, which does not say where the channels are: give layout (nchw or nhwc) "
        "and channels in the file of --preprocess"
    )


def _channels(shape: Shape, layout: Layout, trained: TrainedInput, path: Path) -> Literal[1, 3]:
    found = shape[1] if layout == "nchw" else shape[3]
    channels = found if isinstance(found, int) and found > 0 else trained.channels
    if trained.channels not in (None, channels):
        raise InputError(
            f"{path.name}: its input has {channels} channels ({layout}), --preprocess states {trained.channels}"
        )
    if channels == 1:
        return 1
    if channels == 3:
        return 3
    raise InputError(
        f"{path.name}: its input has {channels or 'an unknown number of'} channels ({layout}), expected 1 or 3: give layout "
        "and channels in the file of --preprocess"
    )


def _size(shape: Shape, layout: Layout, trained: TrainedInput, path: Path) -> int:
    height, width = shape[2:] if layout == "nchw" else shape[1:3]
    fixed = [n for n in (height, width) if isinstance(n, int) and n > 0]
    if len(set(fixed)) > 1:
        raise ContractError(f"{path.name}: its input has {height}x{width} pixels: a bundle's members take squares only")
    size = fixed[0] if fixed else trained.size
    if size is None:
        raise InputError(
            f"{path.name}: its input takes any size: give the size of training in the file of --preprocess"
        )
    if trained.size not in (None, size):
        raise InputError(f"{path.name}: its input has {size} pixels per side, --preprocess states {trained.size}")
    return size


def _output(names: Sequence[str], wanted: str | None, path: Path) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return str(wanted)
    listed = ", ".join(map(quoted, names))
    if wanted is None:
        raise InputError(f"{path.name} has the outputs {listed}: name the one with the labels by --output-name")
    raise InputError(f"{path.name} has no output {wanted!r}, only {listed}: give one of them with --output-name")


def _session(path: Path) -> Any:
    settings = quiet_session_options()
    settings.intra_op_num_threads = CompileOptions().threads
    try:
        with text_path(path) as name:
            return runtime().InferenceSession(name, settings, providers=["CPUExecutionProvider"])
    except BackendError:
        raise
    except Exception as error:  # as in `Original.run`
        raise BackendError(f"ONNX Runtime cannot run {path.name}: {first_line(error)}") from error
