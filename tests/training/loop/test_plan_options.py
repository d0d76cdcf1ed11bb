"""What a plan may ask for besides optimizer and schedule: each option does what it says, and survives a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from tests.builders import pruned
from training import parallel
from training.loop.batches import Batches, ahead, in_groups
from training.loop.fit import fit
from training.loop.optimizer import rate_at
from training.loop.plan import Plan
from training.models import LungUNet, NetworkSpec, build
from training.models.layers import layer_of
from training.parallel import World
from training.recipes.config import load_config
from training.recipes.r20.config import load_r20
from training.tasks.classify import ClassifyTask
from training.tasks.losses import allowed_label_loss
from training.tasks.mixing import Mixing, mixing_of

# Plain gradient descent: what moves the weights is the gradient and nothing else.
BARE = Plan(
    epochs=2, batch=4, learning_rate=0.05, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant",
    warmup_epochs=0.0, ema=0.0, clip_norm=0.0, threads=1, precision="fp32",
)  # fmt: skip


def _images(epoch: int, number: int, count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1000 * epoch + number))


class _Task:
    """A trunk and a head learn the mean of noise. size: of a batch. killed_in: raises at that epoch's second batch."""

    def __init__(self, *, size: int = 4, batches: int = 6, norm: bool = False, killed_in: int | None = None) -> None:
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(4)] if norm else []
        trunk = nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.model: nn.Module = nn.Sequential()
        self.model.trunk = trunk
        self.model.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 1))
        self.size, self.batches_per_epoch, self.killed_in = size, batches, killed_in
        self.seen: list[int] | None = None  # batches of the epoch in which it is killed

    def batches(self, epoch: int, here: World) -> Batches:
        self.seen = [] if epoch == self.killed_in else None

        def made(number: int) -> tuple[Tensor, ...]:
            small = [_images(epoch, number * self.size // 4 + k, 4) for k in range(self.size // 4)]
            x = torch.cat(small)
            return x, x.mean((1, 2, 3))

        return Batches(self.batches_per_epoch, made)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        if self.seen is not None:
            if self.seen:
                raise KeyboardInterrupt
            self.seen.append(1)
        return (model(batch[0])[:, 0] - batch[1]).float().square().mean()

    def score(self, model: nn.Module) -> dict[str, float]:
        return {"score": 0.0}


def _last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "last.pt", weights_only=True)


def _same(one: Path, other: Path, tolerance: float = 0.0) -> None:
    ours, theirs = _last(one)["model"], _last(other)["model"]
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("batches", [6, 5])
def test_accumulated_batches_are_one_batch(batches: int, tmp_path: Path) -> None:
    """Without norms. Of five batches the last one is a group by itself."""
    fit(_Task(batches=batches), replace(BARE, accumulate=2), tmp_path / "two")
    assert _last(tmp_path / "two")["steps"] == BARE.epochs * 3
    if batches == 6:
        fit(_Task(size=8, batches=3), BARE, tmp_path / "one")
        _same(tmp_path / "two", tmp_path / "one", 1e-6)


def test_a_last_short_group_is_the_mean_of_what_it_has(tmp_path: Path) -> None:
    fit(_Task(batches=1), replace(BARE, epochs=1, accumulate=4), tmp_path / "group")
    fit(_Task(batches=1), replace(BARE, epochs=1), tmp_path / "alone")
    _same(tmp_path / "group", tmp_path / "alone")


KILLED = [
    {"precision": "fp16", "clip_norm": 1.0},
    {"precision": "bf16"},
    {"accumulate": 4},
    {"frozen_epochs": 1},
    {"layer_decay": 0.5},
    {"rate_decay": 0.1},
    {"workers": 1},
]


@pytest.mark.parametrize("change", KILLED, ids=lambda c: next(iter(c)) + "-" + str(next(iter(c.values()))))
def test_a_killed_run_ends_as_one_that_was_not(change: dict[str, Any], tmp_path: Path) -> None:
    plan = replace(BARE, epochs=3, optimizer="adamw", ema=0.9, **change)
    fit(_Task(norm=True), plan, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(norm=True, killed_in=2), plan, tmp_path / "killed")
    fit(_Task(norm=True), plan, tmp_path / "killed")
    straight, killed = _last(tmp_path / "straight"), _last(tmp_path / "killed")
    for part in ("model", "average"):
        assert all(torch.equal(straight[part][k], killed[part][k]) for k in straight[part]), part
    assert straight["scaler"] == killed["scaler"]


def test_half_precision_scales_its_loss(tmp_path: Path) -> None:
    """Gradients far below float16's smallest number still move the weights as they do in float32."""
    plan = replace(BARE, epochs=1, learning_rate=5e5)

    class Faint(_Task):
        def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            return 1e-7 * super().loss(model, batch)

    for precision in ("fp16", "fp32"):
        fit(Faint(batches=1), replace(plan, precision=precision), tmp_path / precision)
    assert _last(tmp_path / "fp16")["scaler"]["scale"] == 65536.0
    start = _Task().model.state_dict()
    for name, value in _last(tmp_path / "fp32")["model"].items():
        moved, wanted = _last(tmp_path / "fp16")["model"][name] - start[name], value - start[name]
        assert float((moved - wanted).norm()) < 0.02 * float(wanted.norm()), name


def test_a_step_that_overflows_float16_is_left_out(tmp_path: Path) -> None:
    class Steep(_Task):
        def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            return 1e4 * super().loss(model, batch)

    fit(Steep(batches=1), replace(BARE, epochs=1, precision="fp16", clip_norm=1.0), tmp_path)
    start = _Task().model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in _last(tmp_path)["model"].items())
    assert _last(tmp_path)["scaler"]["scale"] == 32768.0


