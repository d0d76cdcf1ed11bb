"""Results of a FLANNEL run, as results.json holds them: `results` makes them, `tables` and `report` print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.metrics import Figure, ModelFigures
from training.evaluation.statistics import Comparison
from training.evaluation.unseen import UnseenResults
from training.json_records import OPTIONAL, named, spread
from training.recipes.page import RunResults

__all__ = [
    "Calibration",
    "FindingCount",
    "FoldComparison",
    "FoldDifferences",
    "Method",
    "NetworkSize",
    "Results",
    "Scores",
    "SizedNetwork",
    "Summary",
    "Temperature",
]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Table 3's columns and the abstract's two, of one model or over the folds' models."""

    f1: Mapping[str, float] = field(metadata=spread())  # by label
    macro: float  # mean of the labels' F1
    precision: float  # of the positive label, as recall
    recall: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A method on one set of test images."""

    images: int
    folds: tuple[Scores, ...]
    mean: Scores
    sd: Scores  # sample standard deviation
    together: ModelFigures  # of the mean of the folds' models' probabilities


@dataclass(frozen=True, kw_only=True)
class Method(Summary):
    """A method on all test images."""

    ap: Summary | None  # on those with an AP view; None if there are none


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Means over the folds."""

    parameters: float
    macs: float


@dataclass(frozen=True, kw_only=True)
class SizedNetwork:
    """A learner or baseline with its size, as means over the folds (pruned sizes differ)."""

    architecture: str
    parameters: float
    macs: float
    unpruned: NetworkSize | None = field(default=None, metadata=OPTIONAL)  # of a pruned learner

    @property
    def size(self) -> NetworkSize:
        return NetworkSize(parameters=self.parameters, macs=self.macs)


@dataclass(frozen=True, kw_only=True)
class FindingCount:
    """Images of one source and finding, with the label that the finding became."""

    source: str
    finding: str
    label: str
    images: int


@dataclass(frozen=True, kw_only=True)
class FoldDifferences:
    """Differences in macro-F1 between two methods, over the folds' models."""

    mean: float
    sd: float
    wins: int  # folds with a difference above 0


@dataclass(frozen=True, kw_only=True)
class FoldComparison(Comparison):
    """Two methods, the folds' models together and per fold."""

    positive_f_difference: Figure = field(metadata=named("covid_f_difference"))  # the key of version 0.1
    macro_f_by_fold: FoldDifferences


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Means over the folds on test images; largest: over all folds."""

    log_loss: float
    calibration_error: float
    largest: float  # probability


@dataclass(frozen=True, kw_only=True)
class Temperature:
    """FLANNEL's calibration with and without its temperature."""

    most: float  # upper bound of the module's probabilities
    raw: Calibration
    scaled: Calibration
    temperatures: tuple[float, ...]  # of the folds


@dataclass(frozen=True, kw_only=True)
class Results(RunResults):
    """All results of a run."""

    view: str
    learners: tuple[str, ...]
    baselines: tuple[str, ...]
    pruned: bool
    fitted_on: str
    data: Mapping[str, tuple[int, ...]]  # row of Table 1 -> total, then images per label
    findings: tuple[FindingCount, ...]
    finding_table: str = "full"  # files of version 0.1 lack this and the next
    dropped: Mapping[str, int] = field(default_factory=dict)  # reason -> images
    leakage: Mapping[str, Any]  # leakage.json
    divided_by_folds: int  # patients
    networks: Mapping[str, SizedNetwork]
    methods: Mapping[str, Method]
    best_learner: str
    validation_macro_f1: Mapping[str, tuple[float, ...]]  # method -> per fold
    chosen_fold: int
    comparisons: tuple[FoldComparison, ...]
    weights: Mapping[str, Mapping[str, float]]  # true label -> learner -> mean weight of the module
    temperature: Temperature
    outside: Mapping[str, Mapping[str, Figure]]  # "source, label" -> method -> share predicted as positive
    unseen: UnseenResults | None = field(default=None, metadata=OPTIONAL)  # on the same images, if a label is guarded

    @property
    def flannel(self) -> Method:
        """FLANNEL itself among the methods."""
        return self.methods["flannel"]
