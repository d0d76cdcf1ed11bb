"""The checker: a data folder in; a small network that refuses what a bundle is not made for, its limits and its figures out.

`python -m training.checker --data DATA --out runs/checker` trains on the collections and on pictures of installed packages,
chooses the limits on validation patients and measures on test patients. `--attach BUNDLE` then puts the checker into a bundle,
as its next version; with a finished run folder that is all it does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cxr_edge.errors import CxrEdgeError
from cxr_edge.names import path_argument
from training.data.dataset import data_folder
from training.json_records import read_json, write_json
from training.recipes.checker.attach import attach_checker
from training.recipes.checker.measure import RefusalResults
from training.recipes.checker.pages import refusals_as_markdown, refusals_picture
from training.recipes.checker.run import ONNX, RESULTS, CheckerRun, CheckerSettings
from training.shared_files import write_text

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, write the page, attach. Returns the exit status: 0, or 2 for invalid data."""
    args = _parser().parse_args(arguments)
    try:
        if not all((args.out / name).exists() for name in (ONNX, RESULTS)):
            run = CheckerRun(data_folder(args.data), args.out, _settings(args))
            run.train()
            run.measure()
        if args.page is not None:
            _write_page(args.out, args.page, args.note)
        if args.attach is not None:
            bundle = attach_checker(args.attach, args.out, version=args.version)
            print(f"{bundle.root}: {bundle.manifest.name} {bundle.manifest.version}")
    except CxrEdgeError as error:
        print(f"training.checker: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.checker", description=__doc__)
    parser.add_argument("--data", type=path_argument, help="folder of the collections; default: CXR_EDGE_DATA")
    parser.add_argument("--out", type=path_argument, default=Path("runs/checker"), help="run folder (%(default)s)")
    parser.add_argument("--epochs", type=int, help="epochs of the training; default: the recipe's")
    parser.add_argument(
        "--left-out", nargs="+", default=(), metavar="SOURCE", help="sources that do not train, to measure on them"
    )
    parser.add_argument("--page", type=path_argument, help="write the results page: PAGE.md, PAGE.json and PAGE.png")
    parser.add_argument("--note", default="", help="paragraph for the results page")
    parser.add_argument("--attach", type=path_argument, metavar="BUNDLE", help="put the checker into this bundle")
    parser.add_argument("--version", help="of the bundle with the checker; default: the second number is raised")
    return parser


def _settings(args: argparse.Namespace) -> CheckerSettings:
    settings = CheckerSettings(left_out=tuple(args.left_out))
    return settings if args.epochs is None else replace(settings, plan=replace(settings.plan, epochs=args.epochs))


def _write_page(run: Path, page: Path, note: str) -> None:
    results = replace(read_json(RefusalResults, run / RESULTS), note=note)
    picture = page.with_suffix(".png")
    write_json(page.with_suffix(".json"), results)
    refusals_picture(results, picture)
    write_text(page.with_suffix(".md"), refusals_as_markdown(results, picture.name))


if __name__ == "__main__":
    sys.exit(main())
