"""Checks of the machine: memory, clocks, temperature, time, locale, folders, telemetry; and how sizes are shown.

The doctor runs all of them; memory is an item of the self-test too.
"""

from __future__ import annotations

import locale
import os
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from cxr_edge.health import resources
from cxr_edge.health.checks import Checks, Finding, failed, missing, passed, skipped

__all__ = [
    "LEAST_DISK",
    "LEAST_MEMORY",
    "check_folder",
    "check_memory",
    "check_telemetry",
    "check_temporary_folder",
    "machine_checks",
    "size_text",
]

_MIB, _GIB = 1 << 20, 1 << 30
LEAST_MEMORY = 256 * _MIB  # a screening of an ordinary file takes less; decoding one of 100 megapixels takes a gigabyte
LEAST_DISK = 64 * _MIB
_FIRST_YEAR, _LAST_YEAR = 2025, 2100  # a clock before this release, or far after it, is not set


def check_memory() -> Finding:
    """Return whether enough memory is free for screening."""
    found = resources.memory()
    if found.available is None:
        return skipped("this system does not say how much memory is free")
    figure = f"{size_text(found.available)} free" + (
        f", {size_text(found.used)} used by this process" if found.used else ""
    )
    if found.available < LEAST_MEMORY:
        return failed(
            f"at least {size_text(LEAST_MEMORY)} are needed: end other programs, or raise the container's limit", figure
        )
    return passed(figure)


def size_text(count: int) -> str:
    """Return a number of bytes in GiB or MiB."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / _MIB:.0f} MiB"


def machine_checks() -> Checks:
    """Return the checks by name."""
    return [
        ("memory", check_memory),
        ("governor", _check_governor),
        ("temperature", _check_temperature),
        ("clock", _check_clock),
        ("locale", _check_locale),
    ]


def _check_governor(root: Path = resources.ROOT) -> Finding:
    files = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = {resources.read_text(file).strip() for file in files} - {""}
    if not found:
        return skipped("the clock governor cannot be read here, as usual in containers and virtual machines")
    if found & {"powersave", "conservative"} and not (root / "sys/devices/system/cpu/intel_pstate").is_dir():
        return missing(
            "clocks stay low: sudo cpupower frequency-set -g performance (on a Jetson: sudo jetson_clocks)",
            ", ".join(sorted(found)),
        )
    return passed(", ".join(sorted(found)))


def _check_temperature() -> Finding:
    found, slowed = resources.temperatures(), resources.slowed_by()
    if slowed:
        return missing(
            "clocks are reduced now: cool the machine, or change its power mode", f"slowed by {', '.join(slowed)}"
        )
    if not found:
        return skipped("no temperature can be read here, as usual in containers and virtual machines")
    return passed(", ".join(f"{t.name} {t.celsius:.0f} °C" for t in found[:6]))


def _check_clock(now: datetime | None = None) -> Finding:
    now = now or datetime.now(timezone.utc)
    figure = now.isoformat(timespec="seconds")
    if not _FIRST_YEAR <= now.year <= _LAST_YEAR:
        return missing(
            "the clock is not set, so that times in reports and logs are wrong: sudo timedatectl set-ntp true", figure
        )
    return passed(figure)


def _check_locale() -> Finding:
    encoding = locale.getpreferredencoding(False)
    names = f"{encoding}, file names {sys.getfilesystemencoding()}"
    if "utf" not in sys.getfilesystemencoding().lower() or "utf" not in encoding.lower():
        return missing("characters beyond ASCII are escaped in text output: export LC_ALL=C.UTF-8", names)
    return passed(names)


def check_temporary_folder() -> Finding:
    """Return whether temporary files can be written."""
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return missing(
            "there is none, which building needs and screening does not: set TMPDIR to one that can be written"
        )
    return check_folder(folder, "set TMPDIR to a folder that can be written")


def check_folder(folder: Path, remedy: str, *, needed: bool = False) -> Finding:
    """Return whether files can be written to a folder. needed: nothing works without; else only building and reports."""
    report = failed if needed else missing
    if not resources.writable(folder):
        return report(f"cannot be written: {remedy}", str(folder))
    free = resources.free_bytes(folder)
    figure = f"{folder}, {size_text(free)} free"
    if free < LEAST_DISK:
        return report(f"less than {size_text(LEAST_DISK)} are free: free space there, or {remedy}", figure)
    return passed(figure)


def check_telemetry() -> Finding:
    """Return whether ONNX Runtime's telemetry is off."""
    value = os.environ.get("ORT_DISABLE_TELEMETRY")
    if value != "1":
        return failed(
            "ONNX Runtime's telemetry is on: export ORT_DISABLE_TELEMETRY=1 before the start",
            f"ORT_DISABLE_TELEMETRY={value}",
        )
    return passed("off (ORT_DISABLE_TELEMETRY=1); no command opens a network connection")
