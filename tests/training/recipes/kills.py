"""Kill test of the recipes: `python -m tests.training.recipes.kills --recipe flannel --kills 100`.

test_kills.py does a few kills.

A tiny run of R20, FLANNEL or the starter on synthetic X-rays is killed (SIGKILL) in every stage at file operations: just
after a file was opened for writing, while it is empty, or just before one is renamed, deleted or created. The same command
then continues, and its final files must equal those of an uninterrupted run, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.builders.cheap import make_cheap, trace_exports
from tests.builders.image_collections import write_collections
from training import reproduce, starter
from training.bundles import write
from training.data.dataset import prepare
from training.data.leakage import SplitSettings
from training.recipes.config import load_config
from training.recipes.flannel.config import load_flannel
from training.recipes.flannel.run import FlannelRun
from training.recipes.r20.config import load_r20
from training.recipes.r20.run import R20Run
from training.recipes.run import Run

__all__ = ["RECIPES", "Kill", "Recipe", "differences", "kill_and_finish", "make_data", "run_to_end", "start"]

_COMMON = """
name = "kills"
threads = 1
segmenter_px = 32
canvas_px = 32
epoch_images = 16
range_images = 2
known_answers = 1
resamples = 5
"""

_SEGMENTER = """
[segmenter]
epochs = 2
batch = 8
"""

_PRUNE = """
[prune]
step = 0.1
until = 0.1

[prune.retrain]
epochs = 1
batch = 8
"""

# Resumed between epochs in R20, where stages that other recipes have, too, are killed.
_SEGMENTER_ONCE = _SEGMENTER.replace("epochs = 2", "epochs = 1")

_R20 = f"""{_COMMON}
top = 1
cam_cases = 1
{_SEGMENTER}
[members.plain]
architecture = "plain"
head_maps = 8

[search]
trials = 2
epochs = 1

[modality]
epochs = 2
batch = 8

[multiclass]
epochs = 1
batch = 8
{_PRUNE}"""

# Of preset `code`, which has no segmenter, only the fit of stage 2 on augmented copies.
_FLANNEL = f"""{_COMMON}
folds = 2
cam_cases = 1
fit_on = "augmented"
copies = 2
TAKEN
{_SEGMENTER_ONCE}
[learn]
epochs = 1
batch = 4

[fit]
epochs = 1
batch = 16

[learners.a]
architecture = "plain"

[learners.b]
architecture = "plain"
"""

_FLANNEL_REST = f"""
[baselines.c]
architecture = "plain"
{_PRUNE}"""

_STARTER = f"""{_COMMON}
{_SEGMENTER_ONCE}
[members.plain]
epochs = 2
batch = 16

[members.inverted]
epochs = 1
batch = 16
"""

_UNFINISHED = re.compile(r"^\.(.+)\.[0-9a-f]+\.unfinished(\.\w+)?$")
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}

# Forked by a server that has imported all modules and has no threads yet.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe as a sequence of stages."""

    config: str  # text of the TOML file
    stages: Sequence[str]
    run_stage: Callable[[Path, str, str], None]  # arguments: folder of `make_data`, name of the run folder in it, stage


@dataclass(frozen=True, kw_only=True)
class Kill:
    """Position at which a run is killed."""

    stage: str
    event: int  # number of the file operation in the stage, from 0; with a name, among those on this file
    name: str | None = None  # of a file, also while it is unfinished


def make_data(folder: Path) -> None:
    """Write synthetic collections and the configurations."""
    write_collections(folder / "data", patients=8, size_px=64)
    for name, recipe in RECIPES.items():
        (folder / f"{name}.toml").write_text(recipe.config)


def run_to_end(folder: Path, recipe: str, out: str, stages: Sequence[str]) -> dict[str, int]:
    """Run the stages without kills. Returns the number of file operations in the run folder per stage."""
    assert _run(folder, recipe, out, stages, None) == 0
    return json.loads((folder / f"{out}-events.json").read_text())


