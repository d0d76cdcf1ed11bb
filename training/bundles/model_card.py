"""Model card: a bundle's manifest and its test results in, Markdown out. All figures come from the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr_edge.bundle.manifest import Manifest
from training.bundles.card_words import BELOW_FLOOR, CardWords
from training.data.collections import source_descriptions, source_limits
from training.data.findings import FRONTAL_VIEWS
from training.data.guard import Guard
from training.evaluation.budget import budget_section
from training.evaluation.degraded import modes_section
from training.evaluation.metrics import interval
from training.evaluation.pages import gaps_section, labels_table, lungs_table, models_table, safety_section
from training.evaluation.results import TOGETHER, Evaluation, Shortcuts
from training.evaluation.sites import SiteRow, VariantRow
from training.json_records import as_json
from training.markdown import table

__all__ = ["key_metrics", "model_card"]


def key_metrics(results: Evaluation) -> dict[str, Any]:
    """Return the results that the manifest holds and `inspect` prints."""
    ensemble, lungs = results.models["ensemble"], results.lungs.get(TOGETHER)
    metrics = {
        "split": "held-out test patients",
        "preset": results.preset,
        "seed": results.seed,
        "images": ensemble.images,
        "patients": ensemble.patients,
        "macro_f1": ensemble.macro_f1,
        "macro_auc": ensemble.macro_auc,
        "accuracy": ensemble.accuracy,
        "f1": {label: row.f1 for label, row in ensemble.labels.items()},
        **_guard_metrics(results),
        "lung_dice": None if lungs is None else lungs.dice,
    }
    found: dict[str, Any] = as_json(metrics)
    return found


def _guard_metrics(results: Evaluation) -> dict[str, Any]:
    if results.guard is None:
        return {}
    groups = {name: by_source[TOGETHER] for name, by_source in results.safety.groups.items()}
    shares = {f"specificity_{name}": share for name, share in {**groups, **results.safety.watch}.items()}
    found = {f"sensitivity_{name}": share for name, share in results.safety.found.items()}
    return {"guard": results.guard.label, **shares, **found}


def model_card(
    manifest: Manifest, results: Evaluation, sites: VariantRow | None = None, words: CardWords | None = None
) -> str:
    """Return the card as Markdown.

    sites: variant of `training.sites` that is trained like this. words: of the data; None for the published collections.
    """
    words = words or CardWords()
    return (
        "\n\n".join(
            [
                f"# Model card: {manifest.name} {manifest.version}",
                f"**{manifest.intended_use}**",
                "This card was generated with the bundle; all figures come from its own test results.",
                "## What it is",
                _design(manifest),
                "## Data",
                _data(manifest, words),
                *words.first,
                "## Results on held-out patients",
                _how(results),
                models_table(results),
                labels_table(results.models["ensemble"]),
                *safety_section(results, "Specificity of {} by subgroup:", manifest.provenance.get(BELOW_FLOOR, ())),
                *_expected(results.guard, sites),
                *_lungs(manifest, results),
                *gaps_section(results, words.stated_by),
                *budget_section(results.budget),
                *modes_section(manifest),
                "## Limits",
                _limits(results, sites, words),
            ]
        )
        + "\n"
    )


def _design(manifest: Manifest) -> str:
    c, d = manifest.combination, manifest.decision
    members = table(
        ["member", "design", "temperature"],
        ([m.name, m.architecture, t] for m, t in zip(manifest.members, c.member_temperatures, strict=True)),
    )
    parameters = (
        f" (weights {', '.join(f'{w:g}' for w in c.parameters['weights'])})" if "weights" in c.parameters else ""
    )
    thresholds = ", ".join(
        f"{label} from {value:g}{', even if another label is more probable' if label in d.first else ''}"
        for label, value in d.thresholds.items()
    )
    thresholds = thresholds or "none"
    labels = ", ".join(manifest.labels)
    return (
        f"An ensemble that gives a frontal chest X-ray a probability for each of {labels}. A small U-Net finds the lungs; "
        f"the members' input is the box around them, resized to {manifest.members[0].preprocess.canvas_px} px, in gray.\n\n"
        f"{members}\n\nCombination: {c.strategy}{parameters}, temperature {c.temperature:g}. Thresholds: {thresholds}. A "
        f"decision below {d.uncertain_below:g} is flagged uncertain. All of these were fitted on validation patients only."
    )


def _data(manifest: Manifest, words: CardWords) -> str:
    counts: Mapping[str, Mapping[str, int]] = manifest.provenance.get("images", {})
    found = sorted({key.split("/")[0] for side in counts.values() for key in side})
    sides, described = list(counts), source_descriptions()
    strata = sorted({key for side in counts.values() for key in side})
    return "\n\n".join(
        [
            "\n".join(f"- {name}: {described.get(name, words.own_source)}" for name in found),
            words.licences,
            table(["source / label (images)", *sides], ([k, *(counts[s].get(k, 0) for s in sides)] for k in strata)),
            f"Split {manifest.provenance['split']} (images with equal pixels or a nearly equal perceptual hash count as one). "
            f"{manifest.provenance['data']}",
        ]
    )


def _how(results: Evaluation) -> str:
    test = results.sides["test"]
    return (
        f"Preset `{results.preset}`, split seed {results.seed}, test side: {test.images} images of "
        f"{test.patients} patients, of which those with one of the labels are counted in the tables. fp32 reference "
        f"through the deployed path. 95 % intervals: exact for shares, {results.resamples} bootstrap draws of patients "
        f"for F1 and AUC. The positive class of each row is its label."
    )


def _expected(guard: Guard | None, sites: VariantRow | None) -> list[str]:
    """Return what a hospital that trained nothing must expect: the spread over left-out sites, not one number."""
    if guard is None or sites is None:
        return []
    figures = sites.figures
    rows = [
        [r.kind.replace("_", " "), r.source, interval(r.called), *(_by_view(r, view) for view in FRONTAL_VIEWS)]
        for r in figures.rows
    ]
    worst = "; ".join(
        f"{kind.replace('_', ' ')} {'found' if kind == guard.label else f'not called {guard.label}'}: "
        f"{figures.worst[kind]:.2f} at the worst site, {figures.mean[kind]:.2f} on average"
        for kind in figures.mean
    )
    return [
        f"Expect of a new hospital what networks that were trained without it ({sites.about}) did at each left-out site, at the "
        f"threshold {figures.threshold:.2f} for all ({worst}). Share called {guard.label}:",
        table(["images", "site", "all", *FRONTAL_VIEWS], rows),
        "AP and PA as stated, or estimated where a collection does not state them.",
    ]


def _by_view(row: SiteRow, view: str) -> str:
    figure = row.by_view.get(view)
    return "-" if figure is None else f"{figure.value:.2f} ({figure.hits}/{figure.n})"


def _lungs(manifest: Manifest, results: Evaluation) -> list[str]:
    if results.lungs:
        return ["Lung segmenter:", lungs_table(results)]
    taken = manifest.provenance.get("segmenter_of")
    if taken is None:
        return []
    dice = (
        ""
        if taken["lung_dice"] is None
        else f" Its mean Dice on held-out patients of that split: {taken['lung_dice']:.3f}."
    )
    return [
        f"The lung segmenter is that of {taken['bundle']}, trained on another split, so that it is not evaluated here.{dice}"
    ]


def _limits(results: Evaluation, sites: VariantRow | None, words: CardWords) -> str:
    found = {row.source for row in results.sources}
    how_much = words.how_much or (
        "these data cannot show by how much" if sites is None else "the table of left-out sites shows by how much"
    )
    fairness = words.fairness
    if results.gaps:
        fairness = "Origin was not measured, and the groups by view, age and sex are small."
    lines = [
        f"- {words.labels} ({_sources_of_labels(results)}). Figures on other hospitals' "
        f"images will be lower; {how_much}.",
        "- It predicts its labels only. Any other finding (tumours, fractures, devices) gets one of the labels.",
        *(f"- {limit}" for name, limit in source_limits().items() if name in found),
        "- Probabilities are calibrated for images like those of the validation patients, not for another prevalence.",
        "- Frontal views only.",
        f"- {fairness}",
        *_shortcuts(results.shortcuts, words),
        *(f"- {limit}" for limit in words.limits),
    ]
    return "\n".join(lines)


def _sources_of_labels(results: Evaluation) -> str:
    by_label = {
        label: sorted({row.source for row in results.sources if row.label == label}) for label in results.labels
    }
    return "; ".join(f"{label}: {', '.join(names) or 'none'}" for label, names in by_label.items())


def _shortcuts(shortcuts: Shortcuts, words: CardWords) -> list[str]:
    lines, sources, blind = [], shortcuts.sources.get("all images"), shortcuts.lungs_painted_over
    if sources is not None:
        lines.append(
            f"- A linear classifier on 32 px copies of the lung canvases predicts the {words.source} with a balanced accuracy of "
            f"{sources.balanced_accuracy.value:.2f} (chance {sources.chance:.2f}): even the lungs reveal the source, "
            f"so a member could rely on it."
        )
    if blind is not None:
        lines.append(
            f"- With the lungs painted over, the ensemble still reaches a macro-AUC of {interval(blind.macro_auc)}: this "
            f"part comes from outside the lungs."
        )
    return lines
