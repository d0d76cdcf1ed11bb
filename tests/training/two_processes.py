"""What test_parallel.py trains, alone or by torchrun: run as a script, each process does every case and says how it went."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.preprocess import PreprocessSpec
from training.canvases import Canvases
from training.classify import ClassifyTask
from training.collections import Record
from training.dataset import Sample
from training.engine import Plan, fit
from training.models.head import CamHead
from training.models.networks import Network
from training.parallel import World, everywhere, world
from training.targets import Target

PLAN = Plan(epochs=2, batch=4, seed=3, threads=1, bfloat16=False, learning_rate=1e-2)
SGD = replace(PLAN, epochs=2, batch=8, optimizer="sgd", learning_rate=0.1, momentum=0.9, schedule="constant")
TARGET = Target(labels=("normal", "bacterial", "covid-19"))
SIDE_PX = 32


class MeanTask:
    """Learns the mean of noise with a network without norm or dropout. scores: of each epoch in turn."""

    batches_per_epoch = 4

    def __init__(self, *, seed: int = 0, batch: int = 4, scores: tuple[float, ...] = ()) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 1))
        self.batch, self.scores = batch, list(scores)

    def batches(self, epoch: int, here: World) -> Iterator[tuple[Tensor, ...]]:
        source = torch.Generator().manual_seed(epoch)
        for _ in range(self.batches_per_epoch):
            x = torch.randn(self.batch, 1, 8, 8, generator=source)[here.share(self.batch)]
            yield x, x.mean((1, 2, 3))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return (model(batch[0])[:, 0] - batch[1]).square().mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        return {"score": self.scores.pop(0) if self.scores else 0.0}


def classify_task(balance: str) -> ClassifyTask:
    """Members' own task on canvases of noise, each label a little brighter than the one before."""
    rng, samples = np.random.default_rng(0), []
    for i in range(30):
        label = TARGET.labels[min(i % 5, 2)]  # not as many of each, so that class weights are no ones
        record = Record(
            path=Path("x"), key=f"{i}", patient=f"{i}", label=label, source="a", view="PA", finding=label, adult=True
        )
        samples.append(Sample(record=record, group=f"{i}", side="validation" if i % 5 == 4 else "train"))
    bright = np.array([60 * TARGET.labels.index(s.record.label) for s in samples], np.uint8)
    pixels = rng.integers(0, 120, (30, SIDE_PX, SIDE_PX), dtype=np.uint8) + bright[:, None, None]
    boxes = np.tile(np.array([0, 0, SIDE_PX, SIDE_PX], np.float32), (30, 1))
    canvases = Canvases(lungs=pixels, wide=pixels, boxes=boxes, rois=boxes.astype(np.int32), failed=np.zeros(30, bool))
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    spec = PreprocessSpec(canvas_px=SIDE_PX, crop_px=SIDE_PX)
    return ClassifyTask(
        Network(trunk, CamHead(16, 3, 0.0)),
        samples,
        canvases,
        spec,
        TARGET,
        batch=8,
        seed=5,
        smoothing=0.1,
        epoch_images=24,
        balance=balance,  # type: ignore[arg-type]
    )


def cases(out: Path) -> dict[str, object]:
    """All trainings, each process's into a folder of its own, so that it shows who writes. Returns what was met."""
    here = world()
    mine = out / f"rank-{here.rank}"
    # Another start in each process: the first one's must count.
    fit(MeanTask(seed=here.rank), PLAN, mine / "mean")
    for balance in ("draw", "weigh"):
        fit(classify_task(balance), SGD, mine / balance)
    # Taken up after an epoch, from the folder that all share.
    fit(MeanTask(), replace(PLAN, epochs=1, schedule="constant"), out / "taken-up")
    fit(MeanTask(), replace(PLAN, epochs=2, schedule="constant"), out / "taken-up")
    # The second process scores the other way round; if it went by that, it would wait for the first for ever.
    scores = ((0.1, 0.9, 0.5, 0.4), (0.9, 0.1, 0.1, 0.1))[here.rank]
    fit(MeanTask(scores=scores), replace(PLAN, epochs=9, patience=2), mine / "patience")
    try:
        fit(MeanTask(batch=5), PLAN, mine / "odd")
        odd = ""
    except InputError as error:
        odd = str(error)
    return {"odd": odd, "heard": everywhere({"b": here.rank + 1.0, "a": here.rank + 2.0}, here)}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / f"said-{world().rank}.json").write_text(json.dumps(cases(folder)))
