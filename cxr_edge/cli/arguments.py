"""Command-line options that several commands share.

Each `add_*` function adds a group of options to a parser; the help texts are the reference documentation of the options.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from cxr_edge.backends import BACKENDS
from cxr_edge.backends.base import GpuOptions
from cxr_edge.backends.cpu_quota import available_cores, thread_limit
from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.cli.output import print_message
from cxr_edge.engines import EngineSet, engines_root, last_build_settings, load
from cxr_edge.errors import EngineError
from cxr_edge.names import not_empty, path_argument
from cxr_edge.signing.defaults import DEFAULT_FOLDER, TRUST_VARIABLE

if TYPE_CHECKING:
    from cxr_edge.signing.box import Box

__all__ = [
    "add_bundle",
    "add_engines",
    "add_fields",
    "add_gpu",
    "add_rebuild",
    "add_runtime",
    "add_signature",
    "add_trust",
    "at_least_one",
    "gpu_options",
    "load_engines",
    "open_bundle",
    "record_bundle",
    "share_or_percent",
    "trusted_box",
]


_WHOLE_NUMBER = re.compile("[0-9]{1,18}")


def at_least_one(text: str) -> int:
    """Parse a whole number of 1 or more (argparse type)."""
    value = int(text) if _WHOLE_NUMBER.fullmatch(text) else 0
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"expected a whole number of 1 or more and at most 18 digits, got {text[:40]!r}"
        )
    return value


def _whole_number(text: str) -> int:
    if not _WHOLE_NUMBER.fullmatch(text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at most 18 digits, got {text[:40]!r}")
    return int(text)


def _share(text: str) -> float:
    """Parse a share above 0 and at most 1 (argparse type)."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, got {text!r}")
    return value


def share_or_percent(text: str) -> float:
    """Parse a share from 0 to 1, such as 0.05 or 5% (argparse type)."""
    number, percent = (text[:-1], 100.0) if text.endswith("%") else (text, 1.0)
    try:
        value = float(number) / percent
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, such as 0.05 or 5%, got {text[:40]!r}")
    return value


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
        help="folder of the bundle, or of installed versions (cxr-edge install); `starter` is the packaged one (default)",
    )


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Add --engines, --backend and --threads."""
    group = add_runtime(parser)
    group.add_argument(
        "--engines", type=path_argument, metavar="DIR", help="folder of the engines (default: in the bundle)"
    )


def add_runtime(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add --backend and --threads; return their group."""
    group = parser.add_argument_group("engines")
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
    return group


def add_rebuild(parser: argparse.ArgumentParser) -> None:
    """Add --rebuild."""
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help="build engines that are missing, outdated or of another machine, instead of failing",
    )


def add_signature(parser: argparse.ArgumentParser) -> None:
    """Add --require-signature, --trusted-keys and --state."""
    group = parser.add_argument_group("signatures")
    group.add_argument(
        "--require-signature",
        action="store_true",
        help="use the bundle only if a trusted key has signed it and it is not older than before, and engines only "
        "if this box has "
        "built and signed them",
    )
    add_trust(group)


def add_trust(group: argparse._ArgumentGroup) -> None:
    """Add --trusted-keys and --state."""
    group.add_argument(
        "--trusted-keys",
        type=path_argument,
        metavar="DIR",
        help=f"folder of the keys that are trusted (default: ${TRUST_VARIABLE}, else {DEFAULT_FOLDER})",
    )
    group.add_argument(
        "--state",
        type=path_argument,
        metavar="DIR",
        help="folder of what this box has seen and of its key (default: cxr-edge in $XDG_STATE_HOME, else in ~/.local/state)",
    )


def open_bundle(args: argparse.Namespace, path: str) -> Bundle:
    """Open a bundle; with --require-signature verify it, without writing anything.

    Raises BundleError if it is not accepted, InputError if every user may change it.
    """
    bundle = Bundle.open(path)
    if args.require_signature:
        from cxr_edge.signing.verify import refuse_changeable, verify_bundle

        refuse_changeable(bundle)
        verify_bundle(bundle, args.trusted_keys, state=args.state, record=False)
    return bundle


def record_bundle(args: argparse.Namespace, bundle: Bundle) -> None:
    """With --require-signature, keep the counter of a bundle that is now in use, so that older ones are refused from now on."""
    if args.require_signature:
        from cxr_edge.signing.verify import verify_bundle

        verify_bundle(bundle, args.trusted_keys, state=args.state)


def trusted_box(args: argparse.Namespace) -> Box | None:
    """Return the box whose engines alone are accepted; None without --require-signature."""
    if not getattr(args, "require_signature", False):
        return None
    from cxr_edge.signing.box import Box

    return Box.of_state(args.state, args.trusted_keys)


def add_gpu(parser: argparse.ArgumentParser) -> None:
    """Add one option for each field of `GpuOptions`, which only TensorRT uses."""
    add_fields(parser.add_argument_group("GPU (TensorRT)"), GpuOptions)


def add_fields(group: argparse._ArgumentGroup, settings: type[Any]) -> None:
    """Add one option for each field of a dataclass that describes one (`backends.base.option`)."""
    types = get_type_hints(settings)
    for field in fields(settings):
        if field.metadata:
            given = {key: value for key, value in field.metadata.items() if value is not None}
            name = f"--{field.name.replace('_', '-')}"
            group.add_argument(name, default=field.default, **given, **_values_of(types[field.name]))


def _values_of(kind: Any) -> dict[str, Any]:
    """Return the argparse keywords for values of a field's type; the dataclass checks their range."""
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    kind = next(k for k in (*get_args(kind), kind) if k is not NoneType)
    return {"type": {int: _whole_number, float: _share, Path: path_argument}[kind]}


def gpu_options(args: argparse.Namespace) -> GpuOptions:
    """Return the options that `add_gpu` parsed. Raises InputError for inconsistent values."""
    return GpuOptions(**{f.name: getattr(args, f.name) for f in fields(GpuOptions)})


def load_engines(args: argparse.Namespace, bundle: Bundle, *, threads: int, whole: bool = True) -> EngineSet:
    """Load the configured engines with `threads` threads per inference; with --rebuild, build them where necessary.

    whole: as of `engines.load`; False has no effect with --rebuild, which builds a missing engine.
    """
    box = trusted_box(args)
    try:
        whole = whole or getattr(args, "rebuild", False)
        return load(bundle, args.engines, backend=args.backend, threads=threads, box=box, whole=whole)
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
        box = trusted_box(args)  # whose key another process may have made
        try:
            # Another process has built them.
            return load(bundle, args.engines, backend=args.backend, threads=threads, box=box, whole=True)
        except EngineError:
            settings = last_build_settings(bundle, args.engines, args.backend, box)
            build(
                bundle,
                settings,
                args.engines,
                backend=args.backend,
                threads=threads,
                say=print_message,
                locked=True,
                box=box,
            )
    return load(bundle, args.engines, backend=args.backend, threads=threads, box=trusted_box(args), whole=True)
