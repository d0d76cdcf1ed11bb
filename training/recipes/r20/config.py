"""Configuration of R20's pipeline: a TOML file in, a validated dataclass out.

The preset selects between the paper, its code and good practice where they differ; the tables of the file give sizes and
training plans. configs/r20-*.toml have only the values that differ from the defaults.
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
from training.data.targets import Target
from training.loop.plan import Plan
from training.loop.search import SearchPlan
from training.models import NetworkSpec
from training.models.networks import COVID_NETS
from training.pruning.prune import PrunePlan
from training.recipes.config import MemberPlan, RunConfig, parse_members, parse_segmenter
from training.recipes.r20.tasks import binary
from training.tasks.classify import Balance
from training.toml_tables import parse_table, read_toml, require_table

__all__ = ["R20Config", "load_r20"]

_SHARES: Mapping[str, Mapping[Side, float]] = {"r20": R20_SHARES, "starter": SHARES}


@dataclass(frozen=True, kw_only=True)
class R20Config(RunConfig):
    """Configuration of an R20 run.

    Preset `sane` draws balanced batches and selects epochs by score. `paper` and `code` use class weights and no augmentation,
    and select by loss.
    """

    shares: Literal["r20", "starter"] = "r20"  # of the sides; `r20` is 81/9/10
    labels: tuple[str, ...] = ("normal", "bacterial", "covid-19")
    modality_sources: tuple[str, ...] = ()  # sources that the modality stage trains on; empty for all
    task_sources: tuple[str, ...] = ()  # sources that the task stages train on; empty for all
    top: int = 3  # number of members that are trained further after the modality stage
    cam_cases: int = 4  # rows of the Grad-CAM picture
    # A bundle (or `starter`) to run on the same test images; one of another split is named on the page and not compared.
    compare_with: str | None = None
    # Run folder of the same split with trained members (by name) to prune, instead of the modality and task stages.
    networks: str | None = None
    members: dict[str, MemberPlan] = field(default_factory=dict)  # by name
    modality: Plan = field(default_factory=lambda: Plan(epochs=32))
    binary: Plan | None = None  # None skips normal against the guarded label
    multiclass: Plan = field(default_factory=lambda: Plan(epochs=32))
    prune: PrunePlan = field(default_factory=PrunePlan)
    search: SearchPlan | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shares not in _SHARES:
            raise InputError(f"shares are r20 or starter, got {self.shares!r}")
        if not self.members or self.top < 1:
            raise InputError("give at least one member ([members.NAME] with an architecture) and top = 1 or more")

        if self.binary is not None and self.guard is None:
            raise InputError("[binary] trains normal against the guarded label: name it (guard), or leave [binary] out")
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
        """Preprocessing of every member: the lung box at `canvas_px`, normalised as in the preset."""
        spec = preset("sane" if self.preset == "sane" else f"rajaraman-{self.preset}")
        return replace(spec, region="lungs", canvas_px=self.canvas_px, crop_px=self.canvas_px)

    @property
    def binary_target(self) -> Target:
        """The binary stage's task: normal against the guarded label."""
        if self.guarded is None:
            raise InputError("the binary stage needs a guarded label")
        task = binary(self.guarded.label, self.guarded)
        return replace(task, renamed=self.target_of(task.labels).renamed)

    def network(self, member: str, labels: int) -> NetworkSpec:
        """Return the spec of a member with this number of labels."""
        return self.members[member].network(labels, self.member_spec.channels)


def load_r20(file: Path) -> R20Config:
    """Load a TOML file. Raises InputError for a missing file, unknown keys and invalid values."""
    values = read_toml(file)
    base = Plan(epochs=32, threads=values.get("threads", 2), seed=values.get("training_seed", values.get("seed", 1)))
    parse_segmenter(values, base, file)
    for stage in ("modality", "binary", "multiclass"):
        if stage in values:
            values[stage] = plan(values[stage], base, f"{file}: {stage}")
    if "prune" in values:
        values["prune"] = prune_plan(values["prune"], base, f"{file}: prune")
    if "search" in values:
        require_table(values["search"], f"{file}: search")
        of_search = {k: v for k, v in values["search"].items() if k != "stale_s"}  # of version 0.1's heartbeats
        values["search"] = parse_table(SearchPlan, of_search, f"{file}: search")
    values["members"] = parse_members(values.get("members", {}), base, f"{file}: members")
    return parse_table(R20Config, values, str(file))
