"""Gate set of a bundle: images on which `build-engine` compares engines, with the reference's answers; manifest key `gate_set`.

A bundle comes in; images, truth and answers come out, or None where it has no gate set. The file (`gate_file`) holds real images
that may travel, or a surrogate of training images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.folder import Bundle, file_ref, write_bundle
from cxr_edge.bundle.gate_file import GateFile, Truth, damaged
from cxr_edge.bundle.manifest import GateKind, GateSet, Manifest
from cxr_edge.records import Image
from cxr_edge.specs.json_fields import FieldError

__all__ = ["GATE_SET_NAME", "GateImages", "GateSet", "attach_gate_set", "read_gate_file", "read_gate_set"]

GATE_SET_NAME = "gate.set"  # in the folder of a bundle


@dataclass(frozen=True, kw_only=True)
class GateImages:
    """Images of a gate set with what is known of them."""

    kind: GateKind
    images: tuple[Image, ...]
    truth: tuple[Truth, ...]  # a surrogate's: the label that it was drawn from
    probabilities: npt.NDArray[np.float32]  # (n, labels), of the fp32 reference where the set was made
    decisions: tuple[str, ...]  # likewise, as `Screening.forced_decision`


def read_gate_set(bundle: Bundle) -> GateImages | None:
    """Return the bundle's gate set, or None if it has none. Raises BundleError for one that is not valid, or of other labels."""
    entry = bundle.manifest.gate_set
    if entry is None:
        return None
    file = read_gate_file(bundle, entry)
    try:
        images = file.images()
    except FieldError as error:
        raise damaged(bundle.file(entry.file), error) from None
    return GateImages(
        kind=entry.kind,
        images=tuple(_image(pixels, f"gate set, image {i + 1}") for i, pixels in enumerate(images)),
        truth=file.truth,
        probabilities=np.array(file.probabilities, np.float32),
        decisions=file.decisions,
    )


def read_gate_file(bundle: Bundle, entry: GateSet) -> GateFile:
    """Return the file of the bundle's gate set, without its images. Raises BundleError as `read_gate_set`."""
    path = bundle.file(entry.file)
    file = GateFile.read(path)
    try:
        _check(bundle.manifest, entry, file)
    except FieldError as error:
        raise damaged(path, error) from None
    return file


def attach_gate_set(
    bundle: Bundle, file: GateFile, *, licence: str, attribution: str, provenance: Mapping[str, Any] | None = None
) -> Bundle:
    """Write the gate set into the bundle's folder and its manifest, in place of an earlier one. Returns the changed bundle.

    provenance: facts for the manifest's provenance, only displayed; None keeps none.
    """
    path = bundle.root / GATE_SET_NAME
    unfinished = path.with_name(f".{GATE_SET_NAME}.unfinished")
    try:
        file.write(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    entry = GateSet(
        file=file_ref(bundle.root, GATE_SET_NAME),
        kind=file.kind,
        licence=licence,
        attribution=attribution,
        images=len(file.truth),
        counts=_counts(file),
    )
    facts = {k: v for k, v in bundle.manifest.provenance.items() if k != "gate_set"}
    facts |= {} if provenance is None else {"gate_set": dict(provenance)}
    return write_bundle(bundle.root, replace(bundle.manifest, gate_set=entry, provenance=facts))


def _check(manifest: Manifest, entry: GateSet, file: GateFile) -> None:
    """Raise FieldError unless the file is what the manifest says."""
    if file.labels != manifest.labels:
        raise FieldError("labels", f"are {list(file.labels)}, those of the bundle {list(manifest.labels)}")
    if (file.kind, len(file.truth), _counts(file)) != (entry.kind, entry.images, entry.counts):
        raise FieldError("", f"is not what the manifest says: {entry.images} images, {entry.kind}, {entry.counts}")
    other = int if manifest.multi_label else tuple
    if any(isinstance(value, other) for value in file.truth):
        raise FieldError("truth", "must be of findings in a multi-label bundle, and of one label in another")


def _counts(file: GateFile) -> dict[str, int]:
    """Return the number of images of each label."""
    known = Counter(dict.fromkeys(file.labels, 0))
    for value in file.truth:
        found = () if value is None else (value,) if isinstance(value, int) else np.flatnonzero(value)
        known.update(file.labels[k] for k in found)
    return dict(known)


def _image(pixels: npt.NDArray[np.uint8], source: str) -> Image:
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Image(pixels=np.ascontiguousarray(pixels), source=source, format="array", stored_bits=8, sha256=digest)
