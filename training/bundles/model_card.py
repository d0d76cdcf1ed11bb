"""The model card: a bundle's manifest and its test results in, Markdown for people out. Every figure comes from the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cxr_edge.bundle.manifest import Manifest
from training.evaluation.pages import labels_table, lungs_table, models_table, safety_table
from training.markdown import interval, table

__all__ = ["SOURCES", "key_metrics", "model_card"]

# What the collections are and under what terms they were published, as far as their publishers say.
SOURCES: Mapping[str, str] = {
    "kcx": "Kermany et al., paediatric chest X-rays (Guangzhou), normal, bacterial, viral; children of 1 to 5 years",
    "ccx": "COVID-19 image data collection (Cohen et al., 2020), frontal X-rays only; adults, many hospitals",
    "twitter": "COVID-19 X-rays gathered from Twitter (a Spanish hospital's thread); adults, no patient data",
    "shenzhen": "Shenzhen tuberculosis set (CHNCXR), normal and tuberculosis; adults; with lung masks",
    "montgomery": "Montgomery County tuberculosis set (MCUCXR), normal and tuberculosis; adults; with lung masks",
}


# Who trains what, where the recipe does not say otherwise in the provenance.
_DATA = "Tuberculosis trains the members as 'abnormal, not COVID-19'; `other` findings take no part."


def key_metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest and `inspect` show of the results."""
    ensemble, safety = results["models"]["ensemble"], results["safety"]
    return {
        "split": "held-out test patients",
        "preset": results["preset"],
        "seed": results["seed"],
        "images": ensemble["images"],
        "patients": ensemble["patients"],
        "macro_f1": ensemble["macro_f1"],
        "macro_auc": ensemble["macro_auc"],
        "accuracy": ensemble["accuracy"],
        "f1": {label: row["f1"] for label, row in ensemble["labels"].items()},
        "covid_specificity_adult_normals": safety["specificity_adult_normals"]["together"],
        "covid_specificity_tuberculosis": safety["specificity_tuberculosis"],
        "lung_dice": results["lungs"].get("together", {}).get("dice"),
    }


def model_card(manifest: Manifest, results: Mapping[str, Any], unseen: Mapping[str, Any] | None = None) -> str:
    """The card as Markdown. unseen: what `training.unseen` found, if it was run."""
    return (
        "\n\n".join(
            [
                f"# Model card: {manifest.name} {manifest.version}",
                f"**{manifest.intended_use}**",
                "This card was generated with the bundle, from its own test results; nothing in it was typed by hand but prose.",
                "## What it is",
                _design(manifest),
                "## Data",
                _data(manifest),
                "## Results on held-out patients",
                _how(results),
                models_table(results),
                labels_table(results["models"]["ensemble"]),
                "How often COVID-19 is rightly not said:",
                safety_table(results),
                "COVID-19 among adults only, AUC: "
                f"{interval(results['safety']['auc_among_adults'])}. Over all images the AUC is flattered by the children.",
                "Lung segmenter:",
                lungs_table(results),
                "## Limits",
                _limits(results, unseen),
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
    thresholds = ", ".join(f"{label} from {value:g}" for label, value in d.thresholds.items()) or "none"
    labels = ", ".join(manifest.labels)
    return (
        f"An ensemble that gives a frontal chest X-ray a probability for each of {labels}. A small U-Net finds the lungs; "
        f"every member sees the box around them, resized to {manifest.members[0].preprocess.canvas_px} px, in gray.\n\n"
        f"{members}\n\nCombination: {c.strategy}{parameters}, temperature {c.temperature:g}. Thresholds: {thresholds}. A "
        f"decision below {d.uncertain_below:g} is flagged uncertain. All of these were fitted on validation patients only."
    )


def _data(manifest: Manifest) -> str:
    counts: Mapping[str, Mapping[str, int]] = manifest.provenance.get("images", {})
    found = sorted({key.split("/")[0] for side in counts.values() for key in side})
    sides = list(counts)
    strata = sorted({key for side in counts.values() for key in side})
    return "\n\n".join(
        [
            "\n".join(f"- {name}: {SOURCES.get(name, 'a collection of your own')}" for name in found),
            "Licences of the collections are mixed: some non-commercial, some unstated. No image of theirs is in this bundle; "
            "its known-answer images are synthetic.",
            table(["source / label (images)", *sides], ([k, *(counts[s].get(k, 0) for s in sides)] for k in strata)),
            f"Split {manifest.provenance['split']} (equal pixels or nearly equal perceptual hash make two images one). "
            f"{manifest.provenance.get('data', _DATA)}",
        ]
    )


def _how(results: Mapping[str, Any]) -> str:
    test = results["sides"]["test"]
    return (
        f"Preset `{results['preset']}`, split seed {results['seed']}, test side: {test['images']} images of "
        f"{test['patients']} patients, of which those with one of the labels are counted in the tables. fp32 reference "
        f"through the deployed path. 95 % intervals: exact for shares, {results['resamples']} bootstrap draws of patients "
        f"for F1 and AUC. The positive class of each row is its label."
    )


def _unseen(unseen: Mapping[str, Any]) -> list[str]:
    return [
        f"- Expect more false alarms at a hospital that is not in the table above. A member {name!r} trained without a whole "
        f"site ({kind.split('/')[0]}) rightly did not call its normals COVID-19 in {interval(figure['not_called_covid'])}. "
        f"At a new site, choose the threshold on images of that site."
        for name, kinds in unseen["members"].items()
        for kind, figure in kinds.items()
        if kind.endswith("/normal")
    ]


def _limits(results: Mapping[str, Any], unseen: Mapping[str, Any] | None) -> str:
    shortcuts = results["shortcuts"]
    lines = [
        "- In these collections the label and the source go together: pneumonia and most normals are children of one hospital, "
        "COVID-19 are adults of others. Figures on other hospitals' images will be lower; how much, these data cannot say.",
        "- It knows its labels and nothing else. Tuberculosis, tumours, fractures, devices: each gets one of the labels.",
        "- Bacterial and viral pneumonia look alike; their labels in the paediatric set rest on clinical findings.",
        "- Probabilities are calibrated for images like those of the validation patients, not for another prevalence.",
        "- Frontal views only. No fairness across sex, age or origin was measured: the collections hardly record them.",
    ]
    lines += [] if unseen is None else _unseen(unseen)
    told = shortcuts["source_told"].get("all images")
    if told is not None:
        lines.append(
            f"- A linear classifier on 32 px copies of the lung canvases names the collection with a balanced accuracy of "
            f"{told['balanced_accuracy']['value']:.2f} (chance {told['chance']:.2f}): the source can be told even from the "
            f"lungs, so a member could lean on it."
        )
    blind = shortcuts.get("lungs_painted_over")
    if blind is not None:
        lines.append(
            f"- With the lungs painted over, the ensemble still reaches a macro-AUC of {interval(blind['macro_auc'])}: that "
            f"much comes from outside the lungs."
        )
    return "\n".join(lines)
