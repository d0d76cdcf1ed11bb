"""Figures of a bundle's degraded modes on one side of a split: the members' logits in, a row per subset out, and pages.

The logits are those of the deployed path: every file goes through the host pipeline with the fp32 reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.calibration.figures import outcomes
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import reference
from cxr_edge.screening.pipeline import HostPipeline
from cxr_edge.site.mode_figures import KnownImages
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.combination import Combination
from training.data.dataset import Sample
from training.evaluation.finding_metrics import FindingPredictions, decided, findings_figures
from training.evaluation.metrics import Bootstrap, Figure, Predictions, figures, interval, proportion
from training.evaluation.results import BundleName
from training.markdown import table

__all__ = [
    "HEADING",
    "DegradedResults",
    "ModeRow",
    "deployed_logits",
    "finding_rows",
    "label_rows",
    "modes_section",
    "results_page",
    "results_section",
]

HEADING = "## Without one or two members"
_HOW = (
    "A member whose engine cannot be loaded, whose output is not finite, or that misses `--deadline-ms` is left out, and the "
    "others decide by a combination, temperatures, thresholds and limits of their own, fitted on validation patients."
)


@dataclass(frozen=True, kw_only=True)
class ModeRow:
    """Figures of some members on one side; shares are of images."""

    members: tuple[str, ...]
    images: int
    patients: int
    macro_f1: Figure
    macro_auc: Figure
    sensitivity: Figure | None = None  # of the guarded label
    specificity: Figure | None = None  # of the guarded label, on all images without it
    answered: Figure | None = None
    wrong: Figure | None = None  # among the answers


@dataclass(frozen=True, kw_only=True)
class DegradedResults:
    """Figures of all members and of every degraded mode."""

    bundle: BundleName
    guard: str | None
    seed: int
    resamples: int
    sides: Mapping[str, tuple[ModeRow, ...]]  # `validation`, which fitted the modes, and `test`; all members first


def deployed_logits(bundle: Bundle, samples: Sequence[Sample], *, threads: int) -> npt.NDArray[np.float32]:
    """Return the members' logits (N, members, labels) on the samples' files. Raises InputError for a file that cannot be read."""
    pipeline = HostPipeline(bundle.manifest, reference(bundle, threads=1), threads=1)

    def logits(sample: Sample) -> npt.NDArray[np.float32]:
        return pipeline.run(decode(sample.record.path)).logits

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(logits, samples)))


def label_rows(manifest: Manifest, images: KnownImages, guard: str | None, draws: Bootstrap) -> tuple[ModeRow, ...]:
    """Return the rows of a bundle whose labels exclude each other."""
    point = OperatingPoint(decision=manifest.decision, budget=manifest.budget)
    names = tuple(m.name for m in manifest.members)
    whole = [(names, manifest.combination, point)]
    modes = [(mode.members, mode.combination, mode.point) for mode in manifest.degraded]
    return tuple(_label_row(manifest, images, guard, draws, *mode) for mode in [*whole, *modes])


def _label_row(
    manifest: Manifest,
    images: KnownImages,
    guard: str | None,
    draws: Bootstrap,
    members: tuple[str, ...],
    combination: Combination,
    point: OperatingPoint,
) -> ModeRow:
    cases = images.cases(combination, [k for k, m in enumerate(manifest.members) if m.name in members])
    found, known = outcomes(cases, point.decision, point.budget), cases.true >= 0
    of_labels = figures(
        Predictions(
            true=cases.true[known],
            predicted=found.decided[known],
            probabilities=cases.probabilities[known].astype(np.float64),
            patients=cases.patients[known],
        ),
        manifest.labels,
        draws,
    )
    k = -2 if guard is None else manifest.labels.index(guard)
    called, own, answered = found.decided == k, cases.true == k, found.answered & known
    wrong = answered & (found.decided != cases.true)
    return ModeRow(
        members=members,
        images=of_labels.images,
        patients=of_labels.patients,
        macro_f1=of_labels.macro_f1,
        macro_auc=of_labels.macro_auc,
        sensitivity=None if guard is None else _share(called, own),
        specificity=None if guard is None else _share(~called, ~own),
        answered=None if point.budget is None else _share(answered, known),
        wrong=None if point.budget is None else _share(wrong, answered),
    )


def finding_rows(
    manifest: Manifest,
    logits: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    patients: npt.NDArray[np.str_],
    draws: Bootstrap,
) -> tuple[ModeRow, ...]:
    """Return the rows of a bundle of findings. logits: (N, members, labels). truth: (N, labels), NaN where unknown."""
    nowhere = np.zeros(len(truth), dtype=np.int64)
    images = KnownImages(labels=manifest.labels, logits=logits, true=nowhere, patients=patients)
    names = tuple(m.name for m in manifest.members)
    rows = []
    whole = [(names, manifest.combination, manifest.decision)]
    for members, combination, decision in [
        *whole,
        *((m.members, m.combination, m.decision) for m in manifest.degraded),
    ]:
        columns = [k for k, name in enumerate(names) if name in members]
        p = images.cases(combination, columns).probabilities.astype(np.float64)
        predictions = FindingPredictions(
            truth=truth, present=decided(p, decision, manifest.labels), probabilities=p, patients=patients
        )
        found = findings_figures(predictions, manifest.labels, draws)
        rows.append(
            ModeRow(
                members=members,
                images=found.images,
                patients=found.patients,
                macro_f1=found.macro_f1,
                macro_auc=found.macro_auroc,
            )
        )
    return tuple(rows)


def _share(hits: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_]) -> Figure:
    return proportion(int((hits & among).sum()), int(among.sum()))


def modes_section(manifest: Manifest) -> list[str]:
    """Return the section of a model card from what the manifest holds: figures on validation; empty without modes."""
    if not manifest.degraded:
        return []
    first = manifest.degraded[0]
    names = list(first.figures_of_all.by_name())
    rows = [["all", *(f"{v:.3f}" for v in first.figures_of_all.by_name().values())]]
    for mode in manifest.degraded:
        own = mode.figures.by_name()
        rows.append([", ".join(mode.members), *(f"{own[name]:.3f}" if name in own else "-" for name in names)])
    titles = [_title(name, first.guard) for name in names]
    return [HEADING, f"{_HOW} On {first.measured_on}, which fitted them:", table(["members", *titles], rows)]


def _title(name: str, guard: str | None) -> str:
    return f"{name} {guard}" if name in ("sensitivity", "specificity") else name.replace("_", "-").replace("f1", "F1")


def results_section(found: DegradedResults) -> list[str]:
    """Return the section of a model card or page, with the figures of both sides."""
    parts = [HEADING, _HOW]
    for side, rows in found.sides.items():
        fitted = ", whose images fitted the modes" if side == "validation" else ""
        head = f"On {rows[0].images} images of {rows[0].patients} {side} patients{fitted}:"
        parts += [head, _table(rows, found.guard)]
    parts.append(
        f"95 % intervals: exact for shares of images, {found.resamples} bootstrap draws of patients for F1 and AUC. Specificity "
        "counts images of findings that are no label, too."
    )
    return parts


def _table(rows: Sequence[ModeRow], guard: str | None) -> str:
    columns = [
        name for name in ("sensitivity", "specificity", "answered", "wrong") if getattr(rows[0], name) is not None
    ]
    titles = [_title(name, guard) if name != "wrong" else "wrong among answers" for name in columns]
    cells = (
        [
            ", ".join(row.members),
            interval(row.macro_f1),
            interval(row.macro_auc),
            *(interval(getattr(row, name)) for name in columns),
        ]
        for row in rows
    )
    return table(["members", "macro-F1", "macro-AUC", *titles], cells)


def results_page(found: DegradedResults) -> str:
    """Return the page of docs/results."""
    title = f"# Degraded modes of {found.bundle.name} {found.bundle.version}"
    how = (
        "`python -m training.degraded --out docs/results/degraded`: files of the run's patients through the deployed path, fp32 "
        f"reference, split seed {found.seed}. [What the modes are](../degraded.md)."
    )
    return "\n\n".join([title, how, *results_section(found)[1:]]) + "\n"
