"""What this machine's processor is, in words that decide whether a compiled engine still fits.

No input; out come the processor's name, the instruction sets that inference libraries choose their kernels by, and the
platform. Engines record them, because an engine compiled for one set of instructions may be slow or invalid on another.
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
    """The processor's model name, or the machine type where the system does not say."""
    facts = _cpuinfo()
    return facts.get("model name") or facts.get("cpu model") or platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """The known vector instruction sets that this processor has; empty where the system does not tell."""
    facts = _cpuinfo()
    flags = set((facts.get("flags") or facts.get("features") or "").split())
    return tuple(name for name in _SETS if name in flags)


def platform_name() -> str:
    """System and machine type, such as `Linux x86_64`."""
    return f"{platform.system()} {platform.machine()}"


@functools.cache
def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo, keys in lower case; empty elsewhere than on Linux."""
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.strip().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}
