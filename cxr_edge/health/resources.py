"""Memory, disk space and temperatures of this machine, from the files of Linux.

`root` is the folder that contains proc and sys; tests pass their own. What a system does not report is None or empty: usual in
containers and virtual machines.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["Memory", "Temperature", "free_bytes", "memory", "read_text", "slowed_by", "temperatures", "writable"]

ROOT = Path("/")
_KIB = 1024
_MEMORY_MOUNTS = ("sys/fs/cgroup", "sys/fs/cgroup/unified", "sys/fs/cgroup/memory")
_LIMITS = (  # limit, usage, and what of the usage are files in the cache: versions 2 and 1 of control groups
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_ENDS_AT = ("critical", "hot")  # kinds of trip points at which the system throttles hard or shuts down


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory in bytes; None where the system does not say."""

    used: int | None  # by this process, resident
    available: int | None  # that can still be used, within the limit of the container


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """One sensor."""

    name: str
    celsius: float
    limit: float | None  # by the sensor; None where it has none


def memory(root: Path = ROOT) -> Memory:
    """Return the memory of this process and of the machine."""
    free = _kib(root / "proc/meminfo", "MemAvailable")
    found = [free, *_container_memory(root)] if free is not None else list(_container_memory(root))
    return Memory(used=_kib(root / "proc/self/status", "VmRSS"), available=min(found) if found else None)


def _kib(file: Path, key: str) -> int | None:
    """Return an entry of a file of /proc that is in kB, in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB", read_text(file), re.MULTILINE)
    return int(found[1]) * _KIB if found else None


def _container_memory(root: Path) -> Iterator[int]:
    """Yield what the limits of the process' control groups, and of the mount points above them, leave."""
    paths = [
        PurePosixPath(line.split(":", 2)[-1].strip()) for line in read_text(root / "proc/self/cgroup").splitlines()
    ]
    below = {
        PurePosixPath(*(part for part in path.parts if part not in ("/", ".."))) for path in (*paths, PurePosixPath())
    }
    for folder in {root / mount / path for mount in _MEMORY_MOUNTS for path in below}:
        for limit, usage, cache in _LIMITS:
            most, used = read_text(folder / limit).strip(), read_text(folder / usage).strip()
            if most.isdigit() and used.isdigit():
                yield max(0, int(most) - int(used) + _cached(folder, cache))


def _cached(folder: Path, key: str) -> int:
    """Return the bytes of a group's memory that hold files and are given up when they are needed."""
    found = re.search(rf"^{key} (\d+)", read_text(folder / "memory.stat"), re.MULTILINE)
    return int(found[1]) if found else 0


def free_bytes(folder: Path) -> int:
    """Return the free space for this user where the folder is, or its nearest parent that exists. Raises OSError."""
    return shutil.disk_usage(_existing(folder)).free


def writable(folder: Path) -> bool:
    """Return whether a file can be made in the folder, or in its nearest parent that exists; nothing is written."""
    found = _existing(folder)
    read_only = bool(getattr(os, "ST_RDONLY", 1) & os.statvfs(found).f_flag)
    return found.is_dir() and os.access(found, os.W_OK | os.X_OK) and not read_only


def _existing(folder: Path) -> Path:
    path = folder.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def temperatures(root: Path = ROOT) -> tuple[Temperature, ...]:
    """Return the temperatures of thermal zones and monitoring chips that can be read."""
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*"))
    chips = sorted((root / "sys/class/hwmon").glob("hwmon*"))
    return (*filter(None, map(_zone, zones)), *(t for chip in chips for t in _chip(chip)))


def _zone(zone: Path) -> Temperature | None:
    celsius = _celsius(zone / "temp")  # the zone of a unit that is powered off cannot be read
    if celsius is None:
        return None
    ends = [zone / file.name.replace("_type", "_temp") for file in zone.glob("trip_point_*_type") if _is_end(file)]
    limits = [limit for file in ends if (limit := _celsius(file)) is not None and limit > 0]
    return Temperature(
        name=read_text(zone / "type").strip() or zone.name, celsius=celsius, limit=min(limits, default=None)
    )


def _is_end(file: Path) -> bool:
    return read_text(file).strip() in _ENDS_AT


def _chip(chip: Path) -> Iterator[Temperature]:
    name = read_text(chip / "name").strip() or chip.name
    for file in sorted(chip.glob("temp*_input")):
        celsius, limit = _celsius(file), _celsius(file.with_name(file.name.replace("_input", "_crit")))
        if celsius is not None:
            yield Temperature(name=name, celsius=celsius, limit=limit if limit is not None and limit > 0 else None)


def _celsius(file: Path) -> float | None:
    try:
        return float(read_text(file)) / 1e3
    except ValueError:
        return None


def slowed_by(root: Path = ROOT) -> tuple[str, ...]:
    """Return the reasons for which the kernel reduces the clocks now: a Jetson's throttle alerts."""
    devices = sorted((root / "sys/class/thermal").glob("cooling_device*"))
    kinds = [(read_text(device / "type").strip(), read_text(device / "cur_state").strip()) for device in devices]
    return tuple(dict.fromkeys(kind for kind, state in kinds if kind.endswith("-throttle-alert") and state != "0"))


def read_text(file: Path) -> str:
    """Return a small file's text, empty if it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
