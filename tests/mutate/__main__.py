"""Mutation testing: `python -m tests.mutate [NAME ...]` changes the code one place at a time; some test must fail each time.

In: names of TARGETS, all without. Out: a table of mutants, and the survivors that EQUIVALENT does not explain; status 1 if there
are any. It works in copies of the checkout, as it is, in build/mutate. Text that only rewords a message is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cxr_edge._core as _core
from tests.mutate import python
from tests.mutate.equivalent import EQUIVALENT
from tests.mutate.records import Mutant, Result

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "mutate"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Sources of one language, and the tests that hold them."""

    sources: tuple[str, ...]
    tests: tuple[str, ...]

    def results(self, copy: Path) -> Iterator[Result]:
        native = not self.sources[0].endswith(".py")
        return _native(copy, self) if native else python.results(copy, self.sources, self.tests)


_GOLDEN = ("tests/ops/test_combine.py", "tests/ops/test_preprocess.py", "tests/ops/test_gpu_kernels.py")
TARGETS = {
    "combine": Target(sources=("cxr_edge/ops/combine.py",), tests=_GOLDEN[:1]),
    "combine-core": Target(
        sources=("csrc/include/cxr/combine_math.h", "csrc/combine_kernels.h", "csrc/combine.cc"),
        tests=(_GOLDEN[0], _GOLDEN[2]),
    ),
    "preprocess": Target(
        sources=("cxr_edge/ops/preprocess.py",), tests=(_GOLDEN[1], "tests/screening/test_processes.py")
    ),
    "preprocess-core": Target(
        sources=("csrc/include/cxr/pixel_math.h", "csrc/include/cxr/resize_plan.h"), tests=_GOLDEN[1:]
    ),
    "gate": Target(
        sources=("cxr_edge/compiler/parity.py",),
        tests=("tests/compiler/test_parity.py", "tests/compiler/test_parity_findings.py"),
    ),
    "splits": Target(sources=("training/data/splits.py",), tests=("tests/training/data/test_splits.py",)),
    "apoz": Target(
        sources=("training/pruning/apoz.py",),
        tests=tuple(f"tests/training/pruning/test_apoz{more}.py" for more in ("", "_edges")),
    ),
    "statistics": Target(
        sources=("training/evaluation/statistics.py", "training/evaluation/metrics.py"),
        tests=tuple(
            f"tests/training/evaluation/test_{name}.py"
            for name in ("statistics", "statistics_by_hand", "metrics", "paired_auc")
        ),
    ),
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], metavar="NAME", help=f"of {', '.join(TARGETS)}")
    names = parser.parse_args(arguments).names or list(TARGETS)
    print("| part | mutants | killed | rewording | equivalent | unexplained |\n|---|---:|---:|---:|---:|---:|")
    unexplained = [mutant for name in names for mutant in _run(name)]
    for mutant in unexplained:
        print(f"\n{mutant.file}\n  - {mutant.old}\n  + {mutant.new}")
    return 1 if unexplained else 0


def _run(name: str) -> list[Mutant]:
    """Print a target's row; return the survivors that nothing explains."""
    found = list(TARGETS[name].results(_copy(name)))
    survivors = [result.mutant for result in found if result.survived]
    reworded = [m for m in survivors if m.rewords]
    unexplained = [m for m in survivors if not m.rewords and (m.file, m.new) not in EQUIVALENT]
    equivalent = len(survivors) - len(reworded) - len(unexplained)
    counts = (len(found), len(found) - len(survivors), len(reworded), equivalent, len(unexplained))
    print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)
    return unexplained


def _copy(name: str) -> Path:
    """Return a new copy of the checkout's files, with the compiled core."""
    copy = BUILD / name
    shutil.rmtree(copy, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for file in filter(lambda f: (ROOT / f).is_file(), listed.stdout.splitlines()):
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, copy / file)
    shutil.copy(_core.__file__, copy / "cxr_edge")
    return copy


def _native(copy: Path, target: Target) -> Iterator[Result]:
    """Yield the results of `native.results`, which runs in the copy and without the editable install."""
    command = [sys.executable, "-S", "-m", "tests.mutate.native", *target.sources, "--", *target.tests]
    environment = os.environ | {"PYTHONPATH": f"{copy}:{sysconfig.get_path('purelib')}"}
    with subprocess.Popen(command, cwd=copy, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            mutant, survived = json.loads(line)
            yield Result(mutant=Mutant(**mutant), survived=survived)
    if process.returncode:
        raise SystemExit(process.returncode)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
