"""Declaration of a benchmark script and discovery of all scripts.

Every script of `benchmarks/` has a module attribute `BENCHMARK`. `python -m benchmarks` and the page of results find the
scripts by it, so that adding a benchmark changes no other file. Also the options and the exit status that scripts share.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import benchmarks
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.errors import CxrEdgeError

__all__ = ["Benchmark", "add_out", "add_rounds", "discover", "exit_status", "make_parser"]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Declaration of one script, read by `python -m benchmarks` and the page of results."""

    name: str  # module below `benchmarks`, and name of the report
    position: int  # on the page of results and in the order of execution, ascending
    needs_engines: bool = True  # takes --bundle and --engines
    only_if_named: bool = False  # takes minutes or needs a GPU: runs if --only names it
    # Options that `--rounds N` of `python -m benchmarks` is passed as: a quick functional test, not a measurement.
    quick_options: tuple[str, ...] = ("--rounds",)


def discover() -> list[Benchmark]:
    """Return the declarations of all scripts, in order of their positions."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.name.startswith("_")]
    modules = [importlib.import_module(f"benchmarks.{name}") for name in names]
    declared: list[Benchmark] = [m.BENCHMARK for m in modules if hasattr(m, "BENCHMARK")]
    return sorted(declared, key=lambda benchmark: benchmark.position)


def make_parser(benchmark: Benchmark, docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser with the script's command line as program name and its first docstring line as description."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{benchmark.name}", description=(docstring or "").split("\n")[0]
    )


def add_rounds(parser: argparse.ArgumentParser, *, rounds: int, warmup: int) -> None:
    """Add --rounds and --warmup with these defaults."""
    parser.add_argument("--rounds", type=at_least_one, default=rounds, metavar="N", help="counted rounds (%(default)s)")
    parser.add_argument(
        "--warmup", type=at_least_one, default=warmup, metavar="N", help="uncounted rounds before (%(default)s)"
    )


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    """Add --out, the JSON file of the report."""
    parser.add_argument(
        "--out", type=Path, default=Path("build/bench") / f"{name}.json", help="JSON file (default: %(default)s)"
    )


def exit_status(
    name: str, measure: Callable[[], object], *, errors: tuple[type[Exception], ...] = (CxrEdgeError,)
) -> int:
    """Call `measure`; return 0, or 3 after printing the error if a bundle, its engines or an image cannot be used."""
    try:
        measure()
    except errors as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 3
    return 0
