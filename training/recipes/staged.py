"""Training of one member through its stages: ImageNet or random weights -> normal/abnormal -> task -> pruning by APoZ.

As R20 does for all its members, but each with its own plans (`StagedMember`). A finished stage is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from training.data.dataset import Sample
from training.data.targets import Target
from training.loop.plan import Plan
from training.models import build, load_network
from training.models.transfer import transfer_trunk
from training.pruning.prune import check_prunable
from training.recipes.config import StagedMember
from training.recipes.run import Run, selected_step
from training.tasks.images import ImageTask

__all__ = ["train_stages"]

_MODALITY, _PRUNED = "modality", "pruned"  # folders in a member's folder


def train_stages(
    run: Run,
    member: StagedMember,
    target: Target,
    folder: Path,
    rows: npt.NDArray[np.int64],
    sources: Sequence[str] = (),
    samples: Sequence[Sample] | None = None,
) -> Path:
    """Train a member on `target` in `folder`. Returns the folder of its last network, with its predictions on `rows`.

    sources, samples: as of `Run.task`. Raises InputError, before any training, for a member that cannot be pruned as planned.
    """
    channels = run.config.member_spec.channels
    spec, before = member.network(len(target.labels), channels), member.network(2, channels)
    if member.prune is not None:
        check_prunable(build(spec), spec, run.config.member_spec, member.prune)

    def start() -> nn.Module:
        if member.modality is None:
            return run.init_network(spec, member.imagenet, member.train.seed)
        torch.manual_seed(member.train.seed)
        return transfer_trunk(load_network(folder / _MODALITY)[0], spec)

    def modality_task(plan: Plan) -> ImageTask:
        start = run.init_network(before, member.imagenet, plan.seed)
        return run.task(start, run.modality_target, plan, sources, samples)

    def task() -> ImageTask:
        return run.task(start(), target, member.train, sources, samples)

    weights = {"imagenet": member.imagenet, "weights_of": None}
    if member.modality is not None:
        make_task = partial(modality_task, member.modality)
        run.train_or_load(make_task, before, member.modality, folder / _MODALITY, rows, others=weights)
        weights["weights_of"] = _MODALITY
    run.train_or_load(task, spec, member.train, folder, rows, others=weights)
    if member.prune is None:
        return folder
    run.prune(folder, member.prune, folder / _PRUNED, rows, sources, samples)
    return selected_step(folder / _PRUNED, member.prune)
