"""Training on own data by one command: a folder, table or DICOM tree in; a bundle with its figures out.

`python -m training.train SOURCE --out DIR`, or `cxr-edge train`; `training.recipes.own.flow` is the work.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_edge.cli.output import print_message
from cxr_edge.cli.train import add_options
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import printable
from training.check_data import options_of
from training.data.own.options import Options
from training.recipes.own.flow import train
from training.recipes.own.request import Request
from training.recipes.own.run import Settings, copy_salt

__all__ = ["main", "run"]

_NAMES = {"source": "SOURCE", "minutes": "--time"}  # of arguments, where they differ


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m training.train`. Returns 0, or 2 for invalid inputs."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        return run(args)
    except CxrEdgeError as error:
        print_message(f"training.train: {error}")
        return 2


def run(args: argparse.Namespace) -> int:
    """Train. Returns 0; a run that is interrupted says how to go on."""
    repeated = None if args.config is None else Settings.read(args.config)
    request = _request(args, repeated)
    if repeated is not None:
        copy_salt(args.config.parent, args.out)
    try:
        train(request, args.out, threads=args.threads, repeated=repeated, below_floor=args.below_floor)
    except KeyboardInterrupt:
        print_message(f"stopped; to go on: {_again(args)}")
        raise
    return 0


def _request(args: argparse.Namespace, repeated: Settings | None) -> Request:
    if repeated is not None:
        names = ("source", "preset", "minutes", "guard", "seed", "collections")
        given = [_NAMES.get(name, f"--{name}") for name in names if getattr(args, name) is not None]
        given += ["the options of reading"] if options_of(args) != Options() else []
        if given:
            raise InputError(f"--config has the whole request: leave out {', '.join(given)}, or leave out --config")
        return repeated.request
    if args.source is None:
        raise InputError("nothing to train on: give SOURCE, or --config with the config.toml of another run")
    options = options_of(args)
    _require_unicode(args.source, options.root, options.table)
    return Request(
        source=os.path.abspath(args.source),
        preset=args.preset or "quick",
        minutes=args.minutes or 0.0,
        guard=args.guard or "",
        seed=1 if args.seed is None else args.seed,
        collections=tuple(args.collections or ()),
        columns=dict(options.columns),
        findings=options.findings,
        ignore=options.ignore,
        label_names=dict(options.label_names),
        root=_absolute(options.root),
        table=_absolute(options.table),
        layout=options.layout,
        patient_pattern=options.patient_pattern,
    )


def _require_unicode(*paths: Path | None) -> None:
    """Raise InputError for a path that no configuration file can hold."""
    for path in filter(None, paths):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"the name {printable(path)} is not UTF-8: rename it, or give a link to it") from None


def _absolute(path: Path | None) -> str:
    return "" if path is None else os.path.abspath(path)


def _again(args: argparse.Namespace) -> str:
    """Return the shortest command that goes on: config.toml holds the request as soon as the training began."""
    config = args.out / "config.toml"
    if not config.exists():
        return "the same command"
    return f"cxr-edge train --config {shlex.quote(str(config))} --out {shlex.quote(str(args.out))}"


if __name__ == "__main__":
    sys.exit(main())
