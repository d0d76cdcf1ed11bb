"""Number of processor cores that this process may use, from its affinity and the CPU quota of its container.

Reads the kernel's accounting of control groups (cgroup versions 1 and 2) and returns whole numbers. A container with a
quota of two processors on a machine of 64 still sees 64: 64 threads would then be throttled most of the time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["available_cores", "thread_limit"]

_THREADS_PER_CORE = 4  # more threads only cost memory and switches between them

# Mount points of the CPU controller: systemd's layouts of version 2 and of both versions together, then version 1.
_MOUNTS_V2 = ("sys/fs/cgroup", "sys/fs/cgroup/unified")
_MOUNTS_V1 = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/cpuacct,cpu")


def available_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use: those of its affinity, at most its quota rounded up.

    root: of the file system with /proc and /sys.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([cores, *(max(1, math.ceil(quota)) for quota in _quotas(root))])


def thread_limit() -> int:
    """Return the largest sensible number of threads on this machine; callers reduce a larger request to it."""
    return _THREADS_PER_CORE * available_cores()


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in processors, of the process' control groups and of all groups above them."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            pairs = [_read(folder / "cpu.max").split() for folder in _groups(root, _MOUNTS_V2, path)]
        elif "cpu" in controllers.split(","):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            pairs = [[_read(folder / n).strip() for n in names] for folder in _groups(root, _MOUNTS_V1, path)]
        else:
            continue
        yield from (int(q) / int(p) for q, p in filter(_is_limit, pairs))


def _groups(root: Path, mounts: tuple[str, ...], path: str) -> Iterator[Path]:
    """Yield the folders that a group and the groups above it may have.

    A container without a namespace of its own has the host's path here, of which it sees no folder but the mount point.
    """
    names = [name for name in PurePosixPath(path).parts if name not in ("/", "..")]
    for mount in mounts:
        yield from (root / mount / PurePosixPath(*names[:depth]) for depth in range(len(names) + 1))


def _is_limit(pair: list[str]) -> bool:
    """Return whether the pair is a quota and its period in microseconds; without a limit, the quota is `max` or -1."""
    return len(pair) == 2 and all(text.isascii() and text.isdigit() and int(text) > 0 for text in pair)


def _read(path: Path) -> str:
    """Return the file's text, empty if it cannot be read: then there is no limit that we could know."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
