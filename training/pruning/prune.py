"""Iterative pruning by APoZ: a trained network and its task in, smaller and smaller networks out, each retrained.

R20's loop: count zeros on validation images, remove the channels that are zero most often, retrain, keep the best weights,
next step. Each step is a folder with the network as spec and weights, so that a killed run goes on where it stopped, and
any step can be taken up later. What is pruned may be anything that a `Task` trains: a member or the lung segmenter.
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
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.preprocess import SPEC
from cxr_edge.errors import BundleError, InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.loop.fit import Task, fit, load_best
from training.loop.plan import Plan, plan_settings
from training.models import NetworkSpec, build, load_network, save_network
from training.models.networks import SEGMENTERS
from training.models.onnx_export import SegmenterForExport, export
from training.parallel import everywhere, wait, world
from training.pruning import cost
from training.pruning.apoz import zero_shares
from training.pruning.channels import Unit, choose, prunable, remove
from training.shared_files import one_at_a_time, write_text

__all__ = [
    "PrunableTask",
    "PrunePlan",
    "Step",
    "best_step",
    "export_network",
    "measured",
    "prune",
    "step_folder",
    "steps_of",
]

STEP, PLAN = "step.json", "plan.json"
_REMOVED, _TRAINING = "removed", "training"  # folders in a step's folder


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """step: share of the original channels that goes each time. until: where it ends. scope: `global` ranks all channels
    together (R20's code, and its Table 6), `layer` takes the share of each (R20's text). ranking: `apoz` is the share of
    zeros; `latency` weighs it by the measured time of a channel. ahead: how many times as fast as all together a layer may
    shrink; 0 for no limit, as R20: then a global ranking may leave a layer one channel, and the network no way through.
    multiple_of: what channel counts stay a multiple of.
    macs, milliseconds: stop when the network is down to this share of the unpruned one's, or None. tolerance: of the steps
    whose validation score is this near the best, the smallest is chosen. retrain: after each step.
    """

    step: float = 0.02
    until: float = 0.5
    scope: Literal["global", "layer"] = "global"
    ranking: Literal["apoz", "latency"] = "apoz"
    ahead: float = 2.0
    multiple_of: int = 1
    macs: float | None = None
    milliseconds: float | None = None
    tolerance: float = 0.0
    retrain: Plan = field(default_factory=lambda: Plan(epochs=32, patience=5, schedule="plateau"))

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
    """number: 0 is the network as it came. channels: left in all prunable layers. macs: of an image. figures: on
    validation, the best epoch's. milliseconds: an image through ONNX Runtime, or None if not measured."""

    number: int
    channels: int
    parameters: int
    macs: int
    figures: Mapping[str, float]
    milliseconds: float | None = None

    @property
    def score(self) -> float:
        return self.figures["score"]


class PrunableTask(Task, Protocol):
    """A task that can show the validation images, as zeros are counted on them."""

    def validation_images(self) -> Iterator[Tensor]:
        """Batches (N, C, S, S)."""
        ...


def prune(
    task_of: Callable[[nn.Module], PrunableTask],
    start: Path,
    plan: PrunePlan,
    folder: Path,
    preprocess: PreprocessSpec,
) -> list[Step]:
    """Prune the network in `start` step by step into `folder`/step-NN. Returns all steps, the unpruned network first.

    task_of: the task of training a given network. preprocess: what the network was trained on. A step that is there is
    read, not done again; at a step where nothing is due (less than a block of `multiple_of` channels) nothing is done and
    there is no folder: what is left over is due at a later one. Raises InputError where nothing can be removed at any step,
    and where the steps that are there came of a plan that takes other steps.
    """
    with one_at_a_time(folder, world()):
        _same_plan(plan, folder)
        network, spec = load_network(start)
        loop = _Loop(task_of=task_of, plan=plan, folder=folder, preprocess=preprocess, spec=spec)
        steps, number = [loop.first(network)], 0
        while not loop.enough(steps) and (number := loop.next_step(steps[-1].number, number)):
            if loop.step(number, steps[-1].number):
                steps.append(_read(_place(folder, number)))
        if len(steps) == 1:
            raise InputError(loop.why_nothing_goes())
        return steps


def steps_of(folder: Path) -> list[Step]:
    """The steps that lie in a folder of `prune`, in order."""
    return [_read(place) for place in sorted(folder.glob("step-*")) if (place / STEP).exists()]


