"""Model card of a multi-label bundle: its manifest and its test results in, Markdown out. All figures come from the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cxr_edge.bundle.manifest import Manifest
from training.bundles.card_words import BELOW_FLOOR, CardWords
from training.data.collections import source_descriptions
from training.evaluation.degraded import modes_section
from training.evaluation.finding_pages import (
    UNKNOWN,
    counts_table,
    findings_models_table,
    findings_table,
    groups_sections,
    how_measured,
    shortcut_sentences,
)
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.floors import floors_section
from training.evaluation.pages import lungs_table
from training.json_records import as_json
from training.markdown import table

__all__ = ["finding_card", "finding_metrics"]


def finding_metrics(results: FindingsEvaluation) -> dict[str, Any]:
    """Return the results that the manifest holds and `inspect` prints."""
    ensemble, lungs = results.models["ensemble"], results.lungs.get("together")
    found: dict[str, Any] = as_json(
        {
            "split": "held-out test patients",
            "preset": results.preset,
            "seed": results.seed,
            "images": ensemble.images,
            "patients": ensemble.patients,
            "macro_auroc": ensemble.macro_auroc,
            "macro_auprc": ensemble.macro_auprc,
            "macro_f1": ensemble.macro_f1,
            "auroc": {label: row.auroc for label, row in ensemble.labels.items()},
            "sensitivity": {label: row.sensitivity for label, row in ensemble.labels.items()},
            "specificity": {label: row.specificity for label, row in ensemble.labels.items()},
            "lung_dice": None if lungs is None else lungs.dice,
        }
    )
    return found


def finding_card(manifest: Manifest, results: FindingsEvaluation, words: CardWords | None = None) -> str:
    """Return the card as Markdown. words: of the data; None for the published collections."""
    words = words or CardWords()
    parts = [
        f"# Model card: {manifest.name} {manifest.version}",
        f"**{manifest.intended_use}**",
        "This card was generated with the bundle; all figures come from its own test results.",
        "## What it is",
        *_design(manifest),
        "## Data",
        _sources(manifest, words),
        words.licences,
        UNKNOWN,
        counts_table(results),
        f"Split {manifest.provenance['split']} (images with equal pixels or a nearly equal perceptual hash count as one), over "
        "sets of findings and sources.",
        *words.first,
        "## Results on held-out patients",
        how_measured(results),
        findings_models_table(results),
        findings_table(results, results.models["ensemble"]),
        *groups_sections(results),
        *floors_section(results, manifest.provenance.get(BELOW_FLOOR, ())),
        *(["## Lung segmenter", lungs_table(results)] if results.lungs else []),
        *modes_section(manifest),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(results, words)),
    ]
    return "\n\n".join(parts) + "\n"


def _design(manifest: Manifest) -> Iterator[str]:
    c, d, labels = manifest.combination, manifest.decision, ", ".join(manifest.labels)
    px = manifest.members[0].preprocess.canvas_px
    sees = "the full frame" if manifest.segmenter is None else "the box around the lungs, which a small U-Net finds"
    yield (
        f"An ensemble that gives a frontal chest X-ray a probability for each of {labels}: findings that do not exclude each "
        f"other. The members see {sees}, resized to {px} px, in gray."
    )
    yield table(
        ["member", "design", "temperature"],
        ([m.name, m.architecture, t] for m, t in zip(manifest.members, c.member_temperatures, strict=True)),
    )
    weights = f" (weights {', '.join(f'{w:g}' for w in c.parameters['weights'])})" if "weights" in c.parameters else ""
    yield (
        f"Combination: {c.strategy}{weights} of the members' sigmoid outputs, temperature {c.temperature:g} times the finding's "
        f"own. A finding is present from its threshold on ({_rule(manifest)}); below a probability of {d.uncertain_below:g} it "
        "is flagged uncertain. All of these were fitted on validation patients only."
    )
    temperatures = c.label_temperatures or (1.0,) * len(manifest.labels)
    yield table(
        ["finding", "temperature", "threshold"],
        ([k, f"{t:g}", f"{d.threshold_of(k):.3f}"] for k, t in zip(manifest.labels, temperatures, strict=True)),
    )


def _rule(manifest: Manifest) -> str:
    chosen: Mapping[str, Any] = manifest.provenance.get("validation", {})
    missing = [k for k in manifest.labels if k not in manifest.decision.thresholds]
    note = f"; 0.5 for {', '.join(missing)}, which validation cannot tell" if missing else ""
    return f"{chosen.get('rule', 'as stated below')}{note}"


def _sources(manifest: Manifest, words: CardWords) -> str:
    counts: Mapping[str, Mapping[str, int]] = manifest.provenance.get("images", {})
    described = source_descriptions()
    names = sorted({name for side in counts.values() for name in side})
    return table(
        ["source (images)", *counts],
        ([f"{n}: {described.get(n, words.own_source)}", *(side.get(n, 0) for side in counts.values())] for n in names),
    )


def _limits(results: FindingsEvaluation, words: CardWords) -> Iterator[str]:
    few = [k for k, row in results.models["ensemble"].labels.items() if min(row.present, row.known - row.present) < 20]
    yield f"{words.labels}. Figures on other hospitals' images will be lower" + (
        f"; {words.how_much}." if words.how_much else "; these data cannot show by how much."
    )
    yield "It says nothing of any other finding: an image without a present finding is not therefore normal."
    if few:
        yield f"Fewer than 20 test images with, or without, {', '.join(few)}: their figures are rough, as the intervals show."
    yield "Probabilities are calibrated for images like those of the validation patients, not for another prevalence."
    yield "Frontal views only."
    if not {"view", "age", "sex"} & {name for name, groups in results.groups.items() if len(groups) > 1}:
        yield words.fairness
    yield from shortcut_sentences(results)
    yield from words.limits
