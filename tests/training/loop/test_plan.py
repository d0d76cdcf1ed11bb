"""Plan options: validated on construction, correct in effect, and restored after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from training.loop.fit import fit
from training.loop.plan import Plan, plan_settings
from training.loop.settings import TRAINING, check_same_settings
from training.models import NetworkSpec
from training.parallel import World
from training.recipes.config import load_config
from training.recipes.flannel.config import load_flannel
from training.recipes.r20.config import load_r20

# Nothing but the optimizer moves the weights: no warm-up, no moving average, no limit of the gradient.
BARE = Plan(
    epochs=4, batch=4, learning_rate=0.01, schedule="constant", warmup_epochs=0.0, ema=0.0, clip_norm=0.0, threads=1,
    precision="fp32",
)  # fmt: skip
SCORES = (0.5, 0.4, 0.3, 0.6, 0.2, 0.1)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 1))


def _batch(epoch: int, number: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(100 * epoch + number))
    return x, x.mean((1, 2, 3))


def _loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return (model(batch[0])[:, 0] - batch[1]).square().mean()


class _Task:
    """killed_in: raises in the middle of that epoch. scores: of the remaining epochs, in order."""

    batches_per_epoch = 3

    def __init__(self, *, killed_in: int | None = None, scores: tuple[float, ...] = SCORES) -> None:
        self.model, self.killed_in, self.scores = _network(), killed_in, list(scores)

    def batches(self, epoch: int, process: World) -> Iterator[tuple[Tensor, ...]]:
        for number in range(self.batches_per_epoch):
            if epoch == self.killed_in and number == 2:
                raise KeyboardInterrupt
            yield _batch(epoch, number)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return _loss(model, batch)

    def score(self, model: nn.Module) -> dict[str, float]:
        return {"score": self.scores.pop(0)}


def _last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


def _rates(plan: Plan, folder: Path) -> list[float]:
    """Return the learning rate of each epoch's last step."""
    rates = []
    for epochs in range(1, plan.epochs + 1):
        fit(_Task(scores=SCORES[epochs - 1 :]), replace(plan, epochs=epochs), folder)
        rates.append(_last(folder)["optimizer"]["param_groups"][0]["lr"])
    return rates


@pytest.mark.parametrize(
    ("change", "optimizer"),
    [
        ({"optimizer": "adam", "decayed": "all"}, lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1)),
        ({"optimizer": "adamw", "decayed": "all"}, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
        (
            {"optimizer": "sgd", "decayed": "all"},
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.95, nesterov=True, weight_decay=0.1),
        ),
    ],
)
def test_adam_is_torchs_adam_on_all_parameters(change: dict[str, Any], optimizer: Any, tmp_path: Path) -> None:
    """FLANNEL's code: `optim.Adam(model.parameters(), lr=..., weight_decay=...)`, nothing scheduled, nothing clipped."""
    fit(_Task(), replace(BARE, epochs=2, weight_decay=0.1, **change), tmp_path)
    expected = _network().train()
    steps = optimizer(expected.parameters())
    for epoch in range(2):
        for number in range(3):
            steps.zero_grad()
            _loss(expected, _batch(epoch, number)).backward()
            steps.step()
    found = _last(tmp_path)["model"]
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_biases_and_norms_are_not_decayed_unless_all_is(optimizer: str, tmp_path: Path) -> None:
    sizes = {}
    for decayed in ("kernels", "all"):
        fit(_Task(), replace(BARE, epochs=1, optimizer=optimizer, decayed=decayed), tmp_path / decayed)
        groups = _last(tmp_path / decayed)["optimizer"]["param_groups"]
        sizes[decayed] = [(len(g["params"]), g["weight_decay"]) for g in groups]
    assert sizes == {"kernels": [(2, 0.02), (3, 0.0)], "all": [(5, 0.02), (0, 0.0)]}


