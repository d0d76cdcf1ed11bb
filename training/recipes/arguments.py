"""Options that the commands of training share, and the command that writes pages again: a parser in, a parser or pages out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import path_argument
from training.evaluation.floors import OPTION

__all__ = ["add_floor_argument", "add_out_argument", "add_run_arguments", "write_pages_again"]


def add_run_arguments(
    parser: argparse.ArgumentParser, *, config: str | None, run: tuple[str, str | None] = ("--run", "runs/starter")
) -> None:
    """Add the options for the data folder, the configuration and the run folder.

    config: the default; None requires the option.
    run: option of the run folder and its default; None is runs/NAME, by the configuration's name.
    """
    option, folder = run
    parser.add_argument("--data", type=path_argument, help="folder of the collections; default: CXR_EDGE_DATA")
    shown = "TOML of training/configs, such as r20-cpu.toml" if config is None else "TOML (%(default)s)"
    default = None if config is None else Path(config)
    parser.add_argument("--config", type=path_argument, required=config is None, default=default, help=shown)
    shown = "run folder; default: runs/NAME" if folder is None else "run folder (%(default)s)"
    parser.add_argument(option, type=path_argument, default=None if folder is None else Path(folder), help=shown)


def add_floor_argument(parser: argparse.ArgumentParser) -> None:
    """Add the option that writes a bundle although a watched group is below its floor."""
    text = "write the bundle although a watched group is below its floor; its card says so"
    parser.add_argument(OPTION, action="store_true", help=text)


def add_out_argument(parser: argparse.ArgumentParser, out: str) -> None:
    """Add --out, for a page and its JSON. out: the default."""
    parser.add_argument("--out", type=path_argument, default=Path(out), help="without suffix (%(default)s)")


def write_pages_again(
    command: str, arguments: Sequence[str] | None, write_page: Callable[[Path], Path], *, example: str
) -> int:
    """Write page and tables of results folders again from their results.json. Returns 0, or 2 for other contents.

    command: `python -m COMMAND`. write_page: folder -> page. example: folder, for help.
    """
    text = "Write page and tables of finished runs again from results.json; figures do not change."
    parser = argparse.ArgumentParser(prog=f"python -m {command}", description=text)
    parser.add_argument("folders", type=path_argument, nargs="+", help=f"results folders, such as {example}")
    try:
        for folder in parser.parse_args(arguments).folders:
            print(write_page(folder))
    except CxrEdgeError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
    return 0
