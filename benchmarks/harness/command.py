"""The `cxr-edge` command in a process of its own: how the benchmarks start one, wait for it and see what it used.

In: parsed options and files; out: the finished process's output, or its duration and peak memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import cxr_edge

__all__ = ["Usage", "run", "screen", "usage"]

# As the script `cxr-edge` that pip makes; without it, a checkout that is not installed will do.
_CALL = "import sys; from cxr_edge.cli import main; sys.exit(main())"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """seconds: from the making of a process to its end. peak_mib: the most memory it held (resident), in MiB."""

    seconds: float
    peak_mib: float


def screen(args: argparse.Namespace, path: Path) -> list[str]:
    """The command line of `cxr-edge screen PATH` with the bundle and engine options of `args`."""
    more = ["--engines", str(args.engines)] if args.engines else []
    options = ["--bundle", str(args.bundle), "--backend", args.backend, "--threads", str(args.threads), *more]
    return [sys.executable, "-c", _CALL, "screen", str(path), *options]


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run to the end. Raises RuntimeError with the child's last words if it fails."""
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"a child process ended with status {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return done


def usage(command: Sequence[str]) -> Usage:
    """Run to the end, output thrown away. Raises RuntimeError if it fails. Needs a Unix (wait4)."""
    start = perf_counter()
    child = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    seconds = perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command[3:])} ended with status {child.returncode}: run it by hand to see why")
    in_mib = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, Linux kibibytes
    return Usage(seconds=seconds, peak_mib=used.ru_maxrss / in_mib)


def _environment() -> dict[str, str]:
    """The children's: they shall import the cxr_edge that this process has."""
    here = str(Path(cxr_edge.__file__).resolve().parent.parent)
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": here if not before else os.pathsep.join([here, before])}
