"""The pruning loop: steps shrink and are saved, a killed loop gives the result of an uninterrupted one, budgets stop it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cxr_edge.errors import BundleError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.pruned import CANVAS, FRAME, PLAN, RETRAIN, classify_task, segment_task, start
from training.models import load_network
from training.pruning import cost
from training.pruning.channels import prunable
from training.pruning.prune import PrunePlan, Step, best_step, export_network, measure_steps, prune, steps_of
from training.tasks.classify import ClassifyTask

ONE_STEP = replace(PLAN, until=PLAN.step)
REPOSITORY = Path(__file__).parents[3]
EXAMPLE = torch.zeros(1, 1, 32, 32)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted loop; `network` is the unpruned network."""
    folder = tmp_path_factory.mktemp("straight")
    prune(classify_task, start(folder / "network"), PLAN, folder / "pruned", CANVAS)
    return folder


def _channels(folder: Path) -> list[int]:
    network, _ = load_network(folder)
    return [u.channels for u in prunable(network, EXAMPLE)]


def _step(number: int, score: float) -> Step:
    return Step(number=number, channels=9 - number, parameters=9, macs=9, figures={"score": score})


def test_steps_shrink_by_the_share_of_the_original(straight: Path) -> None:
    steps = steps_of(straight / "pruned")
    assert [s.number for s in steps] == [0, 1, 2, 3]
    unpruned = steps[0].channels
    assert [s.channels for s in steps] == [unpruned - n * int(0.1 * unpruned) for n in range(4)]
    for before, after in pairwise(steps):
        assert after.parameters < before.parameters
        assert after.macs < before.macs
    assert all({"score", "macro_f1"} <= set(s.figures) for s in steps)
    assert all(s.milliseconds is None for s in steps)


def test_a_step_describes_its_network(straight: Path) -> None:
    for step in steps_of(straight / "pruned"):
        network, _ = load_network(straight / "pruned" / f"step-{step.number:02d}")
        assert cost.parameters(network) == step.parameters
        assert cost.macs(network, EXAMPLE) == step.macs
        assert sum(u.channels for u in prunable(network, EXAMPLE)) == step.channels
        assert classify_task(network).score(network) == pytest.approx(dict(step.figures))


def test_a_step_has_spec_weights_and_figures_and_no_pickle(straight: Path) -> None:
    for n in range(4):
        path = straight / "pruned" / f"step-{n:02d}"
        files = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
        assert files == {"network.json", "weights.safetensors", "step.json"} | ({"training/log.txt"} if n else set())
    assert json.loads((straight / "pruned/step-01/network.json").read_text())["shapes"]


def test_a_finished_loop_is_read_not_repeated(straight: Path) -> None:
    def task_of(network: nn.Module) -> ClassifyTask:
        pytest.fail("nothing is left to do")

    assert prune(task_of, straight / "network", PLAN, straight / "pruned", CANVAS) == steps_of(straight / "pruned")


def test_a_killed_loop_gives_the_result_of_an_uninterrupted_one(straight: Path, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-m", "tests.builders.pruned", str(straight / "network"), str(tmp_path / "pruned")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "CUDA_VISIBLE_DEVICES": ""},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert [s.number for s in steps_of(tmp_path / "pruned")] == [0, 1]
    middle = torch.load(tmp_path / "pruned/step-02/training/last.pt", weights_only=True)
    assert middle["epoch"] == 1, "it was killed during the second step's retraining"
    removed = load_file(tmp_path / "pruned/step-02/removed/weights.safetensors")

    steps = prune(classify_task, straight / "network", PLAN, tmp_path / "pruned", CANVAS)
    assert steps == steps_of(straight / "pruned")
    assert {p.name for p in (tmp_path / "pruned/step-02").iterdir()} == {
        "network.json",
        "weights.safetensors",
        "step.json",
        "training",
    }
    for n in range(4):
        ours, theirs = (load_file(f / f"pruned/step-{n:02d}/weights.safetensors") for f in (tmp_path, straight))
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[k], theirs[k]) for k in ours), f"step {n}"
    ended = load_file(tmp_path / "pruned/step-02/weights.safetensors")
    assert any(not torch.equal(removed[k], ended[k]) for k in removed), "it was retrained"


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_channels_stay_a_multiple(scope: str, tmp_path: Path) -> None:
    plan = replace(ONE_STEP, step=0.3, until=0.3, multiple_of=8, scope=scope)
    steps = prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    before, after = (_channels(tmp_path / "pruned" / f"step-0{n}") for n in (0, 1))
    assert before != after
    assert all(c % 8 == 0 for c in after)
    # What no block of eight fills is left standing, of each ranking's share.
    short = sum(before) * 0.7 + 8 * (1 if scope == "global" else len(before))
    assert sum(before) * 0.7 <= steps[1].channels <= short