@pytest.mark.parametrize(("clip_norm", "length"), [(0.0, None), (5.0, 5.0), (0.5, 0.5)])
def test_gradients_are_clipped_to_the_limit(clip_norm: float, length: float | None, tmp_path: Path) -> None:
    """One plain SGD step moves the weights by rate x gradient."""

    def steep(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return 1e3 * _loss(model, batch)

    plan = replace(BARE, epochs=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip_norm=clip_norm)
    task = _Task()
    task.batches_per_epoch, task.loss = 1, steep  # type: ignore[method-assign]
    fit(task, plan, tmp_path)
    before = dict(_network().named_parameters())
    after = _last(tmp_path)["model"]
    moved = math.sqrt(sum(float((after[n] - p.detach()).square().sum()) for n, p in before.items())) / 0.01
    own = _network().train()
    steep(own, _batch(0, 0)).backward()
    whole = math.sqrt(sum(float(p.grad.square().sum()) for p in own.parameters() if p.grad is not None))
    assert whole > 5, "else nothing is clipped in this test"
    assert moved == pytest.approx(whole if length is None else length, rel=1e-3)


def test_steps_lower_the_rate_after_their_epochs(tmp_path: Path) -> None:
    """As in FLANNEL's code: multiplied by gamma from the epoch of that index on; epochs after the end have no effect."""
    plan = replace(BARE, epochs=5, schedule="step", step_epochs=(2, 4, 9), step_factor=0.1)
    assert _rates(plan, tmp_path) == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4])


def test_a_plateau_does_not_go_below_least_rate(tmp_path: Path) -> None:
    plan = replace(BARE, epochs=6, schedule="plateau", plateau_epochs=1, least_rate=0.004)
    # Scores fall in epochs 2 and 3, and after the best in epoch 4.
    assert _rates(plan, tmp_path / "least") == pytest.approx([0.01, 0.01, 0.005, 0.004, 0.004, 0.004])
    endless = _rates(replace(plan, least_rate=0.0), tmp_path / "none")
    assert endless == pytest.approx([0.01, 0.01, 0.005, 0.0025, 0.0025, 0.00125])


def test_a_rate_below_least_rate_does_not_change(tmp_path: Path) -> None:
    """A search can sample such a rate: a plateau never raises it."""
    plan = replace(BARE, epochs=3, schedule="plateau", plateau_epochs=1, least_rate=0.5)
    assert _rates(plan, tmp_path) == pytest.approx([0.01] * 3)


OPTIONS = [
    {"optimizer": "adam"},
    {"optimizer": "adam", "decayed": "all", "weight_decay": 0.1},
    {"schedule": "step", "step_epochs": (1, 2)},
    {"schedule": "plateau", "plateau_epochs": 1, "least_rate": 0.004},
    {"schedule": "plateau", "plateau_epochs": 2, "optimizer": "sgd"},
    {"clip_norm": 0.5},
]


@pytest.mark.parametrize("killed_in", [1, 3])
@pytest.mark.parametrize("change", OPTIONS)
def test_a_killed_run_has_the_weights_of_an_undisturbed_one(
    change: dict[str, Any], killed_in: int, tmp_path: Path
) -> None:
    plan = replace(BARE, **change)
    fit(_Task(), plan, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(killed_in=killed_in), plan, tmp_path / "killed")
    fit(_Task(scores=SCORES[killed_in:]), plan, tmp_path / "killed")
    straight, killed = _last(tmp_path / "straight"), _last(tmp_path / "killed")
    for part in ("model", "average"):
        for name, value in straight[part].items():
            assert torch.equal(value, killed[part][name]), f"{part}.{name}"
    assert all(straight[name] == killed[name] for name in ("epoch", "steps", "best", "best_epoch", "rate", "schedule"))


def test_a_checkpoint_without_schedule_state_raises(tmp_path: Path) -> None:
    """Checkpoint of an earlier version: resuming without the plateau state would be a different training."""
    plan = replace(BARE, epochs=1, schedule="plateau")
    fit(_Task(), plan, tmp_path)
    saved = _last(tmp_path)
    del saved["schedule"]
    torch.save(saved, tmp_path / "last.pt")
    with pytest.raises(
        InputError, match=r"last\.pt .*expected .*got one of an earlier version; delete .* to train it again"
    ):
        fit(_Task(), replace(plan, epochs=2), tmp_path)
    fit(_Task(), replace(plan, schedule="cosine", epochs=2), tmp_path)


