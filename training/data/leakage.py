"""Leakage report files of a split: `leakage.json` for programs and `leakage.md` for people, beside every experiment.

The JSON also holds the split settings, so that a run folder is not reused for another split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from cxr_edge.errors import InputError
from training.data.collections import DEFAULT_COLLECTIONS
from training.data.findings import FindingTable
from training.data.records import Selection
from training.data.splits import SHARES, SIDES, LeakageReport, Preset, Side, Unit, check_plan
from training.shared_files import read_json, reading, write_text

__all__ = ["SplitSettings", "as_markdown", "read_settings", "write"]


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Settings that determine the split of a run folder. Collections and views are a set: any order, each once."""

    seed: int
    shares: Mapping[Side, float] = field(default_factory=lambda: dict(SHARES))  # side -> share of the images
    unit: Unit = "group"  # what stays on one side; "image" leaks, and needs preset `code`
    preset: Preset = "sane"  # `code` reports leaks, the others raise an error
    collections: tuple[str, ...] = DEFAULT_COLLECTIONS
    views: tuple[str, ...] | None = None  # None for all frontal views
    findings: FindingTable = "full"  # table of CCX's labels
    without: tuple[str, ...] = ()  # `source/label` that is not read

    def __post_init__(self) -> None:
        object.__setattr__(self, "collections", tuple(sorted(set(self.collections))))
        object.__setattr__(self, "views", None if self.views is None else tuple(sorted(set(self.views))))
        object.__setattr__(self, "without", tuple(sorted(set(self.without))))
        check_plan(self.shares, self.unit)
        if self.preset not in get_args(Preset):
            raise InputError(f"the preset {self.preset!r}: expected one of {', '.join(get_args(Preset))}")
        if self.unit == "image" and self.preset != "code":
            raise InputError(
                f"a split by image leaks patients, which preset {self.preset!r} does not allow: split by group"
            )

    @property
    def selection(self) -> Selection:
        """The images that the readers select."""
        return Selection(views=self.views, findings=self.findings, without=self.without)


def write(report: LeakageReport, settings: SplitSettings, out: Path, *, dropped: Mapping[str, int]) -> None:
    """Write leakage.json and leakage.md to the folder `out`. dropped: as in `CollectedRecords`."""
    content = {"asked": asdict(settings), **asdict(report), "dropped": dict(dropped)}
    write_text(out / "leakage.json", json.dumps(content, indent=1) + "\n")
    write_text(out / "leakage.md", as_markdown(report, settings, dropped))


def read_settings(file: Path) -> SplitSettings | None:
    """Read the split settings from a leakage.json. Returns None if the file is missing or of a version without them.

    Raises InputError for any other content.
    """
    if not file.exists():
        return None
    remedy = f"delete it and {file.with_name('table.csv')}, which are made again, the same from the same images"
    report = read_json(file, remedy)
    with reading(file, remedy):
        values = report.get("asked")
        return None if values is None else SplitSettings(**values)


def as_markdown(report: LeakageReport, settings: SplitSettings, dropped: Mapping[str, int] | None = None) -> str:
    """Return the report as a self-contained page. dropped: None if not known."""
    parts = [*_opening(report, settings), *_tables(report), *_shortcut(report), *_dropped(dropped), *_leak(report)]
    return "\n".join(parts) + "\n"


def _opening(report: LeakageReport, settings: SplitSettings) -> Iterator[str]:
    shares = ", ".join(f"{side} {settings.shares[side]:.0%}" for side in SIDES)
    yield "# Leakage check"
    yield ""
    yield f"Preset `{report.preset}`; split by {settings.unit}, seed {settings.seed}; target shares: {shares}."
    yield f"Collections: {', '.join(settings.collections)}."
    yield ""
    if report.leaks:
        yield (
            f"**The split leaks**: {report.divided_patients} of {report.patients} patients and {report.divided_pairs} "
            "pairs of equal images are on two sides. Figures measured on it are too good."
        )
    else:
        yield f"No patient and no image is on two sides: {report.patients} patients in {report.groups} groups."
    yield f"{report.same_image_pairs} pairs of equal images; {report.merged_patients} patients were merged with others."
    yield ""


def _tables(report: LeakageReport) -> Iterator[str]:
    names = sorted({name for counts in report.images.values() for name in counts})
    yield f"| source/label | {' | '.join(SIDES)} |"
    yield "|---|" + "--:|" * len(SIDES)
    for name in names:
        yield f"| {name} | {' | '.join(str(report.images[side].get(name, 0)) for side in SIDES)} |"
    yield f"| all images | {' | '.join(str(sum(report.images[side].values())) for side in SIDES)} |"
    yield f"| patients | {' | '.join(str(report.patients_by_side[side]) for side in SIDES)} |"
    yield ""


def _shortcut(report: LeakageReport) -> Iterator[str]:
    if report.label_and_source is None:
        yield "One label or one source only: the association of label and source cannot be computed."
    else:
        yield (
            f"Label and source: Cramer's V {report.label_and_source:.3f} (0: independent; 1: one determines the other). "
            f"Predicting the most frequent label of the source alone is right for {report.label_by_source:.1%} of the images."
        )


def _dropped(dropped: Mapping[str, int] | None) -> Iterator[str]:
    if dropped is None:
        return
    yield ""
    listed = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
    yield f"Images that the collections list and the run does not use: {listed or 'none'}."


def _leak(report: LeakageReport) -> Iterator[str]:
    if report.divided_patients:
        yield ""
        yield f"Patients on two sides ({report.divided_patients}), among them:"
        yield ""
        yield from (f"- {name}" for name in report.divided_patient_examples)
    if report.divided_pairs:
        yield ""
        yield f"Equal images on two sides ({report.divided_pairs}), among them:"
        yield ""
        yield from (f"- {a} = {b}" for a, b in report.divided_pair_examples)