def test_latency_ranks_by_measured_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(ONE_STEP, ranking="latency", ahead=0)
    prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "measured", CANVAS)
    assert len(steps_of(tmp_path / "measured")) == 2

    def only_the_deepest(network: nn.Module, example: torch.Tensor, *, threads: int) -> dict[str, float]:
        names = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
        return {n: float(n == names[-2]) for n in names}  # the last one makes the labels

    monkeypatch.setattr(cost, "layer_times_ms", only_the_deepest)
    prune(classify_task, tmp_path / "network", plan, tmp_path / "made-up", CANVAS)
    before, after = (_channels(tmp_path / "made-up" / f"step-0{n}") for n in (0, 1))
    assert after[-1] < before[-1] - 0.8 * PLAN.step * sum(before), "channels that take no time do not go first"


def test_a_budget_of_macs_ends_the_loop(tmp_path: Path) -> None:
    plan = replace(PLAN, until=0.9, macs=0.8)
    steps = prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    shares = [s.macs / steps[0].macs for s in steps]
    assert shares[-1] <= 0.8 < shares[-2]
    assert len(steps) < 9
    assert not (tmp_path / "pruned" / f"step-{len(steps):02d}").exists()


def test_a_budget_of_milliseconds_measures_and_ends_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latencies = iter([10.0, 9.0, 4.0])
    monkeypatch.setattr(cost, "latency_ms", lambda file, *, threads: next(latencies))
    plan = replace(PLAN, milliseconds=0.5)
    steps = prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)
    assert [s.milliseconds for s in steps] == [10.0, 9.0, 4.0]


@pytest.mark.parametrize(
    ("scores", "tolerance", "best"),
    [
        ((9.0, 0.5, 0.7, 0.6), 0.0, 2),
        ((9.0, 0.5, 0.7, 0.7), 0.0, 3),
        ((0.0, 0.7, 0.7, 0.7), 0.0, 3),
        ((9.0, 0.75, 0.5, 0.7), 0.1, 3),
    ],
)
def test_the_best_step_has_the_highest_score_then_the_fewest_channels(
    scores: Sequence[float], tolerance: float, best: int
) -> None:
    assert best_step([_step(n, score) for n, score in enumerate(scores)], tolerance=tolerance).number == best


def test_without_steps_there_is_no_best_step() -> None:
    with pytest.raises(InputError, match="no pruned step"):
        best_step([_step(0, 1.0)])


def test_leftovers_of_a_killed_finished_step_are_deleted(straight: Path, tmp_path: Path) -> None:
    """Killed between writing the figures, which are last, and deleting temporary files."""
    shutil.copytree(straight / "pruned", tmp_path / "pruned")
    path = tmp_path / "pruned" / "step-01"
    (path / "training" / "last.pt").write_bytes(b"a checkpoint")
    (path / "removed").mkdir()
    assert prune(classify_task, straight / "network", PLAN, tmp_path / "pruned", CANVAS) == steps_of(
        straight / "pruned"
    )
    assert not (path / "removed").exists()
    assert not list(path.rglob("*.pt"))