WRONG = [
    ("optimizer", "lion", "adamw, adam or sgd"),
    ("schedule", "linear", "cosine, plateau, step or constant"),
    ("decayed", "none", "kernels or all"),
    ("clip_norm", -1.0, r"0 \(no limit\) or more"),
    ("clip_norm", True, r"0 \(no limit\) or more"),
    ("clip_norm", "none", r"0 \(no limit\) or more"),
    ("clip_norm", math.nan, r"0 \(no limit\) or more"),
    ("plateau_factor", 1.0, "between 0 and 1, both excluded"),
    ("plateau_epochs", 0, "a whole number from 1"),
    ("least_rate", -1e-5, "0 or more"),
    ("step_epochs", (225, 150), "rising whole numbers from 1"),
    ("step_epochs", (0,), "rising whole numbers from 1"),
    ("step_epochs", (1.5,), "rising whole numbers from 1"),
    ("step_epochs", 150, "rising whole numbers from 1"),
    ("step_factor", 0.0, "between 0 and 1, both excluded"),
    ("step_factor", 10, "between 0 and 1, both excluded"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG)
def test_the_error_for_an_invalid_value_names_the_expected_range(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InputError, match=rf"^{name} of a plan is {expected}, got .*: change it, or leave it out for "):
        Plan(epochs=1, **{name: value})


def test_schedule_step_needs_step_epochs() -> None:
    with pytest.raises(
        InputError, match=r"needs the epochs .*, got none: give them, such as step_epochs = \[150, 225\]"
    ):
        Plan(epochs=1, schedule="step")


@pytest.mark.parametrize(
    ("load", "text", "where"),
    [
        (load_config, "[segmenter]\nepochs = 3\nclip_norm = -1", r"c\.toml: segmenter: clip_norm"),
        (load_config, "[members.plain]\nstep_epochs = [2, 1]", r"c\.toml: members\.plain: step_epochs"),
        (load_r20, 'name = "x"\n[prune.retrain]\nleast_rate = -1', r"c\.toml: prune\.retrain: least_rate"),
        (
            load_r20,
            'name = "x"\n[members.a]\narchitecture = "plain"\nplan = { optimizer = "lion" }',
            r"c\.toml: members\.a\.plan: optimizer",
        ),
        (load_flannel, 'name = "x"\n[learn]\nschedule = "step"', r"c\.toml: learn: schedule"),
    ],
)
def test_an_invalid_configuration_raises_when_it_is_read(load: Any, text: str, where: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=where):
        load(file)


def test_lists_of_a_file_become_tuples_of_a_plan(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[members.plain]\nschedule = "step"\nstep_epochs = [150, 225]')
    plan = load_config(file).members["plain"].train
    assert plan.step_epochs == (150, 225)
    assert plan_settings(json.loads(json.dumps(asdict(plan)))) == asdict(plan)


SPEC = NetworkSpec(architecture="plain", labels=3)
OTHERS = {"balance": "draw"}
STEPS = replace(BARE, schedule="step", step_epochs=(150, 225))


def test_training_resumes_only_with_its_own_settings(tmp_path: Path) -> None:
    check_same_settings(tmp_path, STEPS, SPEC, OTHERS, done=False)
    check_same_settings(tmp_path, replace(STEPS, threads=9, tensorboard=True), SPEC, OTHERS, done=False)
    for other, named in ((replace(STEPS, clip_norm=1.0), "plan clip_norm 0.0, not 1.0"), (BARE, "plan step_epochs")):
        with pytest.raises(InputError, match=f"was trained with .*{named}.*: delete it to train it again"):
            check_same_settings(tmp_path, other, SPEC, OTHERS, done=True)
    with pytest.raises(InputError, match="network labels 3, not 4"):
        check_same_settings(tmp_path, STEPS, replace(SPEC, labels=4), OTHERS, done=True)
    with pytest.raises(InputError, match="balance draw, not weigh"):
        check_same_settings(tmp_path, STEPS, SPEC, {"balance": "weigh"}, done=True)


def test_a_record_of_an_earlier_version_has_the_later_defaults(tmp_path: Path) -> None:
    """An earlier version trained without the new options, so its runs resume with their defaults."""
    plan = Plan(epochs=3)
    check_same_settings(tmp_path, plan, SPEC, OTHERS, done=False)
    note = json.loads((tmp_path / TRAINING).read_text())
    for name in ("decayed", "clip_norm", "least_rate", "step_epochs", "step_factor"):
        del note["plan"][name]
    (tmp_path / TRAINING).write_text(json.dumps(note))
    check_same_settings(tmp_path, plan, SPEC, OTHERS, done=True)
    with pytest.raises(InputError, match=r"plan clip_norm 5\.0, not 1\.0"):
        check_same_settings(tmp_path, replace(plan, clip_norm=1.0), SPEC, OTHERS, done=True)


def test_a_finished_network_without_a_record_is_accepted(tmp_path: Path) -> None:
    check_same_settings(tmp_path, BARE, SPEC, OTHERS, done=True)
    assert not (tmp_path / TRAINING).exists()
