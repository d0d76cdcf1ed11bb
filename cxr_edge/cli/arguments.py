"""Arguments that several commands share, declared once.

In: a parser; out: the parser with the argument group. Each function's help text is the documentation of its options.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.engines import EngineSet, load
from cxr_edge.screener import cores

__all__ = ["add_bundle", "add_engines", "at_least_one", "load_engines"]


def at_least_one(text: str) -> int:
    """argparse type: a whole number from 1 on."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return value


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """--bundle: which model."""
    parser.add_argument(
        "--bundle", default=STARTER, metavar="DIR", help="folder of the bundle; `starter` is the packaged one (default)"
    )


def add_engines(parser: argparse.ArgumentParser) -> None:
    """--engines, --backend, --threads: what to run it with."""
    group = parser.add_argument_group("engines")
    group.add_argument("--engines", type=Path, metavar="DIR", help="folder of the engines (default: in the bundle)")
    group.add_argument("--backend", default="auto", help="runtime to use: auto (default) or onnxruntime")
    group.add_argument(
        "--threads",
        type=at_least_one,
        default=cores(),
        metavar="N",
        help="threads to use (default: all cores, %(default)s)",
    )


def load_engines(args: argparse.Namespace, bundle: Bundle, *, threads: int) -> EngineSet:
    """The engines that the arguments ask for, with `threads` threads an inference."""
    return load(bundle, args.engines, backend=args.backend, threads=threads)
