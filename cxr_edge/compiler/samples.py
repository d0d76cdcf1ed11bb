"""Images of a build: calibration and comparison use these, each screened by the fp32 reference once.

A folder of the user's own X-rays comes in, or else the bundle's gate set, or else its known answers; `Sample`s come out: the
reference's screening and the input tensor of each network, so that every candidate gets the same input. Tensors are kept in
memory and files are not, so their number is limited and the report states the limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_set import GateImages, read_gate_set
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import SEGMENTER, EngineSet
from cxr_edge.errors import ContractError, InputError
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import NO_FINDING, Image, Roi, Screening
from cxr_edge.screening.screener import Screener

__all__ = [
    "KNOWN_ANSWER_TOLERANCE",
    "ImageKind",
    "Sample",
    "Samples",
    "check_gate_answers",
    "check_known_answers",
    "from_folder",
    "gate_set",
    "image_paths",
    "known_answers",
    "of_images",
    "spread_evenly",
    "true_label",
    "unchecked",
]

# fp32 sums in another order on another processor; a wrong resize or box changes probabilities far more.
KNOWN_ANSWER_TOLERANCE = 1e-3
# Of a gate set's many images a few have a lung box that such a difference moves by a pixel.
GATE_ANSWER_SHARE = 0.02
# Of a gate set, for single networks: enough for their AUC, and a build takes as long as on its known answers.
NETWORK_IMAGES = 60

# `surrogate` and `images` are the kinds of a gate set.
ImageKind = Literal["known answers", "surrogate", "images", "folder"]

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image with the reference's result and the networks' inputs."""

    source: Path | Image  # the file, or the image itself where it is of no file
    # Index of the true label; of findings 0 or 1 for each label; None if unknown.
    label: int | tuple[int, ...] | None
    screening: Screening = field(repr=False)  # by the reference
    inputs: dict[str, Tensor] = field(repr=False)  # (1, C, H, W) by name of the network

    def image(self) -> Image:
        """Return the image, decoded again if it is a file."""
        return self.source if isinstance(self.source, Image) else decode(self.source)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The images of a build."""

    description: str  # for the report
    kind: ImageKind
    items: tuple[Sample, ...]  # 200 of 3 members of 224x224 px and a segmenter of 256x256 px: about 170 MB
    unreadable: tuple[str, ...] = ()  # the errors of files that could not be decoded

    def inputs(self, name: str) -> list[Tensor]:
        """Return the input of the network `name` for every image."""
        return [s.inputs[name] for s in self.items]

    def truth(self) -> npt.NDArray[np.int64] | None:
        """Return the true label indices (images), or findings (images, labels) of 0 and 1; None unless all are known."""
        labels = [s.label for s in self.items if s.label is not None]
        return np.array(labels, np.int64) if len(labels) == len(self.items) else None

    def for_networks(self) -> Samples:
        """Return the images that single networks are compared on: every one, or of a gate set an even selection.

        A build tries dozens of candidates of each network; the ensemble, once, sees all images.
        """
        step = -(-len(self.items) // NETWORK_IMAGES) if self.kind in ("surrogate", "images") else 1
        return replace(self, items=self.items[::step])

    @property
    def moves_limits(self) -> bool:
        """True if the engines' limits may be moved by these images: probabilities on phantoms shift otherwise than on X-rays."""
        return self.kind != "known answers"

    def known(self, labels: int) -> npt.NDArray[np.int8]:
        """Return 1 where a label is true, 0 where it is not, and -1 in the rows of images of unknown truth (images, labels)."""
        found = np.full((len(self.items), labels), -1, np.int8)
        for row, sample in zip(found, self.items, strict=True):
            if sample.label is not None:
                row[:] = np.arange(labels) == sample.label if isinstance(sample.label, int) else sample.label
        return found

    def digest(self) -> str:
        """Return the SHA-256 of the images' digests in order: equal for the same images."""
        return hashlib.sha256("\n".join(s.screening.sha256 for s in self.items).encode()).hexdigest()


def known_answers(bundle: Bundle, reference: EngineSet, *, threads: int) -> Samples:
    """Return the bundle's own synthetic images. Raises InputError if one cannot be decoded, or if there are none."""
    answers = bundle.manifest.known_answers
    if not answers:
        raise InputError(
            f"bundle {bundle.manifest.name!r} holds no known answers to compare engines on: give images of your own "
            f"with --calibration DIR"
        )
    reader = _SampleReader(bundle, reference, threads)
    items = tuple(reader.read(bundle.file(a.file), None) for a in answers)
    description = f"{len(items)} synthetic known-answer images of the bundle"
    return Samples(description=description, kind="known answers", items=items)


def gate_set(bundle: Bundle, reference: EngineSet, *, threads: int) -> Samples | None:
    """Return the images of the bundle's gate set, after this machine has reproduced its answers; None if it has none.

    Raises BundleError for a damaged one, and ContractError as `check_gate_answers`.
    """
    gate = read_gate_set(bundle)
    if gate is None:
        return None
    what = {"surrogate": "draws of a surrogate of its training images", "images": "real images"}[gate.kind]
    description = f"{len(gate.images)} images of the bundle's gate set, {what}"
    # What a draw was drawn from is no diagnosis: AUC against it tells less of X-rays than against the reference's decisions.
    truth = gate.truth if gate.kind == "images" else (None,) * len(gate.images)
    found = of_images(bundle, reference, gate.images, truth, description, kind=gate.kind, threads=threads)
    check_gate_answers(gate, found)
    return found


