"""One training of a run on own data, in a process of its own: `python -m training.recipes.own.work OUT --name MEMBER`.

`jobs.run_jobs` starts it. It ends with its parent: standard input ends when the parent does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cxr_edge.errors import CxrEdgeError
from training.recipes.own.jobs import Job, end_with_parent

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train one network. Returns 0, or 2 with a sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m training.recipes.own.work", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--fold", default="")
    parser.add_argument("--candidate", default="")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    from training.recipes.own.run import CONFIG, OwnRun, Settings  # seconds, in which the parent may end

    try:
        tables = Settings.read(args.out / CONFIG).tables
        OwnRun(tables, args.out, threads=args.threads).train(
            Job(name=args.name, fold=args.fold, candidate=args.candidate)
        )
    except CxrEdgeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main())
