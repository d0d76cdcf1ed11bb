"""Further plan options: each has its documented effect and is restored after a kill."""

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
from training.loop.batches import Batches, chunks, prefetch
from training.loop.fit import fit
from training.loop.optimizer import learning_rate_at
from training.loop.plan import Plan
from training.models import LungUNet, NetworkSpec, build
from training.models.layers import layer_numbers
from training.parallel import World
from training.recipes.config import load_config
from training.recipes.r20.config import load_r20
from training.tasks.classify import ClassifyTask
from training.tasks.losses import partial_label_loss
from training.tasks.mixing import Mixing, mixing_from_plan

# Plain gradient descent: what moves the weights is the gradient and nothing else.
BARE = Plan(
    epochs=2, batch=4, learning_rate=0.05, optimizer="sgd", momentum=0.0, weight_decay=0.0, schedule="constant",
    warmup_epochs=0.0, ema=0.0, clip_norm=0.0, threads=1, precision="fp32",
)  # fmt: skip


def _images(epoch: int, number: int, count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1000 * epoch + number))


class _Task:
    """Trunk and head learn the mean of noise. size: of a batch. killed_in: raises at that epoch's second batch."""

    def __init__(self, *, size: int = 4, batches: int = 6, norm: bool = False, killed_in: int | None = None) -> None:
        torch.manual_seed(0)
        norms = [nn.BatchNorm2d(4)] if norm else []
        trunk = nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.model: nn.Module = nn.Sequential()
        self.model.trunk = trunk
        self.model.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 1))
        self.size, self.batches_per_epoch, self.killed_in = size, batches, killed_in
        self.seen: list[int] | None = None  # batches of the epoch in which it is killed

    def batches(self, epoch: int, process: World) -> Batches:
        self.seen = [] if epoch == self.killed_in else None

        def make(number: int) -> tuple[Tensor, ...]:
            small = [_images(epoch, number * self.size // 4 + k, 4) for k in range(self.size // 4)]
            x = torch.cat(small)
            return x, x.mean((1, 2, 3))

        return Batches(self.batches_per_epoch, make)

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
def test_accumulated_batches_equal_one_batch(batches: int, tmp_path: Path) -> None:
    """Without norms. Of five batches the last one is a group by itself."""
    fit(_Task(batches=batches), replace(BARE, accumulate=2), tmp_path / "two")
    assert _last(tmp_path / "two")["steps"] == BARE.epochs * 3
    if batches == 6:
        fit(_Task(size=8, batches=3), BARE, tmp_path / "one")
        _same(tmp_path / "two", tmp_path / "one", 1e-6)


def test_a_short_last_group_is_averaged_over_its_batches(tmp_path: Path) -> None:
    fit(_Task(batches=1), replace(BARE, epochs=1, accumulate=4), tmp_path / "group")
    fit(_Task(batches=1), replace(BARE, epochs=1), tmp_path / "alone")
    _same(tmp_path / "group", tmp_path / "alone")


KILLED = [
    {"precision": "fp16", "clip_norm": 1.0},
    {"precision": "bf16"},
    {"accumulate": 4},
    {"frozen_epochs": 1},
    {"frozen_layers": 2},
    {"layer_decay": 0.5},
    {"rate_decay": 0.1},
    {"workers": 1},
]


@pytest.mark.parametrize("change", KILLED, ids=lambda c: next(iter(c)) + "-" + str(next(iter(c.values()))))
def test_a_killed_run_ends_like_an_undisturbed_one(change: dict[str, Any], tmp_path: Path) -> None:
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
        moved, expected = _last(tmp_path / "fp16")["model"][name] - start[name], value - start[name]
        assert float((moved - expected).norm()) < 0.02 * float(expected.norm()), name


def test_a_step_that_overflows_float16_is_skipped(tmp_path: Path) -> None:
    class Steep(_Task):
        def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            return 1e4 * super().loss(model, batch)

    fit(Steep(batches=1), replace(BARE, epochs=1, precision="fp16", clip_norm=1.0), tmp_path)
    start = _Task().model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in _last(tmp_path)["model"].items())
    assert _last(tmp_path)["scaler"]["scale"] == 32768.0


@pytest.mark.parametrize(("flags", "half"), [("avx2 avx512_bf16", True), ("fp asimd bf16 i8mm", True), ("avx2", False)])
def test_auto_precision_is_bfloat16_if_the_device_computes_it(
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


def test_freezing_a_network_without_trunk_raises(tmp_path: Path) -> None:
    task = _Task()
    task.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(
        InputError, match=r"needs a network with trunk and head, and a Sequential has none: leave it out"
    ):
        fit(task, replace(BARE, frozen_epochs=1), tmp_path)


@pytest.mark.parametrize("frozen_epochs", [0, 1])
def test_frozen_layers_keep_weights_and_statistics(frozen_epochs: int, tmp_path: Path) -> None:
    """Layers of the trunk: convolution, norm, ReLU, convolution; the head is the last."""
    plan = replace(BARE, epochs=2, frozen_layers=2, frozen_epochs=frozen_epochs)
    fit(_Task(norm=True), plan, tmp_path)
    start, now = _Task(norm=True).model.state_dict(), _last(tmp_path)["model"]
    moved = {name for name, value in now.items() if not torch.equal(value, start[name])}
    assert moved == {"trunk.3.weight", "trunk.3.bias", "head.1.weight", "head.1.bias"}


def test_freezing_all_layers_raises(tmp_path: Path) -> None:
    layers = max(layer_numbers(_Task().model).values()) + 1
    fit(_Task(), replace(BARE, epochs=1, frozen_layers=layers - 1), tmp_path / "head")
    with pytest.raises(
        InputError, match=rf"frozen_layers = {layers} leaves nothing to train: the network has {layers} layers"
    ):
        fit(_Task(), replace(BARE, epochs=1, frozen_layers=layers), tmp_path / "nothing")


def test_layer_decay_scales_the_rate_per_layer(tmp_path: Path) -> None:
    """Head 1, second convolution 0.5, first 0.25: one step of plain SGD updates each by its rate times the gradient."""
    fit(_Task(batches=1), replace(BARE, epochs=1), tmp_path / "even")
    fit(_Task(batches=1), replace(BARE, epochs=1, layer_decay=0.5), tmp_path / "falling")
    start, even, falling = _Task().model.state_dict(), _last(tmp_path / "even"), _last(tmp_path / "falling")
    for name, share in (("trunk.0.weight", 0.25), ("trunk.2.weight", 0.5), ("head.1.weight", 1.0)):
        expected = share * (even["model"][name] - start[name])
        torch.testing.assert_close(falling["model"][name] - start[name], expected, rtol=1e-3, atol=1e-8)


NETWORKS = ("custom", "vgg16", "mobilenet-v2", "densenet201", "nasnet-mobile", "narrow-resnext", "covid-net", "plain")


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_numbered_from_the_input_to_the_head(name: str) -> None:
    network = build(NetworkSpec(architecture=name, labels=3))
    layers = layer_numbers(network)
    numbers = [layers[n] for n, _ in network.named_parameters()]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(max(numbers) + 1))
    assert max(numbers) >= 3, "else nothing falls"
    heads = {n for n, k in layers.items() if k == max(numbers)}
    assert heads == {n for n, _ in network.named_parameters() if n.startswith("head.")}


def test_a_network_without_head_has_layers_too() -> None:
    assert max(layer_numbers(LungUNet()).values()) >= 3


def test_rate_decay_is_keras_decay() -> None:
    """`SGD(decay=1e-6)` of R20's code: rate / (1 + decay x iterations)."""
    plan = replace(BARE, learning_rate=1e-3, rate_decay=0.5)
    rates = [learning_rate_at(plan, progress=0.0, epochs_done=9.0, steps=s, factor=1.0) for s in range(4)]
    assert rates == pytest.approx([1e-3 / (1 + 0.5 * s) for s in range(4)])


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.4), Mixing(cutmix=1.0)])
@pytest.mark.parametrize("count", [6, 7])
def test_images_are_mixed_with_their_neighbour(mixing: Mixing, count: int) -> None:
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 1, 10, 20)
    targets = torch.eye(count, dtype=torch.bool)
    shares = []
    for seed in range(20):
        mixed, own, others, share = mixing.mix(images, targets, np.random.default_rng(seed))
        assert torch.equal(own, targets)
        # Of each image's mean, so much is its own and the rest the neighbour's, whether mixed by value or by area.
        expected = share * own.float().argmax(1) + (1 - share) * others.float().argmax(1)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected, rtol=1e-4, atol=1e-4)
        assert 0 <= float(share) <= 1
        shares.append(float(share))
        if mixing.cutmix:
            assert {v for m in mixed for v in torch.unique(m).tolist()} <= set(range(count)), "pixels are not blended"
    assert len(set(shares)) > 10
    assert [int(k) for k in others.float().argmax(1)] == [*[1, 0, 3, 2, 5, 4], *([0] if count == 7 else [])]


