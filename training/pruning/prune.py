"""Iterative pruning by APoZ: a trained network and its task in, a series of ever smaller retrained networks out.

R20's loop: count zeros on validation images, remove the channels that are zero most often, retrain, save the best weights,
next step. Each step is a folder with the network's spec and weights, so that a killed run continues where it stopped, and
any step can be used later. Every network that a `Task` trains can be pruned: a member or the lung segmenter.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_edge.errors import BundleError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.loop.fit import Task, fit, load_weights
from training.loop.plan import Plan, plan_settings
from training.models import NetworkSpec, build, load_network, save_network
from training.models.files import SPEC
from training.models.networks import SEGMENTERS
from training.models.onnx_export import SegmenterForExport, export
from training.parallel import barrier, broadcast, world
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import ChannelGroup, prunable, remove, select_channels
from training.shared_files import exclusive_lock, read_json, reading, require_same_settings, write_text

__all__ = [
    "PrunableTask",
    "PrunePlan",
    "Step",
    "best_step",
    "export_network",
    "measure_steps",
    "prune",
    "step_folder",
    "steps_of",
]

STEP, PLAN = "step.json", "plan.json"
_REMOVED, _TRAINING = "removed", "training"  # folders in a step's folder
_ENDS = ("until", "macs", "milliseconds", "tolerance")  # settings that may change from run to run


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """Settings of iterative pruning. Raises InputError for values that cannot work."""

    step: float = 0.02  # share of the original channels that each step removes
    until: float = 0.5  # share of the original channels that all steps remove together
    # `global` ranks all channels together (R20's code, and its Table 6), `layer` removes the share per layer (R20's text)
    scope: Literal["global", "layer"] = "global"
    # `apoz`: share of zeros; `latency`: share of zeros times the measured milliseconds of a channel
    ranking: Literal["apoz", "latency"] = "apoz"
    # A layer shrinks at most this many times as fast as all together; 0 for no limit, as R20: then a global ranking may
    # leave a layer with one channel, and the network with no capacity there.
    ahead: float = 2.0
    multiple_of: int = 1  # channel counts stay a multiple of this
    macs: float | None = None  # stop at this share of the unpruned network's MACs
    milliseconds: float | None = None  # stop at this share of the unpruned network's latency
    tolerance: float = 0.0  # the smallest step with a validation score this close to the best is selected
    retrain: Plan = field(default_factory=lambda: Plan(epochs=32, patience=5, schedule="plateau"))  # after each step

    def __post_init__(self) -> None:
        if self.ahead and self.ahead < 1:
            raise InputError(f"ahead is 1 or more, or 0 for no limit, got {self.ahead}")
        if not 0 < self.step <= self.until < 1:
            raise InputError(f"pruning needs 0 < step <= until < 1, got step {self.step} and until {self.until}")
        if self.ranking not in ("apoz", "latency") or self.scope not in ("global", "layer") or self.multiple_of < 1:
            raise InputError(
                f"pruning has the scope global or layer, the ranking apoz or latency and a multiple of 1 or more; got "
                f"{self.scope!r}, {self.ranking!r}, {self.multiple_of}"
            )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A network after a pruning step."""

    number: int  # 0: the unpruned network
    channels: int  # left in all prunable layers
    parameters: int
    macs: int  # per image
    figures: Mapping[str, float]  # on validation, of the best epoch
    milliseconds: float | None = None  # per image through ONNX Runtime; None: not measured

    @property
    def score(self) -> float:
        return self.figures["score"]


class PrunableTask(Task, Protocol):
    """A task with validation images, on which zeros are counted."""

    def validation_images(self) -> Iterator[Tensor]:
        """Yield batches (N, C, S, S)."""
        ...


def prune(
    task_of: Callable[[nn.Module], PrunableTask],
    start: Path,
    plan: PrunePlan,
    folder: Path,
    preprocess: PreprocessSpec,
) -> list[Step]:
    """Prune the network in `start` step by step into `folder`/step-NN. Returns all steps, the unpruned network first.

    task_of: returns the training task of a network.
    start: folder of the trained network.
    preprocess: of the network's input.

    A finished step is read, not repeated. A step with nothing due (less than a block of `multiple_of` channels) has no
    folder; its channels are due at a later one. Raises InputError if no step can remove a channel, and if `folder` holds
    steps of a plan with other settings.
    """
    with exclusive_lock(folder, world()):
        _check_same_plan(plan, folder)
        network, spec = load_network(start)
        loop = _Loop(task_of=task_of, plan=plan, folder=folder, preprocess=preprocess, spec=spec)
        steps, number = [loop.first(network)], 0
        while not loop.meets_budget(steps) and (number := loop.next_step(steps[-1].number, number)):
            if loop.step(number, steps[-1].number):
                steps.append(_read(_step_folder(folder, number)))
        if len(steps) == 1:
            raise InputError(loop.no_channels_message())
        return steps


def steps_of(folder: Path) -> list[Step]:
    """Return the finished steps in a folder of `prune`, in order."""
    return [_read(path) for path in sorted(folder.glob("step-*")) if (path / STEP).exists()]


