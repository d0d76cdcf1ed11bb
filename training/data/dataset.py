"""The data of one training, settled once: the data folder in, records with their group and side out.

Duplicates are searched in decoded pixels, which takes a while, so the answer is kept in `table.csv` of the run folder;
every later stage reads the same table. `pixels` is the one place where training opens an image, by the deployed decoder.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from cxr_edge.decoding.decode import decode
from cxr_edge.errors import InputError
from cxr_edge.records import GrayPixels
from training.data import leakage
from training.data.collections import DEFAULT_COLLECTIONS, collect, collections_of, gather
from training.data.duplicates import fingerprint, groups, same_image_pairs
from training.data.findings import FindingTable
from training.data.leakage import PlannedSplit
from training.data.records import Record
from training.data.splits import SHARES, SIDES, Preset, Side, Unit, check_leakage, split
from training.shared_files import atomic_write, one_at_a_time

__all__ = ["Sample", "data_folder", "load", "pixels", "prepare", "read_all"]


Taken = TypeVar("Taken")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A record, the group it must stay with, and the side it stands on."""

    record: Record
    group: str
    side: Side


def data_folder(given: Path | None) -> Path:
    """`given`, else what CXR_EDGE_DATA names. Raises InputError if neither says."""
    if given is None and not os.environ.get("CXR_EDGE_DATA"):
        raise InputError("no data folder: give --data DIR or set CXR_EDGE_DATA")
    return given or Path(os.environ["CXR_EDGE_DATA"])


def pixels(record: Record) -> GrayPixels:
    """Decoded gray pixels (height, width) of a record's image."""
    return decode(record.path).pixels


def read_all(
    records: Sequence[Record], threads: int, take: Callable[[Record, GrayPixels], Taken], *, what: str = "images"
) -> Iterator[Taken]:
    """`take(record, pixels)` of each record, in order, `threads` images at a time; pixels are not kept.

    what: the name of the progress bar, which a terminal shows.
    """
    with ThreadPoolExecutor(threads) as pool:
        taken = pool.map(lambda r: take(r, pixels(r)), records)
        yield from tqdm(taken, what, len(records), leave=False, disable=not sys.stderr.isatty())


def prepare(
    data: Path,
    out: Path,
    *,
    seed: int,
    threads: int,
    shares: Mapping[Side, float] = SHARES,
    unit: Unit = "group",
    preset: Preset = "sane",
    collections: Sequence[str] | None = None,
    views: Sequence[str] | None = None,
    findings: FindingTable = "full",
) -> list[Sample]:
    """Find duplicates, split, check for leaks; write table.csv, leakage.json and leakage.md to `out`.

    A table that is there is read. shares, unit: as `split` takes them; "image" needs preset `code`, which reports leaks
    where the others refuse them. collections, views, findings: as `collect` takes them. Raises InputError for data that cannot be
    used, a split that leaks, and a table that was made for other arguments.
    """
    asked = PlannedSplit(
        seed=seed,
        shares=dict(shares),
        unit=unit,
        preset=preset,
        collections=tuple(sorted(DEFAULT_COLLECTIONS if collections is None else set(collections))),
        views=None if views is None else tuple(sorted(set(views))),
        findings=findings,
    )
    table = out / "table.csv"
    with one_at_a_time(table):
        if table.exists():
            _same_plan(asked, out)
            return load(data, table)
        collected = collect(data, collections=collections, views=views, findings=findings)
        records = collected.records
        pairs = same_image_pairs(list(read_all(records, threads, lambda _, p: fingerprint(p), what="duplicates")))
        names = groups(records, pairs)
        sides = split(records, names, seed=seed, shares=shares, unit=unit)
        report = check_leakage(records, names, sides, pairs, preset=preset)
        samples = [Sample(record=r, group=g, side=s) for r, g, s in zip(records, names, sides, strict=True)]
        leakage.write(report, asked, out, dropped=collected.dropped)
        _write(samples, table)
        return samples


def _same_plan(asked: PlannedSplit, out: Path) -> None:
    made = leakage.asked_of(out / "leakage.json")
    if made is None:  # written before arguments were kept: the seed is unknown, the rest was fixed
        made = PlannedSplit(
            seed=None,
            shares=dict(SHARES),
            unit="group",
            preset="sane",
            collections=tuple(sorted(DEFAULT_COLLECTIONS)),
        )
    if made.seed is None:
        made = replace(made, seed=asked.seed)
    changed = [f.name for f in fields(asked) if getattr(made, f.name) != getattr(asked, f.name)]
    if changed:
        said = "; ".join(f"{name} {getattr(made, name)}, not {getattr(asked, name)}" for name in changed)
        raise InputError(f"{out / 'table.csv'} was made for {said}: give another run folder, or delete this one")


def _write(samples: Sequence[Sample], table: Path) -> None:
    with atomic_write(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "label", "source", "view", "group", "side"])
        for s in samples:
            r = s.record
            writer.writerow([r.key, r.patient, r.label, r.source, r.view, s.group, s.side])


def load(data: Path, table: Path) -> list[Sample]:
    """The samples of a table that `prepare` wrote, also one of before, with fewer columns.

    Raises InputError if there is no such table or the data folder no longer fits it: other images, other labels.
    """
    rows = _table(table)
    # The sources name the collections, so that a folder with more of them than the table still fits it.
    sources = [row["source"] for row in rows.values() if "source" in row]
    asked = leakage.asked_of(table.with_name("leakage.json"))
    views, findings = (None, "full") if asked is None else (asked.views, asked.findings)
    records = gather(data, collections=collections_of(sources) or None, views=views, findings=findings)
    if {r.key for r in records} != set(rows):
        raise InputError(
            f"{table} was made from other images than {data} holds: delete the run folder or give its data"
        )
    for r in records:
        if rows[r.key].get("label", r.label) != r.label:
            raise InputError(f"{table} says {rows[r.key]['label']} of {r.key}, {data} {r.label}: delete the run folder")
    return [Sample(record=r, group=rows[r.key]["group"], side=_side(rows[r.key]["side"], table)) for r in records]


def _table(table: Path) -> dict[str, dict[str, str]]:
    """Rows by the path of the image, which tables of before call its key."""
    if not table.is_file():
        raise InputError(f"there is no {table}: run `python -m training.starter`, or name the folder of its run")
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    name = "path" if rows and "path" in rows[0] else "key"
    if not rows or not {name, "group", "side"} <= set(rows[0]):
        raise InputError(f"{table} lacks rows or one of the columns path, group, side: delete the run folder")
    return {row[name]: row for row in rows}


def _side(text: str, table: Path) -> Side:
    sides: dict[str, Side] = {side: side for side in SIDES}
    if text not in sides:
        raise InputError(f"{table} names the side {text!r}: expected one of {', '.join(SIDES)}; delete the run folder")
    return sides[text]
