"""What the manifest promises about a network, held against what its ONNX file says, without running anything.

A bundle comes in; facts for `inspect` come out, or an error: BundleError for a file that is malformed or reaches
outside itself, ContractError for one that was trained on another preprocessing, other shapes or other labels than the
manifest has. ONNX files are untrusted input. onnx is imported when a check runs, since screening does without it.
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

OLDEST_OPSET = 13  # the first whose QuantizeLinear scales per channel
NEWEST_OPSET = 23  # raise it together with a test on every backend

_MAX_ONNX_BYTES = 1024**3  # protobuf itself stops at 2 GiB
_MAX_TEXT = 200

Shape = tuple["int | str | None", ...]  # a text or None is a length that varies


@dataclass(frozen=True, kw_only=True)
class Network:
    """Facts of one ONNX file: multiply-accumulates (macs) are for one image, in convolutions and matrix products."""

    name: str
    path: Path
    size_bytes: int
    opset: int
    parameters: int
    macs: int


def check_networks(bundle: Bundle) -> tuple[Network, ...]:
    """Check the segmenter (first, named `segmenter`) and every member of a bundle.

    Raises BundleError for a malformed file, external data or an unsupported opset; ContractError if inputs, outputs or
    the preprocessing digest are not what the manifest says; BackendError if the installed onnx is older than a file.
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

    outputs: shape by name; a text stands for the batch size, None for any fixed length. Raises as `check_networks`.
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
    shapes = _shapes_of_two(where, model)
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
            f"{path} is no ONNX file, or a truncated one: copy the bundle again, or export it again"
        ) from None


def _check_texts(model: Any, path: Path) -> None:
    """Protobuf hands texts that are not UTF-8 over as bytes, which no code behind this expects."""
    from google.protobuf.message import Message

    for message in _messages(model, Message):
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and any(isinstance(v, bytes) for v in _several(value)):
                raise BundleError(f"{path} has a {field.name} that is not UTF-8 text: copy the bundle again")


def _check_external_data(model: Any, path: Path) -> None:
    """Weights outside the file escape the manifest's SHA-256, and their path may lead anywhere: refused altogether."""
    import onnx

    for tensor in _messages(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) > 0:
            location = next((e.value for e in tensor.external_data if e.key == "location"), "")
            raise BundleError(
                f"{path}: tensor {_shown(tensor.name)} keeps its data outside the file, at {_shown(location)}; "
                "a bundle's networks must be whole in themselves: export again without external data"
            )


