"""Several processes: the weights are those of one process with the whole batch, and only the first one writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from tests.training.two_processes import ACCUMULATED, FROZEN, PLAN, SGD, MeanTask, classify_task, in_two_processes
from training.engine import Plan, Task, fit
from training.parallel import World, everywhere, shared_model, world
from training.prune import steps_of

SCRIPT = Path(__file__).with_name("two_processes.py")

# float32 sums of half batches are added in another order.
TOLERANCE = 1e-5
CASES = ("mean", "draw", "weigh", "accumulated", "frozen", "taken-up", "patience")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `two_processes`; one run for all tests, since a start takes seconds."""
    out = tmp_path_factory.mktemp("pair")
    in_two_processes(SCRIPT, out, within_s=120)
    return out


def _weights(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


def _alone(case: str, out: Path) -> Path:
    tasks: dict[str, tuple[Task, Plan]] = {
        "mean": (MeanTask(), PLAN),
        "draw": (classify_task("draw"), SGD),
        "weigh": (classify_task("weigh"), SGD),
        "accumulated": (MeanTask(), ACCUMULATED),
        "frozen": (classify_task("draw"), FROZEN),
        "taken-up": (MeanTask(), replace(PLAN, epochs=2, schedule="constant")),
        "patience": (MeanTask(scores=(0.1, 0.9, 0.5, 0.4)), replace(PLAN, epochs=9, patience=2)),
    }
    return fit(*tasks[case], out)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case: str, pair: Path, tmp_path: Path) -> None:
    folder = pair / case if case == "taken-up" else pair / "rank-0" / case
    wanted, came = _weights(_alone(case, tmp_path)), _weights(folder / "best.pt")
    start = MeanTask() if case in ("mean", "accumulated", "taken-up", "patience") else classify_task("draw")
    ended, alone = _weights(folder / "last.pt"), _weights(tmp_path / "last.pt")
    moved = 0.0
    for name, value in start.model.state_dict().items():
        for a, b in ((came, wanted), (ended, alone)):
            torch.testing.assert_close(a["model"][name], b["model"][name], rtol=0, atol=TOLERANCE)
        moved = max(moved, float((value - wanted["model"][name]).abs().max()))
    assert moved > 100 * TOLERANCE, "the training moves the weights by more than the tolerance"
    assert [ended[k] for k in ("epoch", "steps", "best_epoch")] == [alone[k] for k in ("epoch", "steps", "best_epoch")]


def test_only_the_first_process_writes(pair: Path) -> None:
    written = {p.relative_to(pair / "rank-0") for p in (pair / "rank-0").rglob("*") if p.is_file()}
    assert {Path("mean/best.pt"), Path("mean/last.pt"), Path("mean/log.txt")} <= written
    assert [p for p in (pair / "rank-1").rglob("*") if p.is_file()] == []
    assert len((pair / "rank-0/mean/log.txt").read_text().splitlines()) == PLAN.epochs


def test_the_first_process_decides(pair: Path) -> None:
    last = _weights(pair / "rank-0" / "patience" / "last.pt")
    assert (last["epoch"], last["best_epoch"], last["best"]) == (4, 2, 0.9)
    for rank in (0, 1):
        assert json.loads((pair / f"said-{rank}.json").read_text())["heard"] == {"a": 2.0, "b": 1.0}


def test_pruning_goes_on_together(pair: Path) -> None:
    """Ranked by times, which differ from process to process: both must remove the same."""
    steps = steps_of(pair / "pruned")
    assert [s.number for s in steps] == [0, 1]
    assert steps[1].channels == steps[0].channels - int(0.1 * steps[0].channels)
    for rank in (0, 1):
        said = json.loads((pair / f"said-{rank}.json").read_text())["channels"]
        assert said == [s.channels for s in steps]


def test_a_batch_that_does_not_divide_is_refused(pair: Path) -> None:
    for rank in (0, 1):
        said = json.loads((pair / f"said-{rank}.json").read_text())["odd"]
        assert said == "a batch of 5 does not divide among 2 processes: choose a multiple"


def test_shares_are_the_batch() -> None:
    places = [World(rank=r, size=3, device=torch.device("cpu")).share(12) for r in range(3)]
    assert [i for p in places for i in range(12)[p]] == list(range(12))
    with pytest.raises(InputError, match="a batch of 12 does not divide among 5"):
        World(rank=0, size=5, device=torch.device("cpu")).share(12)


def test_alone_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    here, model = world(), nn.Linear(1, 1)
    assert (here.rank, here.size, here.first) == (0, 1, True)
    assert shared_model(model, here) is model
    assert everywhere({"a": 1.0}, here) == {"a": 1.0}


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="1 GPU"):
        world()


def test_norms_that_were_shared_score_without_a_gpu() -> None:
    """On GPUs training leaves SyncBatchNorm in the network; scoring, pruning and export then see it on the CPU."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
    image: Tensor = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = network(image)
    shared = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert isinstance(shared[1], nn.SyncBatchNorm)
    assert torch.equal(shared(image), before)
    assert list(shared.state_dict()) == list(network.state_dict())
