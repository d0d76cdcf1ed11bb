"""The leakage report of a split as files: `leakage.json` for programs and `leakage.md` for people, beside every experiment.

The JSON also holds what the split was asked for, so that a run folder is not read again for another split.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from cxr_edge.errors import InputError
from training.data.findings import FindingTable
from training.data.splits import SIDES, LeakageReport, Preset, Side, Unit, check_plan
from training.shared_files import write_text

__all__ = ["PlannedSplit", "as_markdown", "asked_of", "write"]


@dataclass(frozen=True, kw_only=True)
class PlannedSplit:
    """What a split was asked for. shares: side -> share. collections, views: names; views None for all frontal ones.
    findings: the table of CCX's labels. seed: None where an old run did not say."""

    seed: int | None
    shares: dict[Side, float]
    unit: Unit
    preset: Preset
    collections: tuple[str, ...]
    views: tuple[str, ...] | None = None
    findings: FindingTable = "full"

    def __post_init__(self) -> None:
        check_plan(self.shares, self.unit)
        if self.preset not in get_args(Preset):
            raise InputError(f"the preset {self.preset!r}: expected one of {', '.join(get_args(Preset))}")
        if self.unit == "image" and self.preset != "code":
            raise InputError(
                f"a split by image leaks patients, and preset {self.preset!r} refuses that: split by group"
            )


def write(report: LeakageReport, asked: PlannedSplit, out: Path, *, dropped: Mapping[str, int]) -> None:
    """Write leakage.json and leakage.md to the folder `out`. dropped: as in `collections.Collected`."""
    content = {"asked": asdict(asked), **asdict(report), "dropped": dict(dropped)}
    write_text(out / "leakage.json", json.dumps(content, indent=1) + "\n")
    write_text(out / "leakage.md", as_markdown(report, asked, dropped))


def asked_of(file: Path) -> PlannedSplit | None:
    """What the split of a leakage.json was asked for; None if there is no file, or an old one that does not say."""
    if not file.exists():
        return None
    try:
        asked: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")).get("asked")
        if asked is None:
            return None
        names = {k: tuple(asked[k]) for k in ("collections", "views") if asked.get(k) is not None}
        return PlannedSplit(**{**asked, **names})
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{file} is not a leakage report as written by `prepare`: delete the run folder") from None


def as_markdown(report: LeakageReport, asked: PlannedSplit, dropped: Mapping[str, int] | None = None) -> str:
    """The report as a page for a reader who never heard of the split. dropped: None where it is not known."""
    parts = [*_opening(report, asked), *_tables(report), *_shortcut(report), *_dropped(dropped), *_leak(report)]
    return "\n".join(parts) + "\n"


def _opening(report: LeakageReport, asked: PlannedSplit) -> Iterator[str]:
    shares = ", ".join(f"{side} {asked.shares[side]:.0%}" for side in SIDES)
    yield "# Leakage check"
    yield ""
    yield f"Preset `{report.preset}`; split by {asked.unit}, seed {asked.seed}; asked for {shares}."
    yield f"Collections: {', '.join(asked.collections)}."
    yield ""
    if report.leaks:
        yield (
            f"**The split leaks**: {report.divided_patients} of {report.patients} patients and {report.divided_pairs} "
            "pairs of equal images stand on two sides. What is measured on it is too good."
        )
    else:
        yield f"No patient and no image stands on two sides: {report.patients} patients in {report.groups} groups."
    yield f"{report.same_image_pairs} pairs of equal images; {report.merged_patients} patients joined to another by one."
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
        yield "One label or one source only: whether the source gives the label away cannot be said."
    else:
        yield (
            f"Label and source: Cramer's V {report.label_and_source:.3f} (0: unrelated; 1: one tells the other). Guessing "
            f"by the source alone gets {report.label_by_source:.1%} of the labels right."
        )


def _dropped(dropped: Mapping[str, int] | None) -> Iterator[str]:
    if dropped is None:
        return
    yield ""
    listed = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
    yield f"Images that the collections list and the run does not read: {listed or 'none'}."


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