def best_step(steps: Sequence[Step], *, tolerance: float = 0.0) -> Step:
    """Return the last pruned step with a validation score within `tolerance` of the best of them."""
    pruned = [s for s in steps if s.number > 0]
    if not pruned:
        raise InputError("there is no pruned step to select: run the pruning first")
    best = max(s.score for s in pruned)
    return [s for s in pruned if s.score >= best - tolerance][-1]


def step_folder(folder: Path, step: Step) -> Path:
    """Return the folder of a step's network."""
    return _step_folder(folder, step.number)


def measure_steps(folder: Path, preprocess: PreprocessSpec, *, threads: int) -> list[Step]:
    """Return the steps with their milliseconds, all measured now, one after the other, so that they compare; saves them."""
    found = []
    for step in steps_of(folder):
        path = _step_folder(folder, step.number)
        network, spec = load_network(path)
        found.append(replace(step, milliseconds=_milliseconds(network, spec, preprocess, threads)))
        _write(found[-1], path)
    return found


def export_network(network: nn.Module, spec: NetworkSpec, preprocess: PreprocessSpec, file: Path) -> float:
    """Export a member or a segmenter with the outputs of the bundle format. Returns the largest difference to torch."""
    if spec.architecture in SEGMENTERS:
        return export(SegmenterForExport(network), preprocess, ["mask"], file)
    return export(network, preprocess, ["logits", "cam"], file)


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """Settings and paths common to all steps."""

    task_of: Callable[[nn.Module], PrunableTask]
    plan: PrunePlan
    folder: Path
    preprocess: PreprocessSpec
    spec: NetworkSpec  # of the unpruned network

    @cached_property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.preprocess.tensor_shape)

    @cached_property
    def original(self) -> dict[str, int]:
        """Channels of the architecture's layers, by channel group."""
        unpruned = build(replace(self.spec, shapes={}))
        return {g.root: g.channels for g in prunable(unpruned, self.example)}

    def first(self, network: nn.Module) -> Step:
        """Return step 0, the unpruned network."""
        path = _step_folder(self.folder, 0)
        if not _exists(path / STEP):
            figures = self.task_of(network).score(network.to(world().device))
            self._finish(0, network.cpu(), figures, path)
        return _read(path)

    def meets_budget(self, steps: Sequence[Step]) -> bool:
        """Return whether MACs or milliseconds are within the plan's budget."""
        first, last, plan = steps[0], steps[-1], self.plan
        few_macs = plan.macs is not None and last.macs <= plan.macs * first.macs
        if plan.milliseconds is None or last.milliseconds is None or first.milliseconds is None:
            return few_macs
        return few_macs or last.milliseconds <= plan.milliseconds * first.milliseconds

    @property
    def last(self) -> int:
        """Number of the plan's last step."""
        return int(self.plan.until / self.plan.step + 1e-9)

    def next_step(self, after: int, beyond: int) -> int:
        """Return the next step above `beyond` that is due for the network of step `after`, or 0 at the end of the plan.

        Decided by channel counts alone, so that no zeros are counted where nothing is due.
        """
        numbers = range(beyond + 1, self.last + 1)
        if numbers and _exists(_step_folder(self.folder, numbers[0]) / STEP):
            return numbers[0]
        groups = prunable(load_network(_step_folder(self.folder, after))[0], self.example)
        equal = {layer.conv: np.ones(1 + max(layer.own)) for g in groups for layer in g.layers}
        return next((n for n in numbers if self._select(groups, equal, n)), 0)

    def no_channels_message(self) -> str:
        """Return the error message for a plan in which no step removes a channel."""
        groups = prunable(load_network(_step_folder(self.folder, 0))[0], self.example)
        counts = [g.channels for g in groups if g.activated]
        if not counts:
            return (
                f"no channel of {self.spec.architecture} can be removed: no activation follows any of its convolutions "
                "that another layer reads: prune another network"
            )
        plan = self.plan
        return (
            f"no channel of {self.spec.architecture} can be removed by this plan: in none of its {self.last} steps of "
            f"{plan.step:g} ({plan.scope}; {sum(counts)} channels in layers of {min(counts)} to {max(counts)}) is a block "
            f"due that leaves a layer a multiple of {plan.multiple_of} channels"
            f"{f' and at most {plan.ahead:g} times the rate of all layers together' if plan.ahead else ''}: "
            "raise step or until, or lower multiple_of"
        )

    def step(self, number: int, after: int) -> bool:
        """Run a step from the network of step `after`, or resume it. Returns whether there was a channel to remove."""
        path = _step_folder(self.folder, number)
        if _exists(path / STEP):
            self._clear(path)
            return True
        if not self._remove_channels(number, after, path / _REMOVED):
            return False
        network, _ = load_network(path / _REMOVED)
        task = self.task_of(network)
        network = load_weights(
            network, fit(task, self.plan.retrain, path / _TRAINING, name=f"{self.folder.name}, step {number}")
        )
        self._finish(number, network.cpu(), task.score(network.to(world().device)), path)
        return True

    def _remove_channels(self, number: int, after: int, path: Path) -> bool:
        """Save the network of step `after` without the step's channels in `path`. Returns whether there are any."""
        if not _exists(path / SPEC):
            network, _ = load_network(_step_folder(self.folder, after))
            chosen = self._channels(network, number)
            if not any(chosen.values()):
                return False
            remove(network, self.example, chosen)
            if world().is_main:
                save_network(network, self.spec, path)
            barrier(world())
        return True

    def _channels(self, network: nn.Module, number: int) -> dict[str, tuple[int, ...]]:
        device = world().device
        images = self.task_of(network).validation_images()
        shares = zero_shares(network.to(device), (batch.to(device) for batch in images))
        if not any(share.any() for share in shares.values()):  # no channel can be preferred
            raise InputError(
                f"no channel of {self.spec.architecture} can be removed: on the validation images none of its activations is "
                'zero anywhere. ELU and leaky ReLU never are; activations = ["relu"] keeps a search from them'
            )
        network = network.cpu()
        times = self._times(network) if self.plan.ranking == "latency" else None
        return self._select(prunable(network, self.example), shares, number, times)

    def _select(
        self,
        groups: Sequence[ChannelGroup],
        shares: Mapping[str, NDArray[np.float64]],
        number: int,
        times: Mapping[str, float] | None = None,
    ) -> dict[str, tuple[int, ...]]:
        plan = self.plan
        return select_channels(
            groups,
            shares,
            step=number,
            original=self.original,
            fraction=plan.step,
            scope=plan.scope,
            ms_per_channel=times,
            multiple_of=plan.multiple_of,
            ahead=plan.ahead or None,
        )

    def _times(self, network: nn.Module) -> dict[str, float]:
        """Return milliseconds per channel, by convolution; broadcast, since all processes must remove the same channels."""
        times = cost.layer_times_ms(network, self.example, threads=self.plan.retrain.threads)
        return broadcast(cost.ms_per_channel(network, times), world())

    def _finish(self, number: int, network: nn.Module, figures: Mapping[str, float], path: Path) -> None:
        """Save the step, its network first and its figures last."""
        if world().is_main:
            spec = save_network(network, self.spec, path)
            groups = prunable(network, self.example)
            step = Step(
                number=number,
                channels=sum(g.channels for g in groups),
                parameters=cost.parameters(network),
                macs=cost.macs(network, self.example),
                figures={k: float(v) for k, v in figures.items()},
            )
            if self.plan.milliseconds is not None:
                step = replace(
                    step, milliseconds=_milliseconds(network, spec, self.preprocess, self.plan.retrain.threads)
                )
            _write(step, path)
            print(f"{self.folder.name}: {_line(step)}", file=sys.stderr, flush=True)
        self._clear(path)
        barrier(world())

    def _clear(self, path: Path) -> None:
        """Delete temporary files of a finished step; an earlier run may have been killed before this."""
        if world().is_main:
            for checkpoint in (path / _TRAINING).glob("*.pt"):
                checkpoint.unlink()
            shutil.rmtree(path / _REMOVED, ignore_errors=True)


