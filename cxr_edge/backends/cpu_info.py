"""Processor name, vector instruction sets and platform of this machine.

Engines record them, because inference libraries choose their kernels by instruction set: an engine compiled for one set
may be slow or invalid on another.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

__all__ = ["instruction_sets", "platform_name", "processor_name"]

# The instruction sets by which CPU inference kernels are chosen, as Linux names them: x86 first, then Arm.
_SETS = (
    "avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """Return the processor's model name, or the machine type where the system does not report one."""
    info = _cpuinfo()
    return info.get("model name") or info.get("cpu model") or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Return the known vector instruction sets of this processor; empty where the system does not report them."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("features") or "").split())
    return tuple(name for name in _SETS if name in flags)


def platform_name() -> str:
    """Return system and machine type, for example `Linux x86_64`."""
    return f"{platform.system()} {platform.machine()}"


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """Return the first processor's entries of /proc/cpuinfo, keys in lower case; empty on systems other than Linux."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}
