"""A run of FLANNEL's pipeline: a paper's run with folds, whose networks answer every image there is.

Each network of each fold is asked once, of all images: its own fold's answers are the out-of-fold predictions that the
module learns from, test images judge, and the collections outside tell what a hospital that was never seen would get.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training import folds
from training.collections import Record, collections_of
from training.dataset import Sample
from training.findings import projection
from training.flannel.config import FlannelConfig
from training.parallel import wait, world
from training.run import Run
from training.shared_files import one_at_a_time, write_text
from training.targets import Target

__all__ = ["FlannelRun"]

PLAN = "run.json"


class FlannelRun(Run):
    """config: of FLANNEL's pipeline."""

    config: FlannelConfig

    def tasks(self) -> Iterator[tuple[str, Target, list[Record]]]:
        for fold in range(self.config.folds):
            train = self.training_records(self.sources, self.fold_samples(fold))
            yield f"learn, fold {fold}", self.config.target, train

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Sources of Table 1's collections."""
        known = sorted({s.record.source for s in self.samples})
        return tuple(source for source in known if collections_of([source])[0] in self.config.collections)

    @cached_property
    def _folds(self) -> npt.NDArray[np.int64]:
        c = self.config
        return folds.folds(self.samples, count=c.folds, seed=c.seed, unit=c.unit)

    @cached_property
    def fold_of(self) -> npt.NDArray[np.int64]:
        """The fold (N,) of each training image, -1 for test images. Checked against the run folder, and described there."""
        found = self._folds
        if world().first:
            with one_at_a_time(self.out / PLAN):
                self.same_plan(self.out / PLAN)
                if not (self.out / PLAN).exists():
                    write_text(self.out / "folds.md", folds.as_markdown(self.samples, found))
                    write_text(self.out / PLAN, json.dumps(self.plan(), indent=1) + "\n")
        wait(world())
        return found

    def plan(self) -> dict[str, Any]:
        """What must not change while a run folder is used."""
        c = self.config
        dealt = "".join(f"{s.record.key} {fold}\n" for s, fold in zip(self.samples, self._folds, strict=True))
        return {
            "preset": c.preset,
            "seed": c.seed,
            "folds": c.folds,
            "labels": list(c.labels),
            "collections": list(c.collections),
            "view": c.view,
            "preprocess": c.member_spec.digest(),
            "folds_sha256": sha256(dealt.encode()).hexdigest(),  # they are not kept, and their rule may change
        }

    def same_plan(self, file: Path) -> None:
        """Raises InputError if a run's plan, ours or another's, is not ours; a file that is not there is passed over."""
        if not file.exists():
            return
        made, plan = json.loads(file.read_text(encoding="utf-8")), self.plan()
        if changed := [k for k in plan if made.get(k) != plan[k]]:
            said = "; ".join(f"{k} {made.get(k)}, not {plan[k]}" for k in changed)
            raise InputError(f"{file.parent} was made with {said}: give another run folder, or delete this one")

    def fold_samples(self, fold: int) -> list[Sample]:
        """The samples with the sides of one fold's training; images of other views are on neither side."""
        samples, views = folds.in_fold(self.samples, self.fold_of, fold), self.config.kept_views
        return [s if projection(s.record.view) in views else replace(s, side="test") for s in samples]

    @cached_property
    def segmenter_samples(self) -> list[Sample]:
        return folds.in_fold(self.samples, self.fold_of, 0)

    @property
    def every_row(self) -> npt.NDArray[np.int64]:
        """All samples: each network is asked of each."""
        return np.arange(len(self.samples))

    @cached_property
    def judged(self) -> npt.NDArray[np.bool_]:
        """Which samples (N,) belong to Table 1: a collection, a view and a label of the task."""
        c = self.config
        return np.array(
            [
                s.record.source in self.sources
                and projection(s.record.view) in c.kept_views
                and s.record.label in c.labels
                for s in self.samples
            ]
        )

    @cached_property
    def test(self) -> npt.NDArray[np.int64]:
        """Rows of Table 1's test images."""
        side = np.array([s.side == "test" for s in self.samples])
        return np.flatnonzero(self.judged & side)

    def folder(self, fold: int, name: str, *, pruned: bool = False) -> Path:
        """Where a network of a fold is kept; of pruned ones the folder of all steps."""
        return self.out / ("pruned" if pruned else "networks") / f"fold-{fold}" / name
