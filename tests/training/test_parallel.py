"""Distributed training: weights equal to one process with the full batch, and only rank 0 writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from tests.builders.two_processes import ACCUMULATED, FROZEN, PLAN, SGD, MeanTask, classify_task, in_two_processes
from training.loop.fit import Task, fit
from training.loop.plan import Plan
from training.parallel import World, broadcast, world, wrap_ddp
from training.pruning.prune import steps_of

SCRIPT = Path(__file__).parents[1] / "builders" / "two_processes.py"

# float32 sums of half batches are added in another order.
TOLERANCE = 1e-5
CASES = ("mean", "draw", "weigh", "accumulated", "frozen", "resumed", "patience")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run `two_processes` once for all tests, since a start takes seconds. Returns its folder."""
    out = tmp_path_factory.mktemp("pair")
    in_two_processes(SCRIPT, out, within_s=120)
    return out


def _weights(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


def _single(case: str, out: Path) -> Path:
    tasks: dict[str, tuple[Task, Plan]] = {
        "mean": (MeanTask(), PLAN),
        "draw": (classify_task("draw"), SGD),
        "weigh": (classify_task("weigh"), SGD),
        "accumulated": (MeanTask(), ACCUMULATED),
        "frozen": (classify_task("draw"), FROZEN),
        "resumed": (MeanTask(), replace(PLAN, epochs=2, schedule="constant")),
        "patience": (MeanTask(scores=(0.1, 0.9, 0.5, 0.4)), replace(PLAN, epochs=9, patience=2)),
    }
    return fit(*tasks[case], out)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_same_weights_as_one(case: str, pair: Path, tmp_path: Path) -> None:
    folder = pair / case if case == "resumed" else pair / "rank-0" / case
    expected, actual = _weights(_single(case, tmp_path)), _weights(folder / "weights.pt")
    start = MeanTask() if case in ("mean", "accumulated", "resumed", "patience") else classify_task("draw")
    ended, single = _weights(folder / "last.pt"), _weights(tmp_path / "last.pt")
    moved = 0.0
    for name, value in start.model.state_dict().items():
        for a, b in ((actual, expected), (ended, single)):
            torch.testing.assert_close(a["model"][name], b["model"][name], rtol=0, atol=TOLERANCE)
        moved = max(moved, float((value - expected["model"][name]).abs().max()))
    assert moved > 100 * TOLERANCE, "the training moves the weights by more than the tolerance"
    assert [ended[k] for k in ("epoch", "steps", "best_epoch")] == [single[k] for k in ("epoch", "steps", "best_epoch")]


def test_only_rank_0_writes(pair: Path) -> None:
    written = {p.relative_to(pair / "rank-0") for p in (pair / "rank-0").rglob("*") if p.is_file()}
    assert {Path("mean/weights.pt"), Path("mean/last.pt"), Path("mean/log.txt")} <= written
    assert [p for p in (pair / "rank-1").rglob("*") if p.is_file()] == []
    assert len((pair / "rank-0/mean/log.txt").read_text().splitlines()) == PLAN.epochs


def test_decisions_of_rank_0_are_broadcast(pair: Path) -> None:
    last = _weights(pair / "rank-0" / "patience" / "last.pt")
    assert (last["epoch"], last["best_epoch"], last["best"]) == (4, 2, 0.9)
    for rank in (0, 1):
        assert json.loads((pair / f"process-{rank}.json").read_text())["broadcast"] == {"a": 2.0, "b": 1.0}


def test_pruning_is_the_same_in_all_processes(pair: Path) -> None:
    """Ranked by times, which differ between processes: both must remove the same channels."""
    steps = steps_of(pair / "pruned")
    assert [s.number for s in steps] == [0, 1]
    assert steps[1].channels == steps[0].channels - int(0.1 * steps[0].channels)
    for rank in (0, 1):
        actual = json.loads((pair / f"process-{rank}.json").read_text())["channels"]
        assert actual == [s.channels for s in steps]


def test_an_indivisible_batch_raises(pair: Path) -> None:
    for rank in (0, 1):
        actual = json.loads((pair / f"process-{rank}.json").read_text())["odd"]
        assert actual == "a batch of 5 does not divide among 2 processes: choose a multiple"


def test_shares_add_up_to_the_batch() -> None:
    places = [World(rank=r, size=3, device=torch.device("cpu")).share(12) for r in range(3)]
    assert [i for p in places for i in range(12)[p]] == list(range(12))
    with pytest.raises(InputError, match="a batch of 12 does not divide among 5"):
        World(rank=0, size=5, device=torch.device("cpu")).share(12)


def test_a_single_process_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    process, model = world(), nn.Linear(1, 1)
    assert (process.rank, process.size, process.is_main) == (0, 1, True)
    assert wrap_ddp(model, process) is model
    assert broadcast({"a": 1.0}, process) == {"a": 1.0}


def test_more_processes_than_gpus_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="1 GPU"):
        world()


def test_sync_batch_norm_evaluates_without_a_gpu() -> None:
    """On GPUs training leaves SyncBatchNorm in the network; scoring, pruning and export then see it on the CPU."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
    image: Tensor = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = network(image)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert isinstance(shared[1], nn.SyncBatchNorm)
    assert torch.equal(shared(image), before)
    assert list(shared.state_dict()) == list(network.state_dict())