def best_step(steps: Sequence[Step], *, tolerance: float = 0.0) -> Step:
    """Of the pruned steps, the last one whose validation score is within `tolerance` of the best of them."""
    pruned = [s for s in steps if s.number > 0]
    if not pruned:
        raise InputError("there is no pruned step to choose from: run the pruning first")
    best = max(s.score for s in pruned)
    return [s for s in pruned if s.score >= best - tolerance][-1]


def step_folder(folder: Path, step: Step) -> Path:
    """Where `prune` keeps the network of a step."""
    return _place(folder, step.number)


def measured(folder: Path, preprocess: PreprocessSpec, *, threads: int) -> list[Step]:
    """The steps with their milliseconds, all measured now, one after the other, so that they compare; written back."""
    found = []
    for step in steps_of(folder):
        place = _place(folder, step.number)
        network, spec = load_network(place)
        found.append(replace(step, milliseconds=_milliseconds(network, spec, preprocess, threads)))
        _write(found[-1], place)
    return found


def export_network(network: nn.Module, spec: NetworkSpec, preprocess: PreprocessSpec, file: Path) -> float:
    """Export a member or a segmenter with the outputs that the contract asks for. Returns the difference to torch."""
    if spec.architecture in SEGMENTERS:
        return export(SegmenterForExport(network), preprocess, ["mask"], file)
    return export(network, preprocess, ["logits", "cam"], file)


