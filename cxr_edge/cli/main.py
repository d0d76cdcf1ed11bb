"""The command line: arguments in, exit status out.

Errors that cxr-edge raises on purpose become one sentence on stderr and a status; anything else is a defect and keeps its
traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from cxr_edge import __version__
from cxr_edge.cli import bench, build_engine, inspect, screen
from cxr_edge.errors import CxrEdgeError, InputError

__all__ = ["main"]

USAGE_ERROR, UNUSABLE = 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; None: sys.argv's) and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except InputError as error:
        return _fail(error, USAGE_ERROR)
    except CxrEdgeError as error:
        return _fail(error, UNUSABLE)
    except BrokenPipeError:  # the reader of stdout went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _fail(error: CxrEdgeError, status: int) -> int:
    print(f"cxr-edge: {error}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cxr-edge",
        description="Compile chest X-ray ensembles for this machine and screen images with them. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"cxr-edge {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (build_engine, screen, bench, inspect):
        command.add_parser(subparsers)
    return parser
