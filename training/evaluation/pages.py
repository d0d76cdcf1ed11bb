"""Evaluation results as Markdown: an `Evaluation` in, tables for docs and the model card out.

All figures come from it, so that a page cannot differ from its results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.data.guard import Guard
from training.evaluation.budget import budget_section
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.floors import floors_section
from training.evaluation.metrics import ModelFigures, interval
from training.evaluation.results import Evaluation, Safety, SourceClassifier
from training.markdown import table

__all__ = [
    "gaps_section",
    "guard_auc",
    "labels_table",
    "lungs_table",
    "models_table",
    "results_as_markdown",
    "safety_section",
    "safety_table",
]


def models_table(results: Evaluation) -> str:
    """Return macro figures on test patients, one row per model."""
    return table(
        ["model", "images", "patients", "macro-F1", "macro-AUC", "accuracy", "MCC", "log loss", "calibration error"],
        (
            [
                name,
                m.images,
                m.patients,
                interval(m.macro_f1),
                interval(m.macro_auc),
                interval(m.accuracy),
                f"{m.mcc:.3f}",
                f"{m.log_loss:.3f}",
                f"{m.calibration_error:.3f}",
            ]
            for name, m in results.models.items()
        ),
    )


def labels_table(model: ModelFigures) -> str:
    """Return figures by label, one row per label; the positive class of a row is its label."""
    return table(
        ["positive class", "images", "F1", "precision", "recall", "specificity", "AUC"],
        (
            [label, row.images, *map(interval, (row.f1, row.precision, row.recall, row.specificity, row.auc))]
            for label, row in model.labels.items()
        ),
    )


def safety_section(results: Evaluation, title: str, missed: Sequence[str] = ()) -> list[str]:
    """Return the guarded label's tables under a title that names it, with `{}` for the label; empty without one.

    missed: floors below which the bundle was written.
    """
    guard = results.guard
    if guard is None:
        return []
    tables = [safety_table(guard, results), *_found_table(guard, results.safety)]
    return [title.format(guard.label), *tables, guard_auc(guard, results.safety), *floors_section(results, missed)]


def safety_table(guard: Guard, results: Evaluation) -> str:
    """Return the guarded label's specificity, one row per subgroup."""
    rows = []
    for name in guard.groups:
        rows += [[f"{_words(name)}, {source}", interval(f)] for source, f in results.safety.groups[name].items()]
    for name, group in guard.watch.items():
        if guard.is_found_in(group):
            continue
        outside = group.label not in (None, *results.labels)
        note = " (not a label of the bundle)" if outside else ""
        rows.append([f"{_words(name)}{note}", interval(results.safety.watch[name])])
    return table([f"images without {guard.label}", f"not predicted {guard.label}"], rows)


def _found_table(guard: Guard, safety: Safety) -> list[str]:
    """Return the guarded label's sensitivity, one row per watched group of images with it; empty without such groups."""
    rows = [[_words(name), interval(figure)] for name, figure in safety.found.items()]
    return [table([f"images with {guard.label}", f"predicted {guard.label}"], rows)] if rows else []


def guard_auc(guard: Guard, safety: Safety) -> str:
    """Return a sentence with the guarded label's AUC within each subgroup."""
    areas = "; ".join(f"{_words(name)}: {interval(safety.areas[name])}" for name in guard.auc_groups)
    return f"AUC of {guard.label} within subgroups, so that images outside them do not raise it: {areas or 'none'}."


def _words(name: str) -> str:
    return name.replace("_", " ")


def _lungs(results: Evaluation) -> list[str]:
    if not results.lungs:
        return []
    note = "At the masks' own resolution, ignored pixels left out; IoU from Dice, image by image."
    return ["## Lungs", lungs_table(results), note]


def lungs_table(results: Evaluation | FindingsEvaluation) -> str:
    """Return the segmenter's figures, one row per source."""
    rows = (
        [name, row.images, *(f"{v:.3f}" for v in (row.dice, row.iou, row.worst_dice))]
        for name, row in results.lungs.items()
    )
    return table(["source", "images", "Dice", "IoU", "worst Dice"], rows)


def results_as_markdown(results: Evaluation) -> str:
    """Return the full evaluation as a page."""
    labels, bundle = results.labels, results.bundle
    ensemble = results.models["ensemble"]
    return (
        "\n\n".join(
            [
                f"# Test results of {bundle.name} {bundle.version}",
                _preamble(results),
                "## Models",
                models_table(results),
                *_built(results),
                "## By label, ensemble",
                labels_table(ensemble),
                "Confusion matrix (rows: true label; columns: decision):",
                table(["", *labels], ([a, *row] for a, row in zip(labels, ensemble.confusion, strict=True))),
                "## By label, single members",
                *(f"{n}:\n\n{labels_table(m)}" for n, m in results.models.items() if n.endswith(" alone")),
                *safety_section(results, "## False alarms of {}"),
                *gaps_section(results),
                *budget_section(results.budget),
                "## By source",
                _sources_table(results),
                "## Flags",
                _flags_table(results),
                *_lungs(results),
                "## Shortcuts",
                *_shortcuts(results),
            ]
        )
        + "\n"
    )