def test_with_mixup_and_cutmix_half_of_the_batches_are_cut() -> None:
    images, targets = torch.rand(2, 1, 8, 8), torch.eye(2, dtype=torch.bool)
    mixing = mixing_from_plan(replace(BARE, mixup=1.0, cutmix=1.0))
    assert mixing is not None
    cut = 0
    for seed in range(200):
        mixed, *_ = mixing.mix(images, targets, np.random.default_rng(seed))
        cut += bool(((mixed == images) | (mixed == images.flip(0))).all())
    assert 70 < cut < 130
    assert mixing_from_plan(BARE) is None


def test_the_loss_of_a_mixed_batch_is_the_weighted_mean_of_both_targets() -> None:
    task = pruned.classify_task(build(NetworkSpec(architecture="plain", labels=3)))
    assert isinstance(task, ClassifyTask)
    task.sampling = replace(task.sampling, mixing=Mixing(mixup=1.0))
    images, own, others, share = next(iter(task.batches(0, World(rank=0, size=1, device=torch.device("cpu")))))
    task.model.eval()
    with torch.no_grad():
        logits = task.model(images).logits
        two = [partial_label_loss(logits, t, smoothing=0.0) for t in (own, others)]
        actual = task.loss(task.model, (images, own, others, share))
    assert float(actual) == pytest.approx(float(share * two[0] + (1 - share) * two[1]))
    assert not torch.equal(own, others)
    assert 0 < float(share) < 1


