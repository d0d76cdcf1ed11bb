"""Run folder of FLANNEL's pipeline: a configuration and collections in; folds, and which images train and evaluate, out.

Each network of each fold predicts all images once. Its predictions on its own fold are the out-of-fold predictions that the
module is fitted on, those on test images are the results, and those on collections outside Table 1 estimate the performance
in a hospital that is not in the training data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data import folds
from training.data.collections import collection_names
from training.data.dataset import Sample
from training.data.findings import projection
from training.data.targets import Target
from training.loop.plan import Plan
from training.parallel import barrier, world
from training.recipes.flannel.config import FlannelConfig
from training.recipes.run import PREDICTIONS, Run, SampleLogits, selected_step
from training.shared_files import exclusive_lock, read_json, require_same_settings, write_text

__all__ = ["FlannelRun", "FoldRun"]

PLAN = "run.json"


class FlannelRun(Run):
    """Run of FLANNEL's pipeline, with folds of the training side."""

    config: FlannelConfig

    def tasks(self) -> Iterator[tuple[str, Target, list[Sample]]]:
        for fold in range(self.config.folds):
            samples = [s for s in self.fold_samples(fold) if s.record.source in self.sources]
            yield f"learn, fold {fold}", self.config.target, samples

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Sources of Table 1's collections that learners see."""
        known = sorted({s.record.source for s in self.samples} - set(self.config.unseen_sources))
        return tuple(source for source in known if collection_names([source])[0] in self.config.collections)

    @cached_property
    def _folds(self) -> npt.NDArray[np.int64]:
        """Fold (N,) of each training image, -1 for test images."""
        c = self.config
        return folds.folds(self.samples, count=c.folds, seed=c.seed, unit=c.unit)

    @cached_property
    def fold_of(self) -> npt.NDArray[np.int64]:
        """Fold (N,) of each training image, -1 for test images; written to the run folder, or compared with it."""
        fold_of = self._folds
        if world().is_main:
            with exclusive_lock(self.out / PLAN):
                self.check_same_plan(self.out / PLAN)
                if not (self.out / PLAN).exists():
                    write_text(self.out / "folds.md", folds.as_markdown(self.samples, fold_of))
                    write_text(self.out / PLAN, json.dumps(self.plan(), indent=1) + "\n")
        barrier(world())
        return fold_of

    def plan(self) -> dict[str, Any]:
        """Return the settings that must not change while a run folder is used, as JSON."""
        c = self.config
        assignment = "".join(f"{s.record.key} {fold}\n" for s, fold in zip(self.samples, self._folds, strict=True))
        return {
            "preset": c.preset,
            "seed": c.seed,
            "folds": c.folds,
            "labels": list(c.labels),
            "collections": list(c.collections),
            "view": c.view,
            "preprocess": c.member_spec.digest(),
            # Folds are not stored, and their algorithm may change.
            "folds_sha256": sha256(assignment.encode()).hexdigest(),
        }

    def check_same_plan(self, file: Path) -> None:
        """Raise InputError if the plan in `file`, of this or another run folder, differs from this run's.

        A missing file is valid.
        """
        if file.exists():
            stored = read_json(file)
            remedy = "give another run folder, or delete this one"
            require_same_settings(stored, self.plan(), f"{file.parent} was made with", remedy)

    def fold(self, number: int) -> FoldRun:
        """Return one fold of the run."""
        return FoldRun(run=self, number=number)

    def fold_samples(self, fold: int) -> list[Sample]:
        """Return the samples with the sides of one fold's training; images of other views neither train nor validate."""
        samples, views = folds.in_fold(self.samples, self.fold_of, fold), self.config.selected_views
        return [s if projection(s.record.view) in views else replace(s, side="test") for s in samples]

    @cached_property
    def segmenter_samples(self) -> list[Sample]:
        return folds.in_fold(self.samples, self.fold_of, 0)

    @property
    def all_rows(self) -> npt.NDArray[np.int64]:
        """Rows of all samples; each network predicts all of them."""
        return np.arange(len(self.samples))

    @cached_property
    def evaluated(self) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the samples of Table 1: those with a seen source, a view and a label of the task."""
        c = self.config
        return np.array(
            [
                s.record.source in self.sources
                and s.side != "unseen"
                and projection(s.record.view) in c.selected_views
                and s.record.label in c.labels
                for s in self.samples
            ]
        )

    @cached_property
    def test_rows(self) -> npt.NDArray[np.int64]:
        """Rows of Table 1's test images."""
        side = np.array([s.side == "test" for s in self.samples])
        return np.flatnonzero(self.evaluated & side)


@dataclass(frozen=True, kw_only=True)
class FoldRun:
    """One fold of a run: its images, and the networks that train on those of the other folds."""

    run: FlannelRun
    number: int

    @cached_property
    def samples(self) -> list[Sample]:
        """All samples with the sides of this fold's training."""
        return self.run.fold_samples(self.number)

    @cached_property
    def own_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the fold's own images."""
        return np.flatnonzero(self.run.evaluated & (self.run.fold_of == self.number))

    @cached_property
    def other_rows(self) -> npt.NDArray[np.int64]:
        """Rows of the other folds' images."""
        fold_of = self.run.fold_of
        return np.flatnonzero(self.run.evaluated & (fold_of >= 0) & (fold_of != self.number))

    def plan(self, name: str, plan: Plan) -> Plan:
        """Return a stage's plan with the network's own settings, and another seed in every fold."""
        own = replace(plan, **self.run.config.networks[name].plan)
        return replace(own, seed=own.seed + 1000 * self.number)

    def folder(self, name: str, *, pruned: bool = False) -> Path:
        """Return the folder of a network; of a pruned one, the folder of all pruning steps."""
        return self.run.out / ("pruned" if pruned else "networks") / f"fold-{self.number}" / name

    def network_folder(self, name: str, *, unpruned: bool = False) -> Path:
        """Return the folder of the network that stage 2 reads: the pruned learner if learners are pruned.

        unpruned: return that of the unpruned network in any case.
        """
        plan = self.run.config.prune
        if plan is None or unpruned or name not in self.run.config.learners:
            return self.folder(name)
        return selected_step(self.folder(name, pruned=True), plan)

    def load_logits(self, name: str, *, unpruned: bool = False) -> npt.NDArray[np.float32]:
        """Return a network's logits (N, labels) on all samples."""
        return SampleLogits.load(self.network_folder(name, unpruned=unpruned) / PREDICTIONS).logits
