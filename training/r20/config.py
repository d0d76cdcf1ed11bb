"""What a run of R20's pipeline is made of: a TOML file in, checked values out. configs/r20-*.toml hold only differences.

The preset settles what the paper, its code and good practice do differently; the tables of the file settle sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cxr_edge.errors import InputError
from cxr_edge.preprocess import PreprocessSpec, preset
from training.augment import Augmentation
from training.classify import Balance
from training.config import BundleConfig, plan, read_toml, table_of
from training.engine import Plan
from training.models import NetworkSpec
from training.models.networks import is_known, names
from training.prune import PrunePlan
from training.search import SearchPlan
from training.splits import R20_SHARES, SHARES, Preset, Side, Unit

__all__ = ["MemberPlan", "R20Config", "load_r20"]

_SHARES: Mapping[str, Mapping[Side, float]] = {"r20": R20_SHARES, "starter": SHARES}


@dataclass(frozen=True, kw_only=True)
class MemberPlan:
    """architecture, head_maps, dropout: as in `NetworkSpec`. imagenet: `hub`, a file of weights, or None for random.
    plan: what this member changes in the plan of every stage.
    """

    architecture: str
    head_maps: int = 1024
    dropout: float = 0.5
    imagenet: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_known(self.architecture):
            raise InputError(
                f"no architecture is called {self.architecture!r}: choose from {', '.join(names())}, or timm:NAME"
            )


@dataclass(frozen=True, kw_only=True)
class R20Config(BundleConfig):
    """preset: `sane` (patients apart, augmentation, balanced drawing, chosen by score), `paper` or `code` (class weights, no
    augmentation, chosen by loss; `code` splits by image, as the published code, and shows the leak).

    collections, views: which are read, or None for the default collections and all frontal views. shares: of the sides,
    `r20` (81/9/10) or `starter`. modality_sources, task_sources: which sources a stage trains on; none means all. top: how
    many members go on after the modality stage. epoch_images: images drawn an epoch in `sane`. segmenter_architecture: a
    name of `SEGMENTERS`. paper_weights: of the weighted average as printed, the best member first. cam_cases: rows of the
    Grad-CAM picture. compare_with: a bundle (or `starter`) of the same split that is asked of the same test images.
    networks: a run folder of the same split whose trained members (by name) are pruned, in place of the modality and task
    stages. members: by name. binary: None skips normal against COVID-19. prune_segmenter: None leaves the segmenter whole.
    """

    preset: Preset = "sane"
    collections: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    shares: Literal["r20", "starter"] = "r20"
    labels: tuple[str, ...] = ("normal", "bacterial", "covid-19")
    modality_sources: tuple[str, ...] = ()
    task_sources: tuple[str, ...] = ()
    top: int = 3
    epoch_images: int | None = None
    segmenter_architecture: str = "lung-unet"
    paper_weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    cam_cases: int = 4
    compare_with: str | None = None
    networks: str | None = None
    members: dict[str, MemberPlan] = field(default_factory=dict)
    modality: Plan = field(default_factory=lambda: Plan(epochs=32))
    binary: Plan | None = None
    multiclass: Plan = field(default_factory=lambda: Plan(epochs=32))
    prune: PrunePlan = field(default_factory=PrunePlan)
    prune_segmenter: PrunePlan | None = None
    search: SearchPlan | None = None

    def __post_init__(self) -> None:
        if self.preset not in ("sane", "paper", "code") or self.shares not in _SHARES:
            raise InputError(
                f"the preset is sane, paper or code and shares are r20 or starter, got {self.preset!r}, {self.shares!r}"
            )
        if not self.members or self.top < 1:
            raise InputError("give at least one member ([members.NAME] with an architecture) and top = 1 or more")

    @property
    def side_shares(self) -> Mapping[Side, float]:
        return _SHARES[self.shares]

    @property
    def unit(self) -> Unit:
        """What a split keeps together."""
        return "image" if self.preset == "code" else "group"

    @property
    def balance(self) -> Balance:
        return "draw" if self.preset == "sane" else "weigh"

    @property
    def augmentation(self) -> Augmentation | None:
        return Augmentation() if self.preset == "sane" else None

    @property
    def by_loss(self) -> bool:
        return self.preset != "sane"

    @property
    def member_spec(self) -> PreprocessSpec:
        """What every member sees: the lung box, prepared as the preset says, at `canvas_px`."""
        spec = preset("sane" if self.preset == "sane" else f"rajaraman-{self.preset}")
        return replace(spec, region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px)

    def network(self, member: str, labels: int) -> NetworkSpec:
        """The spec of a member with so many labels."""
        m = self.members[member]
        return NetworkSpec(
            architecture=m.architecture,
            labels=labels,
            channels=self.member_spec.channels,
            head_maps=m.head_maps,
            dropout=m.dropout,
        )


def load_r20(file: Path) -> R20Config:
    """Read a TOML file. Raises InputError for a file that is not there and for keys or values that mean nothing."""
    values = read_toml(file)
    base = Plan(epochs=32, threads=values.get("threads", 2), seed=values.get("seed", 1))
    for stage in ("segmenter", "modality", "binary", "multiclass"):
        if stage in values:
            values[stage] = plan(values[stage], base, f"{file}: {stage}")
    for stage in ("prune", "prune_segmenter"):
        if stage in values:
            values[stage] = _prune_plan(values[stage], base, f"{file}: {stage}")
    if "search" in values:
        values["search"] = table_of(SearchPlan, values["search"], f"{file}: search")
    members = values.get("members", {})
    for name, member in members.items():
        plan(member.get("plan", {}), base, f"{file}: members.{name}.plan")
    values["members"] = {name: table_of(MemberPlan, v, f"{file}: members.{name}") for name, v in members.items()}
    return table_of(R20Config, values, str(file))


def _prune_plan(values: Mapping[str, Any], base: Plan, where: str) -> PrunePlan:
    retrain = plan(values.get("retrain", {}), base, f"{where}.retrain")
    return table_of(PrunePlan, {**values, "retrain": retrain}, where)
