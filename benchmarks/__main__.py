"""The benchmarks, one after the other, and the page of results: `python -m benchmarks`.

Each script runs in a process of its own, so that no threads or memory of one are left to the next. Run it on an idle
machine, after `cxr-edge build-engine` with the same Python (an engine of another ONNX Runtime is refused). The two that
take many minutes, idle and sustained, and gpu, which needs one, run when `--only` names them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import page

__all__ = ["main"]

NEED_ENGINES = frozenset(page.ORDER) - {"preprocess", "combine"}
WHEN_NAMED = frozenset({"idle", "sustained", "gpu"})
# What --rounds becomes where it is not the script's own option: a look whether it runs, not a measurement.
ROUNDS = {
    "latency": ("--duration", "0", "--warm-up", "0", "--iterations"),
    "scenarios": ("--duration", "0", "--samples", "8", "--min-queries"),
    "sustained": ("--minutes",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scripts; 1 if one failed, and then the page is not made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run benchmarks, make their page.")
    usual = [name for name in page.ORDER if name not in WHEN_NAMED]
    parser.add_argument("--only", nargs="+", choices=page.ORDER, default=usual, help=f"(default: {' '.join(usual)})")
    parser.add_argument("--bundle", default="starter", metavar="DIR", help="folder of the bundle (%(default)s)")
    parser.add_argument("--engines", metavar="DIR", help="folder of its engines (default: in the bundle)")
    parser.add_argument(
        "--results", type=Path, default=Path("build/bench"), metavar="DIR", help="for JSON (%(default)s)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="Markdown page to write (default: none)")
    parser.add_argument("--rounds", metavar="N", help="for all scripts, instead of each one's own number")
    args = parser.parse_args(argv)
    failed = [name for name in args.only if subprocess.run(_command(name, args), check=False).returncode != 0]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return page.main([str(args.results), str(args.page)]) if args.page else 0


def _command(name: str, args: argparse.Namespace) -> list[str]:
    words = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(args.results / f"{name}.json")]
    words += [*ROUNDS.get(name, ("--rounds",)), args.rounds] if args.rounds else []
    if name in NEED_ENGINES:
        words += ["--bundle", args.bundle, *(["--engines", args.engines] if args.engines else [])]
    return words


if __name__ == "__main__":
    sys.exit(main())
