"""Configurations of the starter's and the papers' recipes: a TOML file in, a validated dataclass out.

The file has only the values that differ from the defaults.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

from cxr_edge.errors import InputError
from training.config import BundleConfig, check_segmenter_plan, plan, prune_plan
from training.data.augment import Augmentation
from training.data.collections import OWN
from training.data.findings import FindingTable
from training.data.splits import SHARES, Preset, Side, Unit
from training.data.targets import check_names
from training.loop.plan import Plan
from training.models import NetworkSpec
from training.models.head import HEADS
from training.models.networks import is_known, names, takes_head
from training.pruning.prune import PrunePlan
from training.tasks.classify import Balance, Level
from training.toml_tables import check_keys, construct, parse_table, read_toml, require_table

__all__ = [
    "Config",
    "MemberPlan",
    "RunConfig",
    "StagedMember",
    "load_config",
    "parse_config",
    "parse_members",
    "parse_segmenter",
    "parse_staged_members",
]


@dataclass(frozen=True, kw_only=True)
class _MemberNetwork:
    """Network of one member and its initial weights; the first four fields are those of `NetworkSpec`."""

    architecture: str
    head_maps: int = 1024
    head: str = "conv-3x3"
    dropout: float = 0.5
    imagenet: str | None = None  # `hub`, `package`, a file of weights, or None for random weights

    def __post_init__(self) -> None:
        if not is_known(self.architecture):
            raise InputError(
                f"no architecture is called {self.architecture!r}: choose from {', '.join(names())}, timm:NAME or "
                "torchvision:NAME"
            )

        if self.head not in HEADS:
            raise InputError(f"head is one of {', '.join(HEADS)}, got {self.head!r}: change it, or leave it out")
        if self.head != "conv-3x3" and not (self.head_maps and takes_head(self.architecture)):
            raise InputError(
                f"head = {self.head!r} is a kind of R20's head convolution, and {self.architecture} with head_maps = "
                f"{self.head_maps} has none: leave it out, or give head_maps"
            )

    def network(self, labels: int, channels: int) -> NetworkSpec:
        """Return the spec of the network with this number of labels and input channels."""
        return NetworkSpec(
            architecture=self.architecture,
            labels=labels,
            channels=channels,
            head_maps=self.head_maps,
            head=self.head,
            dropout=self.dropout,
        )


@dataclass(frozen=True, kw_only=True)
class MemberPlan(_MemberNetwork):
    """Member of a paper's pipeline, whose stages have one plan for all members."""

    plan: Mapping[str, Any] = field(default_factory=dict)  # values that override the plan of every stage


@dataclass(frozen=True, kw_only=True)
class StagedMember(_MemberNetwork):
    """Member with the plans of its own stages: initial weights, modality (or not), task, pruning (or not)."""

    head_maps: int = 0
    train: Plan  # of the task
    modality: Plan | None = (
        None  # normal against abnormal, before the task; None starts the task from the initial weights
    )
    prune: PrunePlan | None = None  # None does not prune it


