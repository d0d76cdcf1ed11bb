"""Training loop: a killed run ends like an undisturbed one; best or last weights are saved; time or patience ends a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.loop.fit import fit, load_weights
from training.loop.plan import Plan
from training.parallel import World

PLAN = Plan(epochs=2, batch=4, seed=3, threads=1, precision="fp32")


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 36, 1))


class _Task:
    """Learns the mean of noise. killed_in: raises in that epoch, after two batches. scores: of the epochs, in order."""

    batches_per_epoch = 4

    def __init__(self, *, killed_in: int | None = None, scores: tuple[float, ...] = ()) -> None:
        self.model = _network()
        self.killed_in, self.scores = killed_in, list(scores)

    def batches(self, epoch: int, process: World) -> Iterator[tuple[Tensor, ...]]:
        source = torch.Generator().manual_seed(epoch)
        for i in range(self.batches_per_epoch):
            if epoch == self.killed_in and i == 2:
                raise KeyboardInterrupt
            x = torch.randn(4, 1, 8, 8, generator=source)
            yield x, x.mean((1, 2, 3))

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return (model(batch[0])[:, 0] - batch[1]).square().mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        return {"score": self.scores.pop(0) if self.scores else 0.0}


def _weights(file: Path) -> dict[str, Tensor]:
    return torch.load(file, weights_only=True)


def test_a_killed_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    fit(_Task(), PLAN, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(killed_in=1), PLAN, tmp_path / "killed")
    assert _weights(tmp_path / "killed" / "last.pt")["epoch"] == 1
    fit(_Task(), PLAN, tmp_path / "killed")
    straight, killed = (_weights(tmp_path / run / "last.pt") for run in ("straight", "killed"))
    assert straight["steps"] == killed["steps"] == 8
    for part in ("model", "average"):
        for name, value in straight[part].items():
            assert torch.equal(value, killed[part][name]), f"{part}.{name}"


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    fit(_Task(), PLAN, tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    fit(_Task(killed_in=2), PLAN, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_the_weights_of_the_best_epoch_are_saved(tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=3)
    best = fit(_Task(scores=(0.1, 0.9, 0.5)), plan, tmp_path / "a")
    expected = _weights(fit(_Task(), replace(PLAN, epochs=3), tmp_path / "b").with_name("last.pt"))
    assert _weights(tmp_path / "a" / "last.pt")["best"] == 0.9
    saved, last = load_weights(_network(), best).state_dict(), expected["average"]
    assert not torch.equal(saved["0.weight"], last["0.weight"]), "the second epoch's weights, not the last's"
    lines = (tmp_path / "a" / "log.txt").read_text().splitlines()
    assert [line.endswith("*") for line in lines] == [True, True, False]


def test_the_time_budget_ends_a_run(tmp_path: Path) -> None:
    fit(_Task(), replace(PLAN, epochs=10_000, minutes=1e-9), tmp_path)
    assert _weights(tmp_path / "last.pt")["epoch"] == 1


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(99))
    task = _Task()
    task.loss = lambda model, batch: (model(batch[0])[:, 0] - 2.0).square().mean()  # type: ignore[method-assign]
    fit(task, replace(PLAN, epochs=60, learning_rate=1e-2), tmp_path)
    learnt = _network()
    learnt.load_state_dict(_weights(tmp_path / "last.pt")["average"])
    with torch.no_grad():
        assert task.loss(learnt.eval(), (x,)).item() < 0.2


def test_the_error_without_tensorboard_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="pip install tensorboard"):
        fit(_Task(), replace(PLAN, tensorboard=True), tmp_path)


def test_curves_have_a_point_per_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[tuple[str, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name: str, value: float, epoch: int) -> None:
            points.append((name, epoch))

        def flush(self) -> None: ...

        def close(self) -> None:
            points.append(("end", 0))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    fit(_Task(), replace(PLAN, tensorboard=True), tmp_path)
    assert points == [("loss", 1), ("score", 1), ("loss", 2), ("score", 2), ("end", 0)]


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_sgd_and_its_schedules(schedule: str, tmp_path: Path) -> None:
    """A plateau halves the rate after its epochs; a constant rate does not change."""
    plan = replace(
        PLAN, epochs=5, optimizer="sgd", momentum=0.9, learning_rate=0.01, schedule=schedule, plateau_epochs=2, ema=0.0,
        warmup_epochs=0.0,
    )  # fmt: skip
    fit(_Task(scores=(1.0, 0.9, 0.8, 0.7, 0.6)), plan, tmp_path)
    saved = _weights(tmp_path / "last.pt")
    rate = saved["optimizer"]["param_groups"][0]["lr"]
    # Best at epoch 1; lowered after epochs 3 and 5, of which the second lowering comes after the last step.
    assert rate == pytest.approx(0.005 if schedule == "plateau" else 0.01)
    assert saved["rate"] == pytest.approx(0.25 if schedule == "plateau" else 1.0)
    assert saved["optimizer"]["param_groups"][0]["nesterov"]


def test_patience_ends_a_run(tmp_path: Path) -> None:
    fit(_Task(scores=(1.0, 0.9, 0.8, 0.7, 0.6)), replace(PLAN, epochs=5, patience=2), tmp_path)
    saved = _weights(tmp_path / "last.pt")
    assert (saved["epoch"], saved["best_epoch"]) == (3, 1)


def test_an_unknown_optimizer_raises() -> None:
    with pytest.raises(InputError, match="adamw, adam or sgd"):
        Plan(epochs=1, optimizer="lion")  # type: ignore[arg-type]


@pytest.mark.parametrize(("keep", "epoch"), [("best", 2), ("last", 4)])
def test_keep_selects_the_best_or_the_last_weights(keep: str, epoch: int, tmp_path: Path) -> None:
    scored: list[dict[str, Tensor]] = []

    class Task(_Task):
        def score(self, model: nn.Module) -> dict[str, float]:
            scored.append({name: value.clone() for name, value in model.state_dict().items()})
            return super().score(model)

    file = fit(Task(scores=(0.1, 0.9, 0.5, 0.3)), replace(PLAN, epochs=4, keep=keep), tmp_path)
    saved = load_weights(_network(), file).state_dict()
    assert [k for k, s in enumerate(scored, 1) if all(torch.equal(saved[n], s[n]) for n in s)] == [epoch]


def test_a_killed_run_with_keep_last_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    plan, scores = replace(PLAN, epochs=3, keep="last"), (0.9, 0.5, 0.1)
    straight = fit(_Task(scores=scores), plan, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(scores=scores, killed_in=2), plan, tmp_path / "killed")
    killed = fit(_Task(scores=scores[2:]), plan, tmp_path / "killed")
    expected, actual = (load_weights(_network(), file).state_dict() for file in (straight, killed))
    assert all(torch.equal(expected[n], actual[n]) for n in expected)


def test_patience_ends_a_run_with_keep_last(tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=5, keep="last", patience=2)
    fit(_Task(scores=(0.9, 0.8, 0.7, 0.6, 0.5)), plan, tmp_path)
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3


def test_an_unknown_keep_raises() -> None:
    with pytest.raises(InputError, match="best or last, got 'nonsense'"):
        Plan(epochs=1, keep="nonsense")  # type: ignore[arg-type]


def test_weights_of_version_0_1_are_read(tmp_path: Path) -> None:
    """They are named best.pt, also if the last epoch is saved."""
    file = fit(_Task(), PLAN, tmp_path)
    expected = load_weights(_network(), file).state_dict()
    file.rename(tmp_path / "best.pt")
    again = fit(_Task(), PLAN, tmp_path)
    assert again == tmp_path / "best.pt"
    actual = load_weights(_network(), again).state_dict()
    assert all(torch.equal(actual[n], expected[n]) for n in expected)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_ends_the_training_with_a_reason(score: float, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"score became (nan|inf|-inf) in epoch 2: lower the learning rate"):
        fit(_Task(scores=(0.1, score)), PLAN, tmp_path)
