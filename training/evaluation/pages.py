"""Evaluation results as Markdown: the JSON object of `evaluate` in, tables for docs and the model card out.

All figures come from the JSON object, so that a page cannot differ from its results.
"""

from __future__ import annotations

from training.evaluation.auc_pages import Json
from training.markdown import interval, table

__all__ = [
    "guard_auc",
    "labels_table",
    "lungs_table",
    "models_table",
    "results_as_markdown",
    "safety_table",
    "unseen_as_markdown",
]


_BLIND_AUC = "lungs_painted_over_auc_among_"


def models_table(results: Json) -> str:
    """Return macro figures on test patients, one row per model."""
    return table(
        ["model", "images", "patients", "macro-F1", "macro-AUC", "accuracy", "MCC", "log loss", "calibration error"],
        (
            [
                name,
                m["images"],
                m["patients"],
                interval(m["macro_f1"]),
                interval(m["macro_auc"]),
                interval(m["accuracy"]),
                f"{m['mcc']:.3f}",
                f"{m['log_loss']:.3f}",
                f"{m['calibration_error']:.3f}",
            ]
            for name, m in results["models"].items()
        ),
    )


def labels_table(model: Json) -> str:
    """Return figures by label, one row per label; the positive class of a row is its label."""
    return table(
        ["positive class", "images", "F1", "precision", "recall", "specificity", "AUC"],
        (
            [label, row["images"], *(interval(row[k]) for k in ("f1", "precision", "recall", "specificity", "auc"))]
            for label, row in model["labels"].items()
        ),
    )


def safety_table(results: Json) -> str:
    """Return the guarded label's specificity, one row per subgroup; needs a guarded label."""
    guard, safety = results["guard"], results["safety"]
    rows = []
    for name in guard["groups"]:
        rows += [[f"{_words(name)}, {source}", interval(f)] for source, f in safety[f"specificity_{name}"].items()]
    for name, group in guard["watch"].items():
        outside = group["label"] not in (None, *results["labels"])
        note = " (not a label of the bundle)" if outside else ""
        rows.append([f"{_words(name)}{note}", interval(safety[f"specificity_{name}"])])
    return table([f"images without {guard['label']}", f"not predicted {guard['label']}"], rows)


def guard_auc(results: Json) -> str:
    """Return a sentence with the guarded label's AUC within each subgroup; needs a guarded label."""
    guard, safety = results["guard"], results["safety"]
    areas = "; ".join(f"{_words(name)}: {interval(safety[f'auc_among_{name}'])}" for name in guard["auc_groups"])
    return f"AUC of {guard['label']} within subgroups, so that images outside them do not raise it: {areas or 'none'}."


def _words(name: str) -> str:
    return name.replace("_", " ")


def lungs_table(results: Json) -> str:
    """Return the segmenter's figures, one row per source."""
    return table(
        ["source", "images", "Dice", "IoU", "worst Dice"],
        (
            [name, row["images"], *(f"{row[k]:.3f}" for k in ("dice", "iou", "worst_dice"))]
            for name, row in results["lungs"].items()
        ),
    )


def results_as_markdown(results: Json) -> str:
    """Return the full evaluation as a page."""
    labels, bundle = results["labels"], results["bundle"]
    ensemble = results["models"]["ensemble"]
    return (
        "\n\n".join(
            [
                f"# Test results of {bundle['name']} {bundle['version']}",
                _preamble(results),
                "## Models",
                models_table(results),
                *_built(results),
                "## By label, ensemble",
                labels_table(ensemble),
                "Confusion matrix (rows: true label; columns: decision):",
                table(["", *labels], ([a, *row] for a, row in zip(labels, ensemble["confusion"], strict=True))),
                "## By label, single members",
                *(f"{n}:\n\n{labels_table(m)}" for n, m in results["models"].items() if n.endswith(" alone")),
                *_safety(results),
                "## By source",
                _sources_table(results),
                "## Flags",
                _flags_table(results),
                "## Lungs",
                lungs_table(results),
                "At the masks' own resolution, ignored pixels left out; IoU from Dice, image by image.",
                "## Shortcuts",
                *_shortcuts(results),
            ]
        )
        + "\n"
    )


