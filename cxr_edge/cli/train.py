"""`cxr-edge train`: a folder or table of own images in, a bundle with figures of left-out sites out.

The options are declared here; the work is `training.train`'s, which is imported by name when the command is run, as `cxr_edge`
never depends on training.
"""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from typing import Any

from cxr_edge.backends.cpu_quota import available_cores
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.cli.check_data import add_reading_options
from cxr_edge.errors import BackendError
from cxr_edge.names import path_argument

__all__ = ["add_options", "add_parser", "run"]

_PRESETS = ("quick", "standard", "thorough")
_SCRIPT = "training.train"
_TIME = re.compile(r"(?=.)(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?")


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "train",
        help="train an ensemble on own images",
        description="Read and check own images, print a time plan for this machine, leave each site out in turn, train and "
        "combine networks, and write a bundle with its figures. Started again in the same folder, it goes on where it was. "
        "Nothing leaves the machine. Needs the packages of `pip install 'cxr-edge[train]'`.",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the source and the options."""
    parser.add_argument(
        "source",
        nargs="?",
        type=path_argument,
        metavar="SOURCE",
        help="folder of images, DICOM tree, or table (CSV, Parquet)",
    )
    parser.add_argument("--out", type=path_argument, required=True, metavar="DIR", help="folder of the run")
    parser.add_argument(
        "--preset",
        choices=_PRESETS,
        help="quick: a first bundle in about ten minutes for 2,000 images on two cores; standard: about an hour; thorough: "
        "several (quick)",
    )
    parser.add_argument(
        "--time",
        dest="minutes",
        type=_minutes,
        metavar="TIME",
        help="of the whole run, such as 90m or 2h; scales the epochs",
    )
    parser.add_argument("--guard", metavar="LABEL", help="label whose false alarms are limited by its threshold")
    parser.add_argument("--seed", type=int, metavar="N", help="of the split and of the trainings (1)")
    parser.add_argument(
        "--config", type=path_argument, metavar="FILE", help="config.toml of a run, which is repeated or gone on with"
    )
    parser.add_argument(
        "--threads", type=at_least_one, default=available_cores(), metavar="N", help="threads to use (%(default)s)"
    )
    parser.add_argument(
        "--below-floor",
        action="store_true",
        help="write the bundle although a group that config.toml watches is below its floor; the model card says so",
    )
    add_reading_options(parser)


def _minutes(text: str) -> float:
    """Parse a time of hours and minutes (argparse type). Returns minutes."""
    found = _TIME.fullmatch(text.strip().lower())
    minutes = 0.0 if found is None else 60 * float(found[1] or 0) + float(found[2] or 0)
    if not minutes:
        raise argparse.ArgumentTypeError(f"expected a time such as 45m, 2h or 1h30m, got {text[:40]!r}")
    return minutes


def run(args: argparse.Namespace) -> int:
    """Train, return the exit status."""
    try:
        script = import_module(_SCRIPT)
    except ImportError as error:
        raise BackendError(
            f"train needs the package {error.name}, which is not installed: pip install 'cxr-edge[train]'"
        ) from None
    return int(script.run(args))
