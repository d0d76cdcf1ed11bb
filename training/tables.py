"""Results as Markdown: the JSON object of `evaluate` in, tables for docs and the model card out. No figure is typed by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.shared_files import write_text

__all__ = [
    "Table",
    "interval",
    "labels_table",
    "lungs_table",
    "models_table",
    "results_as_markdown",
    "safety_table",
    "table",
    "unseen_as_markdown",
    "write_results",
]

Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a report. title: number and subject, with preset, n, split and seed. note: below it, or empty."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"{self.title}: a row of another length than the head")

    def as_markdown(self) -> str:
        """The table under its title."""
        return "\n\n".join(part for part in (f"## {self.title}", table(self.head, self.rows), self.note) if part)

    def as_csv(self) -> str:
        """Head and rows; title and note as comment lines before them."""
        out = io.StringIO()
        for line in filter(None, (self.title, self.note)):
            out.write(f"# {line}\n")
        csv.writer(out, lineterminator="\n").writerows([self.head, *self.rows])
        return out.getvalue()


def write_results(found: Json, made: Mapping[str, Table], folder: Path) -> None:
    """Write results.json and every table as NAME.csv to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "results.json", json.dumps(found, indent=1) + "\n")
    for name, t in made.items():
        write_text(folder / f"{name}.csv", t.as_csv())


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; columns after the first are right-aligned."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(str(c) for c in row) + " |" for row in rows)])


def interval(figure: Json | None) -> str:
    """`0.953 [0.921, 0.975]`; a share has its counts behind it; a dash for what cannot be computed, as bounds of a value
    that no resample has."""
    if figure is None or figure["value"] is None:
        return "-"
    counts = "" if figure["hits"] is None else f" ({figure['hits']}/{figure['n']})"
    bounds = "-" if figure["low"] is None else f"{figure['low']:.3f}, {figure['high']:.3f}"
    return f"{figure['value']:.3f} [{bounds}]{counts}"


def models_table(results: Json) -> str:
    """One row a model: macro figures on test patients."""
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
    """One row a label, which is the positive class of its row."""
    return table(
        ["positive class", "images", "F1", "precision", "recall", "specificity", "AUC"],
        (
            [label, row["images"], *(interval(row[k]) for k in ("f1", "precision", "recall", "specificity", "auc"))]
            for label, row in model["labels"].items()
        ),
    )


def safety_table(results: Json) -> str:
    """Where saying COVID-19 would be wrong."""
    safety = results["safety"]
    normals = safety["specificity_adult_normals"]
    rows = [[f"adult normals, {name}", interval(figure)] for name, figure in normals.items()]
    rows += [
        ["children (normal and pneumonia)", interval(safety["specificity_children"])],
        ["tuberculosis (no label of the bundle)", interval(safety["specificity_tuberculosis"])],
    ]
    return table(["images without COVID-19", "not called COVID-19"], rows)


def lungs_table(results: Json) -> str:
    """The segmenter, by source."""
    return table(
        ["source", "images", "Dice", "IoU", "worst Dice"],
        (
            [name, row["images"], *(f"{row[k]:.3f}" for k in ("dice", "iou", "worst_dice"))]
            for name, row in results["lungs"].items()
        ),
    )


def results_as_markdown(results: Json) -> str:
    """The whole evaluation as a page."""
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
                "Confusion (rows: truth; columns: decision):",
                table(["", *labels], ([a, *row] for a, row in zip(labels, ensemble["confusion"], strict=True))),
                "## By label, members alone",
                *(f"{n}:\n\n{labels_table(m)}" for n, m in results["models"].items() if n.endswith(" alone")),
                "## Where COVID-19 must not be said",
                safety_table(results),
                "AUC of COVID-19 among adults only (children cannot help there): "
                f"{interval(results['safety']['auc_among_adults'])}; without tuberculosis: "
                f"{interval(results['safety']['auc_among_adults_without_tuberculosis'])}.",
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


def _preamble(results: Json) -> str:
    sides = "; ".join(
        f"{side}: {n['images']} images of {n['patients']} patients" for side, n in results["sides"].items()
    )
    return (
        f"Preset `{results['preset']}`; {results['split']}. Split seed {results['seed']}. {sides}. Patients that share an "
        f"image count as one. Run through the deployed path ({results['reference']}). Intervals are 95 %: shares "
        f"exact (Clopper-Pearson, images), F1 and AUC by drawing patients anew ({results['resamples']} times). Decisions "
        f"use the bundle's thresholds; members alone decide by their highest probability. Manifest SHA-256 "
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
        ["source / truth", "patients", *(f"said {label}" for label in labels), "right"],
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
            ["accuracy of those", interval(flags["accuracy_uncertain"])],
            ["accuracy of the others", interval(flags["accuracy_others"])],
        ],
    )


def _shortcuts(results: Json) -> list[str]:
    shortcuts = results["shortcuts"]
    told = table(
        ["images", "sources", "chance", "balanced accuracy"],
        (
            [name, ", ".join(row["sources"]), f"{row['chance']:.2f}", interval(row["balanced_accuracy"])]
            for name, row in shortcuts["source_told"].items()
        ),
    )
    parts = [
        "How well a logistic regression on 32 x 32 copies of the lung canvases, fitted on train patients, names the "
        "collection of test patients' images:",
        told,
    ]
    blind = shortcuts.get("lungs_painted_over")
    if blind is None:
        return parts
    return [
        *parts,
        "The ensemble on canvases whose lungs are painted over with the mean of the rest. What it still knows, it knows "
        "from the rim of the box (age, framing, letters), and not from the lungs. A figure near chance says that the rim "
        "alone does not carry the decision; it cannot say that the rim plays no part, since no member was trained on such "
        "pictures:",
        table(
            ["", "macro-F1", "macro-AUC"],
            [["lungs painted over", interval(blind["macro_f1"]), interval(blind["macro_auc"])]],
        ),
        labels_table(blind),
        "AUC of COVID-19 among adults, lungs painted over: "
        f"{interval(shortcuts['lungs_painted_over_auc_among_adults'])}.",
    ]


def unseen_as_markdown(results: Json) -> str:
    """The page of `training.unseen`."""
    rows = [
        [name, kind, *figure["said"].values(), interval(figure["not_called_covid"])]
        for name, kinds in results["members"].items()
        for kind, figure in kinds.items()
    ]
    labels = [f"said {label}" for label in next(iter(next(iter(results["members"].values())).values()))["said"]]
    return (
        f"# A site that no member saw: {', '.join(results['left_out'])}\n\nPreset `{results['preset']}`, split: "
        f"{results['split']}; seed {results['seed']}. A member trained like the starter's, for a shorter time; it decides by "
        f"its highest probability. The lung segmenter did see the site. Intervals are exact (Clopper-Pearson), 95 %. "
        f"Generated by `training/unseen.py`; do not edit.\n\n"
        + table(["member", "source / truth", *labels, "not called COVID-19"], rows)
        + "\n"
    )
