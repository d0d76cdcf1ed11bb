"""Check that each ONNX file of a bundle matches the manifest, without running it.

`check_networks` takes a bundle and returns facts for `inspect`. It raises BundleError for a file that is malformed or has
external data, and ContractError for a network that was trained with other preprocessing, shapes or labels than those in
the manifest. ONNX files are untrusted input. onnx is imported when a check runs, because screening does not need it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.errors import BackendError, BundleError, ContractError

if TYPE_CHECKING:
    from cxr_edge.bundle import Bundle
    from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["DIGEST_KEY", "NEWEST_OPSET", "OLDEST_OPSET", "Network", "check_network", "check_networks"]

DIGEST_KEY = "cxr_edge.preprocess_digest"  # in the ONNX metadata_props

OLDEST_OPSET = 13  # the first with a per-channel QuantizeLinear
NEWEST_OPSET = 23  # raise it together with a test on every backend

_MAX_ONNX_BYTES = 1024**3  # protobuf's own limit is 2 GiB
_MAX_TEXT = 200

Shape = tuple["int | str | None", ...]  # a string (its symbol) or None is a dynamic dimension


@dataclass(frozen=True, kw_only=True)
class Network:
    """Facts about one ONNX file."""

    name: str
    path: Path
    size_bytes: int
    opset: int
    parameters: int
    macs: int  # multiply-accumulates per image, in convolutions and matrix products


def check_networks(bundle: Bundle) -> tuple[Network, ...]:
    """Check the segmenter (first, named `segmenter`) and every member of a bundle.

    Raises BundleError for a malformed file, external data or an unsupported opset; ContractError if inputs, outputs or
    the preprocessing digest differ from the manifest; BackendError if the installed onnx is too old for a file.
    """
    manifest, labels = bundle.manifest, len(bundle.manifest.labels)
    networks = []
    if (segmenter := manifest.segmenter) is not None:
        side = segmenter.preprocess.crop_px
        path = bundle.file(segmenter.file)
        networks.append(check_network("segmenter", path, segmenter.preprocess, {"mask": ("N", 1, side, side)}))
    for member in manifest.members:
        outputs: dict[str, Shape] = {"logits": ("N", labels)}
        if member.has_cam:
            outputs["cam"] = ("N", labels, None, None)
        networks.append(check_network(member.name, bundle.file(member.file), member.preprocess, outputs))
    return tuple(networks)


def check_network(name: str, path: Path, spec: PreprocessSpec, outputs: dict[str, Shape]) -> Network:
    """Check one ONNX file: input `image` of the spec's shape, these outputs, the spec's digest in its metadata.

    outputs: expected shape by name; a string is the dynamic batch size, None is any fixed length.

    Raises the errors of `check_networks`.
    """
    model = _parse(path)
    _check_texts(model, path)
    _check_external_data(model, path)
    opset = _check_opset(model, path)
    _check_installed_onnx(model, opset, path)
    _check_well_formed(model, path)
    where = f"{path.name} ({name})"
    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    _check_tensors(where, "input", inputs, {"image": ("N", *spec.tensor_shape)}, spec.dtype)
    _check_tensors(where, "output", list(model.graph.output), outputs, "float32")
    _check_digest(where, model, spec)
    shapes = _infer_shapes(where, model)
    return Network(
        name=name,
        path=path,
        size_bytes=path.stat().st_size,
        opset=opset,
        parameters=sum(prod(t.dims) for t in model.graph.initializer if _is_float(t)),
        macs=sum(_node_macs(node, shapes) for node in model.graph.node) // 2,
    )


def _parse(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = path.stat().st_size
    if not 0 < size <= _MAX_ONNX_BYTES:
        raise BundleError(
            f"{path} has {size} bytes; an ONNX file of a bundle has 1 to {_MAX_ONNX_BYTES}: export it again"
        )
    try:
        return onnx.ModelProto.FromString(path.read_bytes())
    except (DecodeError, ValueError):
        raise BundleError(
            f"{path} is not an ONNX file, or is truncated: copy the bundle again, or export it again"
        ) from None


def _check_texts(model: Any, path: Path) -> None:
    """Reject strings that are not UTF-8: protobuf returns them as bytes, which the code after this does not expect."""
    from google.protobuf.message import Message

    for message in _messages(model, Message):
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and any(isinstance(v, bytes) for v in _as_list(value)):
                raise BundleError(f"{path} has a {field.name} that is not UTF-8 text: copy the bundle again")


def _check_external_data(model: Any, path: Path) -> None:
    """Reject external weights: the manifest's SHA-256 does not cover them, and their path may point anywhere."""
    import onnx

    for tensor in _messages(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            raise BundleError(
                f"{path}: tensor {_quote(tensor.name)} has its data outside the file, at {_quote(location)}; "
                "a bundle's networks must be self-contained: export again without external data"
            )


def _messages(message: Any, kind: type) -> Iterator[Any]:
    """Yield every nested protobuf message of that kind, also in subgraphs, functions and attributes."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        if isinstance(current, kind):
            yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting.extend(_as_list(value))


def _as_list(value: Any) -> Any:
    """Return the values of a protobuf field, repeated or not."""
    return [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value


def _check_opset(model: Any, path: Path) -> int:
    versions = {o.domain or "ai.onnx": o.version for o in model.opset_import}
    foreign = sorted(set(versions) - {"ai.onnx"})
    if foreign:
        raise BundleError(
            f"{path} uses operators of the domain {_quote(foreign[0])}; only the standard ones (ai.onnx) run on every "
            "backend: export again without custom operators or functions"
        )
    opset = int(versions.get("ai.onnx", 0))
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise BundleError(
            f"{path} has opset {opset}, supported are {OLDEST_OPSET} to {NEWEST_OPSET}: export again with one of these"
        )
    return opset


def _check_installed_onnx(model: Any, opset: int, path: Path) -> None:
    """Reject a file newer than the installed onnx, whose checker would call it invalid."""
    import onnx

    versions = (
        ("IR version", model.ir_version, onnx.IR_VERSION, "ir_version"),
        ("opset", opset, onnx.defs.onnx_opset_version(), "opset"),
    )
    for kind, version, newest, setting in versions:
        if version > newest:
            raise BackendError(
                f"{path} has {kind} {version}, the installed onnx {onnx.__version__} reads up to {newest}: install a "
                f"newer one (pip install --upgrade onnx), or export again with {setting} {newest} or older"
            )


def _check_well_formed(model: Any, path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    # onnx's errors have different base classes in different releases, and this is where untrusted files enter.
    except Exception as error:
        reason = _quote(str(error).strip().split("\n")[0])
        raise BundleError(f"{path} is not a valid ONNX model: {reason}; export it again") from None


def _check_tensors(where: str, kind: str, infos: list[Any], expected: dict[str, Shape], dtype: str) -> None:
    names = [i.name for i in infos]
    if sorted(names) != sorted(expected):
        raise ContractError(
            f"{where} must have the {kind}s {', '.join(expected)}, it has {_quote(', '.join(names))}: "
            "export it with these names, or correct the manifest (has_cam)"
        )
    for info in infos:
        shape, actual_dtype = _shape(info), _dtype(info)
        if actual_dtype != dtype or not _fits(shape, expected[info.name]):
            raise ContractError(
                f"{where}: {kind} {info.name} must be {dtype} {_shape_text(expected[info.name])}, N varying, "
                f"it is {actual_dtype} {_shape_text(shape)}: the network was exported for other preprocessing or labels "
                "than the manifest has; export it again"
            )


def _fits(shape: Shape, expected: Shape) -> bool:
    return len(shape) == len(expected) and all(_length_fits(n, e) for n, e in zip(shape, expected, strict=True))


def _length_fits(length: int | str | None, expected: int | str | None) -> bool:
    if isinstance(expected, str):
        return not isinstance(length, int)
    return isinstance(length, int) and length > 0 and expected in (None, length)


def _shape(info: Any) -> Shape:
    if not info.type.tensor_type.HasField("shape"):
        return ()
    return tuple(
        int(d.dim_value) if d.HasField("dim_value") else (d.dim_param or None) for d in info.type.tensor_type.shape.dim
    )


def _shape_text(shape: Shape) -> str:
    return f"({', '.join('?' if n is None else str(n) for n in shape)})"


def _dtype(info: Any) -> str:
    import onnx

    element = info.type.tensor_type.elem_type  # 0 if it is not a tensor
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)
    except KeyError:
        return f"of type {element}"


def _check_digest(where: str, model: Any, spec: PreprocessSpec) -> None:
    digests = [p.value for p in model.metadata_props if p.key == DIGEST_KEY]
    if digests != [spec.digest()]:
        actual = _quote(", ".join(digests)) if digests else "none"
        raise ContractError(
            f"{where} must have the digest of its preprocessing, {spec.digest()}, in its metadata ({DIGEST_KEY}), it has "
            f"{actual}: it was trained with other preprocessing than the manifest has; export it again with its own spec"
        )


def _is_float(tensor: Any) -> bool:
    import onnx

    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def _infer_shapes(where: str, model: Any) -> dict[str, Shape]:
    """Infer the shapes of all tensors for batch 2. Raises ContractError if the network has a fixed batch size."""
    import onnx

    batch_2 = onnx.ModelProto()
    batch_2.CopyFrom(model)
    del batch_2.graph.value_info[:]  # the exporter's, still with a dynamic batch
    next(i for i in batch_2.graph.input if i.name == "image").type.tensor_type.shape.dim[0].dim_value = 2
    try:
        graph = onnx.shape_inference.infer_shapes(batch_2, strict_mode=True, data_prop=True).graph
        fixed = any(isinstance(n, int) and n != 2 for n in (_shape(o)[0] for o in graph.output))
    except Exception:  # any error: with a dynamic batch the same model passed _check_well_formed
        fixed = True
    if fixed:
        raise ContractError(f"{where} must take any number of images at once: export it again with a dynamic batch")
    shapes: dict[str, Shape] = {i.name: _shape(i) for i in [*graph.input, *graph.value_info, *graph.output]}
    return shapes | {t.name: tuple(t.dims) for t in graph.initializer}


def _node_macs(node: Any, shapes: dict[str, Shape]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    left, weight, out = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":
        factors = (*out, *weight[1:])  # each output element sums over the kernel
    elif node.op_type == "ConvTranspose":
        factors = (*left, *weight[1:])  # each input element is multiplied by the kernel
    else:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        factors = (*out, *left[-2 if transposed else -1 :][:1])
    lengths = [n for n in factors if isinstance(n, int)]
    return prod(lengths) if len(lengths) == len(factors) > 0 else 0


def _quote(text: str) -> str:
    """Return text from an untrusted file in a form that is safe in messages: quoted, escaped, truncated."""
    return ascii(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")
