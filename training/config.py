"""What a training is made of: a TOML file in, checked values out. The file holds only what differs from the defaults."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.preprocess import PreprocessSpec
from training.augment import Augmentation
from training.classify import Balance
from training.findings import FindingTable
from training.models import NetworkSpec
from training.models.networks import HEADS, is_known, names, takes_head
from training.plan import Plan, renamed
from training.prune import PrunePlan
from training.splits import Preset, Side, Unit
from training.targets import Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "BundleConfig",
    "Config",
    "MemberPlan",
    "RunConfig",
    "load_config",
    "members_of",
    "plan",
    "prune_plan",
    "read_toml",
    "table_of",
]

Kind = TypeVar("Kind")


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
        _known(self.augment, Augmentation, "augment")

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
    return table_of(Config, values, str(file))


def read_toml(file: Path) -> dict[str, Any]:
    """The values of a TOML file, over those of the file beside it that its key `extends` names, table by table.

    Raises InputError for a file that cannot be read, and for one that is extended and extends another.
    """
    values = _parsed(file)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str) or "extends" in (below := _parsed(file.parent / base)):
        raise InputError(
            f"{file}: extends is the name of one configuration in the same folder, which extends no other; got {base!r}: "
            "name the file that holds all the rest"
        )
    return _merged(below, values)


def _parsed(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"the configuration {file} cannot be read: {error}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    tables = {k for k in above if isinstance(above[k], dict) and isinstance(below.get(k), dict)}
    return {**below, **above, **{k: _merged(below[k], above[k]) for k in tables}}


def plan(values: Mapping[str, Any], base: Plan, where: str) -> Plan:
    """`base` with what a table of the file changes."""
    values = renamed(values)
    _known(values, Plan, where)
    return _made(lambda: replace(base, **values), where)


def prune_plan(values: Mapping[str, Any], base: Plan, where: str) -> PrunePlan:
    """A table of pruning, with the plan of its retraining."""
    retrain = plan(values.get("retrain", {}), base, f"{where}.retrain")
    return table_of(PrunePlan, {**values, "retrain": retrain}, where)


def members_of(values: Any, base: Plan, where: str, **defaults: Any) -> dict[str, MemberPlan]:
    """The tables of members by name; what each changes in a plan is checked too. defaults: where they differ from
    `MemberPlan`'s."""
    if not isinstance(values, Mapping) or not all(isinstance(v, Mapping) for v in values.values()):
        raise InputError(
            f"{where}: expected tables, [{where.split(': ')[-1]}.NAME] with an architecture; got {values!r}"
        )
    for name, member in values.items():
        plan(member.get("plan", {}), base, f"{where}.{name}.plan")
    return {name: table_of(MemberPlan, {**defaults, **v}, f"{where}.{name}") for name, v in values.items()}


def table_of(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """A table of the file as a dataclass; lists become tuples. Raises InputError for keys or values that mean nothing, and for
    keys that are missing."""
    _known(values, kind, where)
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where}: {', '.join(missing)} is missing: give every table its {' and '.join(needed)}")
    return _made(lambda: kind(**{k: _frozen(v) for k, v in values.items()}), where)


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return {k: _frozen(v) for k, v in value.items()} if isinstance(value, dict) else value


def _made(make: Callable[[], Kind], where: str) -> Kind:
    try:
        return make()
    except (TypeError, ValueError, CxrEdgeError) as error:
        raise InputError(f"{where}: {error}") from error


def _known(values: Mapping[str, Any], kind: type, where: str) -> None:
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if set(values) - set(known):
        raise InputError(f"{where}: unknown keys {sorted(set(values) - set(known))}; known are {sorted(known)}")