def _preamble(results: Evaluation) -> str:
    sides = "; ".join(f"{side}: {n.images} images of {n.patients} patients" for side, n in results.sides.items())
    return (
        f"Preset `{results.preset}`; {results.split}. Split seed {results.seed}. {sides}. Patients that share an "
        f"image count as one. Run through the deployed path ({results.reference}). Intervals are 95 %: shares "
        f"exact (Clopper-Pearson, images), F1 and AUC by bootstrap of patients ({results.resamples} draws). Decisions "
        f"use the bundle's thresholds; the decision of a single member is its most probable label. Manifest SHA-256 "
        f"`{results.bundle.manifest_sha256[:16]}`. Generated by `training/evaluate.py`; do not edit."
    )


def _built(results: Evaluation) -> list[str]:
    built = results.models.get("ensemble, engines built here")
    if built is None:
        return []
    return [f"Engines built here: {built.engines}; same decision as the reference: {interval(built.same_decision)}."]


def gaps_section(results: Evaluation, stated_by: str = "the collections") -> list[str]:
    if results.guard is None or not results.gaps:
        return []
    label = results.guard.label
    rows = [
        [name, group, interval(f.found), interval(f.of_normals), interval(f.specificity)]
        for name, groups in results.gaps.items()
        for group, f in groups.items()
    ]
    head = ["", "group", f"{label} found", f"normals not called {label}", f"all without {label} not called so"]
    return ["## Gaps between groups of adults", f"As {stated_by} state view, age and sex.", table(head, rows)]


def _sources_table(results: Evaluation) -> str:
    labels = results.labels
    return table(
        ["source / true label", "patients", *(f"predicted {label}" for label in labels), "correct"],
        (
            [
                f"{row.source} / {row.label}",
                row.patients,
                *(row.predicted[label] for label in labels),
                interval(row.right),
            ]
            for row in results.sources
        ),
    )


def _flags_table(results: Evaluation) -> str:
    flags = results.flags
    return table(
        ["", "share"],
        [
            ["lung box failed, full frame used", interval(flags.lung_box_failed)],
            ["flagged uncertain", interval(flags.uncertain)],
            ["accuracy of flagged decisions", interval(flags.accuracy_uncertain)],
            ["accuracy of other decisions", interval(flags.accuracy_others)],
        ],
    )


def _shortcuts(results: Evaluation) -> list[str]:
    shortcuts = results.shortcuts
    parts = [
        "Source classifier: a logistic regression on 32 x 32 copies of the lung canvases, fitted on train patients, predicts "
        "the collection of test patients' images:",
        _source_classifiers(shortcuts.sources),
    ]
    if shortcuts.member_sources:
        parts += [
            "The same on the penultimate features of each member, of which the logits are a linear function:",
            table(
                ["images", *shortcuts.member_sources],
                (
                    [name, *(interval(found[name].balanced_accuracy) for found in shortcuts.member_sources.values())]
                    for name in next(iter(shortcuts.member_sources.values()))
                ),
            ),
        ]
    if results.guard is not None and shortcuts.lung_share:
        shares = "; ".join(f"{name} {interval(share)}" for name, share in shortcuts.lung_share.items())
        parts.append(
            f"Share of the positive activation for {results.guard.label} inside the lungs, on images with it: {shares}. The "
            f"lungs are {interval(shortcuts.lung_area)} of the canvas."
        )
    blind = shortcuts.lungs_painted_over
    if blind is None:
        return parts
    return [
        *parts,
        "The ensemble on canvases with the lungs painted over by the mean of the rest. Its remaining skill comes from the rim "
        "of the box (age, framing, letters), not from the lungs. A figure near chance shows that the rim alone does not "
        "determine the decision; it does not show that the rim has no influence, since no member was trained on such "
        "images:",
        table(
            ["", "macro-F1", "macro-AUC"],
            [["lungs painted over", interval(blind.macro_f1), interval(blind.macro_auc)]],
        ),
        labels_table(blind),
        *(
            f"AUC of {results.guard.label} among {_words(name)}, lungs painted over: {interval(area)}."
            for name, area in shortcuts.blind_areas.items()
            if results.guard is not None
        ),
    ]


def _source_classifiers(sources: Mapping[str, SourceClassifier]) -> str:
    return table(
        ["images", "sources", "chance", "balanced accuracy"],
        (
            [name, ", ".join(row.sources), f"{row.chance:.2f}", interval(row.balanced_accuracy)]
            for name, row in sources.items()
        ),
    )
