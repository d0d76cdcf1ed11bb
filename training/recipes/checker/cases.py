"""Cases that the checker is measured on: an item in, its pictures with the name of what was done to each out.

Alterations are made at the image's own size, before the deployed preprocessing, with random numbers that depend on the image
alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.data.alterations import (
    cut_off,
    exposed,
    inverted,
    marked,
    mildly,
    mirrored,
    photographed,
    turned,
)
from training.data.canvases import LungFinder
from training.data.drawings import MEASURED, TRAINED, draw
from training.recipes.checker.frames import read_item, share_box
from training.recipes.checker.items import Item

__all__ = ["AS_THEY_ARE", "MILD", "Case", "cases_of", "drawn_cases"]

Gray = npt.NDArray[np.uint8]

AS_THEY_ARE, MILD = "good, as they are", "good, mildly changed"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture that the checks see."""

    name: str  # of the row in the table
    source: str
    image: Gray
    patient: str = ""
    child: bool | None = None
    ap: bool | None = None


def cases_of(item: Item, find_lungs: LungFinder, *, good_only: bool = False) -> Iterator[Case]:
    """Yield the pictures of an item: itself, and of a frontal image each alteration. good_only: without alterations."""
    image = read_item(item)
    if image is None:
        return
    rng = np.random.default_rng(zlib.crc32(f"{item.patient}/{item.path.name}".encode()))
    if item.kind != "frontal":
        if not good_only:
            yield _case(item, _OTHER_ROWS[item.kind], image)
        return
    roi, failed = find_lungs(image)
    box = share_box(roi, image)
    yield _case(item, AS_THEY_ARE, image)
    mild, _ = mildly(image, box, rng)
    yield _case(item, MILD, exposed(mild, rng))
    if good_only:
        return
    yield _case(item, "inverted", inverted(image))
    for quarters, name in ((1, "turned by 90 degrees"), (2, "turned by 180 degrees"), (3, "turned by 270 degrees")):
        yield _case(item, name, turned(image, quarters))
    yield _case(item, "mirrored", mirrored(image))
    yield _case(item, "photographed", photographed(image, rng))
    if not failed:
        yield _case(item, "lungs cut off", cut_off(image, box, rng)[0])
        yield _case(item, "text or markers in the lungs", marked(image, box, rng))


def drawn_cases(count: int, *, seed: int) -> Iterator[Case]:
    """Yield `count` drawings of each kind."""
    for name, kinds in (("drawings, kinds that trained", TRAINED), ("drawings, other kinds", MEASURED)):
        for k, kind in enumerate(kinds):
            for i in range(count):
                rng = np.random.default_rng([seed, 7919, len(kinds), k, i])
                yield Case(name=name, source=kind, image=draw(kind, rng))


_OTHER_ROWS = {"lateral": "lateral views", "slice": "slices of CT and MR", "picture": "pictures of packages"}


def _case(item: Item, name: str, image: Gray) -> Case:
    return Case(name=name, source=item.source, image=image, patient=item.patient, child=item.child, ap=item.ap)
