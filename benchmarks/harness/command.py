"""Subprocess runs of the `cxr-edge` command.

Takes parsed options and files; returns the completed process's output, or its duration and peak memory.
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

__all__ = ["Usage", "bundle_command", "run", "run_measured", "screen_command"]

# Equivalent to the script `cxr-edge` that pip creates; works in a checkout that is not installed, too.
_CALL = "import sys; from cxr_edge.cli import main; sys.exit(main())"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Time and memory of one finished process."""

    seconds: float  # from the creation of the process to its end
    peak_mib: float  # peak resident memory, in MiB


def bundle_command(args: argparse.Namespace, *words: str) -> list[str]:
    """Return the command line of `cxr-edge WORDS` with the bundle and engine options of `args`."""
    engines = ["--engines", str(args.engines)] if args.engines else []
    options = ["--bundle", str(args.bundle), "--backend", args.backend, "--threads", str(args.threads), *engines]
    return [sys.executable, "-c", _CALL, *words, *options]


def screen_command(args: argparse.Namespace, path: Path) -> list[str]:
    """Return the command line of `cxr-edge screen PATH` with the bundle and engine options of `args`."""
    return bundle_command(args, "screen", str(path))


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises RuntimeError with the end of the child's stderr if it fails."""
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"a child process exited with status {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    return done


def run_measured(command: Sequence[str]) -> Usage:
    """Run a command to its end, discarding its output. Raises RuntimeError if it fails. Needs Unix (wait4)."""
    start = perf_counter()
    child = subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, resources = os.wait4(child.pid, 0)
    seconds = perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command[3:])} exited with status {child.returncode}: run it by hand for its error message"
        )
    per_mib = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, Linux kibibytes
    return Usage(seconds=seconds, peak_mib=resources.ru_maxrss / per_mib)


def _environment() -> dict[str, str]:
    """Return the environment of child processes: they must import the same cxr_edge as this process."""
    root = str(Path(cxr_edge.__file__).resolve().parent.parent)
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": root if not before else os.pathsep.join([root, before])}
