"""`cxr-edge import`: make a bundle of ONNX networks that were trained elsewhere, if it computes what they compute.

Networks, labels and the input of their training come in; a bundle and a report of the comparison come out. Exit status 3 and
nothing written if a member differs from its original, or a bundle cannot express it. Options that may differ between
networks are given once for all, or once per network in their order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cxr_edge.backends.cpu_quota import available_cores
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.errors import InputError
from cxr_edge.names import not_empty, path_argument
from cxr_edge.specs.json_fields import is_number
from cxr_edge.specs.outputs import OUTPUT_CHOICES

if TYPE_CHECKING:
    from cxr_edge.imports.run import NetworkToImport

__all__ = ["add_parser", "run"]

Value = TypeVar("Value")

_EACH = "once for all networks, or once for each"


def add_parser(subparsers: Any) -> None:
    """Add the `import` command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "import",
        help="make a bundle of ONNX networks that were trained elsewhere",
        description="Make a bundle of ONNX classifiers of chest X-rays that were trained elsewhere, compare it with the original "
        "networks, and keep it only if both compute the same.",
    )
    parser.add_argument("networks", nargs="+", type=path_argument, metavar="ONNX", help="the networks' .onnx files")
    parser.add_argument(
        "--labels",
        required=True,
        type=_labels,
        metavar="A,B,...",
        help="labels in the order of the outputs; of a single finding: its absence, then its presence; with --multi-label "
        "nothing between two commas leaves an output out",
    )
    parser.add_argument(
        "--multi-label",
        action="store_true",
        help="the labels are findings that do not exclude each other: a multi-label bundle",
    )
    parser.add_argument(
        "--threshold",
        action="append",
        type=_threshold,
        metavar="LABEL=VALUE",
        help="probability from which a label is decided, or a finding is present (default of findings: 0.5)",
    )
    parser.add_argument(
        "--preprocess",
        required=True,
        action="append",
        type=not_empty,
        metavar="NAME|FILE",
        help="input of the training: torchxrayvision, imagenet, unit, bytes, symmetric, per-image, or a .toml or .json file "
        f"(docs/import.md); {_EACH}",
    )
    parser.add_argument("--out", required=True, type=path_argument, metavar="BUNDLE", help="folder of the new bundle")
    _add_outputs(parser.add_argument_group(f"output of the networks ({_EACH})"))
    parser.add_argument(
        "--combine",
        default="average",
        type=not_empty,
        metavar="average|FILE",
        help="combination of several networks: average (default), or a JSON file with a list of weights",
    )
    parser.add_argument(
        "--images", type=path_argument, metavar="DIR", help="X-rays to compare on (default: drawn phantoms)"
    )
    parser.add_argument(
        "--image-count", type=at_least_one, default=16, metavar="N", help="most images to compare on (%(default)s)"
    )
    parser.add_argument("--name", type=not_empty, help="name of the bundle (default: of its folder)")
    parser.add_argument("--threads", type=at_least_one, default=available_cores(), metavar="N", help="threads to use")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run)


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    choices = [c for c in OUTPUT_CHOICES if c != "mask"]
    group.add_argument(
        "--output", action="append", choices=choices, help="what it holds; auto (default) recognises it where it can"
    )
    group.add_argument(
        "--column",
        action="append",
        type=_column,
        metavar="N",
        help="take only this finding, counted from 0, of several that do not exclude each other",
    )
    group.add_argument("--output-name", action="append", type=not_empty, metavar="NAME", help="if there are several")
    group.add_argument(
        "--expected",
        action="append",
        type=path_argument,
        metavar="CSV",
        help="values by the program of the training: file name, then one number per column; with --images",
    )


def run(args: argparse.Namespace) -> int:
    """Import, print the report, return the exit status."""
    if args.expected and args.images is None:
        raise InputError("--expected has values for the files of --images: give that folder too")
    _check_labels(args.labels, args.multi_label)
    networks = _networks(args)
    from cxr_edge.imports.draft import ImportSettings  # imports onnx
    from cxr_edge.imports.run import import_networks

    settings = ImportSettings(
        labels=args.labels,
        multi_label=args.multi_label,
        thresholds=dict(args.threshold or ()),
        weights=_weights(args.combine, len(networks)),
        images=args.images,
        image_count=args.image_count,
        name=args.name,
        threads=args.threads,
    )
    report = import_networks(networks, settings, args.out, say=print_message)
    if args.json:
        print_json(report.as_json())
    else:
        print_results("\n".join(report.lines()))
    return 0


def _networks(args: argparse.Namespace) -> list[NetworkToImport]:
    from cxr_edge.imports.run import NetworkToImport
    from cxr_edge.imports.trained_input import read_trained_input

    count = len(args.networks)
    inputs = [read_trained_input(text) for text in _each(args.preprocess, count, "--preprocess")]
    outputs = _each(args.output or ["auto"], count, "--output")
    columns = _each(args.column or [None], count, "--column")
    names = _each(args.output_name or [None], count, "--output-name")
    expected = _each(args.expected or [None], count, "--expected")
    return [
        NetworkToImport(path=p, trained=i, output=o, column=c, output_name=n, expected=e)
        for p, i, o, c, n, e in zip(args.networks, inputs, outputs, columns, names, expected, strict=True)
    ]


def _each(values: Sequence[Value], count: int, option: str) -> list[Value]:
    """Return one value per network."""
    if len(values) not in (1, count):
        raise InputError(f"{option} is given {len(values)} times for {count} networks: give it once, or once for each")
    return list(values) if len(values) == count else list(values) * count


def _labels(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _check_labels(labels: tuple[str, ...], multi_label: bool) -> None:
    named = [label for label in labels if label]
    different = len(set(named)) == len(named)
    if multi_label and not (named and different):
        raise InputError(f"--labels: expected different findings, separated by commas, got {','.join(labels)!r}")
    if not multi_label and not (len(labels) >= 2 and different and all(labels)):
        raise InputError(
            f"--labels: expected two or more different labels, separated by commas, got {','.join(labels)!r}"
        )


def _threshold(text: str) -> tuple[str, float]:
    label, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not label.strip() or not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a label, = and a number from 0 to 1, got {text!r}")
    return label.strip(), value


def _column(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise argparse.ArgumentTypeError(f"expected the number of a column, counted from 0, got {text[:40]!r}")
    return int(text)


def _weights(text: str, count: int) -> tuple[float, ...]:
    """Return the weights of the networks; none for the plain average. Raises InputError."""
    if text == "average":
        return ()
    try:
        found = json.loads(Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--combine takes average or a JSON file of weights; {text} cannot be read: {error}") from None
    values = found.get("weights") if isinstance(found, dict) else found
    if not isinstance(values, list) or not all(is_number(v) and v >= 0 for v in values) or not sum(values):
        raise InputError(
            f"--combine {text} must hold a list of {count} numbers of 0 or more, not all 0, got {found!r:.200}"
        )
    if len(values) != count:
        raise InputError(
            f"--combine {text} has {len(values)} weights for {count} networks: give one for each, in their order"
        )
    return tuple(float(v) for v in values)
