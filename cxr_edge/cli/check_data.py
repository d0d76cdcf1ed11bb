"""`cxr-edge check-data`: what a folder or table of own images holds, and what would spoil a training on it.

The options are declared here; the work is `training.check_data`'s, which is imported by name when the command is run, as
`cxr_edge` never depends on training.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from cxr_edge.backends.cpu_quota import available_cores
from cxr_edge.cli.arguments import at_least_one
from cxr_edge.errors import BackendError
from cxr_edge.names import path_argument

__all__ = ["COLUMN_ROLES", "add_options", "add_parser", "add_reading_options", "run"]

COLUMN_ROLES = (
    *("path", "label", "patient", "study", "sop", "site", "scanner", "view", "age", "sex", "mask", "split"),
)  # fmt: skip
_SCRIPT = "training.check_data"


def add_parser(subparsers: Any) -> None:
    """Declare the command."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "check-data",
        help="check own images and labels before training",
        description="Read a folder of images by label, a table that names images, or a tree of DICOM files; print what was "
        "understood, and name leaks, duplicates, unreadable files and sites that tell the label. Status 1 if there are leaks or "
        "files that cannot be used. Nothing leaves the machine.",
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the source and the options."""
    parser.add_argument(
        "source", type=path_argument, metavar="SOURCE", help="folder of images, or table (CSV, Parquet)"
    )
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="DIR",
        help="write check-data.json, check-data.html, own/images.csv and a salt here",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--no-pixels", action="store_true", help="read tables, names and headers only: quick, finds no duplicates"
    )
    parser.add_argument(
        "--threads", type=at_least_one, default=available_cores(), metavar="N", help="threads to use (%(default)s)"
    )
    add_reading_options(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a source is read."""
    parser.add_argument(
        "--collections", nargs="+", metavar="NAME", help="SOURCE is a data folder with these published collections"
    )
    reading = parser.add_argument_group("reading, where the source does not say it or says it twice")
    for role in COLUMN_ROLES:
        text = f"column of the {role}; '' for none"
        reading.add_argument(f"--{role}-column", metavar="NAME", help=text)
    reading.add_argument("--findings", nargs="+", default=(), metavar="NAME", help="columns of findings, one each")
    reading.add_argument("--ignore", nargs="+", default=(), metavar="NAME", help="columns that are not used")
    reading.add_argument(
        "--label-name",
        nargs="+",
        type=_renamed,
        default=(),
        metavar="OLD=NEW",
        help="names of labels, such as 0=normal",
    )
    reading.add_argument(
        "--root", type=path_argument, metavar="DIR", help="folder that paths of the table are relative to"
    )
    reading.add_argument("--table", type=path_argument, metavar="FILE", help="table that belongs to the folder SOURCE")
    reading.add_argument(
        "--layout",
        default="",
        metavar="LEVELS",
        help="what the levels of folders name, such as site/label/patient or label/-",
    )
    reading.add_argument(
        "--patient-pattern", default="", metavar="REGEX", help="regular expression that finds the patient in a path"
    )


def _renamed(text: str) -> tuple[str, str]:
    """Parse OLD=NEW (argparse type)."""
    old, mark, new = (part.strip() for part in text.partition("="))
    if not (old and mark and new):
        raise argparse.ArgumentTypeError(f"expected OLD=NEW, such as 0=normal, got {text!r}")
    return old, new


def run(args: argparse.Namespace) -> int:
    """Check, print, return the exit status."""
    try:
        script = import_module(_SCRIPT)
    except ImportError as error:
        raise BackendError(
            f"check-data needs the package {error.name}, which is not installed: pip install 'cxr-edge[train]'"
        ) from None
    return int(script.run(args))
