"""`cxr-edge build-engine`: compile networks for this machine, compare and time them, select the fastest that passes.

A bundle, or a single ONNX file with its preprocessing, comes in; engines and a table or JSON of all candidates come out.
Exit status 3 if a network ended without an engine. Options of `BuildSettings` are made from its fields.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from cxr_edge.bundle import MANIFEST_NAME, STARTER
from cxr_edge.cli.arguments import (
    add_engines,
    add_gpu,
    add_signature,
    at_least_one,
    gpu_options,
    open_bundle,
    trusted_box,
)
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.engines import BuildSettings
from cxr_edge.errors import InputError
from cxr_edge.names import not_empty, path_argument
from cxr_edge.specs.outputs import OUTPUT_CHOICES
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec, preset

if TYPE_CHECKING:
    from cxr_edge.compiler.report import BuildReport

__all__ = ["add_parser", "add_settings", "build_settings", "run"]

INCOMPLETE = 3


def add_parser(subparsers: Any) -> None:
    """Add the `build-engine` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "build-engine",
        help="compile a bundle's networks for this machine",
        description="Compile the networks of a bundle for this machine: every precision is tried, compared with the "
        "fp32 networks, and timed; the fastest that loses no more than --max-loss is selected.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=not_empty,
        default=STARTER,
        metavar="BUNDLE",
        help="folder of the bundle, the word starter for the packaged one (default), or a single .onnx file",
    )
    add_engines(parser)
    add_gpu(parser)
    add_settings(parser)
    single = parser.add_argument_group("for a single .onnx file")
    single.add_argument("--spec", type=path_argument, metavar="JSON", help="its preprocessing, as in a manifest")
    single.add_argument("--preset", choices=tuple(PRESETS), help="or the name of its preprocessing")
    single.add_argument(
        "--out", type=path_argument, metavar="DIR", help="folder of its engine (default: engines, beside it)"
    )
    single.add_argument(
        "--output",
        choices=OUTPUT_CHOICES,
        default="auto",
        help="what its output holds; auto (default) recognises it, and compares engines as every kind that fits",
    )
    add_signature(parser)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, print the report, return the exit status."""
    report = _build_network(args) if _is_network(args.model) else _build_bundle(args)
    if args.json:
        print_json(report.as_json())
    else:
        print_results("\n".join(report.lines()))
    return 0 if report.complete else INCOMPLETE


def _is_network(model: str) -> bool:
    """Return True for a single network: any file but a manifest, so that one in a foreign format is named as that."""
    path = Path(model)
    return model.lower().endswith(".onnx") or (path.is_file() and path.name != MANIFEST_NAME)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one option per field of `BuildSettings`; those of `gpu` come from `add_gpu`."""
    group = parser.add_argument_group("precision and gate")
    types = get_type_hints(BuildSettings)
    for option in fields(BuildSettings):
        if option.name != "gpu":
            name, kind = f"--{option.name.replace('_', '-')}", types[option.name]
            group.add_argument(name, default=option.default, **option.metadata, **_value_type(kind))


def _value_type(kind: Any) -> dict[str, Any]:
    """Return the argparse keywords for values of a field's type."""
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"type": {int: at_least_one, float: _share, Path | None: path_argument}[kind]}


def build_settings(args: argparse.Namespace) -> BuildSettings:
    """Return the settings that `add_settings` and `add_gpu` parsed. Raises InputError for inconsistent values."""
    values = {f.name: getattr(args, f.name) for f in fields(BuildSettings) if f.name != "gpu"}
    return BuildSettings(**values, gpu=gpu_options(args))


def _build_bundle(args: argparse.Namespace) -> BuildReport:
    bundle = open_bundle(args, args.model)
    if args.spec or args.preset or args.out or args.output != "auto":
        raise InputError(
            "--spec, --preset, --out and --output go with a single .onnx file; a bundle's manifest has its preprocessing and "
            "outputs"
        )
    from cxr_edge.compiler.build_bundle import build  # imports onnx

    return build(
        bundle,
        build_settings(args),
        args.engines,
        backend=args.backend,
        threads=args.threads,
        say=print_message,
        box=trusted_box(args),
    )


def _build_network(args: argparse.Namespace) -> BuildReport:
    if args.require_signature:
        raise InputError("--require-signature goes with a bundle; a single .onnx file has no signature")
    if args.engines:
        raise InputError("--engines goes with a bundle; for a single .onnx file give --out DIR")
    from cxr_edge.compiler.build_network import build_network  # imports onnx

    path = Path(args.model)
    return build_network(
        path,
        _spec(args),
        build_settings(args),
        out=args.out or path.parent / "engines",
        output=args.output,
        backend=args.backend,
        threads=args.threads,
        say=print_message,
    )


def _spec(args: argparse.Namespace) -> PreprocessSpec:
    if bool(args.spec) == bool(args.preset):
        raise InputError("a single .onnx file needs its preprocessing: exactly one of --spec JSON and --preset NAME")
    if args.preset:
        return preset(args.preset)
    try:
        values = json.loads(args.spec.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{args.spec} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{args.spec} must hold one JSON object, as `preprocess` in a manifest")
    return PreprocessSpec.from_json(values)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, got {text!r}")
    return value
