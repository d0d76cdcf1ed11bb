"""Results of a multi-label bundle on test patients, as files hold them: `finding_bundle` makes, `finding_pages` prints them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.data.guard import Subgroup
from training.evaluation.finding_metrics import FindingsModelFigures
from training.evaluation.metrics import Figure
from training.evaluation.results import BundleName, LungFigures, Side, SourceClassifier
from training.json_records import OPTIONAL

__all__ = ["FindingCounts", "FindingGroup", "FindingsEvaluation", "GroupFinding"]


@dataclass(frozen=True, kw_only=True)
class FindingCounts:
    """Images of one side by what is known of one finding."""

    present: int
    absent: int
    unknown: int  # trained and evaluated on other findings only


@dataclass(frozen=True, kw_only=True)
class GroupFinding:
    """Figures of one finding in one group of images, over those in which it is known."""

    known: int
    present: int
    auroc: Figure
    sensitivity: Figure  # at the bundle's threshold
    specificity: Figure


@dataclass(frozen=True, kw_only=True)
class FindingGroup:
    """Figures in one group of images, such as one source."""

    images: int
    patients: int
    labels: Mapping[str, GroupFinding]


@dataclass(frozen=True, kw_only=True)
class FindingsEvaluation:
    """All results of a multi-label bundle on test patients."""

    bundle: BundleName
    multi_label: bool = True  # tells the file from that of a single-label bundle
    preset: str
    split: str
    seed: int
    resamples: int
    labels: tuple[str, ...]
    reference: str  # description of the engines
    sides: Mapping[str, Side]
    counts: Mapping[str, Mapping[str, FindingCounts]]  # side -> finding
    thresholds: Mapping[str, float]  # finding -> threshold
    models: Mapping[str, FindingsModelFigures]
    groups: Mapping[str, Mapping[str, FindingGroup]]  # attribute (source, view, age, sex, watch) -> group
    lung_box_failed: Figure  # share of images
    uncertain: Figure
    lungs: Mapping[str, LungFigures]  # by source; empty without a segmenter of this run
    sources: Mapping[str, SourceClassifier]  # a linear classifier of the source, by group of images
    watch: Mapping[str, Subgroup] = field(default_factory=dict)  # the groups of `groups["watch"]`, with their floors
    lungs_painted_over: FindingsModelFigures | None = field(default=None, metadata=OPTIONAL)
    # Member -> finding -> mean share of the finding's positive activation (CAM) inside the lungs, on images with the finding.
    lung_share: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    # Finding -> mean share of the canvas that the lungs cover, on the same images: what activation without any aim would have.
    lung_area: Mapping[str, Figure] = field(default_factory=dict)
    engines: str | None = field(default=None, metadata=OPTIONAL)  # description, of engines compared with the reference
    same_decision: Figure | None = field(
        default=None, metadata=OPTIONAL
    )  # share of images with the reference's findings