def kill_and_finish(folder: Path, recipe: str, out: str, kills: Sequence[Kill], stages: Sequence[str]) -> None:
    """Run the stages, killed at each of `kills` in turn and started again, then to the end."""
    for kill in kills:
        code = _run(folder, recipe, out, stages, kill)
        assert code == -signal.SIGKILL, f"{kill} was not reached, or the run failed: exit code {code}"
    assert _run(folder, recipe, out, stages, None) == 0, "the last run did not finish"


def differences(one: Path, other: Path) -> list[str]:
    """Return the different files of two run folders: arrays by value, checkpoints without their seconds, others by bytes.

    Locks, logs and unfinished files of killed processes are ignored; checkpoints in only one folder are not.
    """
    first, second = _files(one), _files(other)
    missing = [f"only in one: {name}" for name in sorted(first ^ second)]
    return missing + [name for name in sorted(first & second) if _content(one / name) != _content(other / name)]


def _files(folder: Path) -> set[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    seen = (p for p in found if not any(part.startswith(".") for part in p.parts))
    return {p.as_posix() for p in seen if p.name != "log.txt"}


def _content(file: Path) -> object:
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if file.suffix == ".pt":
        return {k: repr(v) for k, v in torch.load(file, weights_only=True).items() if k != "seconds"}
    return file.read_bytes()


def start(folder: Path, recipe: str, out: str, stages: Sequence[str], kill: Kill | None = None) -> BaseProcess:
    """Start a process that runs the stages, or goes on with them."""
    process = _processes.Process(target=_child, args=(folder, recipe, out, stages, kill), daemon=True)
    process.start()
    return process


def _run(folder: Path, recipe: str, out: str, stages: Sequence[str], kill: Kill | None) -> int | None:
    process = start(folder, recipe, out, stages, kill)
    process.join(300)
    return process.exitcode


@dataclass(kw_only=True)
class _Watch:
    """Audit hook that counts file operations below `root` per stage, and kills the process at `kill`."""

    root: str
    kill: Kill | None
    stage: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    matched: int = 0
    busy: bool = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Count one event. An audit hook cannot be removed, so the process is used for one run only."""
        if self.busy or not self._concerns(event, args):
            return
        self.counts[self.stage] += 1
        if self.kill is None or self.kill.stage != self.stage:
            return
        name = _UNFINISHED.sub(r"\1\2", os.path.basename(args[0]))
        self.matched += self.kill.name in (None, name)
        if self.matched > self.kill.event:
            self.busy = True
            if event == "open":  # as if killed when the file was open and nothing was written
                os.close(os.open(args[0], args[2], 0o666))
            os.kill(os.getpid(), signal.SIGKILL)

    def _concerns(self, event: str, args: tuple[Any, ...]) -> bool:
        if event != "open" and event not in _EVENTS:
            return False
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return False
        path = os.fspath(args[0]) if isinstance(args[0], str | os.PathLike) else ""
        return path.startswith(self.root)


class _ConstantClock(datetime):
    """Clock with a constant time, so that bundles of two runs are equal."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _ConstantClock:
        return cls(2020, 1, 1, tzinfo=tz)


def _child(folder: Path, recipe: str, out: str, stages: Sequence[str], kill: Kill | None) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    make_cheap(), trace_exports()
    write.datetime = _ConstantClock  # type: ignore[attr-defined]
    write._tools = dict  # the commit: somebody may commit while the runs go on
    watch = _Watch(root=str(folder / out), kill=kill)
    sys.addaudithook(watch)
    for stage in stages:
        watch.stage = stage
        RECIPES[recipe].run_stage(folder, out, stage)
    watch.busy = True
    (folder / f"{out}-events.json").write_text(json.dumps(watch.counts))


def _options(folder: Path, out: str, config: str) -> list[str]:
    return ["--config", str(folder / config), "--data", str(folder / "data"), "--out", str(folder / out)]


def _exit_on_error(status: int) -> None:
    if status:
        sys.exit(2)


def _pipeline(run: Run, paper: str, stage: str) -> None:
    """Run a stage of the command, or a step before the stages; steps are separate so that they are killed as often as stages."""
    if stage in ("data", "canvases"):
        _ = run.samples if stage == "data" else run.canvases
        return
    results = ["--results", str(run.out / "results"), "--stage", stage]
    _exit_on_error(reproduce.main([paper, *_options(run.out.parent, run.out.name, f"{paper}.toml"), *results]))


def _r20(folder: Path, out: str, stage: str) -> None:
    _pipeline(R20Run(load_r20(folder / "r20.toml"), folder / "data", folder / out), "r20", stage)


def _flannel(folder: Path, out: str, stage: str) -> None:
    if stage == "taken":
        _copy_learners(folder, out)
    else:
        _pipeline(FlannelRun(load_flannel(folder / "flannel.toml"), folder / "data", folder / out), "flannel", stage)


def _copy_learners(folder: Path, out: str) -> None:
    """Copy the learners of this run to another run."""
    (folder / f"{out}-taken.toml").write_text(_FLANNEL.replace("TAKEN", f'learners_of = "{folder / out}"'))
    for stage in ("segment", "learn"):
        options = _options(folder, f"{out}/taken", f"{out}-taken.toml")
        _exit_on_error(reproduce.main(["flannel", *options, "--stage", stage]))


def _starter(folder: Path, out: str, stage: str) -> None:
    if stage == "data":
        config = load_config(folder / "starter.toml")
        prepare(folder / "data", folder / out, SplitSettings(seed=config.seed), threads=config.threads)
    elif stage == "install":
        starter._install(folder / out / "bundle", folder / out / "package" / "starter")
    else:
        _exit_on_error(starter.main([*_options(folder, out, "starter.toml"), "--stage", stage]))


RECIPES: Mapping[str, Recipe] = {
    # Of the command's stages, `measure` is left out: it writes milliseconds into the steps, which differ from run to run.
    "r20": Recipe(
        config=_R20,
        stages=("data", "segment", "canvases", "search", "modality", "task", "prune", "bundle", "tables"),
        run_stage=_r20,
    ),
    "flannel": Recipe(
        config=_FLANNEL.replace("TAKEN", "") + _FLANNEL_REST,
        stages=("data", "segment", "canvases", *reproduce.FLANNEL_STAGES[1:], "taken"),
        run_stage=_flannel,
    ),
    "starter": Recipe(config=_STARTER, stages=("data", *starter.STAGES, "install"), run_stage=_starter),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill a run at random operations, evenly over its stages. Returns 0 if its files equal those of a run without kills."""
    parser = argparse.ArgumentParser(prog="python -m tests.training.recipes.kills", description=__doc__)
    parser.add_argument("--recipe", choices=RECIPES, default="r20")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    stages = RECIPES[args.recipe].stages
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        make_data(folder)
        counts = run_to_end(folder, args.recipe, "complete", stages)
        kills = spread_kills({s: counts[s] for s in stages if s in counts}, args.kills, seed=args.seed)
        kill_and_finish(folder, args.recipe, "killed", kills, stages)
        found = differences(folder / "complete", folder / "killed")
    print(f"{len(kills)} kills in {dict(Counter(k.stage for k in kills))}, of operations {counts}; different: {found}")
    return 1 if found else 0


def spread_kills(counts: Mapping[str, int], total: int, *, seed: int) -> list[Kill]:
    """Return `total` kills, evenly over the stages of `counts` and in their order. Each of n kills in a stage is within 1/n of
    its operations, since finished work is not repeated after a kill."""
    rng, order = np.random.default_rng(seed), list(counts)
    shares = Counter(order[k % len(order)] for k in range(total))
    return [
        Kill(stage=s, event=int(rng.integers(0, max(1, counts[s] // shares[s]))))
        for s in order
        for _ in range(shares[s])
    ]


if __name__ == "__main__":
    sys.exit(main())