@dataclass(frozen=True, kw_only=True)
class _Loop:
    """What stays the same from step to step. spec: of the unpruned network."""

    task_of: Callable[[nn.Module], PrunableTask]
    plan: PrunePlan
    folder: Path
    preprocess: PreprocessSpec
    spec: NetworkSpec

    @cached_property
    def example(self) -> Tensor:
        return torch.zeros(1, *self.preprocess.tensor_shape)

    @cached_property
    def original(self) -> dict[str, int]:
        """Channels of the layers as the architecture has them, by unit."""
        fresh = build(replace(self.spec, shapes={}))
        return {u.root: u.channels for u in prunable(fresh, self.example)}

    def first(self, network: nn.Module) -> Step:
        """Step 0: the network as it came."""
        place = _place(self.folder, 0)
        if not _there(place / STEP):
            figures = self.task_of(network).score(network.to(world().device))
            self._finish(0, network.cpu(), figures, place)
        return _read(place)

    def enough(self, steps: Sequence[Step]) -> bool:
        """Whether the budgets are met."""
        first, last, plan = steps[0], steps[-1], self.plan
        lean = plan.macs is not None and last.macs <= plan.macs * first.macs
        if plan.milliseconds is None or last.milliseconds is None or first.milliseconds is None:
            return lean
        return lean or last.milliseconds <= plan.milliseconds * first.milliseconds

    @property
    def last(self) -> int:
        """Number of the plan's last step."""
        return int(self.plan.until / self.plan.step + 1e-9)

    def next_step(self, after: int, beyond: int) -> int:
        """Return the next step above `beyond` that is due for the network of step `after`, or 0 at the end of the plan.

        Decided by channel counts alone, so that no zeros are counted where nothing is due.
        """
        numbers = range(beyond + 1, self.last + 1)
        if numbers and _there(_place(self.folder, numbers[0]) / STEP):
            return numbers[0]
        units = prunable(load_network(_place(self.folder, after))[0], self.example)
        equal = {m.conv: np.ones(1 + max(m.own)) for u in units for m in u.members}
        return next((n for n in numbers if self._choice(units, equal, n)), 0)

    def why_nothing_goes(self) -> str:
        """Return the message for a plan none of whose steps removes a channel."""
        units = prunable(load_network(_place(self.folder, 0))[0], self.example)
        counts = [u.channels for u in units if u.activated]
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
            f"{f' and at most {plan.ahead:g} times the common pace' if plan.ahead else ''}: "
            "raise step or until, or lower multiple_of"
        )

    def step(self, number: int, after: int) -> bool:
        """Do a step from the network of step `after`, or what is left of it. Returns whether there was anything to remove."""
        place = _place(self.folder, number)
        if _there(place / STEP):
            self._clear(place)
            return True
        if not self._removed(number, after, place / _REMOVED):
            return False
        network, _ = load_network(place / _REMOVED)
        task = self.task_of(network)
        network = load_best(
            network, fit(task, self.plan.retrain, place / _TRAINING, name=f"{self.folder.name}, step {number}")
        )
        self._finish(number, network.cpu(), task.score(network.to(world().device)), place)
        return True

    def _removed(self, number: int, after: int, place: Path) -> bool:
        """The network of step `after` without its channels, in `place`."""
        if not _there(place / SPEC):
            network, _ = load_network(_place(self.folder, after))
            chosen = self._chosen(network, number)
            if not any(chosen.values()):
                return False
            remove(network, self.example, chosen)
            if world().first:
                save_network(network, self.spec, place)
            wait(world())
        return True

    def _chosen(self, network: nn.Module, number: int) -> dict[str, tuple[int, ...]]:
        device = world().device
        images = self.task_of(network).validation_images()
        shares = zero_shares(network.to(device), (batch.to(device) for batch in images))
        if not any(share.any() for share in shares.values()):  # any choice would be as good
            raise InputError(
                f"no channel of {self.spec.architecture} can be removed: on the validation images none of its activations is "
                'zero anywhere. ELU and leaky ReLU never are; activations = ["relu"] keeps a search from them'
            )
        network = network.cpu()
        times = self._times(network) if self.plan.ranking == "latency" else None
        return self._choice(prunable(network, self.example), shares, number, times)

    def _choice(
        self,
        units: Sequence[Unit],
        shares: Mapping[str, NDArray[np.float64]],
        number: int,
        times: Mapping[str, float] | None = None,
    ) -> dict[str, tuple[int, ...]]:
        plan = self.plan
        return choose(
            units,
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
        """Milliseconds of a channel, by convolution; the same in all processes, since they must remove the same."""
        times = cost.layer_times_ms(network, self.example, threads=self.plan.retrain.threads)
        return everywhere(cost.ms_per_channel(network, times), world())

    def _finish(self, number: int, network: nn.Module, figures: Mapping[str, float], place: Path) -> None:
        """Write the step, its network first and its figures last."""
        if world().first:
            spec = save_network(network, self.spec, place)
            units = prunable(network, self.example)
            step = Step(
                number=number,
                channels=sum(u.channels for u in units),
                parameters=cost.parameters(network),
                macs=cost.macs(network, self.example),
                figures={k: float(v) for k, v in figures.items()},
            )
            if self.plan.milliseconds is not None:
                step = replace(
                    step, milliseconds=_milliseconds(network, spec, self.preprocess, self.plan.retrain.threads)
                )
            _write(step, place)
            print(f"{self.folder.name}: {_line(step)}", file=sys.stderr, flush=True)
        self._clear(place)
        wait(world())

    def _clear(self, place: Path) -> None:
        """Delete what a finished step no longer needs; a kill may have come before that."""
        if world().first:
            for checkpoint in (place / _TRAINING).glob("*.pt"):
                checkpoint.unlink()
            shutil.rmtree(place / _REMOVED, ignore_errors=True)


def _line(step: Step) -> str:
    return (
        f"step {step.number:2d}  {step.channels} channels  {step.parameters:,} parameters  {step.macs / 1e6:.1f} million MACs  "
        f"score {step.score:.4f}"
    )


def _milliseconds(network: nn.Module, spec: NetworkSpec, preprocess: PreprocessSpec, threads: int) -> float:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "network.onnx"
        export_network(network, spec, preprocess, file)
        return cost.latency_ms(file, threads=threads)


def _there(file: Path) -> bool:
    """Whether the first process sees the file: a slow one may look when the first has written it, and miss the others."""
    return everywhere({"there": float(file.exists())}, world())["there"] == 1


def _same_plan(plan: PrunePlan, folder: Path) -> None:
    """Note how steps are taken; where they end may change from run to run, how may not."""
    ends = ("until", "macs", "milliseconds", "tolerance")
    asked, file = {k: v for k, v in asdict(plan).items() if k not in ends}, folder / PLAN
    if world().first:
        made = json.loads(file.read_text(encoding="utf-8")) if file.exists() else asked
        made = {**made, "retrain": plan_settings(made["retrain"])}
        if made != asked:
            other = [k for k in asked if asked[k] != made.get(k)]
            raise InputError(
                f"the steps in {folder} were pruned with another {', '.join(other)}: delete them or that change"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(asked, indent=1) + "\n")


def _place(folder: Path, number: int) -> Path:
    return folder / f"step-{number:02d}"


def _read(place: Path) -> Step:
    try:
        return Step(**json.loads((place / STEP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise BundleError(f"{place} holds no finished pruning step: {error}") from error


def _write(step: Step, place: Path) -> None:
    write_text(place / STEP, json.dumps(asdict(step), indent=1) + "\n")
