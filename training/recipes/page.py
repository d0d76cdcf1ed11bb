"""Parts that both papers share: the first fields of results.json, titles of tables and figures, and the bundle's stage.

In: a run, or its results. Out: words for pages; networks, bundle and evaluation in their folders.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr_edge.bundle import Bundle
from cxr_edge.specs.combination import Combination
from training.bundles.assemble import assemble
from training.bundles.gate_set import attach_configured
from training.data.canvases import onnx_session
from training.data.dataset import Sample
from training.evaluation.pages import results_as_markdown
from training.json_records import OPTIONAL, from_json, read_json, write_json
from training.models import load_network
from training.pruning.prune import export_network
from training.recipes.config import RunConfig
from training.recipes.run import Run
from training.shared_files import atomic_write, write_text

__all__ = [
    "RESULTS",
    "Leakage",
    "RunResults",
    "caption",
    "earlier_in_words",
    "export_bundle",
    "label_in_words",
    "leakage_of",
    "opening_facts",
    "read_leakage",
    "share_in_words",
    "unit_in_words",
]

RESULTS = "results.json"  # in the folder of a page


@dataclass(frozen=True, kw_only=True)
class RunResults:
    """First fields of both papers' results."""

    config: str  # name of the configuration
    preset: str
    seed: int  # of split and bootstrap
    resamples: int
    split: str
    labels: tuple[str, ...]
    # The label that the paper separates from the rest; COVID-19 in files of version 0.1.
    positive: str = "covid-19"
    # Of a run on other data or settings than the configuration now has: its date and what differs, a sentence for the page's
    # start. Written by hand in results.json when the configuration changes.
    earlier: str | None = field(default=None, metadata=OPTIONAL)


def opening_facts(config: RunConfig, split: str) -> dict[str, Any]:
    """Return the fields of `RunResults`."""
    names = ("preset", "seed", "resamples", "labels", "positive")
    return {"config": config.name, "split": split, **{name: getattr(config, name) for name in names}}


@dataclass(frozen=True, kw_only=True)
class Leakage:
    """Values of a run's leakage.json that pages print; results.json holds the file as it is."""

    divided_patients: int
    divided_pairs: int = 0
    same_image_pairs: int = 0
    label_by_source: float | None = None
    dropped: Mapping[str, int] | None = None  # reason -> images; None in files of earlier versions


def read_leakage(run: Run) -> Mapping[str, Any]:
    """Return the content of the run's leakage.json."""
    return read_json(dict, run.out / "leakage.json")


def leakage_of(content: Mapping[str, Any]) -> Leakage:
    """Return what pages print of that content."""
    return from_json(Leakage, content, "leakage.")


def unit_in_words(config: RunConfig) -> str:
    """Return a description of what the split keeps together."""
    return "image by image, as the published code: it leaks" if config.unit == "image" else "by patient"


def share_in_words(value: float | None) -> str:
    """Return a share in whole per cent."""
    return "an unknown share" if value is None else f"{100 * value:.0f} %"


def label_in_words(label: str) -> str:
    """Return the name of a label on pages."""
    return "COVID-19" if label == "covid-19" else label


def earlier_in_words(found: RunResults) -> list[str]:
    """Return the paragraph that says that a page is of an earlier run; nothing for others."""
    return [] if found.earlier is None else [f"**An earlier run.** {found.earlier}"]


def caption(found: RunResults, what: str, n: int | str) -> str:
    """Return a title with preset, configuration, n, split and seed."""
    return f"{what} (preset {found.preset}, {found.config}, n = {n}, {found.split}, seed {found.seed})"


def export_bundle(
    run: Run,
    folder: Path,
    networks: Mapping[str, Path],
    designs: Mapping[str, str],
    facts: Mapping[str, Any],
    *,
    samples: Sequence[Sample],
    split: str,
    combination: Combination | None = None,
) -> None:
    """Export the members, write the bundle in the run folder, and its evaluation (bundle.json, bundle.md) to `folder`.

    networks: member -> folder of its trained network, in the members' order.
    samples: the run's samples, with the sides that fit and evaluate the bundle.
    Other arguments: as of `assemble`.
    """
    c, exported = run.config, run.out / "export"
    exported.mkdir(parents=True, exist_ok=True)
    if c.sees_lungs:
        onnx_session(run.segmenter_onnx, threads=1)  # a damaged one is named, not its copy
        with atomic_write(exported / "segmenter.onnx") as beside:
            shutil.copyfile(run.segmenter_onnx, beside)
    for name, trained in networks.items():
        network, spec = load_network(trained)
        export_network(network, spec, c.member_spec, exported / f"{name}.onnx")
    evaluation = assemble(
        run.out / "bundle",
        exported,
        designs,
        samples,
        run.canvases,
        c,
        facts,
        preset=c.preset,
        split=split,
        combination=combination,
        below_floor=run.below_floor,
    )
    attach_configured(Bundle.open(run.out / "bundle"), samples, c)
    write_json(folder / "bundle.json", evaluation)
    write_text(folder / "bundle.md", results_as_markdown(evaluation))
