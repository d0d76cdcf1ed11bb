"""Inputs and outputs of an ONNX file: compared with what the preprocessing gives and the manifest expects.

Tensor descriptions of an onnx graph come in; nothing or a ContractError comes out, whose sentence names the call or the
option of the exporter that mends the file: most networks from elsewhere fail here first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_edge.bundle.foreign_files import export_call
from cxr_edge.errors import ContractError

if TYPE_CHECKING:
    from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["Shape", "check_input", "check_outputs", "quoted", "tensor_shape"]

_MAX_TEXT = 200
_RENAME = (
    'in PyTorch by input_names=["image"] and output_names=["logits"]; docs/bundle-format.md renames those of a file'
)
_OTHER_SPEC = (
    "it was exported for other preprocessing or labels than in the manifest (or --spec, --preset): export it again"
)

Shape = tuple["int | str | None", ...]  # a string (its symbol) or None is a dynamic dimension


def check_input(where: str, infos: list[Any], spec: PreprocessSpec) -> None:
    """Raise ContractError unless the one input is `image` as `spec` gives it. where: file and network, for the message."""
    if len(infos) != 1:
        raise ContractError(
            f"{where} must have the input image, it has {_listed(infos)}: cxr-edge gives one image and nothing else; "
            f"export the network with its other inputs as constants (in PyTorch as buffers)"
        )
    info, expected = infos[0], ("N", *spec.tensor_shape)
    if info.name != "image":
        raise ContractError(f"{where} must have the input image, it has {_listed(infos)}: give it this name, {_RENAME}")
    shape, dtype = tensor_shape(info), _dtype(info)
    if dtype != spec.dtype or not _fits(shape, expected):
        found = f"must be {spec.dtype} {_shape_text(expected)}, N varying, it is {dtype} {_shape_text(shape)}"
        raise ContractError(f"{where}: input image {found}: {_input_remedy(shape, dtype, spec)}")


def check_outputs(where: str, infos: list[Any], expected: dict[str, Shape]) -> None:
    """Raise ContractError unless the outputs have these names and shapes, in float32."""
    if sorted(i.name for i in infos) != sorted(expected):
        raise ContractError(
            f"{where} must have the outputs {', '.join(expected)}, it has {_listed(infos)}: "
            f"export it with these names, {_RENAME}; or correct the manifest (has_cam)"
        )
    for info in infos:
        shape, dtype = tensor_shape(info), _dtype(info)
        if dtype != "float32" or not _fits(shape, expected[info.name]):
            raise ContractError(
                f"{where}: output {info.name} must be float32 {_shape_text(expected[info.name])}, N varying, "
                f"it is {dtype} {_shape_text(shape)}: {_output_remedy(shape, dtype, expected[info.name])}"
            )


def tensor_shape(info: Any) -> Shape:
    """Return the shape of a tensor description; empty if it has none."""
    if not info.type.tensor_type.HasField("shape"):
        return ()
    return tuple(
        int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or None) for d in info.type.tensor_type.shape.dim
    )


def quoted(text: str) -> str:
    """Return text from an untrusted file in a form that is safe in messages: quoted, escaped, truncated."""
    return ascii(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")


def _input_remedy(shape: Shape, dtype: str, spec: PreprocessSpec) -> str:
    channels, height, width = spec.tensor_shape
    if len(shape) == 4 and _fits(shape[1:], (height, width, channels)) and not _fits(shape[1:], spec.tensor_shape):
        return (
            "its channels come last, as in Keras and TensorFlow: convert it again with tf2onnx's options --inputs INPUT "
            "--inputs-as-nchw INPUT, or begin the network with a Permute((2, 3, 1)) layer"
        )
    if len(shape) == 4 and isinstance(shape[0], int) and _fits(("N", *shape[1:]), ("N", *spec.tensor_shape)):
        return _dynamic_batch()
    if dtype == "float64":
        return "export it in single precision, in PyTorch after network.float()"
    if dtype == "uint8":
        return (
            "cxr-edge gives preprocessed numbers, not bytes: export the network without its own conversion of pixels, and "
            "state its scaling in the preprocessing (standardize)"
        )
    if dtype == "float16" and _fits(shape, ("N", *spec.tensor_shape)):
        return 'state "dtype": "float16" in its preprocessing, or export it in single precision'
    if len(shape) == 4 and any(not isinstance(n, int) for n in shape[1:]):
        return "export it for images of one size: only the first dimension may vary"
    return _OTHER_SPEC


def _output_remedy(shape: Shape, dtype: str, expected: Shape) -> str:
    if len(shape) == len(expected) and isinstance(shape[0], int) and _fits(("N", *shape[1:]), expected):
        return _dynamic_batch()
    if dtype != "float32" and _fits(shape, expected):
        return "export it so that its outputs are float32, in PyTorch with a final .float()"
    if len(expected) == 2 and len(shape) != 2:
        return "give it one row per image and one column per label, in PyTorch with a final .flatten(1) or [:, None]"
    return _OTHER_SPEC


def _dynamic_batch() -> str:
    return f"export it with a dynamic batch, in PyTorch by {export_call()}"


def _listed(infos: list[Any]) -> str:
    shapes = (f"{i.name} {_dtype(i)} {_shape_text(tensor_shape(i))}" for i in infos)
    return quoted(", ".join(shapes)) if infos else "none"


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(_length_fits(n, e) for n, e in zip(shape, expected, strict=True))


def _length_fits(length: int | str | None, expected: int | str | None) -> bool:
    if isinstance(expected, str):
        return not isinstance(length, int)
    return isinstance(length, int) and length > 0 and expected in (None, length)


def _shape_text(shape: Shape) -> str:
    return f"({', '.join('?' if n is None else str(n) for n in shape)})"


def _dtype(info: Any) -> str:
    import onnx

    element = info.type.tensor_type.elem_type  # 0 if it is not a tensor
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)
    except KeyError:
        return f"of type {element}"
