"""Images that an import is checked on: a folder of X-rays, or drawn phantoms, each with the box that members take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.compiler.samples import spread_evenly
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import reference
from cxr_edge.errors import InputError
from cxr_edge.names import printable
from cxr_edge.phantoms import LABELS, make_phantom
from cxr_edge.records import Image, Roi
from cxr_edge.screening.pipeline import HostPipeline

__all__ = ["SampleImage", "SampleImages", "sample_images"]

_PHANTOM_SIZES = ((512, 470), (200, 230))  # larger and smaller than usual inputs


@dataclass(frozen=True, kw_only=True)
class SampleImage:
    """One image with the lung box, or the full frame."""

    image: Image = field(repr=False)
    box: Roi


@dataclass(frozen=True, kw_only=True)
class SampleImages:
    """The images of an import."""

    items: tuple[SampleImage, ...]
    description: str
    folder: Path | None  # None: phantoms


def sample_images(
    folder: Path | None, *, count: int, lungs: bool, threads: int, say: Callable[[str], None]
) -> SampleImages:
    """Return at most `count` images, evenly spaced in the folder. lungs: find boxes by the packaged segmenter.

    Raises InputError if the folder has no X-ray that can be read; files that cannot be are named by `say`.
    """
    images = _drawn(count) if folder is None else _read(folder, count, say)
    boxes = _boxes(images, threads) if lungs else [Roi.full(i.width_px, i.height_px) for i in images]
    kind = "drawn phantoms" if folder is None else f"images of {printable(folder)}"
    items = tuple(SampleImage(image=i, box=b) for i, b in zip(images, boxes, strict=True))
    return SampleImages(items=items, description=f"{len(items)} {kind}", folder=folder)


def _drawn(count: int) -> list[Image]:
    images = []
    for i in range(count):
        label, seed = LABELS[i % len(LABELS)], i // len(LABELS)
        phantom = make_phantom(label, size_px=_PHANTOM_SIZES[i % 2], seed=seed, bits=16 if i % 3 == 1 else 8)
        images.append(decode(phantom.pixels, source=f"phantom {label}-{seed}"))
    return images


def _read(folder: Path, count: int, say: Callable[[str], None]) -> list[Image]:
    if not folder.is_dir():
        raise InputError(f"--images takes a folder of X-rays, there is none at {folder}")
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    images, reasons = [], []
    for path in spread_evenly(paths, count):
        try:
            images.append(decode(path))
        except InputError as error:
            reasons.append(str(error))
            say(f"skipped: {error}")
    if not images:
        raise InputError(
            f"none of the {len(paths)} files in {folder} is an X-ray that can be read{'; first: ' if reasons else ''}"
            f"{''.join(reasons[:1])}: give a folder of X-rays with --images, or leave it out to use drawn ones"
        )
    return images


def _boxes(images: list[Image], threads: int) -> list[Roi]:
    starter = Bundle.open(STARTER)
    pipeline = HostPipeline(starter.manifest, reference(starter, threads=threads), threads=threads)
    return [pipeline.run(image).roi for image in images]
