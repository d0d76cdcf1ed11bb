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

from cxr_edge.bundle.foreign_files import describe_foreign, export_call
from cxr_edge.bundle.onnx_activation import Activation, last_activation
from cxr_edge.bundle.onnx_signature import Shape, check_input, check_outputs, quoted, tensor_shape
from cxr_edge.errors import BackendError, BundleError, ContractError

if TYPE_CHECKING:
    from cxr_edge.bundle import Bundle
    from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["DIGEST_KEY", "NEWEST_OPSET", "OLDEST_OPSET", "Network", "check_network", "check_networks", "read_model"]

DIGEST_KEY = "cxr_edge.preprocess_digest"  # in the ONNX metadata_props

OLDEST_OPSET = 13  # the first with a per-channel QuantizeLinear
NEWEST_OPSET = 23  # raise it together with a test on every backend

_MAX_ONNX_BYTES = 1024**3  # protobuf's own limit is 2 GiB


@dataclass(frozen=True, kw_only=True)
class Network:
    """Facts about one ONNX file."""

    name: str
    path: Path
    size_bytes: int
    opset: int
    parameters: int
    macs: int  # multiply-accumulates per image, in convolutions and matrix products
    activation: Activation | None  # that the first output ends in


def check_networks(bundle: Bundle) -> tuple[Network, ...]:
    """Check the segmenter (first, named `segmenter`), every member, and the checker (last, named `checker`) of a bundle.

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
        network = check_network(member.name, bundle.file(member.file), member.preprocess, outputs)
        _check_logits(network, manifest.combination.activation)
        networks.append(network)
    if (checker := manifest.checker) is not None:
        outputs = {"scores": ("N", len(checker.scores))}
        networks.append(check_network("checker", bundle.file(checker.file), checker.preprocess, outputs))
    return tuple(networks)


def read_model(path: Path, *, oldest_opset: int = OLDEST_OPSET, unused_domains: bool = False) -> Any:
    """Return the onnx.ModelProto in `path`, checked for everything that needs no expectation.

    oldest_opset: lower for a file that is converted next. unused_domains: accept the names of other operator domains, as some
    converters write them, if no node is of one.
    Raises BundleError for a file that is none, is malformed, has external data or an unsupported opset, BackendError if the
    installed onnx is too old for it.
    """
    model = _parse(path)
    _check_texts(model, path)
    _check_external_data(model, path)
    opset = _check_opset(model, path, oldest_opset, unused_domains)
    _check_installed_onnx(model, opset, path)
    _check_well_formed(model, path)
    return model


def check_network(
    name: str, path: Path, spec: PreprocessSpec, outputs: dict[str, Shape], *, digest_required: bool = True
) -> Network:
    """Check one ONNX file: input `image` of the spec's shape, these outputs, the spec's digest in its metadata.

    outputs: expected shape by name, the first is the one that is decided by; a string is the dynamic batch size, None is
    any fixed length. digest_required: False for a file outside a bundle, which may lack the digest.

    Raises the errors of `check_networks`.
    """
    model = read_model(path)
    where = f"{path.name} ({name})"
    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    check_input(where, inputs, spec)
    check_outputs(where, list(model.graph.output), outputs)
    _check_digest(where, model, spec, required=digest_required)
    shapes = _infer_shapes(where, model)
    return Network(
        name=name,
        path=path,
        size_bytes=path.stat().st_size,
        opset=_opset(model),
        parameters=sum(prod(t.dims) for t in model.graph.initializer if _is_float(t)),
        macs=sum(_node_macs(node, shapes) for node in model.graph.node) // 2,
        activation=last_activation(model, next(iter(outputs))),
    )


def _check_logits(network: Network, activation: str) -> None:
    """Reject a member that ends in a softmax or a sigmoid: the combination would take that of probabilities."""
    if (last := network.activation) is not None:
        raise ContractError(
            f"{network.path.name} ({network.name}): its output logits ends in a {last.operator}, so it holds probabilities, "
            f"and the bundle's combination would take their {activation}: export the network without its {last.operator} "
            f"(whose input {quoted(last.tensor)} has the logits)"
        )


def _parse(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if (other := describe_foreign(path)) is not None:
        raise BundleError(f"{path} is no ONNX file but {other}")
    if not path.is_file():
        raise BundleError(f"there is no file {path}: give the path of an ONNX file")
    size = path.stat().st_size
    if not 0 < size <= _MAX_ONNX_BYTES:
        raise BundleError(
            f"{path} has {size} bytes; an ONNX file of a bundle has 1 to {_MAX_ONNX_BYTES}: export it again"
        )
    try:
        return onnx.ModelProto.FromString(path.read_bytes())
    except (DecodeError, ValueError):
        raise BundleError(f"{path} is not an ONNX file, or is truncated: copy it again, or export it again") from None


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
                f"{path}: tensor {quoted(tensor.name)} has its data outside the file, at {quoted(location)}; "
                "a network must be one file: export again without external data, in PyTorch by "
                "torch.onnx.export(..., external_data=False), or join the two by "
                f'onnx.save(onnx.load({path.name!r}), "joined.onnx")'
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


def _check_opset(model: Any, path: Path, oldest: int, unused_domains: bool) -> int:
    domains = {o.domain or "ai.onnx" for o in model.opset_import}
    foreign = sorted((_used_domains(model) if unused_domains else domains) - {"ai.onnx"})
    if foreign:
        raise BundleError(
            f"{path} uses operators of the domain {quoted(foreign[0])}; only the standard ones (ai.onnx) run on every "
            "backend: export again without custom operators or functions"
        )
    opset = _opset(model)
    if not oldest <= opset <= NEWEST_OPSET:
        raise BundleError(
            f"{path} has opset {opset}, supported are {oldest} to {NEWEST_OPSET}: export again with one of these"
        )
    return opset


def _used_domains(model: Any) -> set[str]:
    import onnx

    return {node.domain or "ai.onnx" for node in _messages(model, onnx.NodeProto)}


def _opset(model: Any) -> int:
    return next((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


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
        reason = quoted(str(error).strip().split("\n")[0])
        raise BundleError(f"{path} is not a valid ONNX model: {reason}; export it again") from None


def _check_digest(where: str, model: Any, spec: PreprocessSpec, *, required: bool) -> None:
    digests = [p.value for p in model.metadata_props if p.key == DIGEST_KEY]
    if (digests or required) and digests != [spec.digest()]:
        actual = quoted(", ".join(digests)) if digests else "none"
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
        fixed = any(isinstance(n, int) and n != 2 for n in (tensor_shape(o)[0] for o in graph.output))
    except Exception:  # any error: with a dynamic batch the same model passed _check_well_formed
        fixed = True
    if fixed:
        raise ContractError(
            f"{where} must take any number of images at once, and its graph has a fixed batch size: export it again with a "
            f"dynamic batch, in PyTorch by {export_call()}"
        )
    shapes: dict[str, Shape] = {i.name: tensor_shape(i) for i in [*graph.input, *graph.value_info, *graph.output]}
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