def test_measure_steps_writes_milliseconds(straight: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pruned"
    for n in (0, 3):
        path = folder / f"step-0{n}"
        path.mkdir(parents=True)
        for name in ("network.json", "weights.safetensors", "step.json"):
            (path / name).write_bytes((straight / "pruned" / path.name / name).read_bytes())
    steps = measure_steps(folder, CANVAS, threads=1)
    assert [s.number for s in steps] == [0, 3]
    assert all(s.milliseconds is not None and s.milliseconds > 0 for s in steps)
    assert steps_of(folder) == steps
    without_times = [replace(s, milliseconds=None) for s in steps]
    assert without_times == [s for s in steps_of(straight / "pruned") if s.number in (0, 3)]


@pytest.mark.parametrize(
    ("architecture", "preprocess", "outputs"),
    [("lung-unet", FRAME, ["mask"]), ("inverted", CANVAS, ["logits", "cam"])],
)
def test_other_networks_go_through_the_same_loop(
    architecture: str, preprocess: PreprocessSpec, outputs: list[str], tmp_path: Path
) -> None:
    task_of = segment_task if architecture == "lung-unet" else classify_task
    plan = replace(ONE_STEP, retrain=replace(ONE_STEP.retrain, epochs=1, batch=4))
    steps = prune(task_of, start(tmp_path / "network", architecture), plan, tmp_path / "pruned", preprocess)
    assert steps[1].channels == steps[0].channels - int(0.1 * steps[0].channels)
    network, spec = load_network(tmp_path / "pruned" / "step-01")
    assert spec.architecture == architecture
    assert task_of(network).score(network) == pytest.approx(dict(steps[1].figures))
    export_network(network, spec, preprocess, tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "network.onnx"), providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == outputs


def test_a_network_without_zeros_cannot_be_pruned(tmp_path: Path) -> None:
    """No activation with zeros, no reason to remove anything."""
    network = start(tmp_path / "network", "custom", activation="elu")
    with pytest.raises(InputError, match="no channel of custom can be removed"):
        prune(classify_task, network, ONE_STEP, tmp_path / "pruned", CANVAS)


def test_a_share_below_one_channel_is_an_error(tmp_path: Path) -> None:
    plan = replace(PLAN, step=1e-4, until=1e-4)
    with pytest.raises(InputError, match="no channel of plain can be removed"):
        prune(classify_task, start(tmp_path / "network"), plan, tmp_path / "pruned", CANVAS)


def test_a_folder_without_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="holds no network"):
        prune(classify_task, tmp_path, PLAN, tmp_path / "pruned", CANVAS)


def test_a_step_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "step-00").mkdir()
    (tmp_path / "step-00" / "step.json").write_text("{}")
    with pytest.raises(BundleError, match="step-00 holds no finished pruning step"):
        steps_of(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"step": 0.6}, {"until": 1.0}, {"ranking": "random"}, {"scope": "block"}, {"multiple_of": 0}]
)
def test_an_invalid_plan_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="pruning"):
        PrunePlan(**wrong)  # type: ignore[arg-type]


def test_steps_of_another_plan_are_refused(straight: Path) -> None:
    other = replace(PLAN, step=PLAN.step / 2, multiple_of=8)
    with pytest.raises(InputError, match=r"step 0\.1, not 0\.05; multiple_of 1, not 8"):
        prune(classify_task, straight / "network", other, straight / "pruned", CANVAS)


def test_steps_of_an_earlier_version_are_continued(straight: Path, tmp_path: Path) -> None:
    """Its record lacks options of later versions; it used their defaults."""
    shutil.copytree(straight / "pruned", tmp_path / "pruned")
    file = tmp_path / "pruned" / "plan.json"
    note = json.loads(file.read_text())
    for name in ("decayed", "clip_norm", "least_rate", "step_epochs", "step_factor"):
        del note["retrain"][name]
    file.write_text(json.dumps(note))
    assert len(prune(classify_task, straight / "network", PLAN, tmp_path / "pruned", CANVAS)) == 4
    file.write_text(json.dumps(note))
    other = replace(PLAN, retrain=replace(RETRAIN, clip_norm=1.0))
    with pytest.raises(InputError, match=r"retrain clip_norm 5\.0, not 1\.0"):
        prune(classify_task, straight / "network", other, tmp_path / "pruned", CANVAS)


def test_the_end_of_the_plan_may_change(straight: Path) -> None:
    steps = prune(classify_task, straight / "network", replace(PLAN, until=PLAN.step), straight / "pruned", CANVAS)
    assert [s.number for s in steps] == [0, 1]


def test_a_limit_below_the_common_rate_is_refused() -> None:
    assert PrunePlan(ahead=0).ahead == 0
    with pytest.raises(InputError, match="1 or more, or 0"):
        PrunePlan(ahead=0.5)
