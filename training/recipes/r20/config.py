"""What a run of R20's pipeline is made of: a TOML file in, checked values out. configs/r20-*.toml hold only differences.

The preset settles what the paper, its code and good practice do differently; the tables of the file settle sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cxr_edge.errors import InputError
from cxr_edge.specs.preprocess import PreprocessSpec, preset
from training.config import plan, prune_plan
from training.data.splits import R20_SHARES, SHARES, Side
from training.loop.plan import Plan
from training.loop.search import SearchPlan
from training.models import NetworkSpec
from training.models.networks import COVID_NETS
from training.pruning.prune import PrunePlan
from training.recipes.config import MemberPlan, RunConfig, parse_members
from training.tasks.classify import Balance
from training.toml_tables import parse_table, read_toml

__all__ = ["R20Config", "load_r20"]

_SHARES: Mapping[str, Mapping[Side, float]] = {"r20": R20_SHARES, "starter": SHARES}


@dataclass(frozen=True, kw_only=True)
class R20Config(RunConfig):
    """preset: `sane` draws balanced and chooses by score; `paper` and `code` have class weights, no augmentation, and choose
    by loss.

    shares: of the sides, `r20` (81/9/10) or `starter`. modality_sources, task_sources: which sources a stage trains on;
    none means all. top: how many members go on after the modality stage. paper_weights: of the weighted average as
    printed, the best member first. cam_cases: rows of the Grad-CAM picture. compare_with: a bundle (or `starter`) that
    is run on the same test images; one of another split is named on the page and not compared. networks: a run folder
    of the same split whose trained members (by name) are pruned, in place of the modality and task stages. members: by
    name. binary: None skips normal against COVID-19.
    """

    shares: Literal["r20", "starter"] = "r20"
    labels: tuple[str, ...] = ("normal", "bacterial", "covid-19")
    modality_sources: tuple[str, ...] = ()
    task_sources: tuple[str, ...] = ()
    top: int = 3
    paper_weights: tuple[float, ...] = (0.5, 0.3, 0.2)
    cam_cases: int = 4
    compare_with: str | None = None
    networks: str | None = None
    members: dict[str, MemberPlan] = field(default_factory=dict)
    modality: Plan = field(default_factory=lambda: Plan(epochs=32))
    binary: Plan | None = None
    multiclass: Plan = field(default_factory=lambda: Plan(epochs=32))
    prune: PrunePlan = field(default_factory=PrunePlan)
    search: SearchPlan | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shares not in _SHARES:
            raise InputError(f"shares are r20 or starter, got {self.shares!r}")
        if not self.members or self.top < 1:
            raise InputError("give at least one member ([members.NAME] with an architecture) and top = 1 or more")

        for name, m in self.members.items():
            if m.architecture in COVID_NETS and not m.head_maps:
                raise InputError(
                    f"members.{name}: {m.architecture} with head_maps = 0 ends in dense layers on flattened maps, and has no "
                    "class activation map: give head_maps, 1024 as the paper, for R20's head on its trunk"
                )

    @property
    def side_shares(self) -> Mapping[Side, float]:
        return _SHARES[self.shares]

    @property
    def balance(self) -> Balance:
        return "draw" if self.preset == "sane" else "weigh"

    @property
    def member_spec(self) -> PreprocessSpec:
        """What every member sees: the lung box, prepared as the preset says, at `canvas_px`."""
        spec = preset("sane" if self.preset == "sane" else f"rajaraman-{self.preset}")
        return replace(spec, region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px)

    def network(self, member: str, labels: int) -> NetworkSpec:
        """The spec of a member with so many labels."""
        return self.members[member].network(labels, self.member_spec.channels)


def load_r20(file: Path) -> R20Config:
    """Read a TOML file. Raises InputError for a file that is not there and for keys or values that mean nothing."""
    values = read_toml(file)
    base = Plan(epochs=32, threads=values.get("threads", 2), seed=values.get("training_seed", values.get("seed", 1)))
    for stage in ("segmenter", "modality", "binary", "multiclass"):
        if stage in values:
            values[stage] = plan(values[stage], base, f"{file}: {stage}")
    for stage in ("prune", "prune_segmenter"):
        if stage in values:
            values[stage] = prune_plan(values[stage], base, f"{file}: {stage}")
    if "search" in values:
        values["search"] = parse_table(SearchPlan, values["search"], f"{file}: search")
    values["members"] = parse_members(values.get("members", {}), base, f"{file}: members")
    return parse_table(R20Config, values, str(file))
