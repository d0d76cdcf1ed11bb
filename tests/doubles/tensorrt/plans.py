"""Engine plans of the fake: ONNX file and builder settings in one block of bytes that begins like NVIDIA's.

`read` rejects the same plans as NVIDIA's runtime, with similar messages: invalid bytes, another version, another device.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime

from cxr_edge.compiler.graph.half_emulation import emulate_half
from tests.doubles.tensorrt.foundation import Flavour

_MAGIC = b"ftrt"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Content of an engine plan."""

    onnx: bytes
    version: str
    compute_capability: str
    profiles: list[dict[str, list[list[int]]]]  # minimum, optimum and maximum shape by input
    hardware_compatibility: str  # name of a HardwareCompatibilityLevel
    version_compatible: bool

    def to_bytes(self) -> bytes:
        """Return the content of the plan file."""
        header = json.dumps({k: v for k, v in vars(self).items() if k != "onnx"}).encode()
        return _MAGIC + len(header).to_bytes(8, "little") + header + self.onnx

    @property
    def model(self) -> onnx.ModelProto:
        return onnx.load_model_from_string(self.onnx)


def read(content: bytes, flavour: Flavour, *, host_code_allowed: bool) -> Plan | str:
    """Return the plan, or the error message of this version on this device."""
    if content[:4] != _MAGIC or len(content) < 12:
        return "Error Code 1: Serialization (Serialization assertion magicTagRead == magicTag failed.Magic tag does not match)"
    end = 12 + int.from_bytes(content[4:12], "little")
    try:
        plan = Plan(onnx=content[end:], **json.loads(content[12:end]))
        session(plan.onnx)
    except Exception as error:  # a truncated plan fails in the JSON or in the runtime
        return f"Error Code 1: Serialization (the plan cannot be read: {type(error).__name__})"
    return _version_objection(plan, flavour, host_code_allowed) or _device_objection(plan, flavour) or plan


def session(model: bytes) -> Any:
    """Return a quiet ONNX Runtime session. Raises the runtime's own error types.

    ONNX Runtime has no bfloat16 on a CPU, so such a network is emulated as in the compiler.
    """
    graph = onnx.load_model_from_string(model)
    if onnx.TensorProto.BFLOAT16 in {t.data_type for t in graph.graph.initializer}:
        model = emulate_half(graph).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _version_objection(plan: Plan, flavour: Flavour, host_code_allowed: bool) -> str | None:
    if plan.version_compatible:
        if not host_code_allowed:
            return "Error Code 4: a version compatible plan holds host code: set IRuntime::setEngineHostCodeAllowed"
        if plan.version.split(".")[0] == flavour.version.split(".")[0]:
            return None
    if plan.version == flavour.version:
        return None
    return (
        "Error Code 6: API Usage Error (The engine plan file is not compatible with this version of TensorRT, "
        f"expecting library version {flavour.version} got {plan.version}, please rebuild.)"
    )


def _device_objection(plan: Plan, flavour: Flavour) -> str | None:
    built, here = plan.compute_capability, flavour.compute_capability
    ampere_plus = plan.hardware_compatibility == "AMPERE_PLUS" and float(here) >= 8
    if built == here or ampere_plus:
        return None
    return (
        "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
        f"expecting compute {here} got compute {built}, please rebuild.)"
    )
