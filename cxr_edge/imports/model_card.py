"""Model card of an imported bundle: what is known of its networks, and that their accuracy was not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.imports.member_graph import Columns, MemberGraph
from cxr_edge.imports.original import Original
from cxr_edge.imports.parity import Parity
from cxr_edge.names import printable

__all__ = ["INTENDED_USE", "CardEntry", "model_card"]

INTENDED_USE = (
    "Research use only: not a medical device, not for diagnosis or any decision about a patient. Networks trained "
    "elsewhere, imported without any measurement of their accuracy; every answer is to be read by a physician."
)

_LIMITS = """## Limits

- Frontal chest X-rays only, one image at a time.
- Images are resized to a square, so their aspect ratio is not kept; a training that kept it saw other shapes.
- The networks predict their labels only; {others}."""


@dataclass(frozen=True, kw_only=True)
class CardEntry:
    """Facts about one member."""

    name: str
    original: Original
    columns: Columns
    graph: MemberGraph
    parity: Parity
    expected: float | None  # largest difference from --expected


def model_card(manifest: Manifest, combination: str, images: str, entries: Sequence[CardEntry]) -> str:
    """Return the card as Markdown. combination, images: in words."""
    return (
        "\n\n".join(
            [
                f"# Model card: {manifest.name}",
                f"**{INTENDED_USE}**",
                "This card was written by `cxr-edge import` and holds what the import knows. **No accuracy was measured**: not "
                "on patients, not on any group of them. Nothing is known here about the training data; whoever trained the "
                "networks has to add it. Probabilities are not calibrated, no threshold was fitted, and no answer is flagged "
                "uncertain.",
                f"{_labels(manifest)} Combination: {combination}.",
                *(_entry(e, images) for e in entries),
                _LIMITS.format(
                    others="any other finding is not reported"
                    if manifest.multi_label
                    else "any other finding gets one of them"
                ),
            ]
        )
        + "\n"
    )


def _labels(manifest: Manifest) -> str:
    rule = manifest.decision
    if manifest.multi_label:
        limits = ", ".join(f"{label} from {rule.threshold_of(label):g}" for label in manifest.labels)
        return f"Findings, each present from a probability that nobody has measured to be a good one: {limits}."
    limits = ", ".join(f"{label} from {value:g}" for label, value in rule.thresholds.items())
    return f"Labels: {', '.join(manifest.labels)}." + (f" Thresholds: {limits}." if limits else "")


def _entry(entry: CardEntry, images: str) -> str:
    original, spec = entry.original, entry.original.deployed().spec
    facts = [
        f"File: {printable(original.path.name)}, SHA-256 {original.sha256}, opset {original.first_opset}.",
        f"Input: {spec.channels} channel(s) of {spec.crop_px} px, {original.layout.upper()}, {original.dtype}; "
        f"{original.trained.describe()}.",
        f"Output: {entry.columns.kind}, {entry.columns.count} column(s).",
        *entry.graph.changes,
        *(
            ()
            if entry.graph.has_cam
            else ("It has no class activation map, so reports of this bundle show no heat map.",)
        ),
        f"Compared with the original network on {images}: largest difference of a probability "
        f"{entry.parity.probability:.1e}"
        + ("." if entry.parity.logit is None else f", of a logit {entry.parity.logit:.1e}."),
    ]
    if entry.expected is not None:
        facts.append(f"Largest difference from the probabilities of its own program: {entry.expected:.1e}.")
    return f"## {entry.name}\n\n" + "\n".join(f"- {fact}" for fact in facts)
