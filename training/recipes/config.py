"""What a training is made of: a TOML file in, checked values out. The file holds only what differs from the defaults."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr_edge.errors import InputError
from training.config import BundleConfig, check_segmenter_plan, plan
from training.data.augment import Augmentation
from training.data.findings import FindingTable
from training.data.splits import Preset, Side, Unit
from training.loop.plan import Plan
from training.models import NetworkSpec
from training.models.head import HEADS
from training.models.networks import is_known, names, takes_head
from training.pruning.prune import PrunePlan
from training.tasks.classify import Balance
from training.toml_tables import check_keys, parse_table, read_toml

if sys.version_info >= (3, 11):
    pass
else:
    pass

__all__ = ["Config", "MemberPlan", "RunConfig", "load_config", "parse_members"]


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """architecture, head_maps, head, dropout: as in `NetworkSpec`. imagenet: `hub`, a file of weights, or None for random.
    plan: what this member changes in the plan of every stage.
    """

    architecture: str
    head_maps: int = 1024
    head: str = "conv-3x3"
    dropout: float = 0.5
    imagenet: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_known(self.architecture):
            raise InputError(
                f"no architecture is called {self.architecture!r}: choose from {', '.join(names())}, or timm:NAME"
            )

        if self.head not in HEADS:
            raise InputError(f"head is one of {', '.join(HEADS)}, got {self.head!r}: change it, or leave it out")
        if self.head != "conv-3x3" and not (self.head_maps and takes_head(self.architecture)):
            raise InputError(
                f"head = {self.head!r} is a kind of R20's head convolution, and {self.architecture} with head_maps = "
                f"{self.head_maps} has none: leave it out, or give head_maps"
            )

    def network(self, labels: int, channels: int) -> NetworkSpec:
        """The spec of its network for so many labels and input channels."""
        return NetworkSpec(
            architecture=self.architecture,
            labels=labels,
            channels=channels,
            head_maps=self.head_maps,
            head=self.head,
            dropout=self.dropout,
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig(BundleConfig, ABC):
    """What the papers' recipes share.

    preset: `sane` (patients apart, augmentation against what tells collections apart), `paper` (the text) or `code` (what
    was run; it splits by image, and the report shows the leak). collections, views: which are read, or None for the default
    collections and all frontal views. segmenter_architecture: a name of `SEGMENTERS`. prune_segmenter: None leaves it
    whole. epoch_images: images drawn an epoch where balance is by drawing. augment: what differs from the defaults of
    `Augmentation` in `sane`, such as gentler changes for a short training. training_seed: of all that training draws, for
    another training on the same split; None is `seed`, which also splits and draws the bootstrap's patients.
    """

    preset: Preset = "sane"
    collections: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    segmenter_architecture: str = "lung-unet"
    prune_segmenter: PrunePlan | None = None
    epoch_images: int | None = None
    augment: Mapping[str, float] = field(default_factory=dict)
    training_seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset not in ("sane", "paper", "code"):
            raise InputError(f"the preset is sane, paper or code, got {self.preset!r}")
        if self.prune_segmenter is not None:
            check_segmenter_plan(self.prune_segmenter.retrain)
        check_keys(self.augment, Augmentation, "augment")

    @property
    def fit_seed(self) -> int:
        """What plans draw from that have no seed of their own, the search, and fits of combinations."""
        return self.seed if self.training_seed is None else self.training_seed

    @property
    @abstractmethod
    def side_shares(self) -> Mapping[Side, float]:
        """Of the images, on each side."""

    @property
    def read_collections(self) -> tuple[str, ...] | None:
        """All collections that a run reads; None for the default ones."""
        return self.collections

    @property
    def findings(self) -> FindingTable:
        """Which table gives the labels of CCX's findings."""
        return "full"

    @property
    @abstractmethod
    def balance(self) -> Balance:
        """How rare labels are made up for."""

    @property
    def by_loss(self) -> bool:
        """Whether an epoch is chosen by its validation loss, not by its score."""
        return self.preset != "sane"

    @property
    def turn_pa(self) -> bool:
        """Whether PA images are made to look like AP ones in training."""
        return False

    @property
    def sees_lungs(self) -> bool:
        """Whether members see the lung box, for which there must be a segmenter, or the whole frame."""
        return self.member_spec.region == "lungs"

    @property
    def unit(self) -> Unit:
        """What a split keeps together."""
        return "image" if self.preset == "code" else "group"

    @property
    def augmentation(self) -> Augmentation | None:
        """How training images are altered; None for not at all."""
        return Augmentation(**self.augment) if self.preset == "sane" else None


@dataclass(frozen=True, kw_only=True)
class Config(BundleConfig):
    """The starter's recipe. epoch_images: how many images a member sees an epoch. left_out: sources that members never
    see, to measure what they say of an unknown site. members: plan an architecture."""

    name: str = "starter"
    epoch_images: int = 4000
    left_out: tuple[str, ...] = ()
    members: dict[str, Plan] = field(default_factory=dict)


def load_config(file: Path) -> Config:
    """Read a TOML file. Raises InputError for a file that is not there and for keys that mean nothing."""
    values = read_toml(file)
    base = Plan(epochs=100, threads=values.get("threads", 2), seed=values.get("seed", 1))
    if "segmenter" in values:
        values["segmenter"] = plan(values["segmenter"], base, f"{file}: segmenter")
    members = values.get("members", {})
    values["members"] = {name: plan(v, base, f"{file}: members.{name}") for name, v in members.items()}
    return parse_table(Config, values, str(file))


def parse_members(values: Any, base: Plan, where: str, **defaults: Any) -> dict[str, MemberPlan]:
    """The tables of members by name; what each changes in a plan is checked too. defaults: where they differ from
    `MemberPlan`'s."""
    if not isinstance(values, Mapping) or not all(isinstance(v, Mapping) for v in values.values()):
        raise InputError(
            f"{where}: expected tables, [{where.split(': ')[-1]}.NAME] with an architecture; got {values!r}"
        )
    for name, member in values.items():
        plan(member.get("plan", {}), base, f"{where}.{name}.plan")
    return {name: parse_table(MemberPlan, {**defaults, **v}, f"{where}.{name}") for name, v in values.items()}
