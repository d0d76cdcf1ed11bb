"""Mutation testing of Python modules by mutmut: every mutant of `sources` must fail one of the tests.

mutmut changes functions only. It works in a copy of the checkout, whose setup.cfg tells it what to mutate.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutate.records import Mutant, Result

# Exit codes of a mutant's tests, by mutmut/stats.py: they passed; no test calls the function.
_SURVIVED = (0, 5, 33)
_ALL = ("cxr_edge", "training", "benchmarks", "csrc", "docs", "CMakeLists.txt", "README.md")


def results(root: Path, sources: Sequence[str], tests: Sequence[str]) -> Iterator[Result]:
    """Yield the results of all mutants of `sources`, which are relative to `root`, a copy of the checkout."""
    lists = {"source_paths": sources, "pytest_add_cli_args_test_selection": tests, "also_copy": _ALL}
    lines = [f"{name}=\n{''.join(f'    {v}{chr(10)}' for v in values)}" for name, values in lists.items()]
    (root / "setup.cfg").write_text("[mutmut]\n" + "".join(lines))
    run = _mutmut(root, "run")
    found = {name: code for source in sources for name, code in _exit_codes(root, source).items()}
    if not found or None in found.values():
        raise SystemExit(f"mutmut did not finish:\n{run[-4000:]}")
    for name, code in found.items():
        survived = code in _SURVIVED
        # Only survivors are shown by name: one start of mutmut for each.
        yield Result(mutant=_mutant(root, name) if survived else Mutant(file=name, old="", new=""), survived=survived)


def _exit_codes(root: Path, source: str) -> dict[str, int | None]:
    return dict(json.loads((root / f"mutants/{source}.meta").read_text())["exit_code_by_key"])


def _mutmut(root: Path, *arguments: str) -> str:
    # -S: without the editable install, which would put the checkout before the mutants.
    command = [sys.executable, "-S", "-W", "ignore", "-m", "mutmut", *arguments]
    environment = os.environ | {"PYTHONPATH": f"{root}:{sysconfig.get_path('purelib')}"}
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout


def _mutant(root: Path, name: str) -> Mutant:
    diff = _mutmut(root, "show", name)
    _, _, changes = diff.partition("@@")
    old, new = (" ".join(re.findall(rf"^[{sign}]\s*(.*)$", changes, re.MULTILINE)) for sign in "-+")
    return Mutant(file=name.rpartition(".")[0].replace(".", "/") + ".py", old=old, new=new)