@pytest.mark.parametrize(("flags", "half"), [("avx2 avx512_bf16", True), ("fp asimd bf16 i8mm", True), ("avx2", False)])
def test_bfloat16_is_taken_where_the_processor_has_it(
    flags: str, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"flags : fpu {flags} sse\n")
    parallel.computes_bfloat16.cache_clear()
    seen = []

    class Task(_Task):
        def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            seen.append(model.trunk(batch[0]).dtype)
            return super().loss(model, batch)

    fit(Task(batches=1), replace(BARE, epochs=1, precision="auto"), tmp_path)
    assert seen == [torch.bfloat16 if half else torch.float32]
    parallel.computes_bfloat16.cache_clear()


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_a_frozen_trunk_keeps_weights_and_statistics(epochs: int, tmp_path: Path) -> None:
    fit(_Task(norm=True), replace(BARE, epochs=epochs, frozen_epochs=2), tmp_path)
    start, now = _Task(norm=True).model.state_dict(), _last(tmp_path)["model"]
    moved = {name for name, value in now.items() if not torch.equal(value, start[name])}
    assert {n for n in moved if n.startswith("head")} == {"head.1.weight", "head.1.bias"}
    assert bool({n for n in moved if n.startswith("trunk")}) == (epochs == 3)


def test_what_has_no_trunk_is_not_frozen(tmp_path: Path) -> None:
    task = _Task()
    task.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(
        InputError, match=r"needs a network with trunk and head, and a Sequential has none: leave it out"
    ):
        fit(task, replace(BARE, frozen_epochs=1), tmp_path)


def test_the_rate_falls_from_layer_to_layer(tmp_path: Path) -> None:
    """Head 1, second convolution 0.5, first 0.25: one step of plain descent moves each by its rate times the gradient."""
    fit(_Task(batches=1), replace(BARE, epochs=1), tmp_path / "even")
    fit(_Task(batches=1), replace(BARE, epochs=1, layer_decay=0.5), tmp_path / "falling")
    start, even, falling = _Task().model.state_dict(), _last(tmp_path / "even"), _last(tmp_path / "falling")
    for name, share in (("trunk.0.weight", 0.25), ("trunk.2.weight", 0.5), ("head.1.weight", 1.0)):
        wanted = share * (even["model"][name] - start[name])
        torch.testing.assert_close(falling["model"][name] - start[name], wanted, rtol=1e-3, atol=1e-8)


