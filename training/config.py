"""Settings common to all recipes: labels, guarded label, preprocessing, segmenter and plans.

In: TOML tables. Out: validated values; a setting that cannot work is refused when the file is read, not hours later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cxr_edge.calibration import Promise
from cxr_edge.errors import InputError
from cxr_edge.records import NO_FINDING
from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.gate_images import GateImages
from training.data.guard import Guard, Subgroup
from training.data.targets import Target
from training.loop.plan import Plan, upgrade_keys
from training.pruning.prune import PrunePlan
from training.toml_tables import check_keys, construct, parse_table, require_table

__all__ = ["BundleConfig", "Thresholds", "UnseenSites", "check_segmenter_plan", "plan", "prune_plan"]

Subgroups = Mapping[str, Subgroup]


_WATCHED: Subgroups = {"children": Subgroup(adult=False), "tuberculosis": Subgroup(label="tuberculosis")}


@dataclass(frozen=True, kw_only=True)
class UnseenSites:
    """Results of `training.sites` on a training like this bundle's, for its model card and threshold."""

    results: str  # its JSON file
    variant: str  # trained as the bundle's members are
    threshold: bool = True  # take the guarded label's threshold from the left-out sites, not from validation patients


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Choice of the threshold of each finding on validation patients."""

    specificity: float | None = None  # to reach, with the highest sensitivity; None: the highest Youden's J

    def __post_init__(self) -> None:
        if self.specificity is not None and not 0 < self.specificity < 1:
            raise InputError(f"specificity of thresholds is between 0 and 1, such as 0.9; got {self.specificity}")


@dataclass(frozen=True, kw_only=True)
class BundleConfig:
    """Settings of every recipe, whatever its members. Raises InputError for values that cannot work."""

    name: str
    version: str = "1.0.0"
    seed: int = 1
    threads: int = 2
    labels: tuple[str, ...] = ("normal", "bacterial", "viral", "covid-19")  # of the members, in order
    # The labels are findings that do not exclude each other: sigmoid outputs, unknown ones masked. It needs guard = "".
    multi_label: bool = False
    thresholds: Thresholds = field(default_factory=lambda: Thresholds())  # of the findings; in TOML a table
    # The label with limited false alarms; None, in TOML "": decisions are the most probable label, the score is macro-F1.
    guard: str | None = "covid-19"
    # Subgroups by name. In these the guarded label's specificity limits score and threshold ...
    guard_groups: Subgroups = field(default_factory=lambda: {"adult_normals": Subgroup(label="normal", adult=True)})
    # ... in these it is reported, and its sensitivity in those of images with the label; a `floor` stops a bundle below it ...
    watch: Subgroups = field(default_factory=lambda: dict(_WATCHED))
    # ... and within these its AUC is reported; the first also with the lungs painted over.
    auc_groups: Subgroups = field(
        default_factory=lambda: {
            "adults": Subgroup(adult=True),
            "adults_without_tuberculosis": Subgroup(adult=True, without=("tuberculosis",)),
        }
    )
    # Bundle whose lung segmenter is taken, `starter` or a folder, in place of training one. It may have been trained on patients
    # that are on the test side here, so that it is not evaluated again.
    segmenter_of: str | None = None
    segmenter_px: int = 128
    canvas_px: int = 160
    label_smoothing: float = 0.05
    least_images: int = 1  # training images that every label of a task must have, or its stage is refused
    # Findings that are not labels -> the labels such an image may have: it trains and is not evaluated. Labels that the
    # members lack are ignored.
    partial: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"tuberculosis": ("bacterial", "viral")})
    # Findings that are not labels -> the label that they count as, in training and evaluation, such as tuberculosis -> other.
    renamed: Mapping[str, str] = field(default_factory=dict)
    unseen_sites: UnseenSites | None = None
    # Error budget, fitted on validation patients; in TOML a table such as { max_wrong = 0.05 }. None: every decision is answered.
    budget: Promise | None = None
    # Gate set of the bundle, on which engines are compared: real images that may travel, in TOML a table with a folder or a
    # collection, licence and attribution; or else a surrogate of the training images, which holds no patient's image.
    gate_images: GateImages | None = None
    gate_surrogate: bool = False
    # Fit a combination, decision and budget of each subset that lacks one or two of the members, for screenings without them.
    degraded: bool = True
    half_weights: bool = False  # store the members' weights in fp16: half the size; they are computed in fp32 as before
    range_images: int = 200  # validation images on which activation ranges are measured
    known_answers: int = 20  # synthetic images in the bundle
    resamples: int = 2000  # bootstrap draws
    segmenter: Plan = field(default_factory=lambda: Plan(epochs=100))

    def __post_init__(self) -> None:
        if self.least_images < 1:
            raise InputError(
                f"least_images is 1 or more, got {self.least_images}: a label needs images to be learnt from"
            )
        check_segmenter_plan(self.segmenter)
        object.__setattr__(self, "guard", self.guard or None)
        if isinstance(self.unseen_sites, Mapping):  # as TOML has it
            object.__setattr__(self, "unseen_sites", parse_table(UnseenSites, self.unseen_sites, "unseen_sites"))
        if isinstance(self.budget, Mapping):  # as TOML has it
            object.__setattr__(self, "budget", parse_table(Promise, self.budget, "budget"))
        if isinstance(self.gate_images, Mapping):  # as TOML has it
            object.__setattr__(self, "gate_images", parse_table(GateImages, self.gate_images, "gate_images"))
        for name in ("guard_groups", "watch", "auc_groups"):
            object.__setattr__(self, name, _subgroups(getattr(self, name), name))
        self._check_findings()
        self._check_floors()
        if self.guard is not None and self.guard not in self.labels:
            raise InputError(
                f"guard is {self.guard!r}, which is none of the labels {', '.join(self.labels)}: name the label with "
                'false alarms to limit (guard = "LABEL"), or none (guard = "")'
            )

    def _check_findings(self) -> None:
        if isinstance(self.thresholds, Mapping):  # as TOML has it
            object.__setattr__(self, "thresholds", parse_table(Thresholds, self.thresholds, "thresholds"))
        if self.multi_label and self.watch == _WATCHED:  # groups of the published collections
            object.__setattr__(self, "watch", {})
        if self.thresholds.specificity is not None and not self.multi_label:
            raise InputError("thresholds are of findings: set multi_label = true, or leave them out")
        if self.multi_label and (self.guard is not None or self.renamed or self.unseen_sites is not None):
            raise InputError(
                "multi_label = true has findings, each with a threshold of its own, and no guarded or renamed label; got guard = "
                f'{self.guard!r}: set guard = "", and leave renamed and unseen_sites out'
            )
        if self.multi_label and self.budget is not None:
            raise InputError("a budget is of labels that exclude each other: leave it out with multi_label = true")
        if wrong := [label for label in self.labels if self.multi_label and ("+" in label or label == NO_FINDING)]:
            raise InputError(f'a finding has no "+" in its name and is not {NO_FINDING!r}; got {wrong[0]!r}')

    def _check_floors(self) -> None:
        """Raise InputError for a floor of a figure that the results do not have."""
        for name in ("guard_groups", "watch", "auc_groups"):
            for key, group in getattr(self, name).items():
                self._check_floor(name, group, f"{name}.{key}")

    def _check_floor(self, name: str, group: Subgroup, where: str) -> None:
        if group.of is not None and (not self.multi_label or group.of not in self.labels):
            expected = (
                f"one of {', '.join(self.labels)}" if self.multi_label else "of multi-label data only: leave it out"
            )
            raise InputError(f"{where}: of is the finding of a floor, {expected}; got {group.of!r}")
        if group.floor is None:
            return
        if name == "auc_groups":
            raise InputError(
                f"{where}: a floor is of guard_groups and of watch, whose figures are shares: move the group there"
            )
        if self.multi_label and group.of is None:
            raise InputError(f'{where}: a floor of findings needs the finding that it is of: of = "{self.labels[0]}"')
        if self.guard is None and not self.multi_label:
            raise InputError(
                f'{where}: a floor is of the guarded label: name one (guard = "LABEL"), or leave the floor out'
            )

    @property
    def guarded(self) -> Guard | None:
        """The guarded label with its subgroups; None if there is none."""
        if self.guard is None:
            return None
        watch = self.watch if self.watch != _WATCHED else {k: g for k, g in _WATCHED.items() if g.label != self.guard}
        return Guard(label=self.guard, groups=self.guard_groups, watch=watch, auc_groups=self.auc_groups)

    @property
    def target(self) -> Target:
        """The members' task."""
        return self.target_of(self.labels)

    def target_of(self, labels: tuple[str, ...]) -> Target:
        """Return a task of these labels, with the entries of `partial` that allow one of them."""
        if self.multi_label:
            return Target(labels=labels, multi_label=True)
        allowed = {k: tuple(n for n in names if n in labels) for k, names in self.partial.items() if k not in labels}
        renamed = {k: name for k, name in self.renamed.items() if name in labels and k not in labels}
        partial = {k: names for k, names in allowed.items() if names and k not in renamed}
        guard = self.guarded if self.guard in labels else None
        return Target(labels=labels, renamed=renamed, partial=partial, guard=guard)

    @property
    def segmenter_spec(self) -> PreprocessSpec:
        """The segmenter's input: the full frame."""
        return PreprocessSpec(
            region="frame", canvas_px=self.segmenter_px, crop_px=self.segmenter_px, standardize="image"
        )

    @property
    def member_spec(self) -> PreprocessSpec:
        """The members' input: the lung box."""
        return PreprocessSpec(region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px, standardize="image")


