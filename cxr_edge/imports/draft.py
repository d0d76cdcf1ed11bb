"""Files of an imported bundle: the draft with its networks, then model card and provenance when the import has passed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import STARTER, Bundle, file_ref, write_bundle
from cxr_edge.bundle.manifest import Manifest, Segmenter
from cxr_edge.bundle.networks import FileRef, Member
from cxr_edge.compiler.calibrate import measure_ranges
from cxr_edge.errors import InputError
from cxr_edge.imports.member_graph import Columns, MemberGraph
from cxr_edge.imports.model_card import INTENDED_USE, CardEntry, model_card
from cxr_edge.imports.original import Original
from cxr_edge.imports.sample_images import SampleImages
from cxr_edge.names import printable
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.specs.combination import Activation, Combination, Decision
from cxr_edge.specs.outputs import COMBINED_KINDS
from cxr_edge.version import __version__

__all__ = ["ImportSettings", "ReadNetwork", "complete", "facts", "member_inputs", "write_draft"]

CARD = "MODEL_CARD.md"


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """Settings of an import."""

    labels: tuple[str, ...]  # one per column; with multi_label "" leaves a column out
    multi_label: bool = False  # the labels are findings that do not exclude each other
    thresholds: Mapping[str, float] = field(default_factory=dict)  # by label; of findings 0.5 without one
    weights: tuple[float, ...] = ()  # one per network; empty: the plain average
    images: Path | None = None  # folder of X-rays; None: phantoms
    image_count: int = 16
    name: str | None = None  # of the bundle; None: of its folder
    threads: int = 1

    @property
    def activation(self) -> Activation:
        """Activation of the bundle's combination."""
        return "sigmoid" if self.multi_label else "softmax"


@dataclass(frozen=True, kw_only=True)
class ReadNetwork:
    """One network that was read and run on the sample images."""

    name: str  # of the member
    original: Original
    columns: Columns
    raw: npt.NDArray[np.float64] = field(repr=False)  # (images, columns)
    expected: float | None  # largest difference from the probabilities of its own program


def write_draft(
    root: Path,
    settings: ImportSettings,
    folder: str,
    read: Sequence[ReadNetwork],
    graphs: Sequence[MemberGraph],
    images: SampleImages,
    say: Callable[[str], None],
) -> Bundle:
    """Write the bundle in `root`, which has the networks' files, without known answers and card.

    folder: name of the bundle if the settings have none. Activation ranges are measured on X-rays, never on phantoms.
    """
    measured = None if images.folder is None else images
    (root / CARD).write_text("# Draft\n", encoding="utf-8")
    lungs = any(r.original.trained.region == "lungs" for r in read)
    members = []
    for r, graph in zip(read, graphs, strict=True):
        producer = printable(r.original.model.producer_name)[:60].strip() or "an unknown program"
        members.append(
            Member(
                name=r.name,
                architecture=f"imported, exported by {producer}",
                file=file_ref(root, f"{r.name}.onnx"),
                preprocess=r.original.deployed().spec,
                has_cam=graph.has_cam,
                activation_ranges=None if measured is None else _ranges(root, r, measured, say),
                output=COMBINED_KINDS[settings.activation],
            )
        )
    return write_bundle(
        root,
        Manifest(
            name=settings.name or folder,
            version="1",
            created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            labels=tuple(filter(None, settings.labels)),
            segmenter=_packaged_segmenter(root) if lungs else None,
            members=tuple(members),
            combination=_combination(settings, len(read)),
            decision=Decision(thresholds=dict(settings.thresholds), uncertain_below=0.0),
            known_answers=(),
            model_card=file_ref(root, CARD),
            intended_use=INTENDED_USE,
            provenance={},
            metrics={},
        ),
    )


def _ranges(root: Path, read: ReadNetwork, images: SampleImages, say: Callable[[str], None]) -> FileRef:
    say(f"{read.name}: measuring activation ranges on {images.description}")
    file = root / f"{read.name}.ranges.json"
    measure_ranges(root / f"{read.name}.onnx", member_inputs(read, images), source="sample images of the import").write(
        file
    )
    return file_ref(root, file.name)


def _packaged_segmenter(root: Path) -> Segmenter:
    """Copy the starter's segmenter into the bundle."""
    starter = Bundle.open(STARTER)
    segmenter = starter.manifest.segmenter
    if segmenter is None:
        raise InputError("the packaged bundle has no segmenter: give region frame")
    for ref in filter(None, (segmenter.file, segmenter.activation_ranges)):
        shutil.copyfile(starter.file(ref), root / Path(ref.path).name)
    ranges = segmenter.activation_ranges
    return replace(
        segmenter,
        file=file_ref(root, Path(segmenter.file.path).name),
        activation_ranges=None if ranges is None else file_ref(root, Path(ranges.path).name),
    )


def _combination(settings: ImportSettings, members: int) -> Combination:
    if settings.weights and len(settings.weights) != members:
        raise InputError(f"--combine has {len(settings.weights)} weights for {members} networks: give one per network")
    total = sum(settings.weights)
    return Combination(
        strategy="weighted-average" if settings.weights else "average",
        member_temperatures=(1.0,) * members,
        temperature=1.0,
        parameters={"weights": [w / total for w in settings.weights]} if settings.weights else {},
        activation=settings.activation,
    )


def member_inputs(read: ReadNetwork, images: SampleImages) -> list[npt.NDArray[np.float32]]:
    """Return the deployed input (1, C, S, S) of every image."""
    preprocessor = Preprocessor([read.original.deployed().spec])
    return [preprocessor.run([i.image.pixels], [i.box])[0] for i in images.items]


def complete(bundle: Bundle, entries: Sequence[CardEntry], images: SampleImages) -> None:
    """Write the model card, and what is known into the manifest."""
    manifest, combination = bundle.manifest, bundle.manifest.combination
    weights = combination.parameters.get("weights", ())
    words = combination.strategy + (f" ({', '.join(f'{w:.3g}' for w in weights)})" if weights else "")
    card = model_card(manifest, words, images.description, entries)
    (bundle.root / CARD).write_text(card, encoding="utf-8")
    kind = "drawn phantoms" if images.folder is None else "X-rays of a folder"
    write_bundle(
        bundle.root,
        replace(
            manifest,
            model_card=file_ref(bundle.root, CARD),
            provenance={
                "imported_by": f"cxr-edge {__version__}",
                "parity_images": f"{len(images.items)} {kind}",
                "members": {e.name: facts(e) for e in entries},
            },
            metrics={"accuracy": "not measured"},
        ),
    )


def facts(entry: CardEntry) -> dict[str, Any]:
    """Return what is known about a member, as JSON."""
    original = entry.original
    figures = {k: v for k, v in entry.parity.as_json().items() if k != "worst"}  # an image's name may be a patient's
    return {
        "name": entry.name,
        "file": printable(original.path.name),
        "sha256": original.sha256,
        "opset": original.first_opset,
        "input": original.trained.describe(),
        "layout": original.layout,
        "output": entry.columns.kind,
        "columns": entry.columns.count,
        "finding": entry.columns.finding,
        **({"findings": list(entry.columns.findings)} if entry.columns.findings else {}),
        "has_cam": entry.graph.has_cam,
        "changes": list(entry.graph.changes),
        "parity": figures,
        "largest_difference_from_expected": entry.expected,
    }
