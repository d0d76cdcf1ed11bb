"""Command-line options that several commands share.

Each `add_*` function adds a group of options to a parser; the help texts are the reference documentation of the options.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path

from cxr_edge.backends import BACKENDS
from cxr_edge.backends.base import HARDWARE_COMPATIBILITY, GpuOptions
from cxr_edge.backends.cpu_quota import available_cores, thread_limit
from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.cli.output import print_message
from cxr_edge.engines import EngineSet, engines_root, last_build_settings, load
from cxr_edge.errors import EngineError

__all__ = [
    "add_bundle",
    "add_engines",
    "add_gpu",
    "add_rebuild",
    "at_least_one",
    "gpu_options",
    "load_engines",
    "not_empty",
    "path_argument",
]


def at_least_one(text: str) -> int:
    """Parse a whole number of 1 or more (argparse type)."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, got {text!r}")
    return value


def not_empty(text: str) -> str:
    """Parse text that is not empty (argparse type).

    An unset shell variable gives an empty text, which as a path would be the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got an empty one: is a shell variable unset?")
    return text


def path_argument(text: str) -> Path:
    """Parse a path that is not empty (argparse type)."""
    return Path(not_empty(text))


def _threads(text: str) -> int:
    """Parse a number of threads and reduce it to what this machine can use, so that one script fits many machines."""
    threads, limit = at_least_one(text), thread_limit()
    if threads > limit:
        print_message(f"--threads {threads}: using {limit}, four for each of the cores that this process may use")
    return min(threads, limit)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add --bundle."""
    parser.add_argument(
        "--bundle",
        type=not_empty,
        default=STARTER,
        metavar="DIR",
        help="folder of the bundle; `starter` is the packaged one (default)",
    )


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Add --engines, --backend and --threads."""
    group = parser.add_argument_group("engines")
    group.add_argument(
        "--engines", type=path_argument, metavar="DIR", help="folder of the engines (default: in the bundle)"
    )
    group.add_argument(
        "--backend",
        default="auto",
        metavar="NAME",
        help=f"runtime to use: auto (default: the first that works here), {', '.join(BACKENDS)}",
    )
    group.add_argument(
        "--threads",
        type=_threads,
        default=available_cores(),
        metavar="N",
        help="threads to use (default: the cores that this process may use, %(default)s; at most four for each)",
    )


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Add --rebuild."""
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="build engines that are missing, outdated or of another machine, instead of failing",
    )


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Add the options of `GpuOptions`, which only TensorRT uses."""
    group = parser.add_argument_group("GPU (TensorRT)")
    group.add_argument(
        "--optimization-level", type=int, choices=range(6), metavar="0..5",
        help="0 builds fastest, 5 tries the most kernels (default: TensorRT's own)",
    )  # fmt: skip
    group.add_argument("--workspace-mib", type=at_least_one, metavar="N", help="memory that one layer may use")
    group.add_argument(
        "--timing-cache",
        type=path_argument,
        metavar="FILE",
        help="file of measured kernel times, created or extended; it makes the next build fast",
    )
    group.add_argument(
        "--hardware-compatibility", choices=HARDWARE_COMPATIBILITY, default="none",
        help="other GPUs on which the engines must be valid, at a cost in speed (default: none)",
    )  # fmt: skip
    group.add_argument(
        "--version-compatible", action="store_true", help="allow later minor versions of TensorRT to load the engines"
    )
    group.add_argument(
        "--max-batch", type=at_least_one, default=1, metavar="N", help="largest batch of an engine (%(default)s)"
    )
    group.add_argument(
        "--dla-core",
        type=int,
        metavar="N",
        help="build for this DLA of a Jetson; layers that it cannot run go to the GPU",
    )


def gpu_options(args: argparse.Namespace) -> GpuOptions:
    """Return the options that `add_gpu` parsed. Raises InputError for inconsistent values."""
    return GpuOptions(**{f.name: getattr(args, f.name) for f in fields(GpuOptions)})


def load_engines(args: argparse.Namespace, bundle: Bundle, *, threads: int) -> EngineSet:
    """Load the configured engines with `threads` threads per inference; with --rebuild, build them where necessary."""
    try:
        return load(bundle, args.engines, backend=args.backend, threads=threads)
    except EngineError as error:
        if not getattr(args, "rebuild", False):
            raise
        reason = re.sub(r"[:;] build them with$", "", str(error).splitlines()[0])
        print_message(f"{reason}; building, because of --rebuild")
    return _rebuilt(args, bundle, threads)


def _rebuilt(args: argparse.Namespace, bundle: Bundle, threads: int) -> EngineSet:
    """Build as `cxr-edge build-engine` does, with the settings of the last build if there was one, and load the engines.

    Of several processes that need the same engines, one builds and the others wait for it.
    """
    from cxr_edge.compiler.build_bundle import build  # imports onnx
    from cxr_edge.compiler.build_lock import build_lock

    with build_lock(engines_root(bundle, args.engines), print_message):
        try:
            return load(bundle, args.engines, backend=args.backend, threads=threads)  # another process has built them
        except EngineError:
            settings = last_build_settings(bundle, args.engines, args.backend)
            build(bundle, settings, args.engines, backend=args.backend, threads=threads, say=print_message, locked=True)
    return load(bundle, args.engines, backend=args.backend, threads=threads)