def _safety(results: Json) -> list[str]:
    if results["guard"] is None:
        return []
    title = f"## False alarms of {results['guard']['label']}"
    return [title, safety_table(results), guard_auc(results)]


def _preamble(results: Json) -> str:
    sides = "; ".join(
        f"{side}: {n['images']} images of {n['patients']} patients" for side, n in results["sides"].items()
    )
    return (
        f"Preset `{results['preset']}`; {results['split']}. Split seed {results['seed']}. {sides}. Patients that share an "
        f"image count as one. Run through the deployed path ({results['reference']}). Intervals are 95 %: shares "
        f"exact (Clopper-Pearson, images), F1 and AUC by bootstrap of patients ({results['resamples']} draws). Decisions "
        f"use the bundle's thresholds; the decision of a single member is its most probable label. Manifest SHA-256 "
        f"`{results['bundle']['manifest_sha256'][:16]}`. Generated by `training/evaluate.py`; do not edit."
    )


def _built(results: Json) -> list[str]:
    built = results["models"].get("ensemble, engines built here")
    if built is None:
        return []
    return [
        f"Engines built here: {built['engines']}; same decision as the reference: {interval(built['same_decision'])}."
    ]


def _sources_table(results: Json) -> str:
    labels = results["labels"]
    return table(
        ["source / true label", "patients", *(f"predicted {label}" for label in labels), "correct"],
        (
            [
                f"{row['source']} / {row['label']}",
                row["patients"],
                *(row["said"][label] for label in labels),
                interval(row["right"]),
            ]
            for row in results["sources"]
        ),
    )


def _flags_table(results: Json) -> str:
    flags = results["flags"]
    return table(
        ["", "share"],
        [
            ["lung box failed, full frame used", interval(flags["lung_box_failed"])],
            ["flagged uncertain", interval(flags["uncertain"])],
            ["accuracy of flagged decisions", interval(flags["accuracy_uncertain"])],
            ["accuracy of other decisions", interval(flags["accuracy_others"])],
        ],
    )


def _shortcuts(results: Json) -> list[str]:
    shortcuts = results["shortcuts"]
    sources = table(
        ["images", "sources", "chance", "balanced accuracy"],
        (
            [name, ", ".join(row["sources"]), f"{row['chance']:.2f}", interval(row["balanced_accuracy"])]
            for name, row in shortcuts["source_told"].items()
        ),
    )
    parts = [
        "Source classifier: a logistic regression on 32 x 32 copies of the lung canvases, fitted on train patients, predicts "
        "the collection of test patients' images:",
        sources,
    ]
    blind = shortcuts.get("lungs_painted_over")
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
            [["lungs painted over", interval(blind["macro_f1"]), interval(blind["macro_auc"])]],
        ),
        labels_table(blind),
        *(
            f"AUC of {results['guard']['label']} among {_words(key.removeprefix(_BLIND_AUC))}, lungs painted over: "
            f"{interval(figure)}."
            for key, figure in shortcuts.items()
            if key.startswith(_BLIND_AUC)
        ),
    ]


def unseen_as_markdown(results: Json) -> str:
    """Return the page of `training.unseen`."""
    guard = results["guard"]
    rows = [
        [name, kind, *figure["said"].values(), *([interval(figure["guard_specificity"])] if guard else [])]
        for name, kinds in results["members"].items()
        for kind, figure in kinds.items()
    ]
    labels = [f"predicted {label}" for label in next(iter(next(iter(results["members"].values())).values()))["said"]]
    last = [f"not predicted {guard['label']}"] if guard else []
    return (
        f"# Unseen site: {', '.join(results['left_out'])}\n\nPreset `{results['preset']}`, split: "
        f"{results['split']}; seed {results['seed']}. A member trained like the starter's without this site, for a shorter "
        f"time; its decision is the most probable label. The lung segmenter was trained with the site. Intervals are exact "
        f"(Clopper-Pearson), 95 %. Generated by `training/unseen.py`; do not edit.\n\n"
        + table(["member", "source / true label", *labels, *last], rows)
        + "\n"
    )
