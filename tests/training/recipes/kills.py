"""R20's pipeline killed over and over: `python -m tests.training.recipes.kills --kills 100`; test_kills.py does ten.

A tiny run on drawn X-rays is killed (SIGKILL) in every stage at what it does to its files: just after a file was opened for
writing, when it is empty, or just before one is renamed, deleted or made. The same command then goes on, and what it ends
with must equal what an undisturbed run ends with, bit for bit.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.builders.collections import write_collections
from training import reproduce
from training.bundles import write
from training.recipes.r20.config import load_r20
from training.recipes.r20.run import R20Run

__all__ = ["STAGES", "Killed", "differences", "kill_and_finish", "make_data", "straight"]

CONFIG = """
name = "kills"
threads = 1
segmenter_px = 32
canvas_px = 32
epoch_images = 16
range_images = 2
known_answers = 2
resamples = 5
top = 1
cam_cases = 1

[segmenter]
epochs = 2
batch = 16

[members.plain]
architecture = "plain"
head_maps = 8

[search]
trials = 2
epochs = 1
stale_s = 0.3

[modality]
epochs = 2
batch = 8

[multiclass]
epochs = 1
batch = 8

[prune]
step = 0.1
until = 0.1

[prune.retrain]
epochs = 1
batch = 8
"""

# Of the command's stages, `measure` is left out: it writes milliseconds into the steps, which differ from run to run.
STAGES = ("data", "segment", "canvases", "search", "modality", "task", "prune", "bundle", "tables")
_UNFINISHED = re.compile(r"^\.(.+)\.[0-9a-f]+\.unfinished(\.\w+)?$")
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}

# Forked by a server that has imported what they need, and nothing of which has threads yet.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


@dataclass(frozen=True, kw_only=True)
class Killed:
    """Where a run was killed. event: number of the file operation in the stage, from 0; with a name, of those on files that
    are called so or will be when they are complete."""

    stage: str
    event: int
    name: str | None = None


def make_data(folder: Path) -> None:
    """Draw the collections and write the configuration."""
    write_collections(folder / "data", patients=8, size_px=64)
    (folder / "kills.toml").write_text(CONFIG)


def straight(folder: Path, out: str, stages: Sequence[str] = STAGES) -> dict[str, int]:
    """Run the stages undisturbed. Returns how many file operations each does in the run folder."""
    assert _run(folder, out, stages, None) == 0
    return json.loads((folder / f"{out}-events.json").read_text())


def kill_and_finish(folder: Path, out: str, kills: Sequence[Killed], stages: Sequence[str] = STAGES) -> None:
    """Run the stages, killed at each of `kills` in turn and started again, then to their end."""
    for kill in kills:
        code = _run(folder, out, stages, kill)
        assert code == -signal.SIGKILL, f"{kill} was not reached, or the run failed: exit code {code}"
    assert _run(folder, out, stages, None) == 0, "the last run did not come to its end"


def differences(one: Path, other: Path) -> list[str]:
    """Files of two run folders that are not equal: arrays by value, checkpoints without their seconds, all else by bytes.

    Locks, logs, journals and what a kill left of an unfinished file do not count; checkpoints in one folder alone do.
    """
    ours, theirs = _files(one), _files(other)
    alone = [f"only in one: {name}" for name in sorted(ours ^ theirs)]
    return alone + [name for name in sorted(ours & theirs) if _content(one / name) != _content(other / name)]


def _files(folder: Path) -> set[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    seen = (p for p in found if not any(part.startswith(".") for part in p.parts))
    return {p.as_posix() for p in seen if p.name != "log.txt" and not p.name.startswith("search.journal")}


def _content(file: Path) -> object:
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name].tobytes() for name in arrays.files}
    if file.suffix == ".pt":
        return {k: repr(v) for k, v in torch.load(file, weights_only=True).items() if k != "seconds"}
    return file.read_bytes()


def _run(folder: Path, out: str, stages: Sequence[str], kill: Killed | None) -> int | None:
    process = _processes.Process(target=_child, args=(folder, out, stages, kill), daemon=True)
    process.start()
    process.join(300)
    return process.exitcode


@dataclass(kw_only=True)
class _Watch:
    """Counts file operations below `root`, by stage; at the one of `kill` the process ends."""

    root: str
    kill: Killed | None
    stage: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    matched: int = 0
    busy: bool = False

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook, which cannot be taken away again: the process is the run's own."""
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
        # The search's journal is written by the clock, so that no operation would have a number of its own.
        return path.startswith(self.root) and "search.journal" not in path


class _AtOnce(datetime):
    """The clock of a world where every bundle is made at the same moment."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _AtOnce:
        return cls(2020, 1, 1, tzinfo=tz)


def _child(folder: Path, out: str, stages: Sequence[str], kill: Killed | None) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    write.datetime = _AtOnce  # type: ignore[attr-defined]
    write._tools = dict  # the commit: somebody may commit while the runs go on
    watch = _Watch(root=str(folder / out), kill=kill)
    sys.addaudithook(watch)
    for stage in stages:
        watch.stage = stage
        _STEPS.get(stage, _command)(folder, out, stage)
    watch.busy = True
    (folder / f"{out}-events.json").write_text(json.dumps(watch.counts))


def _command(folder: Path, out: str, stage: str) -> None:
    places = {"--config": "kills.toml", "--data": "data", "--out": out, "--results": f"{out}/results"}
    arguments = [text for option, name in places.items() for text in (option, str(folder / name))]
    if reproduce.main(["r20", *arguments, "--stage", stage]):
        sys.exit(2)


def _r20(folder: Path, out: str) -> R20Run:
    return R20Run(load_r20(folder / "kills.toml"), folder / "data", folder / out)


# What the command does on the way to a stage, here by itself so that it is killed as often as a stage.
_STEPS: Mapping[str, Callable[[Path, str, str], object]] = {
    "data": lambda folder, out, _: _r20(folder, out).samples,
    "canvases": lambda folder, out, _: _r20(folder, out).canvases,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill a run so many times, evenly over its stages, at random operations. Returns 0 if it ends as an undisturbed one."""
    parser = argparse.ArgumentParser(prog="python -m tests.training.recipes.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_data(folder)
        counts = straight(folder, "straight")
        kills = spread(counts, args.kills, seed=args.seed)
        kill_and_finish(folder, "killed", kills)
        found = differences(folder / "straight", folder / "killed")
    print(f"{len(kills)} kills in {dict(Counter(k.stage for k in kills))}, of operations {counts}; different: {found}")
    return 1 if found else 0


def spread(counts: Mapping[str, int], total: int, *, seed: int) -> list[Killed]:
    """So many kills in the stages' order, evenly. Of n in a stage each comes within an n-th of its operations, since what
    the one before left done is not done again."""
    rng, order = np.random.default_rng(seed), [s for s in STAGES if counts.get(s)]
    shares = Counter(order[k % len(order)] for k in range(total))
    return [
        Killed(stage=s, event=int(rng.integers(0, max(1, counts[s] // shares[s]))))
        for s in order
        for _ in range(shares[s])
    ]


if __name__ == "__main__":
    sys.exit(main())
