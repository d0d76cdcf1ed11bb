"""Run all benchmark scripts and generate the page of results: `python -m benchmarks`.

Each script runs in a separate process, so that no threads or memory remain for the next. Run it on an idle machine,
after `cxr-edge build-engine` with the same Python (an engine of another ONNX Runtime is refused). Scripts that declare
`only_if_named` (they take minutes or need a GPU) run only if `--only` names them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from benchmarks.harness import page
from benchmarks.harness.script import Benchmark, discover
from cxr_edge.names import not_empty, path_argument

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scripts and write the page. Return 1, without a page, if a script failed."""
    scripts = {script.name: script for script in discover()}
    args = _parser(scripts.values()).parse_args(argv)
    failed = [name for name in args.only if subprocess.run(_command(scripts[name], args), check=False).returncode != 0]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return page.main([str(args.results), str(args.page)]) if args.page else 0


def _parser(scripts: Collection[Benchmark]) -> argparse.ArgumentParser:
    names = [script.name for script in scripts]
    default = [script.name for script in scripts if not script.only_if_named]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run benchmarks and write their page.")
    parser.add_argument("--only", nargs="+", choices=names, default=default, help=f"(default: {' '.join(default)})")
    parser.add_argument(
        "--bundle", type=not_empty, default="starter", metavar="DIR", help="folder of the bundle (%(default)s)"
    )
    parser.add_argument(
        "--engines", type=not_empty, metavar="DIR", help="folder of its engines (default: in the bundle)"
    )
    parser.add_argument(
        "--results",
        type=path_argument,
        default=Path("build/bench"),
        metavar="DIR",
        help="folder of the JSON files (%(default)s)",
    )
    parser.add_argument("--page", type=path_argument, metavar="FILE", help="Markdown page to write (default: none)")
    parser.add_argument("--rounds", metavar="N", help="rounds of all scripts, instead of each script's own number")
    return parser


def _command(script: Benchmark, args: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", f"benchmarks.{script.name}", "--out", str(args.results / f"{script.name}.json")]
    command += [*script.quick_options, args.rounds] if args.rounds else []
    if script.needs_engines:
        command += ["--bundle", args.bundle, *(["--engines", args.engines] if args.engines else [])]
    return command


if __name__ == "__main__":
    sys.exit(main())