def _subgroups(tables: Mapping[str, Any], name: str) -> Subgroups:
    return {k: v if isinstance(v, Subgroup) else parse_table(Subgroup, v, f"{name}.{k}") for k, v in tables.items()}


def check_segmenter_plan(plan: Plan) -> None:
    """Raise InputError for settings that only a classifier's training has."""
    for name in ("loss", "mixup", "cutmix", "frozen_epochs", "frozen_layers"):
        if getattr(plan, name):
            raise InputError(f"{name} of a segmenter's plan is 0, got {getattr(plan, name)!r}: leave it out")


def plan(values: Mapping[str, Any], base: Plan, where: str) -> Plan:
    """Return `base` with the values of a TOML table. Raises InputError, with `where`, for unknown keys and bad values."""
    require_table(values, where)
    values = upgrade_keys(values)
    check_keys(values, Plan, where)
    return construct(lambda: replace(base, **values), where)


def prune_plan(values: Mapping[str, Any], base: Plan, where: str) -> PrunePlan:
    """Return the pruning plan of a TOML table, with the plan of its retraining on top of `base`."""
    require_table(values, where)
    retrain = plan(values.get("retrain", {}), base, f"{where}.retrain")
    return parse_table(PrunePlan, {**values, "retrain": retrain}, where)
