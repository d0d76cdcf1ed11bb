"""Settings that every recipe has: labels, preprocessing, segmenter and plans, read from TOML tables into checked values."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.targets import Target
from training.loop.plan import Plan, renamed
from training.pruning.prune import PrunePlan
from training.toml_tables import check_keys, made_of, table_of

if sys.version_info >= (3, 11):
    pass
else:
    pass

__all__ = ["BundleConfig", "check_segmenter_plan", "plan", "prune_plan"]


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """What every recipe settles, whatever its members.

    labels: of the members, in order. partial: findings that are no label, and the labels that such an image may have: it
    trains and is not judged (labels that the members lack are passed over). range_images: validation images that
    activation ranges are measured on. known_answers: synthetic images in the bundle. resamples: of the bootstrap.
    least_images: training images that every label of a task must have, or its stage is refused.
    """

    name: str
    version: str = "1.0.0"
    seed: int = 1
    threads: int = 2
    labels: tuple[str, ...] = ("normal", "bacterial", "viral", "covid-19")
    segmenter_px: int = 128
    canvas_px: int = 160
    label_smoothing: float = 0.05
    least_images: int = 1
    partial: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"tuberculosis": ("bacterial", "viral")})
    range_images: int = 200
    known_answers: int = 20
    resamples: int = 2000
    segmenter: Plan = field(default_factory=lambda: Plan(epochs=100))

    def __post_init__(self) -> None:
        if self.least_images < 1:
            raise InputError(f"least_images is 1 or more, got {self.least_images}: no label is learnt from no image")
        check_segmenter_plan(self.segmenter)

    @property
    def target(self) -> Target:
        """What the members are asked."""
        return self.target_of(self.labels)

    def target_of(self, labels: tuple[str, ...]) -> Target:
        """A task of these labels, with those of `partial` that say something about it."""
        among = {k: tuple(n for n in names if n in labels) for k, names in self.partial.items() if k not in labels}
        return Target(labels=labels, partial={k: names for k, names in among.items() if names})

    @property
    def segmenter_spec(self) -> PreprocessSpec:
        """What the segmenter sees: the whole frame."""
        return PreprocessSpec(
            region="frame", canvas_px=self.segmenter_px, crop_px=self.segmenter_px, standardize="image"
        )

    @property
    def member_spec(self) -> PreprocessSpec:
        """What every member sees: the lung box."""
        return PreprocessSpec(region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px, standardize="image")


def check_segmenter_plan(plan: Plan) -> None:
    """Raises InputError for what only a classifier's training has."""
    for name in ("mixup", "cutmix", "frozen_epochs"):
        if getattr(plan, name):
            raise InputError(f"{name} of a segmenter's plan is 0, got {getattr(plan, name)!r}: leave it out")


def plan(values: Mapping[str, Any], base: Plan, where: str) -> Plan:
    """`base` with what a table of the file changes."""
    values = renamed(values)
    check_keys(values, Plan, where)
    return made_of(lambda: replace(base, **values), where)


def prune_plan(values: Mapping[str, Any], base: Plan, where: str) -> PrunePlan:
    """A table of pruning, with the plan of its retraining."""
    retrain = plan(values.get("retrain", {}), base, f"{where}.retrain")
    return table_of(PrunePlan, {**values, "retrain": retrain}, where)
