"""Images on which the decisions of two bundles are compared: a folder, else the bundle's gate set, else its known answers.

Returned with their true decisions, where these are known, and whether they are drawings, which a checker may refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_file import Truth
from cxr_edge.bundle.gate_set import GateImages, read_gate_set
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.samples import image_paths
from cxr_edge.records import NO_FINDING, decision_text

__all__ = ["ComparedImages", "compared_images"]


@dataclass(frozen=True, kw_only=True)
class ComparedImages:
    """Images, as `comparison.compare` takes them."""

    description: str
    items: tuple[object, ...]
    true: Mapping[str, str] = field(default_factory=dict)  # by the name of the image
    drawn: bool = False


def compared_images(old: Bundle, new: Bundle, folder: Path | None = None) -> ComparedImages:
    """Return the images of `folder`, or of the bundles. Raises InputError for a folder without files.

    A file in a sub-folder named like a decision of the new bundle (`normal`, `effusion+nodule`, `no finding`) has that one.
    """
    if folder is not None:
        return _of_folder(folder, new.manifest)
    for which, bundle in (("new", new), ("old", old)):
        gate = read_gate_set(bundle)
        if gate is not None:
            return _of_gate_set(gate, bundle.manifest, which)
    return _known_answers(old, new)


def _of_gate_set(gate: GateImages, manifest: Manifest, which: str) -> ComparedImages:
    """Return the images of a gate set, with their true decisions if they are real."""
    real = gate.kind == "images"
    kind = "real images" if real else "drawn from a model of training images: they are no patients"
    truth = zip(gate.images, gate.truth, strict=True) if real else ()
    pairs = ((image.source, _decision(value, manifest)) for image, value in truth)
    return ComparedImages(
        description=f"{len(gate.images)} images of the {which} bundle's gate set, {kind}",
        items=gate.images,
        true={name: decision for name, decision in pairs if decision is not None},
        drawn=not real,
    )


def _decision(truth: Truth, manifest: Manifest) -> str | None:
    if truth is None or isinstance(truth, int):
        return None if truth is None else manifest.labels[truth]
    return decision_text([label for label, present in zip(manifest.labels, truth, strict=True) if present])


def _of_folder(folder: Path, manifest: Manifest) -> ComparedImages:
    paths = tuple(image_paths(folder, option="--images"))
    pairs = ((str(p), _true(p.parent.name, manifest)) for p in paths)
    true = {name: label for name, label in pairs if label is not None}
    known = f", {len(true)} of them in folders named like labels" if true else ""
    return ComparedImages(description=f"{len(paths)} files of {folder}{known}", items=paths, true=true)


def _true(name: str, manifest: Manifest) -> str | None:
    if not manifest.multi_label:
        return name if name in manifest.labels else None
    present = () if name == NO_FINDING else tuple(name.split("+"))
    if not set(present) <= set(manifest.labels):
        return None
    return decision_text([label for label in manifest.labels if label in present])


def _known_answers(old: Bundle, new: Bundle) -> ComparedImages:
    files = tuple(dict(_files(old, new)).values())
    which = "the new bundle's" if new.manifest.known_answers else "the old bundle's"
    text = (
        f"{len(files)} known answers ({which}), which are drawings: they show that numbers change, not what that means "
        "for patients"
    )
    return ComparedImages(
        description=text if files else "none: neither bundle has known answers", items=files, drawn=True
    )


def _files(old: Bundle, new: Bundle) -> Iterator[tuple[str, Path]]:
    """Yield the new bundle's images by SHA-256, or the old one's where it has none."""
    bundle = new if new.manifest.known_answers else old
    for answer in bundle.manifest.known_answers:
        yield answer.file.sha256, bundle.file(answer.file)
