"""Pages of a run on own data: results in; the words of its model card, and index.md with left-out sites first, out."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_edge.names import printable
from training.bundles.card_words import CardWords
from training.evaluation.finding_pages import (
    UNKNOWN,
    counts_table,
    findings_models_table,
    findings_table,
    groups_sections,
    shortcut_sentences,
)
from training.evaluation.finding_results import FindingsEvaluation
from training.evaluation.metrics import Figure, interval
from training.evaluation.pages import gaps_section, labels_table, lungs_table, models_table, safety_section
from training.evaluation.results import Evaluation
from training.markdown import table
from training.recipes.own.left_out import LeftOutSites, sites_table
from training.recipes.own.refusals import OwnRefusals, refusals_sentence
from training.recipes.own.understand import Understood

__all__ = ["RunFacts", "card_words", "ensemble_auc", "page"]

_SITES = "Sites that trained nothing"


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Facts of a run for its pages, besides the results on test patients."""

    understood: Understood
    sites: LeftOutSites | None
    not_left_out: str  # sentence on sites that were not left out; empty if all were
    epochs: str  # of members, in words


def card_words(facts: RunFacts) -> CardWords:
    """Return what the model card says of the data."""
    return CardWords(
        own_source="a site of the data that this bundle was trained on",
        licences="Permission to use the images, and their licence, are matters of who owns the data. No image is in this "
        "bundle; its known-answer images are synthetic.",
        labels="A label is learnt from the sites that have it",
        stated_by="the data",
        source="site",
        how_much="the table of sites that trained nothing shows by how much"
        if facts.sites is not None
        else "these data cannot show by how much: no site could be left out",
        fairness="Fairness across sex, age or origin was not measured.",
        first=(f"## {_SITES}", *_sites_section(facts)),
        limits=tuple(_limits(facts)),
    )


def _sites_section(facts: RunFacts) -> list[str]:
    sentence = [f"{_capital(facts.not_left_out)}."] if facts.not_left_out else []
    if facts.sites is None:
        return [f"**No figure of another site exists.** {' '.join(sentence)}"]
    about = (
        "Each site trained nothing in turn: one network was trained, combined, calibrated and given its thresholds on the other "
        "sites alone, not longer than the members of the bundle, and unpruned. This is what to expect of a new hospital. "
        "Intervals are 95 %: exact for shares (by image), bootstrap of patients for AUROC."
    )
    return [about, *sites_table(facts.sites), *sentence]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _limits(facts: RunFacts) -> list[str]:
    """Return sentences on what is wrong with the data."""
    own, images = facts.understood, len(facts.understood.data.records)
    lines = []
    if own.unnamed:
        lines.append(
            f"{own.unnamed} of {images} images have no named patient, and each counts as a patient of its own. If one patient "
            "has several of them, they may be on both sides of the split, and all figures are too good."
        )
    lines += [f"{_capital(n_kind)} of the source trained nothing." for n_kind in _counted(own.left_out)]
    lines += [f"{_capital(printable(p.title))}." for p in own.report.problems if p.severity in ("shortcut", "warning")]
    return lines


def _counted(counts: dict[str, int]) -> list[str]:
    return [f"{n} images ({kind})" for kind, n in counts.items()]


def page(results: Evaluation | FindingsEvaluation, facts: RunFacts, refusals: OwnRefusals) -> str:
    """Return index.md."""
    findings = isinstance(results, FindingsEvaluation)
    test = results.sides["test"]
    parts = [
        f"# {results.bundle.name}: what the training gave",
        "Research use only: not a medical device.",
        f"Trained on {_data(facts)} Members: {facts.epochs}.",
        f"## {_SITES}",
        *_sites_section(facts),
        "## Test patients of the same sites",
        f"{test.images} images of {test.patients} patients that trained nothing, of sites that did: a new site will be worse. "
        f"Run through the deployed path ({results.reference}); 95 % intervals, exact for shares, {results.resamples} bootstrap "
        "draws of patients for F1 and AUC.",
        *(_of_findings(results) if isinstance(results, FindingsEvaluation) else _of_labels(results)),
        *(["Lung segmenter:", lungs_table(results)] if results.lungs else []),
        "## Refusals",
        refusals_sentence(refusals),
        "## Where it looks",
        *(shortcut_sentences(results) if isinstance(results, FindingsEvaluation) else _where(results)),
        _MAPS,
        "## Limits",
        "\n".join(f"- {limit}" for limit in [*_limits(facts), _ONLY[findings], _CALIBRATED]),
        "## Files",
        _FILES,
    ]
    return "\n\n".join(parts) + "\n"


