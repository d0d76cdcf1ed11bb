"""Options that the commands of training share: a parser in, the parser with options out."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["add_out_argument", "add_run_arguments"]


def add_run_arguments(
    parser: argparse.ArgumentParser, *, config: str | None, run: tuple[str, str | None] = ("--run", "runs/starter")
) -> None:
    """Add the options for the data folder, the configuration and the run folder.

    config: the default; None requires the option.
    run: option of the run folder and its default; None is runs/NAME, by the configuration's name.
    """
    option, folder = run
    parser.add_argument("--data", type=Path, help="folder of the collections; default: CXR_EDGE_DATA")
    shown = "TOML of training/configs, such as r20-cpu.toml" if config is None else "TOML (%(default)s)"
    default = None if config is None else Path(config)
    parser.add_argument("--config", type=Path, required=config is None, default=default, help=shown)
    shown = "run folder; default: runs/NAME" if folder is None else "run folder (%(default)s)"
    parser.add_argument(option, type=Path, default=None if folder is None else Path(folder), help=shown)


def add_out_argument(parser: argparse.ArgumentParser, out: str) -> None:
    """Add --out, for a page and its JSON. out: the default."""
    parser.add_argument("--out", type=Path, default=Path(out), help="without suffix (%(default)s)")