@dataclass(frozen=True, kw_only=True)
class RunConfig(BundleConfig, ABC):
    """Configuration shared by all recipes."""

    takes_findings: ClassVar[bool] = False  # whether the recipe has multi_label

    # `sane` splits by patient and augments against differences between collections, `paper` follows the text, and `code` the
    # published code, which splits by image; the report shows the leak.
    preset: Preset = "sane"
    collections: tuple[str, ...] | None = None  # to read; None for the default ones
    without: tuple[str, ...] = ()  # `source/label` that is not read
    # Sources that train, validate and test nothing: the results have a part on them, as on hospitals that nobody trained on.
    unseen_sources: tuple[str, ...] = ()
    source_px: int | None = None  # long side to which larger images are reduced before training canvases are cut
    segmenter_architecture: str = "lung-unet"  # a name of `SEGMENTERS`
    prune_segmenter: PrunePlan | None = None  # None does not prune it
    epoch_images: int | None = None  # images drawn per epoch, if balance is by drawing
    # Nested levels of that drawing with their powers, such as {label = 0.0, source = 0.5, view = 0.0} (`nested_probabilities`);
    # empty: pairs of label and source by the square root of their size.
    balance_levels: Mapping[Level, float] = field(default_factory=dict)
    # Values that differ from the defaults of `Augmentation` in `sane`, for example weaker changes for a short training.
    augment: Mapping[str, float] = field(default_factory=dict)
    # Seed of everything random in training, to train again on the same split; None is `seed`, which also splits and draws the
    # bootstrap's patients.
    training_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in ("sane", "paper", "code"):
            raise InputError(f"the preset is sane, paper or code, got {self.preset!r}")
        if self.multi_label and not self.takes_findings:
            raise InputError(
                "multi_label is not of this recipe, whose paper has labels that exclude each other: use training.starter"
            )
        if self.prune_segmenter is not None:
            check_segmenter_plan(self.prune_segmenter.retrain)
        check_keys(self.augment, Augmentation, "augment")
        if self.source_px is not None and self.source_px < self.canvas_px:
            raise InputError(
                f"source_px is canvas_px ({self.canvas_px}) or more, got {self.source_px}: canvases would be enlarged"
            )
        if unknown := set(self.balance_levels) - set(get_args(Level)):
            raise InputError(f"balance_levels are of {', '.join(get_args(Level))}; got {', '.join(sorted(unknown))}")
        if OWN not in (self.read_collections or ()):  # labels of own data are checked with its images (`check_sides`)
            self._check_names()

    def _check_names(self) -> None:
        """Raise InputError for labels that no published collection has."""
        check_names({*self.renamed, *self.partial}, ())
        for name in ("guard_groups", "watch", "auc_groups"):
            for key, group in getattr(self, name).items():
                construct(partial(check_names, group.labels, ()), f"{name}.{key}")

    @property
    def fit_seed(self) -> int:
        """Seed of the search, of fits of combinations, and of plans without their own seed."""
        return self.seed if self.training_seed is None else self.training_seed

    @property
    def positive(self) -> str:
        """The label that the paper separates from the rest: the guarded one, else COVID-19, else the last."""
        return self.guard or ("covid-19" if "covid-19" in self.labels else self.labels[-1])

    @property
    @abstractmethod
    def side_shares(self) -> Mapping[Side, float]:
        """Share of the images on each side of the split."""

    @property
    def read_collections(self) -> tuple[str, ...] | None:
        """Collections that a run reads; None for the default ones."""
        return self.collections

    @property
    def findings(self) -> FindingTable:
        """Table that maps CCX's findings to labels."""
        return "full"

    @property
    @abstractmethod
    def balance(self) -> Balance:
        """Method that compensates for rare labels."""

    @property
    def by_loss(self) -> bool:
        """True if the epoch is selected by validation loss, not by score."""
        return self.preset != "sane"

    @property
    def turn_pa(self) -> bool:
        """True if PA images are made to look like AP ones in training."""
        return False

    @property
    def sees_lungs(self) -> bool:
        """True if members see the lung box, which needs a segmenter; False if they see the full frame."""
        return self.member_spec.region == "lungs"

    @property
    def unit(self) -> Unit:
        """Unit that a split keeps on one side."""
        return "image" if self.preset == "code" else "group"

    @property
    def augmentation(self) -> Augmentation | None:
        """Augmentation of training images, or None."""
        return Augmentation(**self.augment) if self.preset == "sane" else None


@dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    """Configuration of the starter's recipe."""

    takes_findings: ClassVar[bool] = True
    name: str = "starter"
    epoch_images: int | None = 4000  # training images per member and epoch
    members: dict[str, StagedMember] = field(default_factory=dict)  # by name

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, member in self.members.items():
            self._check_member(name, member)

    def _check_member(self, name: str, member: StagedMember) -> None:
        """Raise InputError for a member with a loss of findings without findings, and for findings with a modality stage."""
        plans = [member.train, *([member.prune.retrain] if member.prune else [])]
        if losses := [plan.loss for plan in plans if plan.loss is not None and not self.multi_label]:
            raise InputError(
                f"members.{name}: loss = {losses[0]!r} is of findings: set multi_label = true, or leave it out"
            )
        if self.multi_label and member.modality is not None:
            raise InputError(
                f"members.{name}: a modality stage learns normal against abnormal, which findings do not tell: leave it out"
            )

    @property
    def side_shares(self) -> Mapping[Side, float]:
        return SHARES

    @property
    def balance(self) -> Balance:
        return "draw"


def load_config(file: Path) -> Config:
    """Load a TOML file. Raises InputError for a missing file and for unknown keys."""
    return parse_config(read_toml(file), str(file))


def parse_config(table: Mapping[str, Any], where: str) -> Config:
    """Return the configuration of a table. where: file and table, for messages. Raises InputError as `load_config`."""
    values = dict(table)
    base = Plan(epochs=100, threads=values.get("threads", 2), seed=values.get("training_seed", values.get("seed", 1)))
    parse_segmenter(values, base, where)
    values["members"] = parse_staged_members(values.get("members", {}), base, f"{where}: members")
    return parse_table(Config, values, where)


def parse_segmenter(values: dict[str, Any], base: Plan, file: Path | str) -> None:
    """Replace the tables of the segmenter, `segmenter` and `prune_segmenter`, by their plans."""
    if "segmenter" in values:
        values["segmenter"] = plan(values["segmenter"], base, f"{file}: segmenter")
    if "prune_segmenter" in values:
        values["prune_segmenter"] = prune_plan(values["prune_segmenter"], base, f"{file}: prune_segmenter")


def parse_members(values: Any, base: Plan, where: str, **defaults: Any) -> dict[str, MemberPlan]:
    """Return the members of a table by name; the plan of each is validated, too.

    values: name -> fields of `MemberPlan`.
    base: plan that the members override.
    where: file and key, for errors.
    defaults: fields that differ from the defaults of `MemberPlan`.
    Raises InputError for other values.
    """
    if not isinstance(values, Mapping) or not all(isinstance(v, Mapping) for v in values.values()):
        raise InputError(
            f"{where}: expected tables, [{where.split(': ')[-1]}.NAME] with an architecture; got {values!r}"
        )
    for name, member in values.items():
        plan(member.get("plan", {}), base, f"{where}.{name}.plan")
    return {name: parse_table(MemberPlan, {**defaults, **v}, f"{where}.{name}") for name, v in values.items()}


def parse_staged_members(values: Any, base: Plan, where: str) -> dict[str, StagedMember]:
    """Return the members of a table by name.

    values: name -> fields of `StagedMember`, except `train`, whose values stand among them; the default architecture is the name.
    base: plan that `train` differs from, as `modality` and the retraining of `prune` differ from `train`.
    where: file and key, for errors. Raises InputError for other values.
    """
    require_table(values, where)
    return {name: _staged_member(name, member, base, f"{where}.{name}") for name, member in values.items()}


def _staged_member(name: str, values: Any, base: Plan, where: str) -> StagedMember:
    require_table(values, where)
    known = {f.name for f in fields(StagedMember)} - {"train"}
    own = {"architecture": name, **{k: v for k, v in values.items() if k in known}}
    train = plan({k: v for k, v in values.items() if k not in known}, base, where)
    if "modality" in own:
        own["modality"] = plan(own["modality"], train, f"{where}.modality")
    if "prune" in own:
        own["prune"] = prune_plan(own["prune"], train, f"{where}.prune")
    return parse_table(StagedMember, {**own, "train": train}, where)