def of_images(
    bundle: Bundle,
    reference: EngineSet,
    images: Sequence[Image],
    truth: Sequence[int | tuple[int, ...] | None],
    description: str,
    *,
    kind: ImageKind,
    threads: int,
) -> Samples:
    """Return images in memory. truth: as `Sample.label`, one for each."""
    reader = _SampleReader(bundle, reference, threads)
    items = tuple(reader.take(image, image, label) for image, label in zip(images, truth, strict=True))
    return Samples(description=description, kind=kind, items=items)


def from_folder(bundle: Bundle, reference: EngineSet, folder: Path, *, threads: int, limit: int) -> Samples:
    """Return images of `folder` and below, evenly spaced if there are more than `limit`.

    A file in a sub-folder named like a label of the bundle has that label; in a multi-label bundle one in a sub-folder named like
    a decision (`nodule`, `effusion+nodule`, `no finding`) has exactly these findings. Raises InputError if none can be decoded.
    """
    paths = image_paths(folder)
    selected = spread_evenly(paths, limit)
    reader, items, unreadable = _SampleReader(bundle, reference, threads), [], []
    for path in selected:
        try:
            items.append(reader.read(path, true_label(path.parent.name, bundle.manifest)))
        except InputError as error:
            unreadable.append(str(error))
    if not items:
        raise InputError(
            f"none of the {len(selected)} files in {folder} is an X-ray that can be read; first: {unreadable[0]}"
        )
    of = f" of {len(paths)} files" if len(items) < len(paths) else ""
    description = f"{len(items)}{of} in {folder}"
    return Samples(description=description, kind="folder", items=tuple(items), unreadable=tuple(unreadable))


def image_paths(folder: Path, option: str = "--calibration") -> list[Path]:
    """Return all visible files in `folder` and below, sorted. option: that names the folder, for errors.

    Raises InputError if it is no folder or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"{option} takes a folder of X-rays, there is none at {folder}")
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not paths:
        raise InputError(f"the folder {folder} is empty: {option} needs X-rays in it")
    return paths


def check_known_answers(bundle: Bundle, samples: Samples) -> None:
    """Raise ContractError unless the reference reproduces the probabilities that the manifest has from training."""
    for answer, sample in zip(bundle.manifest.known_answers, samples.items, strict=True):
        actual, expected = np.array(sample.screening.probabilities), np.array(answer.probabilities)
        difference = float(np.abs(actual - expected).max())
        if not difference <= KNOWN_ANSWER_TOLERANCE:
            raise ContractError(
                f"this machine does not compute what training did: for {answer.file.path} the manifest has "
                f"{expected.round(4).tolist()}, the fp32 networks give {actual.round(4).tolist()} here, "
                f"{difference:.2g} apart (at most {KNOWN_ANSWER_TOLERANCE:g}). The bundle was exported by another "
                f"release of cxr-edge, or this build of it is faulty: do not use it here before that is cleared up"
            )


def check_gate_answers(gate: GateImages, samples: Samples) -> None:
    """Raise ContractError unless the reference gives the probabilities that the gate set has, on nearly all images."""
    actual = np.array([s.screening.probabilities for s in samples.items])
    differences = np.abs(actual - gate.probabilities).max(axis=1)
    other = int((~(differences <= KNOWN_ANSWER_TOLERANCE)).sum())
    if other > GATE_ANSWER_SHARE * len(differences):
        raise ContractError(
            f"this machine does not compute what made the bundle's gate set: on {other} of {len(differences)} images the fp32 "
            f"networks give probabilities that differ by more than {KNOWN_ANSWER_TOLERANCE:g}, by up to "
            f"{float(differences.max()):.2g}. Its networks or their temperature were changed after the gate set was made (make "
            f"it again: python -m training.gate_set), or this build of cxr-edge is faulty"
        )


def unchecked(bundle: Bundle) -> Bundle:
    """Return the bundle without its checker, which sees the same image whatever the engines are."""
    return replace(bundle, manifest=replace(bundle.manifest, checker=None))


def spread_evenly(paths: Sequence[Path], limit: int) -> list[Path]:
    """Return at most `limit` of `paths`, evenly spaced, so that every sub-folder keeps its share."""
    if len(paths) <= limit:
        return list(paths)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int)]


def true_label(folder: str, manifest: Manifest) -> int | tuple[int, ...] | None:
    """Return `Sample.label` of the files in a folder of that name."""
    labels = manifest.labels
    if not manifest.multi_label:
        return labels.index(folder) if folder in labels else None
    present = [] if folder == NO_FINDING else folder.split("+")
    return tuple(int(label in present) for label in labels) if set(present) <= set(labels) else None


class _SampleReader:
    """Decodes images, screens them with the fp32 reference and preprocesses them for every network."""

    def __init__(self, bundle: Bundle, reference: EngineSet, threads: int) -> None:
        manifest = bundle.manifest
        self._screener = Screener(unchecked(bundle), reference, threads=threads, whole=True)
        self._members = [m.name for m in manifest.members]
        self._preprocessor = Preprocessor([m.preprocess for m in manifest.members], threads=threads)
        self._lungs = Preprocessor([manifest.segmenter.preprocess], threads=threads) if manifest.segmenter else None

    def read(self, path: Path, label: int | tuple[int, ...] | None) -> Sample:
        return self.take(path, decode(path), label)

    def take(self, source: Path | Image, image: Image, label: int | tuple[int, ...] | None) -> Sample:
        screening = self._screener.screen(image)
        inputs = dict(zip(self._members, self._preprocessor.run([image.pixels], [screening.roi]), strict=True))
        if self._lungs is not None:
            full = Roi.full(image.width_px, image.height_px)
            inputs[SEGMENTER] = self._lungs.run([image.pixels], [full])[0]
        return Sample(source=source, label=label, screening=screening, inputs=inputs)