NETWORKS = ("custom", "vgg16", "mobilenet-v2", "densenet201", "nasnet-mobile", "narrow-resnext", "covid-net", "plain")


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_numbered_from_the_input_to_the_head(name: str) -> None:
    network = build(NetworkSpec(architecture=name, labels=3))
    layers = layer_of(network)
    numbers = [layers[n] for n, _ in network.named_parameters()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(max(numbers) + 1))
    assert max(numbers) >= 3, "else nothing falls"
    heads = {n for n, k in layers.items() if k == max(numbers)}
    assert heads == {n for n, _ in network.named_parameters() if n.startswith("head.")}


def test_a_network_without_head_has_layers_too() -> None:
    assert max(layer_of(LungUNet()).values()) >= 3


def test_the_rate_decays_by_steps_as_keras_has_it() -> None:
    """`SGD(decay=1e-6)` of R20's code: rate / (1 + decay x iterations)."""
    plan = replace(BARE, learning_rate=1e-3, rate_decay=0.5)
    rates = [rate_at(plan, progress=0.0, epochs_done=9.0, steps=s, left=1.0) for s in range(4)]
    assert rates == pytest.approx([1e-3 / (1 + 0.5 * s) for s in range(4)])


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.4), Mixing(cutmix=1.0)])
@pytest.mark.parametrize("count", [6, 7])
def test_images_are_mixed_with_a_neighbour_by_the_share(mixing: Mixing, count: int) -> None:
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 10, 20)
    targets = torch.eye(count, dtype=torch.bool)
    shares = []
    for seed in range(20):
        mixed, own, others, share = mixing.mixed(images, targets, np.random.default_rng(seed))
        assert torch.equal(own, targets)
        # Of each image's mean, so much is its own and the rest the neighbour's, whether mixed by value or by area.
        wanted = share * own.float().argmax(1) + (1 - share) * others.float().argmax(1)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), wanted, rtol=1e-4, atol=1e-4)
        assert 0 <= float(share) <= 1
        shares.append(float(share))
        if mixing.cutmix:
            assert {v for m in mixed for v in torch.unique(m).tolist()} <= set(range(count)), "pixels are not blended"
    assert len(set(shares)) > 10
    assert [int(k) for k in others.float().argmax(1)] == [*[1, 0, 3, 2, 5, 4], *([0] if count == 7 else [])]


def test_with_both_half_of_the_batches_are_cut() -> None:
    images, targets = torch.rand(2, 1, 8, 8), torch.eye(2, dtype=torch.bool)
    mixing = mixing_of(replace(BARE, mixup=1.0, cutmix=1.0))
    assert mixing is not None
    cut = 0
    for seed in range(200):
        mixed, *_ = mixing.mixed(images, targets, np.random.default_rng(seed))
        cut += bool(((mixed == images) | (mixed == images.flip(0))).all())
    assert 70 < cut < 130
    assert mixing_of(BARE) is None


def test_a_mixed_batch_costs_the_mean_of_both_targets_by_the_share() -> None:
    task = pruned.classify_task(build(NetworkSpec(architecture="plain", labels=3)))
    assert isinstance(task, ClassifyTask)
    task.mixing = Mixing(mixup=1.0)
    images, own, others, share = next(iter(task.batches(0, World(rank=0, size=1, device=torch.device("cpu")))))
    task.model.eval()
    with torch.no_grad():
        logits = task.model(images).logits
        two = [allowed_label_loss(logits, t, smoothing=0.0) for t in (own, others)]
        found = task.loss(task.model, (images, own, others, share))
    assert float(found) == pytest.approx(float(share * two[0] + (1 - share) * two[1]))
    assert not torch.equal(own, others)
    assert 0 < float(share) < 1


