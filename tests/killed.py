"""Runs killed at random moments: `python -m tests.killed --kills 100 --seed 1`; takes about half an hour on two cores.

Tiny runs of R20 and FLANNEL on drawn X-rays are killed (SIGKILL) after random times, wherever they are, and started again by the
same command, several times each. Every run must end with the files of a run that nobody disturbed, bit for bit. `make test` has
the kills at file operations, which are the same every time (`tests/training/recipes/test_kills.py`).
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.training.recipes.kills import RECIPES, differences, make_data, run_to_end, start

_KILLS_PER_RUN = 12  # then it may finish


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the killed runs of a recipe."""

    recipe: str
    runs: int
    kills: int
    different: tuple[str, ...]  # files that differ from those of the run without kills, or how a run failed

    def __str__(self) -> str:
        found = "; ".join(self.different) or "every run ended as the one without kills"
        return f"{self.recipe}: {self.kills} kills in {self.runs} runs: {found}"


def disturb(folder: Path, recipe: str, kills: int, seed: int) -> Outcome:
    """Kill runs of a recipe `kills` times altogether. folder: of `make_data`."""
    stages, rng, begin = RECIPES[recipe].stages, np.random.default_rng(seed), time.monotonic()
    run_to_end(folder, recipe, f"{recipe}-complete", stages)
    seconds, done, runs, different = time.monotonic() - begin, 0, 0, list[str]()
    while done < kills and not different:
        out = f"{recipe}-{runs}"
        killed, code = _kill_and_finish(folder, recipe, out, min(_KILLS_PER_RUN, kills - done), seconds / 6, rng)
        found = differences(folder / f"{recipe}-complete", folder / out) if code == 0 else [f"exit status {code}"]
        different = [f"{out}: {name}" for name in found]
        done, runs = done + killed, runs + 1
        print(f"{out}: {killed} kills, {len(found)} differences", file=sys.stderr, flush=True)
    return Outcome(recipe=recipe, runs=runs, kills=done, different=tuple(different))


def _kill_and_finish(
    folder: Path, recipe: str, out: str, kills: int, longest_s: float, rng: np.random.Generator
) -> tuple[int, int | None]:
    """Run to the end, killed up to `kills` times, each after up to `longest_s`. Returns the kills and the exit status."""
    killed = 0
    while True:
        process = start(folder, recipe, out, RECIPES[recipe].stages)
        process.join(rng.uniform(0, longest_s) if killed < kills else None)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode != -signal.SIGKILL:
            return killed, process.exitcode
        killed += 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill both recipes' runs. Returns 0 if all of them end as those without kills."""
    parser = argparse.ArgumentParser(prog="python -m tests.killed", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each recipe (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--recipe", choices=RECIPES, nargs="+", default=["r20", "flannel"])
    parser.add_argument("--folder", type=Path, help="for the runs, kept; default: a temporary one")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as path:
        folder = args.folder or Path(path)
        make_data(folder)
        outcomes = [disturb(folder, recipe, args.kills, args.seed) for recipe in args.recipe]
    for outcome in outcomes:
        print(outcome)
    return int(any(outcome.different for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