def _messages(message: Any, kind: type) -> Iterator[Any]:
    """Every protobuf message of that kind inside, in subgraphs, functions and attributes too."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        if isinstance(current, kind):
            yield current
        for field, value in current.ListFields():
            if field.message_type is not None:
                waiting.extend(_several(value))


def _several(value: Any) -> Any:
    """The values of a protobuf field, repeated or not."""
    return [value] if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value


def _check_opset(model: Any, path: Path) -> int:
    versions = {o.domain or "ai.onnx": o.version for o in model.opset_import}
    foreign = sorted(set(versions) - {"ai.onnx"})
    if foreign:
        raise BundleError(
            f"{path} uses operators of the domain {_shown(foreign[0])}; only the standard ones (ai.onnx) run on every "
            "backend: export again without custom operators or functions"
        )
    opset = int(versions.get("ai.onnx", 0))
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise BundleError(
            f"{path} has opset {opset}, supported are {OLDEST_OPSET} to {NEWEST_OPSET}: export again with one of these"
        )
    return opset


def _check_installed_onnx(model: Any, opset: int, path: Path) -> None:
    """The checker of an onnx package older than the file calls a sound file invalid."""
    import onnx

    found = (
        ("IR version", model.ir_version, onnx.IR_VERSION, "ir_version"),
        ("opset", opset, onnx.defs.onnx_opset_version(), "opset"),
    )
    for what, version, newest, setting in found:
        if version > newest:
            raise BackendError(
                f"{path} has {what} {version}, the installed onnx {onnx.__version__} reads up to {newest}: install a "
                f"newer one (pip install --upgrade onnx), or export again with {setting} {newest} or older"
            )


def _check_well_formed(model: Any, path: Path) -> None:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    # Its own errors derive from different bases in different releases, and this is the door for untrusted files.
    except Exception as error:
        reason = _shown(str(error).strip().split("\n")[0])
        raise BundleError(f"{path} is no valid ONNX model: {reason}; export it again") from None


def _check_tensors(where: str, what: str, infos: list[Any], wanted: dict[str, Shape], dtype: str) -> None:
    names = [i.name for i in infos]
    if sorted(names) != sorted(wanted):
        raise ContractError(
            f"{where} must have the {what}s {', '.join(wanted)}, it has {_shown(', '.join(names))}: "
            "export it with these names, or correct the manifest (has_cam)"
        )
    for info in infos:
        came, kind = _shape(info), _dtype(info)
        if kind != dtype or not _fits(came, wanted[info.name]):
            raise ContractError(
                f"{where}: {what} {info.name} must be {dtype} {_shape_text(wanted[info.name])}, N varying, "
                f"it is {kind} {_shape_text(came)}: the network was exported for other preprocessing or labels than "
                "the manifest has; export it again"
            )


def _fits(came: Shape, wanted: Shape) -> bool:
    return len(came) == len(wanted) and all(_length_fits(c, w) for c, w in zip(came, wanted, strict=True))


def _length_fits(came: int | str | None, wanted: int | str | None) -> bool:
    if isinstance(wanted, str):
        return not isinstance(came, int)
    return isinstance(came, int) and came > 0 and wanted in (None, came)


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

    element = info.type.tensor_type.elem_type  # 0 for what is no tensor
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element).name)
    except KeyError:
        return f"of type {element}"


def _check_digest(where: str, model: Any, spec: PreprocessSpec) -> None:
    found = [p.value for p in model.metadata_props if p.key == DIGEST_KEY]
    if found != [spec.digest()]:
        came = _shown(", ".join(found)) if found else "none"
        raise ContractError(
            f"{where} must carry the digest of its preprocessing, {spec.digest()}, in its metadata ({DIGEST_KEY}), "
            f"it has {came}: it was trained on other images than the manifest says; export it again with its own spec"
        )


def _is_float(tensor: Any) -> bool:
    import onnx

    return tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)


def _shapes_of_two(where: str, model: Any) -> dict[str, Shape]:
    """Shapes of all tensors for a batch of two, inferred. Raises ContractError if the network was frozen to another."""
    import onnx

    two = onnx.ModelProto()
    two.CopyFrom(model)
    del two.graph.value_info[:]  # an exporter's, still with a varying batch
    next(i for i in two.graph.input if i.name == "image").type.tensor_type.shape.dim[0].dim_value = 2
    try:
        graph = onnx.shape_inference.infer_shapes(two, strict_mode=True, data_prop=True).graph
        frozen = any(isinstance(n, int) and n != 2 for n in (_shape(o)[0] for o in graph.output))
    except Exception:  # as in _check_well_formed, which it passed while the batch was open
        frozen = True
    if frozen:
        raise ContractError(f"{where} must take any number of images at once: export it again with a dynamic batch")
    shapes: dict[str, Shape] = {i.name: _shape(i) for i in [*graph.input, *graph.value_info, *graph.output]}
    return shapes | {t.name: tuple(t.dims) for t in graph.initializer}


def _node_macs(node: Any, shapes: dict[str, Shape]) -> int:
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    left, weight, out = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":
        factors = (*out, *weight[1:])  # every output is a sum over its kernel
    elif node.op_type == "ConvTranspose":
        factors = (*left, *weight[1:])  # every input is spread over its kernel
    else:
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        factors = (*out, *left[-2 if transposed else -1 :][:1])
    lengths = [n for n in factors if isinstance(n, int)]
    return prod(lengths) if len(lengths) == len(factors) > 0 else 0


def _shown(text: str) -> str:
    """Text out of an untrusted file, as a message may show it: quoted, without control characters, not long."""
    return ascii(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...")
