"""One of the papers' networks, measured alone: a full configuration and a network's name in, its costs as JSON out.

`python -m training.papers.speed r20 vgg16` builds the network at its own width, takes optimizer steps at its own batch and input
size on random pixels, and asks it without gradients. A process of its own, so that its peak memory is that network's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cxr_edge.names import path_argument
from training.ensembles.neural_weights import fit_module
from training.loop.optimizer import build_optimizer
from training.loop.plan import Plan
from training.models import NetworkSpec, build
from training.parallel import computes_bfloat16
from training.pruning import cost
from training.recipes.flannel.config import FlannelConfig, load_flannel
from training.recipes.r20.config import R20Config, load_r20
from training.shared_files import atomic_write
from training.tasks.losses import mask_loss, partial_label_loss

__all__ = ["CONFIGS", "MODULE", "PAPERS", "SEGMENTER", "Speed", "measured", "networks_of", "published"]

CONFIGS = Path(__file__).parents[1] / "configs"
PAPERS = ("r20", "flannel")
SEGMENTER, MODULE = "segmenter", "module"  # R20's U-Net, FLANNEL's stage 2
PaperConfig = R20Config | FlannelConfig

_PREDICTED = 4  # images at once
_ENOUGH_S, _MOST = 10.0, 3  # steps are repeated until they took so long, or so often; the fastest counts


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Measured speed of one network, in seconds per image."""

    network: str
    architecture: str
    parameters: int
    macs: int  # per image
    input: tuple[int, ...]  # shape without N
    batch: int
    optimizer: str
    threads: int
    train_s: float  # wall clock, in an optimizer step of `batch` images
    train_core_s: float  # sum over all threads, which other programs do not lengthen
    ask_s: float = 0.0  # wall clock without gradients, four images at once
    ask_core_s: float = 0.0


def published(paper: str) -> PaperConfig:
    """The full configuration of a paper, as it is today."""
    return load_r20(CONFIGS / "r20-full.toml") if paper == "r20" else load_flannel(CONFIGS / "flannel-full.toml")


def networks_of(config: PaperConfig) -> tuple[str, ...]:
    """All that a run trains, by name."""
    return (SEGMENTER, *config.members) if isinstance(config, R20Config) else (*config.networks, MODULE)


def measured(config: PaperConfig, name: str, weights: Path | None = None) -> Speed:
    """A network's speed. weights: where its trunk goes in the layout of timm's ImageNet weights, or None."""
    if name == MODULE:
        return _module(config)
    spec, plan, shape = _network(config, name)
    torch.manual_seed(config.seed)
    network = build(spec)
    if weights is not None:
        _save_trunk(network, weights)
    network = network.to(memory_format=torch.channels_last)
    train, train_core = _fastest(_step(network, spec, plan, shape))
    ask, ask_core = _fastest(_prediction(network, shape))
    return Speed(
        network=name,
        architecture=spec.architecture,
        parameters=cost.parameters(network),
        macs=_macs(spec, shape),
        input=shape,
        batch=plan.batch,
        optimizer=plan.optimizer,
        threads=torch.get_num_threads(),
        train_s=train / plan.batch,
        train_core_s=train_core / plan.batch,
        ask_s=ask / _PREDICTED,
        ask_core_s=ask_core / _PREDICTED,
    )


def _network(config: PaperConfig, name: str) -> tuple[NetworkSpec, Plan, tuple[int, ...]]:
    if name == SEGMENTER:
        shape = config.segmenter_spec.tensor_shape
        return NetworkSpec(architecture=config.segmenter_architecture, labels=1), config.segmenter, shape
    shape = config.member_spec.tensor_shape
    if isinstance(config, R20Config):
        return config.network(name, len(config.labels)), config.modality, shape
    return config.network(name), config.learn, shape


def _save_trunk(network: nn.Module, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as beside:
        save_file({k: v.contiguous() for k, v in network.get_submodule("trunk.network").state_dict().items()}, beside)


def _macs(spec: NetworkSpec, shape: tuple[int, ...]) -> int:
    with torch.device("meta"):
        return cost.macs(build(spec), torch.zeros(1, *shape))


def _step(network: nn.Module, spec: NetworkSpec, plan: Plan, shape: tuple[int, ...]) -> Callable[[], None]:
    """An optimizer step, as the engine takes it where a plan's precision is `auto`."""
    images, optimizer = _random(plan.batch, shape), build_optimizer(network, plan)
    allowed = torch.eye(spec.labels, dtype=torch.bool)[torch.arange(plan.batch) % spec.labels]
    lung = (torch.rand(plan.batch, 1, *shape[1:]) < 0.3).float()

    def loss() -> Tensor:
        if spec.architecture.startswith("lung-unet"):
            return mask_loss(network(images).float(), lung, torch.ones_like(lung))
        return partial_label_loss(network(images).logits.float(), allowed, smoothing=0.0)

    def step() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with _autocast():
            found = loss()
        found.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        optimizer.step()

    return step


def _prediction(network: nn.Module, shape: tuple[int, ...]) -> Callable[[], None]:
    images = _random(_PREDICTED, shape)

    @torch.no_grad()
    def ask() -> None:
        with _autocast():
            network.eval()(images)

    return ask


def _autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16(torch.device("cpu")))


def _random(images: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(images, *shape).to(memory_format=torch.channels_last)


def _fastest(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and core seconds, of the fastest of a few runs; a network whose first takes long enough is run once."""
    times: list[tuple[float, float]] = []
    while not times or (len(times) < _MOST and sum(wall for wall, _ in times) < _ENOUGH_S):
        begin, core = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - begin, time.process_time() - core))
    return min(wall for wall, _ in times), min(core for _, core in times)


def _module(config: PaperConfig) -> Speed:
    """FLANNEL's weight module on random probabilities: seconds of an image of an epoch."""
    if not isinstance(config, FlannelConfig):
        raise TypeError("R20 has no weight module")
    torch.set_num_threads(1)
    images, members, labels = 20 * config.fit.batch, len(config.learners), len(config.labels)
    rng = np.random.default_rng(config.seed)
    p, truth = rng.dirichlet(np.ones(labels), (images, members)), rng.integers(0, labels, images)
    plan = replace(config.fit, epochs=2)
    train, train_core = _fastest(lambda: fit_module(p, truth, plan, seed=config.seed))
    return Speed(
        network=MODULE,
        architecture="neural weight module",
        parameters=members * (1 + (members * labels) ** 2),
        macs=members * (members * labels) ** 2,
        input=(members, labels),
        batch=config.fit.batch,
        optimizer="adam",
        threads=1,  # as the stage does: it is too small for more
        train_s=train / (2 * images),
        train_core_s=train_core / (2 * images),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one network's speed as JSON."""
    parser = argparse.ArgumentParser(prog="python -m training.papers.speed", description=__doc__)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("network", help="a member, learner or baseline of the full configuration, segmenter or module")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=path_argument, help="write its trunk's random weights here, in timm's layout")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    json.dump(asdict(measured(published(args.paper), args.network, args.weights)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
