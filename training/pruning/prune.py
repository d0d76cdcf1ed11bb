"""Iterative pruning by APoZ: a trained network and its task in, a series of ever smaller retrained networks out.

R20's loop: count zeros on validation images, remove the channels that are zero most often, retrain, save the best weights,
next step. Each step is a folder with the network's spec and weights, so that a killed run continues where it stopped, and
any step can be used later. Every network that a `Task` trains can be pruned: a member or the lung segmenter.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.loop.fit import fit, load_weights
from training.models import NetworkSpec, build, load_network, save_network
from training.models.files import SPEC
from training.models.networks import SEGMENTERS, rebuilt
from training.models.onnx_export import SegmenterForExport, export
from training.parallel import barrier, broadcast, world
from training.pruning import cost
from training.pruning.channels import ChannelGroup, Survey, channel_groups, known_names, remove, select_channels, survey
from training.pruning.plan import PrunePlan, check_same_plan
from training.pruning.ranking import PrunableTask, Ranks, check_prunable, equal_ranks, nothing_to_prune, rank
from training.pruning.removal import difference, outputs
from training.pruning.steps import STEP, Step, best_step, numbered_folder, read_step, step_folder, steps_of, write_step
from training.shared_files import exclusive_lock

__all__ = [
    "PrunableTask",
    "PrunePlan",
    "Step",
    "best_step",
    "check_prunable",
    "export_network",
    "measure_steps",
    "prune",
    "step_folder",
    "steps_of",
]

_REMOVED, _TRAINING = "removed", "training"  # folders in a step's folder


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
    folder; its channels are due at a later one. Layers that cannot lose channels, as tried on copies, are left whole and
    reported. Raises InputError if no step can remove a channel, before anything is trained for a network that can be pruned by
    no channel or has no zeros to rank by, and if `folder` holds steps of a plan with other settings.
    """
    with exclusive_lock(folder, world()):
        check_same_plan(plan, folder)
        network, spec = load_network(start)
        loop = _Loop(task_of=task_of, plan=plan, folder=folder, preprocess=preprocess, spec=spec)
        steps, number = [loop.first(network)], 0
        while not loop.meets_budget(steps) and (number := loop.next_step(steps[-1].number, number)):
            if loop.step(number, steps[-1].number):
                steps.append(read_step(numbered_folder(folder, number)))
        if len(steps) == 1:
            raise InputError(loop.no_channels_message())
        return steps


