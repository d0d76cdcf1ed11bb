"""`cxr-edge build-engine`: compile a bundle's networks for this machine, check them, time them, keep the fastest.

In: a bundle, or a lone ONNX file with its preprocessing; out: engines beside the bundle, and a table or JSON of what
was tried. Exit status 3 if any network ended without an engine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.cli.arguments import add_engines, add_gpu, at_least_one, gpu_options, not_empty, path_argument
from cxr_edge.cli.output import print_results, print_message
from cxr_edge.compiler.samples import IMAGE_LIMIT
from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PRESETS, PreprocessSpec, preset

if TYPE_CHECKING:
    from cxr_edge.compiler.report import BuildReport

__all__ = ["add_parser", "run"]

INCOMPLETE = 3


def add_parser(subparsers: Any) -> None:
    """Add the `build-engine` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "build-engine",
        help="compile a bundle's networks for this machine",
        description="Compile the networks of a bundle for this machine: every precision is tried, compared with the "
        "fp32 networks, and timed; the fastest that loses no more than --max-loss is kept.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=not_empty,
        default=STARTER,
        metavar="BUNDLE",
        help="folder of the bundle, the word starter for the packaged one (default), or a lone .onnx file",
    )
    add_engines(parser)
    add_gpu(parser)
    group = parser.add_argument_group("precision and gate")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16", "int8"),
        default="auto",
        help="auto (default) tries all that the backend has; where the gate refuses one of less than 32 bits, the layers "
        "that hurt stay in fp32",
    )
    group.add_argument(
        "--calibration",
        type=path_argument,
        metavar="DIR",
        help="X-rays to measure int8 ranges and compare engines on (default: the ranges and synthetic images of the "
        "bundle); files in sub-folders called like the labels count as labelled",
    )
    group.add_argument(
        "--images",
        type=at_least_one,
        default=IMAGE_LIMIT,
        metavar="N",
        help="how many files of --calibration to use at most (%(default)s)",
    )
    group.add_argument(
        "--max-loss",
        type=_share,
        default=0.01,
        metavar="X",
        help="share of decisions, and of AUC, that may be lost against fp32 (%(default)s)",
    )
    lone = parser.add_argument_group("for a lone .onnx file")
    lone.add_argument("--spec", type=path_argument, metavar="JSON", help="its preprocessing, as in a manifest")
    lone.add_argument("--preset", choices=tuple(PRESETS), help="or the name of its preprocessing")
    lone.add_argument(
        "--out", type=path_argument, metavar="DIR", help="where its engine goes (default: engines, beside it)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build, print the report, return the exit status."""
    report = _build_network(args) if args.model.lower().endswith(".onnx") else _build_bundle(args)
    print_results(json.dumps(report.as_json(), indent=1) if args.json else "\n".join(report.lines()))
    return 0 if report.complete else INCOMPLETE


def _build_bundle(args: argparse.Namespace) -> BuildReport:
    if args.spec or args.preset or args.out:
        raise InputError("--spec, --preset and --out go with a lone .onnx file; a bundle says all that itself")
    from cxr_edge.compiler.build_bundle import BuildRequest, build  # imports onnx

    request = BuildRequest(
        bundle=Bundle.open(args.model),
        engines_dir=args.engines,
        backend=args.backend,
        precision=args.precision,
        calibration=args.calibration,
        threads=args.threads,
        max_loss=args.max_loss,
        image_limit=args.images,
        gpu=gpu_options(args),
    )
    return build(request, print_message)


def _build_network(args: argparse.Namespace) -> BuildReport:
    if args.engines:
        raise InputError("--engines goes with a bundle; for a lone .onnx file give --out DIR")
    from cxr_edge.compiler.build_network import NetworkRequest, build_network  # imports onnx

    path = Path(args.model)
    request = NetworkRequest(
        onnx=path,
        spec=_spec(args),
        out=args.out or path.parent / "engines",
        backend=args.backend,
        precision=args.precision,
        calibration=args.calibration,
        threads=args.threads,
        max_loss=args.max_loss,
        image_limit=args.images,
        gpu=gpu_options(args),
    )
    return build_network(request, print_message)


def _spec(args: argparse.Namespace) -> PreprocessSpec:
    if bool(args.spec) == bool(args.preset):
        raise InputError("a lone .onnx file needs its preprocessing: exactly one of --spec JSON and --preset NAME")
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
