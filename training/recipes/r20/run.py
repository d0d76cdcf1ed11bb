"""Run folder of R20's pipeline: a configuration and collections in; tasks, trained networks and their predictions out.

A network predicts the validation and test images of its own target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from training.data.dataset import Sample
from training.data.splits import Side
from training.data.targets import Target
from training.evaluation.metrics import Predictions
from training.loop.plan import Plan
from training.loop.search import Trial
from training.models import NetworkSpec
from training.recipes.r20.config import R20Config
from training.recipes.run import Run, SampleLogits, probabilities_of

__all__ = ["R20Run"]


class R20Run(Run):
    """Run of R20's pipeline."""

    config: R20Config

    def tasks(self) -> Iterator[tuple[str, Target, list[Sample]]]:
        c = self.config
        if c.networks is None:  # else trained networks are copied and only pruned
            yield "modality", self.modality_target, self.samples_of(c.modality_sources)
            if c.binary is not None:
                yield "binary", c.binary_target, self.samples_of(c.task_sources)
        yield "multiclass", c.target, self.samples_of(c.task_sources)

    def train(
        self, start: nn.Module, spec: NetworkSpec, target: Target, plan: Plan, folder: Path, sources: Sequence[str] = ()
    ) -> nn.Module:
        """Load the network of `folder`, or train it, save it and save its predictions on the rows of `target`."""
        return self.train_or_load(
            lambda: self.task(start, target, plan, sources), spec, plan, folder, self.predicted_rows(target, sources)
        )

    def predicted_rows(self, target: Target, sources: Sequence[str] = ()) -> npt.NDArray[np.int64]:
        """Return the rows that a network of `target` predicts: validation and test images, then those of unseen sources."""
        return np.concatenate([self.evaluated_rows(target, sources), self.unseen_rows])

    def init_member(
        self, member: str, labels: int, seed: int, trial: Trial | None = None
    ) -> tuple[nn.Module, NetworkSpec]:
        """Return a member with initial weights (random ones from `seed`, or ImageNet's if configured) and its spec.

        trial: trial of a search that changes the spec.
        """
        spec = self.config.network(member, labels)
        spec = spec if trial is None else trial.network(spec)
        return self.init_network(spec, self.config.members[member].imagenet, seed), spec

    def predictions(self, side: Side, outputs: SampleLogits, target: Target) -> Predictions:
        """Return a single network's predictions on one side: softmax, and the label with the highest logit."""
        mask = self.side_mask(side, outputs.rows)
        logits = outputs.logits[mask]
        return self.predictions_on(outputs.rows[mask], probabilities_of(logits), logits.argmax(axis=1), target)
