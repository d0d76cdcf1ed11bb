"""Results of an evaluation, as files hold them: figures of a bundle on test patients, and of members on an unseen site.

`bundle` makes them; `pages` and the model card print them. Files of version 0.1, which always guarded
COVID-19, are read, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.data.guard import Guard, Subgroup
from training.evaluation.budget import BudgetFigures
from training.evaluation.gaps import GroupFigures
from training.evaluation.metrics import Figure, ModelFigures
from training.json_records import OPTIONAL, as_json, from_json, named, spread

__all__ = [
    "TOGETHER",
    "BundleName",
    "Evaluation",
    "FlagShares",
    "LungFigures",
    "Safety",
    "Shortcuts",
    "Side",
    "SourceClassifier",
    "SourceCounts",
]

TOGETHER = "together"  # name of all sources in a mapping by source


@dataclass(frozen=True, kw_only=True)
class BundleName:
    """The bundle that was evaluated."""

    name: str
    version: str
    manifest_sha256: str


@dataclass(frozen=True, kw_only=True)
class Side:
    """Size of one side of the split."""

    images: int
    patients: int


@dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """Predicted labels of one source's images with one true label."""

    source: str
    label: str
    patients: int
    predicted: Mapping[str, int] = field(metadata=named("said"))  # label -> images
    right: Figure | None  # None if the true label is not a label of the bundle


@dataclass(frozen=True, kw_only=True)
class Safety:
    """The guarded label's false alarms, and how often it is found, by name of the subgroup."""

    groups: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)  # by source, too: specificity
    watch: Mapping[str, Figure] = field(default_factory=dict)  # specificity
    found: Mapping[str, Figure] = field(default_factory=dict)  # sensitivity, of watched groups of images with the label
    areas: Mapping[str, Figure] = field(default_factory=dict)  # AUC within the subgroup

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object: a key per subgroup."""
        shares = {f"specificity_{name}": as_json(v) for name, v in (*self.groups.items(), *self.watch.items())}
        shares |= {f"sensitivity_{name}": as_json(v) for name, v in self.found.items()}
        return {**shares, **{f"auc_among_{name}": as_json(v) for name, v in self.areas.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str) -> Safety:
        """Read the JSON object; a subgroup by source is an object of figures."""
        groups, watch, found, areas = {}, {}, {}, {}
        for key, value in content.items():
            kind, _, name = key.partition("_among_" if key.startswith("auc") else "_")
            if kind == "auc":
                areas[name] = from_json(Figure, value, f"{where}{key}.")
            elif kind == "sensitivity":
                found[name] = from_json(Figure, value, f"{where}{key}.")
            elif "value" in value:
                watch[name] = from_json(Figure, value, f"{where}{key}.")
            else:
                groups[name] = {k: from_json(Figure, v, f"{where}{key}.{k}.") for k, v in value.items()}
        return cls(groups=groups, watch=watch, found=found, areas=areas)


@dataclass(frozen=True, kw_only=True)
class FlagShares:
    """Shares of flagged images, and accuracy by flag."""

    lung_box_failed: Figure
    uncertain: Figure
    accuracy_uncertain: Figure
    accuracy_others: Figure


@dataclass(frozen=True, kw_only=True)
class LungFigures:
    """Agreement of the segmenter with masks, means over images."""

    images: int
    dice: float
    iou: float
    worst_dice: float


@dataclass(frozen=True, kw_only=True)
class SourceClassifier:
    """A linear classifier of the source, on one group of images."""

    sources: tuple[str, ...]
    chance: float  # 1 / sources
    balanced_accuracy: Figure


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Shortcut checks."""

    sources: Mapping[str, SourceClassifier] = field(metadata=named("source_told"))  # by group of images
    lungs_painted_over: ModelFigures | None = field(default=None, metadata=OPTIONAL)  # None without a segmenter
    # By member and group of images: the same classifier on the member's penultimate features.
    member_sources: Mapping[str, Mapping[str, SourceClassifier]] = field(default_factory=dict)
    # By member: mean share of the guarded label's positive activation inside the lungs, on images with that label.
    lung_share: Mapping[str, Figure] = field(default_factory=dict)
    lung_area: Figure | None = field(default=None, metadata=OPTIONAL)  # mean share of the canvas, on the same images
    # The guarded label's AUC on those, by subgroup.
    blind_areas: Mapping[str, Figure] = field(default_factory=dict, metadata=spread("lungs_painted_over_auc_among_"))


def _guard_of_0_1() -> Guard:
    groups = {"adult_normals": Subgroup(label="normal", adult=True)}
    watch = {"children": Subgroup(adult=False), "tuberculosis": Subgroup(label="tuberculosis")}
    adults = Subgroup(adult=True)
    without = Subgroup(adult=True, without=("tuberculosis",))
    areas = {"adults": adults, "adults_without_tuberculosis": without}
    return Guard(label="covid-19", groups=groups, watch=watch, auc_groups=areas)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All results of a bundle on test patients."""

    bundle: BundleName
    preset: str
    split: str
    seed: int
    resamples: int
    labels: tuple[str, ...]
    guard: Guard | None = field(default_factory=_guard_of_0_1)
    reference: str  # description of the engines
    sides: Mapping[str, Side]
    models: Mapping[str, ModelFigures]
    sources: tuple[SourceCounts, ...]
    safety: Safety  # empty without a guarded label
    # Attribute (view, age, sex) -> group of adults -> figures of the guarded label; empty without one.
    gaps: Mapping[str, Mapping[str, GroupFigures]] = field(default_factory=dict)
    flags: FlagShares
    lungs: Mapping[str, LungFigures]  # by source; empty without a segmenter
    shortcuts: Shortcuts
    budget: BudgetFigures | None = field(default=None, metadata=OPTIONAL)  # None: the bundle has none
