"""The images that a build calibrates and compares on, taken through the fp32 reference once.

A bundle and its known answers, or a folder of the user's own X-rays, come in; out come `Sample`s: the reference's
screening and the tensors that each network gets, so that every candidate sees the very same input. Tensors are kept,
images are not, so the number of images is limited and the limit is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import SEGMENTER, EngineSet
from cxr_edge.errors import ContractError, InputError
from cxr_edge.ops.preprocess import Preprocessor
from cxr_edge.records import Image, Roi, Screening
from cxr_edge.screening.screener import Screener

__all__ = [
    "IMAGE_LIMIT",
    "Sample",
    "Samples",
    "check_known_answers",
    "from_folder",
    "image_paths",
    "known_answers",
    "spread",
]

IMAGE_LIMIT = 200  # of 3 members of 224x224 px and a segmenter of 256x256 px: about 170 MB

# fp32 sums in another order on another processor; a wrong resize or box moves probabilities far more.
KNOWN_ANSWER_TOLERANCE = 1e-3

Tensor = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image: its file, the index of its true label (None: unknown), the reference's screening, and the input
    (1, C, H, W) of every part by name.
    """

    path: Path
    label: int | None
    screening: Screening = field(repr=False)
    inputs: dict[str, Tensor] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """description: which images, for the report. refused: files that could not be decoded, with the reason."""

    description: str
    items: tuple[Sample, ...]
    refused: tuple[str, ...] = ()

    def batches(self, part: str) -> list[Tensor]:
        """The input of `part` for every sample."""
        return [s.inputs[part] for s in self.items]

    def truth(self) -> npt.NDArray[np.int64] | None:
        """The true label indices (images), or None unless all are known."""
        found = [s.label for s in self.items if s.label is not None]
        return np.array(found, np.int64) if len(found) == len(self.items) else None

    def digest(self) -> str:
        """SHA-256 of the images' digests in order: equal for the same images."""
        return hashlib.sha256("\n".join(s.screening.sha256 for s in self.items).encode()).hexdigest()


def known_answers(bundle: Bundle, reference: EngineSet, *, threads: int) -> Samples:
    """The bundle's own synthetic images. Raises InputError if one cannot be decoded, or if there are none."""
    answers = bundle.manifest.known_answers
    if not answers:
        raise InputError(
            f"bundle {bundle.manifest.name!r} holds no known answers to compare engines on: give images of your own "
            f"with --calibration DIR"
        )
    prepare = _Preparation(bundle, reference, threads)
    items = tuple(prepare.sample(bundle.file(a.file), None) for a in answers)
    return Samples(description=f"{len(items)} synthetic known-answer images of the bundle", items=items)


def from_folder(
    bundle: Bundle, reference: EngineSet, folder: Path, *, threads: int, limit: int = IMAGE_LIMIT
) -> Samples:
    """Images of `folder` and below, spread evenly over it if there are more than `limit`.

    A file in a sub-folder called like a label of the bundle has that label. Raises InputError if none can be decoded.
    """
    paths = image_paths(folder)
    chosen = spread(paths, limit)
    labels = bundle.manifest.labels
    prepare, items, refused = _Preparation(bundle, reference, threads), [], []
    for path in chosen:
        label = labels.index(path.parent.name) if path.parent.name in labels else None
        try:
            items.append(prepare.sample(path, label))
        except InputError as error:
            refused.append(str(error))
    if not items:
        raise InputError(
            f"none of the {len(chosen)} files in {folder} is an X-ray that can be read; first: {refused[0]}"
        )
    of = f" of {len(paths)} files" if len(items) < len(paths) else ""
    return Samples(description=f"{len(items)}{of} in {folder}", items=tuple(items), refused=tuple(refused))


def image_paths(folder: Path) -> list[Path]:
    """All visible files in `folder` and below, sorted. Raises InputError if it is no folder or holds none."""
    if not folder.is_dir():
        raise InputError(f"--calibration takes a folder of X-rays, there is none at {folder}")
    found = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    if not found:
        raise InputError(f"the folder {folder} is empty: --calibration needs X-rays in it")
    return found


def check_known_answers(bundle: Bundle, samples: Samples) -> None:
    """Raise ContractError unless the reference answers here what the manifest says it answered where it was trained."""
    for answer, sample in zip(bundle.manifest.known_answers, samples.items, strict=True):
        here = np.array(sample.screening.probabilities)
        worst = float(np.abs(here - np.array(answer.probabilities)).max())
        if not worst <= KNOWN_ANSWER_TOLERANCE:
            raise ContractError(
                f"this machine does not compute what training did: for {answer.file.path} the manifest has "
                f"{np.round(answer.probabilities, 4).tolist()}, the fp32 networks give {here.round(4).tolist()} here, "
                f"{worst:.2g} apart (at most {KNOWN_ANSWER_TOLERANCE:g}). The bundle was exported by another release "
                f"of cxr-edge, or this build of it is faulty: do not use it here before that is cleared up"
            )


class _Preparation:
    """The fp32 reference and the preprocessing, made once for all samples."""

    def __init__(self, bundle: Bundle, reference: EngineSet, threads: int) -> None:
        manifest = bundle.manifest
        self._screener = Screener(bundle, reference, threads=threads)
        self._members = [m.name for m in manifest.members]
        self._preprocessor = Preprocessor([m.preprocess for m in manifest.members], threads=threads)
        self._lungs = Preprocessor([manifest.segmenter.preprocess], threads=threads) if manifest.segmenter else None

    def sample(self, path: Path, label: int | None) -> Sample:
        image = decode(path)
        screening = self._screener.screen(image)
        inputs = dict(zip(self._members, self._preprocessor.run([image.pixels], [screening.roi]), strict=True))
        if self._lungs is not None:
            inputs[SEGMENTER] = self._lungs.run([image.pixels], [_frame(image)])[0]
        return Sample(path=path, label=label, screening=screening, inputs=inputs)


def _frame(image: Image) -> Roi:
    return Roi.full(image.width_px, image.height_px)


def spread(paths: Sequence[Path], limit: int) -> list[Path]:
    """At most `limit` of `paths`, evenly spaced, so that every sub-folder keeps its share."""
    if len(paths) <= limit:
        return list(paths)
    return [paths[i] for i in np.linspace(0, len(paths) - 1, limit).round().astype(int)]
