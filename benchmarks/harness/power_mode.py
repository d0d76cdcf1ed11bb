"""Power mode and clock governors of the machine, without which latencies cannot be compared.

Reads the machine's own files, and `nvpmodel -q` on a Jetson; returns a `PowerMode` with a one-line description. Changes
nothing; values that cannot be read are None.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PowerMode", "power_mode"]

_CPUS = "sys/devices/system/cpu"
# Files that tell whether the processor may run above its nominal clock, with their content if it may.
_BOOST_FILES = ((f"{_CPUS}/intel_pstate/no_turbo", "0"), (f"{_CPUS}/cpufreq/boost", "1"))


@dataclass(frozen=True, kw_only=True)
class PowerMode:
    """Power settings of a machine; None for each one that cannot be read here."""

    nvpmodel: str | None  # a Jetson's mode and its number
    cpu: str | None  # governor and its range of clocks
    gpu: str | None  # the same, of a Jetson's GPU
    boost: bool | None  # whether clocks above the nominal one are allowed

    def describe(self) -> str:
        """Return one line for a report."""
        boost = None if self.boost is None else "on" if self.boost else "off"
        facts = {"nvpmodel": self.nvpmodel, "CPU": self.cpu, "CPU boost": boost, "GPU": self.gpu}
        known = [f"{name} {fact}" for name, fact in facts.items() if fact is not None]
        return "; ".join(known) or "not readable here (no nvpmodel, no cpufreq in /sys: usual in a virtual machine)"


def power_mode(root: Path = Path("/")) -> PowerMode:
    """Read the power mode of this machine. root: folder that /sys is in; tests pass their own."""
    cpus = sorted((root / _CPUS).glob("cpu[0-9]*/cpufreq"))
    gpus = sorted(p for p in (root / "sys/class/devfreq").glob("*") if "gpu" in p.name)
    return PowerMode(
        nvpmodel=_nvpmodel(),
        cpu=_scaling(cpus, "scaling_governor", "scaling_min_freq", "scaling_max_freq", per_mhz=1e3),
        gpu=_scaling(gpus, "governor", "min_freq", "max_freq", per_mhz=1e6),
        boost=_boost(root),
    )


def _nvpmodel() -> str | None:
    # On a Jetson the tool is in /usr/sbin, which is not on every user's PATH.
    tool = shutil.which("nvpmodel", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if tool is None:
        return None
    try:
        output = subprocess.run([tool, "-q"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"NV Power Mode:\s*(\S+)(?:\s+(\d+))?", output)
    return None if match is None else match[1] + (f" (mode {match[2]})" if match[2] else "")


def _scaling(folders: list[Path], governor: str, lowest: str, highest: str, *, per_mhz: float) -> str | None:
    governors = sorted({text for folder in folders if (text := _text(folder / governor))})
    if not governors:
        return None
    low, high = (_numbers(folders, name) for name in (lowest, highest))
    clocks = f", {min(low) / per_mhz:.0f} to {max(high) / per_mhz:.0f} MHz" if low and high else ""
    return f"governor {' and '.join(governors)}{clocks}"


def _boost(root: Path) -> bool | None:
    for name, allowed in _BOOST_FILES:
        text = _text(root / name)
        if text:
            return text == allowed
    return None


def _numbers(folders: list[Path], name: str) -> list[float]:
    texts = [_text(folder / name) for folder in folders]
    return [float(text) for text in texts if text.isdigit()]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