@pytest.mark.parametrize("size", [2, 4])
def test_processes_that_share_a_mixed_batch_make_what_one_makes(size: int) -> None:
    task = pruned.classify_task(build(NetworkSpec(architecture="plain", labels=3)))
    assert isinstance(task, ClassifyTask)
    task.mixing = Mixing(mixup=1.0, cutmix=1.0)
    alone, *parts = (
        task.batches(1, World(rank=r, size=n, device=torch.device("cpu")))
        for n, ranks in ((1, (0,)), (size, range(size)))
        for r in ranks
    )
    for whole, *shares in zip(alone, *parts, strict=True):
        for k in range(3):
            assert torch.equal(whole[k], torch.cat([s[k] for s in shares]))
        assert {float(s[3]) for s in shares} == {float(whole[3])}


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_make_the_batches_that_a_thread_makes(workers: int, tmp_path: Path) -> None:
    tasks = [pruned.classify_task(build(NetworkSpec(architecture="plain", labels=3))) for _ in range(2)]
    here = World(rank=0, size=1, device=torch.device("cpu"))
    found, wanted = (list(ahead(t.batches(2, here), n)) for t, n in zip(tasks, (workers, 0), strict=True))
    assert len(found) == len(wanted) == 2
    assert all(torch.equal(a, b) for one, two in zip(found, wanted, strict=True) for a, b in zip(one, two, strict=True))


def test_a_workers_error_ends_the_training_by_its_name() -> None:
    def made(number: int) -> tuple[Tensor, ...]:
        raise InputError("the third image is torn")

    with pytest.raises(InputError, match="the third image is torn"):
        list(ahead(Batches(2, made), 1))


def test_groups_hold_all_items_in_order() -> None:
    assert list(in_groups(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


def test_a_compiled_network_learns_what_the_plain_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, plainly = [], torch.compile

    def compile_without_compiler(network: nn.Module) -> Any:  # which takes half a minute
        compiled.append(network)
        return plainly(network, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_without_compiler)
    fit(_Task(batches=2), replace(BARE, epochs=1), tmp_path / "plain")
    fit(_Task(batches=2), replace(BARE, epochs=1, compile=True), tmp_path / "compiled")
    assert len(compiled) == 1
    _same(tmp_path / "plain", tmp_path / "compiled", 1e-6)


def test_deterministic_kernels_are_asked_for_while_training(tmp_path: Path) -> None:
    asked = []

    class Task(_Task):
        def score(self, model: nn.Module) -> dict[str, float]:
            asked.append(torch.are_deterministic_algorithms_enabled())
            return super().score(model)

    fit(Task(), replace(BARE, deterministic=True), tmp_path / "asked")
    assert asked == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    fit(Task(), BARE, tmp_path / "plain")
    assert asked[2:] == [False, False]


def test_a_layer_without_deterministic_kernel_is_named(tmp_path: Path) -> None:
    class Task(_Task):
        def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            torch.zeros(4).put_(torch.tensor([0]), torch.tensor([1.0]))
            return super().loss(model, batch)

    with pytest.raises(
        InputError, match=r"deterministic = true, and a layer has no such kernel: put_.* Set it to false"
    ):
        fit(Task(), replace(BARE, deterministic=True), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


class _Client:
    """MLflow's client as far as curves use it; `dead` raises from the second epoch on."""

    runs: dict[str, dict[str, Any]]
    dead = False

    def __init__(self) -> None:
        if not hasattr(_Client, "runs"):
            _Client.runs = {}

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str) -> str:
        return name

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        key = f"{experiment}-{run_name}-{len(self.runs)}"
        self.runs[key] = {"points": [], "params": {}, "ended": 0}
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    def get_run(self, key: str) -> SimpleNamespace:
        assert key in self.runs
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    def log_param(self, key: str, name: str, value: object) -> None:
        self.runs[key]["params"][name] = value

    def log_metric(self, key: str, name: str, value: float, step: int) -> None:
        if self.dead and step > 1:
            raise ConnectionError("nobody there")
        self.runs[key]["points"].append((name, step))

    def set_terminated(self, key: str) -> None:
        self.runs[key]["ended"] += 1


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Client]]:
    _Client.runs = {}
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=_Client))
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    yield _Client
    monkeypatch.undo()


