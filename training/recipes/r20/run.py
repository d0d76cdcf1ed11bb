"""A run of R20's pipeline: a paper's run whose networks answer validation and test images of one target at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from torch import nn

from training.data.records import Record
from training.data.splits import Side
from training.data.targets import Target, binary, modality
from training.evaluation.metrics import Predictions
from training.loop.plan import Plan
from training.loop.search import Trial
from training.models import NetworkSpec
from training.recipes.r20.config import R20Config
from training.recipes.run import Run, SampleLogits

__all__ = ["R20Run"]


class R20Run(Run):
    """config: of R20's pipeline."""

    config: R20Config

    def tasks(self) -> Iterator[tuple[str, Target, list[Record]]]:
        c = self.config
        if c.networks is None:  # else trained networks are taken over, and only pruned
            yield "modality", modality(), self.training_records(c.modality_sources)
            if c.binary is not None:
                yield "binary", binary(), self.training_records(c.task_sources)
        yield "multiclass", c.target, self.training_records(c.task_sources)

    def train(
        self, start: nn.Module, spec: NetworkSpec, target: Target, plan: Plan, folder: Path, sources: Sequence[str] = ()
    ) -> nn.Module:
        """The trained network of `folder`; trained, saved and asked for its predictions if it is not there yet."""
        return self.train_or_load(
            lambda: self.task(start, target, plan, sources), spec, plan, folder, self.evaluated_rows(target, sources)
        )

    def evaluated_rows(self, target: Target, sources: Sequence[str] = ()) -> npt.NDArray[np.int64]:
        """The validation and test images that `target` can judge."""
        rows = [
            i
            for i, s in enumerate(self.samples)
            if s.side != "train"
            and target.label_index(s.record.label) >= 0
            and (not sources or s.record.source in sources)
        ]
        return np.array(rows)

    def init_member(
        self, member: str, labels: int, seed: int, trial: Trial | None = None
    ) -> tuple[nn.Module, NetworkSpec]:
        """A member as training starts it: random weights drawn from `seed`, or ImageNet's where the configuration says.

        trial: of a search, with changes to its spec.
        """
        spec = self.config.network(member, labels)
        spec = spec if trial is None else trial.network(spec)
        return self.init_network(spec, self.config.members[member].imagenet, seed), spec

    def side_mask(self, side: Side, predictions: SampleLogits) -> npt.NDArray[np.bool_]:
        """Which predictions are of a side (N,)."""
        return np.array([self.samples[i].side == side for i in predictions.rows], dtype=bool)

    def predictions(self, side: Side, predictions: SampleLogits, target: Target) -> Predictions:
        """A single network's answers on a side: softmax, and the likeliest label."""
        chosen = self.side_mask(side, predictions)
        rows, logits = predictions.rows[chosen], predictions.logits[chosen].astype(np.float64)
        return Predictions(
            true=self.truth(rows, target),
            predicted=logits.argmax(axis=1),
            probabilities=softmax(logits, axis=1),
            patients=self.patients(rows),
        )