def ensemble_auc(results: Evaluation | FindingsEvaluation) -> Figure:
    """Return the ensemble's AUC on test patients, mean over labels or findings."""
    if isinstance(results, FindingsEvaluation):
        return results.models["ensemble"].macro_auroc
    return results.models["ensemble"].macro_auc


def _of_labels(results: Evaluation) -> list[str]:
    ensemble = results.models["ensemble"]
    return [
        models_table(results),
        labels_table(ensemble),
        "Confusion matrix (rows: true label; columns: decision):",
        table(["", *results.labels], ([a, *row] for a, row in zip(results.labels, ensemble.confusion, strict=True))),
        *safety_section(results, "Specificity of {} by group:"),
        *gaps_section(results, "the data"),
    ]


def _of_findings(results: FindingsEvaluation) -> list[str]:
    return [
        UNKNOWN,
        counts_table(results),
        findings_models_table(results),
        findings_table(results, results.models["ensemble"]),
        *groups_sections(results),
    ]


_ONLY = {
    False: "It predicts its labels only; any other finding gets one of them.",
    True: "It looks for its findings only: that none is present does not say that the image is normal.",
}
_CALIBRATED = (
    "Probabilities are calibrated for images like those of the validation patients, not for another prevalence."
)
_MAPS = "Maps of single images: `cxr-edge screen IMAGE --bundle bundle --html page.html`."

_FILES = (
    "`bundle/` with its model card; `config.toml` repeats the run; `check-data.html` is the check of the data, with pictures of "
    "patients; `left-out.csv` lists the images that trained nothing; `table.csv` has the side of each image; `results.json` and "
    "`sites.json` hold all figures."
)


def _data(facts: RunFacts) -> str:
    own = facts.understood
    labels = ", ".join(f"{name} {sum(bool(r.findings[name]) for r in own.data.records)}" for name in own.data.findings)
    left = f" Left out: {', '.join(_counted(own.left_out))}." if own.left_out else ""
    patients = len({r.unit for r in own.data.records})
    return f"{own.report.source}: {len(own.data.records)} images of {patients} patients ({labels}).{left}"


def _where(results: Evaluation) -> list[str]:
    """Return how much of the skill is not from the lungs, as far as it was measured."""
    shortcuts = results.shortcuts
    parts = []
    blind = shortcuts.lungs_painted_over
    if blind is not None:
        own = results.models["ensemble"].macro_auc
        parts.append(
            f"With the lungs painted over, the ensemble has a macro-AUC of {interval(blind.macro_auc)}, against {interval(own)} "
            "with them: near 0.5 the frame around the lungs tells nothing; far above, it does."
        )
    for group, found in shortcuts.sources.items():
        if group == "adults only":  # patients of no stated age count as adults
            continue
        parts.append(
            f"A linear classifier on 32 px copies of the lungs predicts the site ({group}) with a balanced accuracy of "
            f"{interval(found.balanced_accuracy)}; chance is {found.chance:.2f}."
        )
    if shortcuts.lung_share and shortcuts.lung_area is not None:
        shares = "; ".join(f"{name} {interval(share)}" for name, share in shortcuts.lung_share.items())
        parts.append(
            f"Share of the activation inside the lungs: {shares}; the lungs are {interval(shortcuts.lung_area)}."
        )
    return parts
