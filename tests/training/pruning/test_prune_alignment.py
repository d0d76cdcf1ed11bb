"""Pruning in blocks: steps without a due block are skipped, small shares of a layer add up, messages give the reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cxr_edge.errors import InputError
from tests.builders.pruned import CANVAS, PLAN, classify_task, start
from training.loop.plan import Plan
from training.models import load_network
from training.pruning import prune as pruning
from training.pruning.channels import ChannelGroup, GroupLayer, prunable, select_channels
from training.pruning.prune import PrunePlan, prune, steps_of
from training.tasks.classify import ClassifyTask

torch.set_num_threads(1)

EXAMPLE = torch.zeros(1, 1, 32, 32)
AS_DOCUMENTED = PrunePlan(step=0.02, multiple_of=8, retrain=PLAN.retrain)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps without retraining, since only channel counts are tested."""

    def fit(task: ClassifyTask, plan: Plan, folder: Path, *, name: str) -> Path:
        return folder

    monkeypatch.setattr(pruning, "fit", fit)
    monkeypatch.setattr(pruning, "load_weights", lambda network, file: network.eval())


def _channels(folder: Path) -> dict[str, int]:
    """Return the channels of the layers with an activation; the others never lose any."""
    network, _ = load_network(folder)
    return {g.root: g.channels for g in prunable(network, EXAMPLE) if g.activated}


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize(
    ("architecture", "until"), [("plain", 0.5), ("narrow-vgg", 0.2), ("inception", 0.2), ("custom", 0.2)]
)
def test_small_steps_in_blocks_of_eight_reach_the_plans_end(architecture: str, until: float, tmp_path: Path) -> None:
    """Step 0.02 and multiples of 8, both as documented for devices: at the first steps of most networks nothing is due."""
    plan = replace(AS_DOCUMENTED, until=until)
    steps = prune(classify_task, start(tmp_path / "network", architecture), plan, tmp_path / "pruned", CANVAS)
    last = steps[-1].number
    assert steps == steps_of(tmp_path / "pruned")
    before, after = (_channels(tmp_path / "pruned" / f"step-{n:02d}") for n in (0, last))
    assert all(after[root] % 8 == 0 for root in after if after[root] < before[root])
    # What is due at the end, less what 2 % round off (at most one a step) and the one block that it does not fill.
    gone, every = sum(before.values()) - sum(after.values()), sum(before.values())
    assert until * every - round(until / 0.02) - 8 < gone <= until * every


@pytest.mark.usefixtures("untrained")
def test_a_finished_loop_with_skipped_steps_is_read_not_repeated(tmp_path: Path) -> None:
    plan = replace(AS_DOCUMENTED, until=0.1)
    steps = prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    assert 1 < len(steps) < 6

    def task_of(network: nn.Module) -> ClassifyTask:
        pytest.fail("nothing is left to do")

    assert prune(task_of, tmp_path / "network", plan, tmp_path / "pruned", CANVAS) == steps


@pytest.mark.usefixtures("untrained")
def test_a_deleted_step_is_repeated(tmp_path: Path) -> None:
    steps = prune(classify_task, start(tmp_path / "network"), PLAN, tmp_path / "pruned", CANVAS)
    (tmp_path / "pruned" / "step-02" / "step.json").unlink()
    assert prune(classify_task, tmp_path / "network", PLAN, tmp_path / "pruned", CANVAS) == steps


def test_a_plan_without_a_block_that_fits_is_refused(tmp_path: Path) -> None:
    plan = replace(AS_DOCUMENTED, until=0.02)
    with pytest.raises(InputError) as error:
        prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    message = str(error.value)
    assert message.startswith(
        "no channel of plain can be removed by this plan: in none of its 1 steps of 0.02 (global;"
    )
    assert "a multiple of 8 channels and at most 2 times the rate of all layers together" in message
    assert message.endswith("raise step or until, or lower multiple_of")
    assert "zero" not in message, "zeros are not the reason"


def test_a_network_without_zeros_has_another_message_than_blocks_that_do_not_fit(tmp_path: Path) -> None:
    network = start(tmp_path / "network", "custom", activation="elu")
    with pytest.raises(InputError, match=r"its activations are never exactly zero \(SiLU, GELU, ELU, leaky ReLU\)"):
        prune(classify_task, network, replace(PLAN, until=PLAN.step), tmp_path / "pruned", CANVAS)


@pytest.mark.parametrize("channels", [16, 32, 64, 100, 512])
def test_scope_layer_loses_half_of_every_layer(channels: int) -> None:
    """R20's text: 2 % of each layer, 25 times. floor(2 % of 16) is 0."""
    original, left = {"a": channels, "b": 48}, {"a": channels, "b": 48}
    for step in range(1, 26):
        groups = [_group(root, count) for root, count in left.items()]
        shares = {root: np.linspace(0.1, 0.9, count) for root, count in left.items()}
        chosen = select_channels(groups, shares, step=step, original=original, scope="layer")
        left = {root: count - len(chosen.get(root, ())) for root, count in left.items()}
        assert left["a"] == channels - step * channels // 50
    assert left == {"a": channels // 2, "b": 24}


def _group(root: str, channels: int) -> ChannelGroup:
    every = tuple(range(channels))
    layer = GroupLayer(conv=root, own=every, of_group=every, activated=True, passive=False)
    return ChannelGroup(root=root, channels=channels, layers=(layer,), ties=tuple((c,) for c in every))
