"""Small tasks for tests of pruning, on canvases of noise; as a script, one run of the loop that may be killed.

The killed run raises no exception: the process kills itself in the midst of an epoch, as a power cut would.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.canvases import make_canvases
from training.data.targets import Target
from training.loop.plan import Plan
from training.models import NetworkSpec, build, save_network
from training.parallel import World
from training.pruning.prune import PrunePlan, prune
from training.tasks.classify import ClassifyTask, MemberData, Sampling
from training.tasks.segment import FrameWithMask, SegmentTask

SIDE_PX = 32
CANVAS = PreprocessSpec(canvas_px=SIDE_PX, crop_px=SIDE_PX)
FRAME = PreprocessSpec(region="frame", canvas_px=SIDE_PX, crop_px=SIDE_PX)
TARGET = Target(labels=("normal", "bacterial", "covid-19"))
RETRAIN = Plan(epochs=2, batch=8, seed=3, threads=1, precision="fp32", learning_rate=1e-3)
PLAN = PrunePlan(step=0.1, until=0.3, retrain=RETRAIN)


class DyingTask(ClassifyTask):
    """Kills its process at the first batch of the second epoch."""

    def batches(self, epoch: int, here: World) -> Iterator[tuple[Tensor, ...]]:
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().batches(epoch, here)


def classify_task(network: nn.Module, kind: type[ClassifyTask] = ClassifyTask) -> ClassifyTask:
    """Return a member's training task; every fourth canvas is for validation."""
    samples, canvases = make_canvases([TARGET.labels[i % 3] for i in range(24)], validates_every=4)
    data = MemberData(samples=samples, canvases=canvases, spec=CANVAS, target=TARGET)
    return kind(network, data, Sampling(batch=8, seed=5, epoch_images=16), smoothing=0.0)


def segment_task(network: nn.Module) -> SegmentTask:
    """Return a segmenter's task, with bright ellipses as lungs."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :48] / 48 - 0.5
    lung = ((x / 0.3) ** 2 + (y / 0.4) ** 2 < 1).astype(np.uint8)

    def frame(side: int) -> FrameWithMask:
        mask = lung[:side, :side] * 255
        return FrameWithMask(frame=(mask // 2 + rng.integers(0, 100, mask.shape, dtype=np.uint8)), mask=mask)

    return SegmentTask(
        [frame(48) for _ in range(8)], [frame(32) for _ in range(4)], FRAME, batch=4, seed=5, model=network
    )


def start(folder: Path, architecture: str = "plain", activation: str = "relu") -> Path:
    """Save an untrained network, with the same weights every time."""
    spec = NetworkSpec(architecture=architecture, labels=3, head_maps=16, activation=activation)
    torch.manual_seed(0)
    save_network(build(spec), spec, folder)
    return folder


if __name__ == "__main__":
    begin, out = Path(sys.argv[1]), Path(sys.argv[2])

    def task_of(network: nn.Module) -> ClassifyTask:
        """Return a task that kills the process in the second step, once its channels are removed."""
        return classify_task(
            network, DyingTask if (out / "step-02" / "removed" / "network.json").exists() else ClassifyTask
        )

    prune(task_of, begin, PLAN, out, CANVAS)
