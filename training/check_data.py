"""Check of own data: a folder or table in; what was understood and what is wrong, as text, JSON and HTML, out.

`python -m training.check_data SOURCE [--out DIR]`, or `cxr-edge check-data`. With --out, DIR/own/images.csv holds the images as
they were understood, with pseudonyms for patients: `collections = ["own"]` with `--data DIR` trains on it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_edge.cli.check_data import COLUMN_ROLES, add_options
from cxr_edge.cli.output import print_json, print_message, print_results
from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import json_name
from training.data.own.identities import run_salt
from training.data.own.options import Options
from training.data.own.page import as_html, as_lines
from training.data.own.published import read_published
from training.data.own.records import OwnData
from training.data.own.report import DataReport, check
from training.data.own.source import read_source
from training.data.own.store import FOLDER, save
from training.json_records import as_json
from training.shared_files import write_text

__all__ = ["main", "options_of", "run"]

_PROBLEMS = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.check_data`. Returns 0, 1 if there are leaks or unusable files, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.check_data", description=__doc__)
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        return run(args)
    except CxrEdgeError as error:
        print_message(f"training.check_data: {error}")
        return 2


def run(args: argparse.Namespace) -> int:
    """Read, check, print and write. Returns the exit status."""
    salt = None if args.out is None else run_salt(args.out)
    if args.collections:
        data = read_published(args.source, args.collections, salt=salt)
    else:
        data = read_source(args.source, options_of(args), salt=salt)
    report = check(data, threads=args.threads, pixels=not args.no_pixels)
    if args.json:
        print_json(as_json(report))
    else:
        print_results("\n".join(as_lines(report)))
    if args.out is not None:
        _write(report, data, args.out)
    return 0 if report.is_sound else _PROBLEMS


def options_of(args: argparse.Namespace) -> Options:
    """Return the options of reading that `cxr_edge.cli.check_data.add_options` parsed. Raises InputError."""
    given = {role: getattr(args, f"{role}_column") for role in COLUMN_ROLES}
    return Options(
        columns={role: name for role, name in given.items() if name is not None},
        findings=tuple(args.findings),
        ignore=tuple(args.ignore),
        label_names=dict(args.label_name),
        root=args.root,
        table=args.table,
        layout=args.layout,
        patient_pattern=args.patient_pattern,
    )


def _write(report: DataReport, data: OwnData, out: Path) -> None:
    text = json.dumps(as_json(report), indent=1)
    write_text(out / "check-data.json", json_name(text)[0] + "\n")
    write_text(out / "check-data.html", as_html(report, data))
    table = save(data, out / FOLDER)
    print_message(f"written: {out / 'check-data.html'}, check-data.json, {table}")


if __name__ == "__main__":
    sys.exit(main())
