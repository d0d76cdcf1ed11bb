"""Floors of watched groups: results in; what each floor shows, a table for pages, and an error below a floor, out.

A floor is met if the exact 95 % interval of the group's figure is above it: a group with few images then does not pass by
chance, and how few are too few follows from the floor. The figure is the share of the group's images that are not called the
guarded label or finding, or, in a group of images with it, the share that is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cxr_edge.errors import InputError
from training.data.guard import Guard, Subgroup
from training.evaluation.finding_results import FindingGroup, FindingsEvaluation
from training.evaluation.metrics import LEVEL, Figure, interval
from training.evaluation.results import TOGETHER, Evaluation
from training.markdown import table

__all__ = ["OPTION", "Floor", "check_floors", "floors_of", "floors_section", "least_images"]

OPTION = "--below-floor"  # of the commands that write bundles: go on below a floor

Status = Literal["met", "below", "not shown", "too few"]


@dataclass(frozen=True, kw_only=True)
class Floor:
    """A floor and the figure that is compared with it."""

    name: str  # of the group, in words
    what: str  # the figure, in words
    figure: Figure
    floor: float

    @property
    def status(self) -> Status:
        """`met`, or why it is not: the figure is below, its interval reaches below, or the images are too few for any figure."""
        if self.figure.n < least_images(self.floor):
            return "too few"
        if self.figure.low >= self.floor:
            return "met"
        return "below" if self.figure.value < self.floor else "not shown"

    def __str__(self) -> str:
        """Return a sentence's part: group, figure, floor and status."""
        reasons = {
            "met": "met",
            "below": "below it",
            "not shown": "not shown: the interval reaches below it",
            "too few": f"too few images to tell: at least {least_images(self.floor)} are needed",
        }
        images = "no image" if self.figure.n == 0 else interval(self.figure)
        return f"{self.name}, {self.what}: {images}; floor {self.floor:g}, {reasons[self.status]}"


def least_images(floor: float) -> int:
    """Return the least number of images of which all, if they are right, show the floor."""
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(floor))


def floors_of(results: Evaluation | FindingsEvaluation) -> tuple[Floor, ...]:
    """Return all floors of the configuration that made the results."""
    if isinstance(results, FindingsEvaluation):
        groups = results.groups.get("watch", {})
        return tuple(_of_finding(name, g, groups[name]) for name, g in results.watch.items() if g.floor is not None)
    guard = results.guard
    return () if guard is None else tuple(_of_label(guard, results))


def check_floors(results: Evaluation | FindingsEvaluation, *, below_floor: bool) -> tuple[str, ...]:
    """Return the floors that are not met, in words. Raises InputError if there are any, unless `below_floor`."""
    missed = tuple(str(floor) for floor in floors_of(results) if floor.status != "met")
    if missed and not below_floor:
        listed = "".join(f"\n  {text}" for text in missed)
        raise InputError(
            f"no bundle was written, since these groups that the configuration watches do not reach their floors:{listed}\n"
            f"Train on more of their images or change the floors; or give {OPTION} to write the bundle, whose card says so"
        )
    return missed


def floors_section(results: Evaluation | FindingsEvaluation, missed: Sequence[str] = ()) -> Iterator[str]:
    """Yield a table of the floors, and of a bundle that was written below some of them a warning; nothing without floors."""
    floors = floors_of(results)
    if not floors:
        return
    yield "Floors of watched groups; one is met if the whole 95 % interval of the figure is above it:"
    yield table(
        ["group", "figure", "found", "floor", "status"],
        ([f.name, f.what, interval(f.figure), f"{f.floor:g}", f.status] for f in floors),
    )
    few = [f for f in floors if f.status == "too few"]
    if few:
        yield f"Too few images to tell: {'; '.join(f'{f.name} {f.figure.n} of {least_images(f.floor)}' for f in few)}."
    if missed:
        yield f"**This bundle was written with `{OPTION}`, below floors of its own configuration:** {'. '.join(missed)}."


def _of_label(guard: Guard, results: Evaluation) -> Iterator[Floor]:
    safety = results.safety
    shares = {name: by_source[TOGETHER] for name, by_source in safety.groups.items()} | dict(safety.watch)
    for name, group in (*guard.groups.items(), *guard.watch.items()):
        if group.floor is None:
            continue
        found = guard.is_found_in(group)
        what = f"called {guard.label}" if found else f"not called {guard.label}"
        figure = (safety.found if found else shares)[name]
        yield Floor(name=name.replace("_", " "), what=what, figure=figure, floor=group.floor)


def _of_finding(name: str, group: Subgroup, figures: FindingGroup) -> Floor:
    assert group.of is not None  # the configuration was checked
    assert group.floor is not None
    own, found = figures.labels[group.of], group.of == group.label
    return Floor(
        name=name.replace("_", " "),
        what=f"{group.of} found" if found else f"not called {group.of}",
        figure=own.sensitivity if found else own.specificity,
        floor=group.floor,
    )
