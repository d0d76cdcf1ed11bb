"""Results of an R20 run, as results.json holds them: `results` makes them, `tables` and `report` print them.

A stage that was not run has no key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.statistics import Comparison, PaperRow
from training.evaluation.unseen import UnseenResults
from training.json_records import OPTIONAL
from training.pruning.prune import Step
from training.recipes.page import RunResults

__all__ = [
    "CamAgreement",
    "EnsembleRows",
    "FittedCombination",
    "Hyperparameters",
    "PrunedMember",
    "Results",
    "SideCounts",
    "Single",
]


@dataclass(frozen=True, kw_only=True)
class SideCounts:
    """Size of one side of the split."""

    images: int
    patients: int
    labels: Mapping[str, int]  # label of the task -> images


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """A row of Table 2."""

    momentum: float | None  # None for optimizers without
    learning_rate: float
    weight_decay: float
    dropout: float
    optimizer: str
    activation: str
    trials: int  # of the search; 0 if set


@dataclass(frozen=True, kw_only=True)
class Single:
    """A network on one task."""

    row: PaperRow
    parameters: int


@dataclass(frozen=True, kw_only=True)
class EnsembleRows:
    """Rows of the ensembles, by strategy."""

    unpruned: Mapping[str, PaperRow]
    pruned: Mapping[str, PaperRow] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class FittedCombination:
    """Parameters of a combination, without those of stacking, which are in the bundle."""

    member_temperatures: tuple[float, ...]
    temperature: float
    weights: tuple[float, ...] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class PrunedMember:
    """A member before and after pruning. milliseconds: None if not measured."""

    row: PaperRow
    unpruned_row: PaperRow
    step: int  # selected
    folder: str  # of its network, in the run folder
    channels: int
    parameters: int
    macs: int
    milliseconds: float | None
    unpruned_channels: int
    unpruned_parameters: int
    unpruned_macs: int
    unpruned_milliseconds: float | None
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class CamAgreement:
    """Mean agreement of a member's gradient-free class activation map with Grad-CAM."""

    label: str = "COVID-19"  # files of version 0.1 lack it
    images: int
    correlation: float
    top_overlap: float


@dataclass(frozen=True, kw_only=True)
class Results(RunResults):
    """All results of a run; mappings are by member unless noted."""

    sides: Mapping[str, SideCounts]  # by side
    leakage: Mapping[str, Any]  # leakage.json
    hyperparameters: Mapping[str, Hyperparameters]
    modality: Mapping[str, Single] | None = field(default=None, metadata=OPTIONAL)
    binary: Mapping[str, Single] | None = field(default=None, metadata=OPTIONAL)
    multiclass: Mapping[str, Single] | None = field(default=None, metadata=OPTIONAL)
    segmenter_steps: tuple[Step, ...] | None = field(default=None, metadata=OPTIONAL)
    segmenter_step: int | None = field(default=None, metadata=OPTIONAL)  # selected
    ensembles: EnsembleRows | None = field(default=None, metadata=OPTIONAL)
    combinations: Mapping[str, FittedCombination] | None = field(default=None, metadata=OPTIONAL)  # by strategy
    pruned: Mapping[str, PrunedMember] | None = field(default=None, metadata=OPTIONAL)
    comparisons: tuple[Comparison, ...] | None = field(default=None, metadata=OPTIONAL)
    not_compared: str | None = field(default=None, metadata=OPTIONAL)  # reason
    unseen: UnseenResults | None = field(default=None, metadata=OPTIONAL)  # on `unseen_sources`
    cam_agreement: Mapping[str, CamAgreement] | None = field(default=None, metadata=OPTIONAL)

    def stage(self, name: str) -> Mapping[str, Single]:
        """Return the networks of a training stage; empty if it was not run."""
        return {"modality": self.modality, "binary": self.binary, "multiclass": self.multiclass}[name] or {}