@pytest.mark.parametrize("size", [2, 4])
def test_processes_that_share_a_mixed_batch_equal_one_process(size: int) -> None:
    task = pruned.classify_task(build(NetworkSpec(architecture="plain", labels=3)))
    assert isinstance(task, ClassifyTask)
    task.sampling = replace(task.sampling, mixing=Mixing(mixup=1.0, cutmix=1.0))
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
def test_worker_processes_and_thread_create_the_same_batches(workers: int, tmp_path: Path) -> None:
    tasks = [pruned.classify_task(build(NetworkSpec(architecture="plain", labels=3))) for _ in range(2)]
    process = World(rank=0, size=1, device=torch.device("cpu"))
    actual, expected = (list(prefetch(t.batches(2, process), n)) for t, n in zip(tasks, (workers, 0), strict=True))
    assert len(actual) == len(expected) == 2
    assert all(
        torch.equal(a, b) for one, two in zip(actual, expected, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_a_workers_error_ends_the_training() -> None:
    def make(number: int) -> tuple[Tensor, ...]:
        raise InputError("the third image is torn")

    with pytest.raises(InputError, match="the third image is torn"):
        list(prefetch(Batches(2, make), 1))


def test_chunks_have_all_items_in_order() -> None:
    assert list(chunks(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]


def test_a_compiled_network_trains_like_an_uncompiled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, plainly = [], torch.compile

    def compile_without_compiler(network: nn.Module) -> Any:  # which takes half a minute
        compiled.append(network)
        return plainly(network, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_without_compiler)
    fit(_Task(batches=2), replace(BARE, epochs=1), tmp_path / "plain")
    fit(_Task(batches=2), replace(BARE, epochs=1, compile=True), tmp_path / "compiled")
    assert len(compiled) == 1
    _same(tmp_path / "plain", tmp_path / "compiled", 1e-6)


def test_a_compiler_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(graph: object, inputs: object) -> Any:
        raise ImportError("main.so: file too short")

    plainly = torch.compile
    monkeypatch.setattr(torch, "compile", lambda network: plainly(network, backend=failing))
    with pytest.raises(
        InputError, match=r"compile = true.*main\.so: file too short\. Install a C\+\+ compiler.*delete the folder"
    ):
        fit(_Task(batches=2), replace(BARE, epochs=1, compile=True), tmp_path)


def test_deterministic_kernels_are_enabled_during_training_only(tmp_path: Path) -> None:
    enabled = []

    class Task(_Task):
        def score(self, model: nn.Module) -> dict[str, float]:
            enabled.append(torch.are_deterministic_algorithms_enabled())
            return super().score(model)

    fit(Task(), replace(BARE, deterministic=True), tmp_path / "deterministic")
    assert enabled == [True, True]
    assert not torch.are_deterministic_algorithms_enabled()
    fit(Task(), BARE, tmp_path / "plain")
    assert enabled[2:] == [False, False]


def test_the_error_names_a_layer_without_deterministic_kernel(tmp_path: Path) -> None:
    class Task(_Task):
        def loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            torch.zeros(4).put_(torch.tensor([0]), torch.tensor([1.0]))
            return super().loss(model, batch)

    with pytest.raises(
        InputError, match=r"deterministic = true, and a layer has no deterministic kernel: put_.* Set it to false"
    ):
        fit(Task(), replace(BARE, deterministic=True), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled()


class _Client:
    """The part of MLflow's client that curves use. dead: raises from the second epoch on."""

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


def test_mlflow_run_has_plan_and_points_and_is_resumed(mlflow: type[_Client], tmp_path: Path) -> None:
    plan = replace(BARE, mlflow=True)
    with pytest.raises(KeyboardInterrupt):
        fit(_Task(killed_in=1), plan, tmp_path / "vgg", name="vgg, fold 2")
    fit(_Task(), plan, tmp_path / "vgg", name="vgg, fold 2")
    ((key, run),) = mlflow.runs.items()
    assert key == "cxr-edge-vgg, fold 2-0"
    assert run["points"] == [("loss", 1), ("score", 1), ("loss", 2), ("score", 2)]
    assert run["params"]["learning_rate"] == BARE.learning_rate
    assert run["ended"] == 1


def test_a_failing_mlflow_server_does_not_stop_the_training(
    mlflow: type[_Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow, "dead", True)
    fit(_Task(), replace(BARE, epochs=3, mlflow=True), tmp_path)
    assert _last(tmp_path)["epoch"] == 3
    assert capsys.readouterr().err.count("MLflow does not respond any more, the training continues: nobody there") == 1


def test_an_unreachable_mlflow_server_raises_before_training(
    mlflow: type[_Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(mlflow, "get_experiment_by_name", refused)
    with pytest.raises(InputError, match=r"connection refused\. Check MLFLOW_TRACKING_URI, or set it to false"):
        fit(_Task(), replace(BARE, mlflow=True), tmp_path)
    assert not (tmp_path / "last.pt").exists()


def test_the_error_without_mlflow_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_invalid_options_raise_when_they_are_read(
    load: Callable[[Path], object], text: str, where: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "x"\n' + text)
    with pytest.raises(InputError, match=where):
        load(file)


@pytest.mark.parametrize(("value", "precision"), [("true", "bf16"), ("false", "fp32")])
def test_bfloat16_of_version_0_1_is_read_as_precision(value: str, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f"[members.plain]\nbfloat16 = {value}")
    assert load_config(file).members["plain"].train.precision == precision


def test_a_folder_of_version_0_1_resumes_with_its_precision(tmp_path: Path) -> None:
    from training.loop.settings import TRAINING, check_same_settings

    spec = NetworkSpec(architecture="plain", labels=3)
    check_same_settings(tmp_path, BARE, spec, {}, done=False)
    note = json.loads((tmp_path / TRAINING).read_text())
    del note["plan"]["precision"], note["plan"]["accumulate"]
    (tmp_path / TRAINING).write_text(json.dumps({**note, "plan": {**note["plan"], "bfloat16": False}}))
    check_same_settings(tmp_path, replace(BARE, workers=3, mlflow=True), spec, {}, done=False)
    with pytest.raises(InputError, match="plan precision fp32, not bf16"):
        check_same_settings(tmp_path, replace(BARE, precision="bf16"), spec, {}, done=False)