def _line(step: Step) -> str:
    return (
        f"step {step.number:2d}  {step.channels} channels  {step.parameters:,} parameters  {step.macs / 1e6:.1f} million MACs  "
        f"score {step.score:.4f}"
    )


def _milliseconds(network: nn.Module, spec: NetworkSpec, preprocess: PreprocessSpec, threads: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        export_network(network, spec, preprocess, file)
        return cost.latency_ms(file, threads=threads)


def _exists(file: Path) -> bool:
    """Return whether the file exists for the main process: a slower process may check after the main one has written it."""
    return broadcast({"exists": float(file.exists())}, world())["exists"] == 1


def _check_same_plan(plan: PrunePlan, folder: Path) -> None:
    """Record the settings of the steps, or compare them with the recorded ones; where pruning ends may change."""
    file, settings = folder / PLAN, {k: v for k, v in asdict(plan).items() if k not in _ENDS}
    if world().is_main:
        if file.exists():
            recorded = read_json(file)
            with reading(file):
                before = _named(recorded)
            require_same_settings(before, _named(settings), f"the steps in {folder} were pruned with", "delete them")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(settings, indent=1) + "\n")


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return setting name -> value, the retraining's settings each by its own name."""
    retrain = {f"retrain {k}": v for k, v in plan_settings(settings["retrain"]).items()}
    named = {**{k: v for k, v in settings.items() if k != "retrain"}, **retrain}
    as_json: dict[str, Any] = json.loads(json.dumps(named))
    return as_json


def _step_folder(folder: Path, number: int) -> Path:
    return folder / f"step-{number:02d}"


def _read(path: Path) -> Step:
    remedy = f"delete {path} and start the same command again, which makes the step again"
    try:
        values = read_json(path / STEP, remedy)
        with reading(path / STEP, remedy):
            return Step(**values)
    except InputError as error:
        raise BundleError(f"{path} holds no finished pruning step: {error}") from error


def _write(step: Step, path: Path) -> None:
    write_text(path / STEP, json.dumps(asdict(step), indent=1) + "\n")
