"""Script for test_parallel.py: trains every case in one or two processes and writes what each process observed.

The script is torchrun's own launcher (`torchrun --standalone --nproc-per-node 2`) with a function in place of a program: the
two processes are forked with all imports done, which take several seconds each.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders import pruned
from tests.builders.canvases import make_canvases
from training.data.targets import Target
from training.loop.fit import fit
from training.loop.plan import Plan
from training.models.head import CamHead
from training.models.networks import Network
from training.parallel import World, barrier, broadcast, world
from training.pruning.prune import prune
from training.tasks.classify import ClassifyTask, MemberData, Sampling

REPOSITORY = Path(__file__).parents[2]

PLAN = Plan(epochs=2, batch=4, seed=3, threads=1, precision="fp32", learning_rate=1e-2)
SGD = replace(PLAN, epochs=2, batch=8, optimizer="sgd", learning_rate=0.1, momentum=0.9, schedule="constant")
TARGET = Target(labels=("normal", "bacterial", "covid-19"))
ACCUMULATED = replace(PLAN, accumulate=3)  # of four batches: groups of three and one
FROZEN = replace(SGD, frozen_epochs=1)
SIDE_PX = 32


class MeanTask:
    """Learns the mean of noise with a network without norm or dropout. scores: of the epochs, in order."""

    batches_per_epoch = 4

    def __init__(self, *, seed: int = 0, batch: int = 4, scores: tuple[float, ...] = ()) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 1))
        self.batch, self.scores = batch, list(scores)

    def batches(self, epoch: int, process: World) -> Iterator[tuple[Tensor, ...]]:
        source = torch.Generator().manual_seed(epoch)
        for _ in range(self.batches_per_epoch):
            x = torch.randn(self.batch, 1, 8, 8, generator=source)[process.share(self.batch)]
            yield x, x.mean((1, 2, 3))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return (model(batch[0])[:, 0] - batch[1]).square().mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        return {"score": self.scores.pop(0) if self.scores else 0.0}


def classify_task(balance: str) -> ClassifyTask:
    """Return a ClassifyTask with unequal label counts, so that class weights are not 1."""
    samples, canvases = make_canvases([TARGET.labels[min(i % 5, 2)] for i in range(30)], validates_every=5)
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    spec = PreprocessSpec(canvas_px=SIDE_PX, crop_px=SIDE_PX)
    data = MemberData(samples=samples, canvases=canvases, spec=spec, target=TARGET)
    sampling = Sampling(batch=8, seed=5, epoch_images=24, balance=balance)  # type: ignore[arg-type]
    return ClassifyTask(Network(trunk, CamHead(16, 3, 0.0)), data, sampling, smoothing=0.1)


def cases(out: Path) -> dict[str, object]:
    """Run all trainings, each process in its own folder, which shows who writes. Returns the observations."""
    process = world()
    own_folder = out / f"rank-{process.rank}"
    # Another start in each process: the first one's must count.
    fit(MeanTask(seed=process.rank), PLAN, own_folder / "mean")
    for balance in ("draw", "weigh"):
        fit(classify_task(balance), SGD, own_folder / balance)
    fit(MeanTask(), ACCUMULATED, own_folder / "accumulated")
    fit(classify_task("draw"), FROZEN, own_folder / "frozen")
    # Taken up after an epoch, from the folder that all share.
    fit(MeanTask(), replace(PLAN, epochs=1, schedule="constant"), out / "resumed")
    fit(MeanTask(), replace(PLAN, epochs=2, schedule="constant"), out / "resumed")
    network = out / "network"
    if process.is_main:
        pruned.start(network)
    barrier(process)
    plan = replace(pruned.PLAN, until=pruned.PLAN.step, ranking="latency")
    steps = prune(pruned.classify_task, network, plan, out / "pruned", pruned.CANVAS)
    # The second process scores the other way round; if it went by that, it would barrier for the first for ever.
    scores = ((0.1, 0.9, 0.5, 0.4), (0.9, 0.1, 0.1, 0.1))[process.rank]
    fit(MeanTask(scores=scores), replace(PLAN, epochs=9, patience=2), own_folder / "patience")
    try:
        fit(MeanTask(batch=5), PLAN, own_folder / "odd")
        odd = ""
    except InputError as error:
        odd = str(error)
    return {
        "odd": odd,
        "channels": [s.channels for s in steps],
        "broadcast": broadcast({"b": process.rank + 1.0, "a": process.rank + 2.0}, process),
    }


def main(folder: Path) -> None:
    """Run the cases in one process."""
    (folder / f"process-{world().rank}.json").write_text(json.dumps(cases(folder)))


def in_two_processes(script: Path, folder: Path, *, within_s: float) -> None:
    """Run a script that launches; AssertionError if it fails, TimeoutExpired if it waits for ever. Nothing of it goes on."""
    # Hidden GPUs: two processes need two of them.
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(folder)]
    with subprocess.Popen(
        command, env=env, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY, start_new_session=True
    ) as started:
        try:
            _, said = started.communicate(timeout=within_s)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 0, said[-4000:]


def launch(work: Callable[[Path], None], folder: Path) -> None:
    """Run `work` in two processes, as torchrun would."""
    here = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="pair",
        max_restarts=0, start_method="fork",
    )  # fmt: skip
    elastic_launch(here, work)(folder)


if __name__ == "__main__":
    launch(main, Path(sys.argv[1]))