def measure_steps(folder: Path, preprocess: PreprocessSpec, *, threads: int) -> list[Step]:
    """Return the steps with their milliseconds, all measured now, one after the other, so that they compare; saves them."""
    found = []
    for step in steps_of(folder):
        path = numbered_folder(folder, step.number)
        network, spec = load_network(path)
        found.append(replace(step, milliseconds=_milliseconds(network, spec, preprocess, threads)))
        write_step(found[-1], path)
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
    def survey(self) -> Survey:
        """Layers of the architecture that can be pruned; reports the rest."""
        network = build(replace(self.spec, shapes={}))
        exclude = known_names(network, self.plan.exclude)
        found = survey(network, self.example, exclude=exclude, rebuild=lambda pruned: rebuilt(pruned, self.spec))
        lines = [f"left whole: {', '.join(left.layers)}: {left.why}" for left in found.whole]
        lines += [f"exclude: it has no layer {name!r}" for name in self.plan.exclude if name not in exclude]
        for line in lines if world().is_main else ():
            print(f"{self.folder.name}: {line}", file=sys.stderr, flush=True)
        return found

    @property
    def original(self) -> dict[str, int]:
        """Channels of the architecture's layers, by channel group."""
        return {g.root: g.channels for g in self.survey.groups}

    def groups(self, network: nn.Module) -> list[ChannelGroup]:
        """Return the groups of a network on the way, without those that the survey left whole."""
        return channel_groups(network, self.example, exclude=self.survey.excluded)

    def first(self, network: nn.Module) -> Step:
        """Return step 0, the unpruned network."""
        path = numbered_folder(self.folder, 0)
        if not _exists(path / STEP):
            self._check(network)
            figures = self.task_of(network).score(network.to(world().device))
            self._finish(0, network.cpu(), figures, path)
        return read_step(path)

    def _check(self, network: nn.Module) -> None:
        """Raise InputError for a network without a prunable channel, or without zeros to rank its channels by."""
        check_prunable(network, self.spec, self.preprocess, self.plan)
        if not self.survey.groups:
            raise InputError(self.no_channels_message())

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
        if numbers and _exists(numbered_folder(self.folder, numbers[0]) / STEP):
            return numbers[0]
        if not numbers:
            return 0
        groups = self.groups(load_network(numbered_folder(self.folder, after))[0])
        return next((n for n in numbers if self._select(groups, equal_ranks(groups, self.plan), n)), 0)

    def no_channels_message(self) -> str:
        """Return the error message for a plan in which no step removes a channel."""
        counts = [g.channels for g in self.survey.groups if g.activated or not self.plan.by_zeros]
        if not counts:
            return nothing_to_prune(self.spec, self.survey.whole)
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
        path = numbered_folder(self.folder, number)
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
            network, _ = load_network(numbered_folder(self.folder, after))
            chosen = self._channels(network, number)
            if not any(chosen.values()):
                return False
            remove(network, self.example, chosen)
            self._check_files(network)
            if world().is_main:
                save_network(network, self.spec, path)
            barrier(world())
        return True

    def _check_files(self, network: nn.Module) -> None:
        """Raise InputError unless the network computes the same when it comes back from its files."""
        again, images = rebuilt(network, self.spec), torch.randn(2, *self.example.shape[1:])
        if difference(outputs(network, images), outputs(again, images)) > 0:
            raise InputError(
                f"{self.spec.architecture} computes something else when it is built again with its pruned weights: nothing was "
                "saved; it has values beside its weights that pruning cannot know: prune another network"
            )

    def _channels(self, network: nn.Module, number: int) -> dict[str, tuple[int, ...]]:
        groups = self.groups(network)
        ranks = rank(network, groups, self.plan, self.spec, self.example, self.task_of)
        return self._select(groups, ranks, number)

    def _select(self, groups: Sequence[ChannelGroup], ranks: Ranks, number: int) -> dict[str, tuple[int, ...]]:
        plan = self.plan
        return select_channels(
            groups,
            ranks.shares,
            step=number,
            original=self.original,
            fraction=plan.step,
            scope=plan.scope,
            ms_per_channel=ranks.times,
            importances=ranks.importances,
            multiple_of=plan.multiple_of,
            ahead=plan.ahead or None,
        )

    def _finish(self, number: int, network: nn.Module, figures: Mapping[str, float], path: Path) -> None:
        """Save the step, its network first and its figures last."""
        if world().is_main:
            spec = save_network(network, self.spec, path)
            step = Step(
                number=number,
                channels=sum(g.channels for g in self.groups(network)),
                parameters=cost.parameters(network),
                macs=cost.macs(network, self.example),
                figures={k: float(v) for k, v in figures.items()},
            )
            if self.plan.milliseconds is not None:
                step = replace(
                    step, milliseconds=_milliseconds(network, spec, self.preprocess, self.plan.retrain.threads)
                )
            write_step(step, path)
            print(f"{self.folder.name}: {step.line}", file=sys.stderr, flush=True)
        self._clear(path)
        barrier(world())

    def _clear(self, path: Path) -> None:
        """Delete temporary files of a finished step; an earlier run may have been killed before this."""
        if world().is_main:
            for checkpoint in (path / _TRAINING).glob("*.pt"):
                checkpoint.unlink()
            shutil.rmtree(path / _REMOVED, ignore_errors=True)


def _milliseconds(network: nn.Module, spec: NetworkSpec, preprocess: PreprocessSpec, threads: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        export_network(network, spec, preprocess, file)
        return cost.latency_ms(file, threads=threads)


def _exists(file: Path) -> bool:
    """Return whether the file exists for the main process: a slower process may check after the main one has written it."""
    return broadcast({"exists": float(file.exists())}, world())["exists"] == 1