def test_mlflow_has_a_run_with_plan_and_points_that_goes_on(mlflow: type[_Client], tmp_path: Path) -> None:
    plan = replace(BARE, mlflow=True)
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(killed_in=1), plan, tmp_path / "vgg", name="vgg, fold 2")
    fit(_Task(), plan, tmp_path / "vgg", name="vgg, fold 2")
    ((key, run),) = mlflow.runs.items()
    assert key == "cxr-edge-vgg, fold 2-0"
    assert run["points"] == [("loss", 1), ("score", 1), ("loss", 2), ("score", 2)]
    assert run["params"]["learning_rate"] == BARE.learning_rate
    assert run["ended"] == 1


def test_a_server_that_goes_away_costs_the_points_only(
    mlflow: type[_Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow, "dead", True)
    fit(_Task(), replace(BARE, epochs=3, mlflow=True), tmp_path)
    assert _last(tmp_path)["epoch"] == 3
    assert capsys.readouterr().err.count("MLflow does not answer any more, the training goes on: nobody there") == 1


def test_a_server_that_is_not_there_is_named_before_training(
    mlflow: type[_Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(mlflow, "get_experiment_by_name", refused)
    with pytest.raises(
        InputError, match=r"connection refused\. See where MLFLOW_TRACKING_URI points, or set it to false"
    ):
        fit(_Task(), replace(BARE, mlflow=True), tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_without_mlflow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="pip install mlflow-skinny"):
        fit(_Task(), replace(BARE, mlflow=True), tmp_path)


@pytest.mark.parametrize(
    ("load", "text", "where"),
    [
        (load_config, "[segmenter]\nepochs = 3\nmixup = 0.2", r"mixup of a segmenter's plan is 0, got 0\.2: leave it out"),
        (load_config, "[segmenter]\nepochs = 3\nfrozen_epochs = 2", "frozen_epochs of a segmenter's plan is 0, got 2"),
        (load_r20, '[prune_segmenter.retrain]\ncutmix = 1.0', "cutmix of a segmenter's plan is 0"),
        (load_config, "[members.plain]\nprecision = 'half'", "precision of a plan is auto, bf16, fp16 or fp32, got 'half'"),
        (load_config, "[members.plain]\nlayer_decay = 1.5", r"layer_decay of a plan is above 0, up to 1, got 1\.5"),
        (load_config, "[members.plain]\naccumulate = 0", "accumulate of a plan is a whole number from 1, got 0"),
        (load_config, "[members.plain]\nworkers = -1", "workers of a plan is a whole number from 0, got -1"),
        (load_config, "[members.plain]\ncompile = 1", "compile of a plan is true or false, got 1"),
        (load_config, "[members.plain]\nbfloat16 = 3", r"unknown keys \['bfloat16'\]"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_when_it_is_read(
    load: Callable[[Path], object], text: str, where: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "x"\n' + text)
    with pytest.raises(InputError, match=where):
        load(file)


@pytest.mark.parametrize(("value", "precision"), [("true", "bf16"), ("false", "fp32")])
def test_what_version_0_1_called_bfloat16_is_read(value: str, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[members.plain]\nbfloat16 = {value}")
    assert load_config(file).members["plain"].precision == precision


def test_a_folder_of_version_0_1_goes_on_with_its_precision(tmp_path: Path) -> None:
    from training.loop.settings import TRAINING, same_training

    spec = NetworkSpec(architecture="plain", labels=3)
    same_training(tmp_path, BARE, spec, {}, done=False)
    note = json.loads((tmp_path / TRAINING).read_text())
    del note["plan"]["precision"], note["plan"]["accumulate"]
    (tmp_path / TRAINING).write_text(json.dumps({**note, "plan": {**note["plan"], "bfloat16": False}}))
    same_training(tmp_path, replace(BARE, workers=3, mlflow=True), spec, {}, done=False)
    with pytest.raises(InputError, match="plan precision fp32, not bf16"):
        same_training(tmp_path, replace(BARE, precision="bf16"), spec, {}, done=False)
