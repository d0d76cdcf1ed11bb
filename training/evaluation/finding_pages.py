"""Results of a multi-label bundle as Markdown: a `FindingsEvaluation` in, tables for docs and the model card out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from training.evaluation.finding_metrics import FindingFigures, FindingsModelFigures
from training.evaluation.finding_results import FindingGroup, FindingsEvaluation
from training.evaluation.floors import floors_section
from training.evaluation.metrics import interval
from training.evaluation.pages import lungs_table
from training.markdown import table

__all__ = [
    "UNKNOWN",
    "counts_table",
    "findings_as_markdown",
    "findings_models_table",
    "findings_table",
    "groups_sections",
    "how_measured",
    "shortcut_sentences",
]

UNKNOWN = (
    "A finding is present, absent or unknown (not stated) in an image. Unknown is not absent: such an image trains, "
    "validates and tests its other findings only, and is in no figure of this one."
)


def counts_table(results: FindingsEvaluation) -> str:
    """Return the images of each side in which a finding is present, absent and unknown."""
    head = ["images present / absent / unknown", *results.counts]
    rows = (
        [label, *(f"{c.present} / {c.absent} / {c.unknown}" for c in (own[label] for own in results.counts.values()))]
        for label in results.labels
    )
    return table(head, rows)


def findings_models_table(results: FindingsEvaluation) -> str:
    """Return macro figures on test patients, one row per model."""
    head = ["model", "images", "patients", "findings", "macro-AUROC", "macro-AUPRC", "macro-F1"]
    return table(
        [*head, "sensitivity at 90 % specificity", "calibration error", "log loss"],
        (
            [name, m.images, m.patients, m.findings]
            + [interval(f) for f in (m.macro_auroc, m.macro_auprc, m.macro_f1, m.macro_sensitivity_at_90)]
            + [interval(m.macro_calibration_error), f"{m.log_loss:.3f}"]
            for name, m in results.models.items()
        ),
    )


def findings_table(results: FindingsEvaluation, model: FindingsModelFigures) -> str:
    """Return figures by finding, one row per finding, with a last row of macro means."""
    head = ["finding", "known", "present", "threshold", "AUROC", "AUPRC (prevalence)", "sensitivity", "specificity"]
    rows = [
        [label, row.known, row.present, f"{results.thresholds[label]:.3f}", *_cells(row)]
        for label, row in model.labels.items()
    ]
    m = model
    macro = [m.macro_auroc, m.macro_auprc, m.macro_sensitivity, m.macro_specificity, m.macro_sensitivity_at_90]
    last = [f"mean of {m.findings}", m.images, "", "", *map(interval, [*macro, m.macro_f1, m.macro_calibration_error])]
    return table([*head, "sensitivity at 90 % specificity", "F1", "calibration error"], [*rows, last])


def _cells(row: FindingFigures) -> list[str]:
    auprc = f"{interval(row.auprc)} ({row.prevalence:.3f})"
    shares = [interval(f) for f in (row.sensitivity, row.specificity, row.sensitivity_at_90)]
    return [interval(row.auroc), auprc, *shares, interval(row.f1), interval(row.calibration_error)]


def groups_sections(results: FindingsEvaluation) -> Iterator[str]:
    """Yield a title and a table for source, view, age and sex, if there are two groups of it, and for the groups to watch."""
    for attribute, groups in results.groups.items():
        if attribute == "watch" or len(groups) > 1:
            yield "## Groups to watch" if attribute == "watch" else f"## By {attribute}"
            yield _groups_table("group" if attribute == "watch" else attribute, groups)


def _groups_table(attribute: str, groups: Mapping[str, FindingGroup]) -> str:
    return table(
        [attribute, "finding", "known", "present", "AUROC", "sensitivity", "specificity"],
        (
            [name, label, f.known, f.present, *map(interval, (f.auroc, f.sensitivity, f.specificity))]
            for name, group in groups.items()
            for label, f in group.labels.items()
        ),
    )


def how_measured(results: FindingsEvaluation) -> str:
    """Return what the figures are of, in a paragraph."""
    sides = "; ".join(f"{side}: {n.images} images of {n.patients} patients" for side, n in results.sides.items())
    return (
        f"Preset `{results.preset}`, split seed {results.seed} ({sides}); {results.split}. {results.reference}, through the "
        "deployed path. 95 % intervals: exact for sensitivity and specificity at the threshold, "
        f"{results.resamples} bootstrap draws of patients for the others. The AUPRC of chance is the prevalence. Means are over "
        f"the findings with both kinds of images. {UNKNOWN}"
    )


def findings_as_markdown(results: FindingsEvaluation) -> str:
    """Return the full evaluation as a page."""
    ensemble = results.models["ensemble"]
    return (
        "\n\n".join(
            [
                f"# Test results of {results.bundle.name} {results.bundle.version}",
                how_measured(results),
                counts_table(results),
                "## Models",
                findings_models_table(results),
                *_engines(results),
                "## By finding, ensemble",
                findings_table(results, ensemble),
                "## By finding, single members",
                "At a threshold of 0.5: a member alone has none of its own.",
                *(f"{n}:\n\n{findings_table(results, m)}" for n, m in results.models.items() if n.endswith(" alone")),
                *groups_sections(results),
                *floors_section(results),
                "## Flags",
                f"Lung box failed: {interval(results.lung_box_failed)} of the images; a present finding uncertain: "
                f"{interval(results.uncertain)}.",
                *_lungs(results),
                "## Shortcuts",
                *shortcut_sentences(results),
                *_where(results),
            ]
        )
        + "\n"
    )


def _engines(results: FindingsEvaluation) -> list[str]:
    if results.engines is None:
        return []
    return [
        f"Engines built here: {results.engines}; same findings as the reference: {interval(results.same_decision)}."
    ]


def _where(results: FindingsEvaluation) -> list[str]:
    """Return where the members' maps are, by finding."""
    if not results.lung_share:
        return []
    rows = (
        [label, interval(area), *(interval(own[label]) for own in results.lung_share.values())]
        for label, area in results.lung_area.items()
    )
    head = ["finding", "the lungs' share of the canvas", *results.lung_share]
    note = "Share of a finding's positive activation (CAM) inside the lungs, on images with it; some findings lie outside them."
    return ["Where members look:", table(head, rows), note]


def _lungs(results: FindingsEvaluation) -> list[str]:
    return ["## Lungs", lungs_table(results)] if results.lungs else []


def shortcut_sentences(results: FindingsEvaluation) -> list[str]:
    """Return what the source classifier and canvases without lungs show."""
    lines = [
        f"A linear classifier on 32 px copies of the canvases names the source of {name} with a balanced accuracy of "
        f"{interval(c.balanced_accuracy)} (chance {c.chance:.2f}): so far the image alone reveals where it is from."
        for name, c in results.sources.items()
    ]
    if results.lungs_painted_over is not None:
        lines.append(
            f"With the lungs painted over, the macro-AUROC is {interval(results.lungs_painted_over.macro_auroc)}: this part "
            "comes from outside the lungs."
        )
    return lines or ["There is one source only, so that no shortcut by source can be measured."]
