"""Dataset of a run: a data folder in, samples (records with their group and side) out.

The duplicate search decodes all images, which takes minutes, so the split is stored in `table.csv` of the run folder and all
later stages read that table. `pixels` is the only function with which training opens an image, by the deployed decoder.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from cxr_edge.decoding.decode import decode
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.records import GrayPixels
from training.data import leakage
from training.data.collections import DEFAULT_COLLECTIONS, collect, collection_names, read_collections
from training.data.duplicates import Fingerprint, fingerprint, patient_groups, same_image_pairs
from training.data.faults import Fault, each, reason_of, refuse
from training.data.leakage import SplitSettings
from training.data.masks import read_mask
from training.data.records import Record
from training.data.splits import SIDES, Side, check_leakage, split
from training.shared_files import atomic_write, exclusive_lock, reading, require_same_settings

__all__ = ["Sample", "data_folder", "load", "mark_unseen", "pixels", "prepare", "read_all", "read_table"]

Result = TypeVar("Result")
Pairs = Sequence[tuple[str, str]]

UNUSABLE = "unusable.txt"  # in the run folder: all files and rows that cannot be used


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A record with its split."""

    record: Record
    group: str  # patient, or patients that share images: the unit of the split
    side: Side


def data_folder(given: Path | None) -> Path:
    """Return `given`, else the folder that CXR_EDGE_DATA names. Raises InputError without both."""
    if given is None and not os.environ.get("CXR_EDGE_DATA"):
        raise InputError("no data folder: give --data DIR or set CXR_EDGE_DATA")
    return given or Path(os.environ["CXR_EDGE_DATA"])


def pixels(record: Record) -> GrayPixels:
    """Decode a record's image to gray pixels (height, width)."""
    return decode(record.path).pixels


def read_all(
    records: Sequence[Record], threads: int, process: Callable[[Record, GrayPixels], Result], *, title: str = "images"
) -> Iterator[Result]:
    """Yield `process(record, pixels)` of each record, in order, with `threads` threads; pixels are not kept.

    title: of the progress bar, which a terminal shows. Raises InputError at the end, with all images that cannot be decoded.
    """

    def one(record: Record) -> tuple[list[Result], list[Fault]]:
        return each([record], lambda r: process(r, _decoded(r)), lambda r: r.path)

    faults: list[Fault] = []
    for results, own in _in_threads(one, records, threads, title):
        faults += own
        yield from results
    refuse(faults)


def _in_threads(
    work: Callable[[Record], Result], records: Sequence[Record], threads: int, title: str
) -> Iterator[Result]:
    with ThreadPoolExecutor(threads) as pool:
        yield from tqdm(pool.map(work, records), title, len(records), leave=False, disable=not sys.stderr.isatty())


@dataclass(frozen=True, kw_only=True)
class _Examined:
    print: Fingerprint | None  # of the image; None if it cannot be decoded
    faults: tuple[Fault, ...]  # of image and mask


def _examine(record: Record) -> _Examined:
    """Decode a record's image and mask."""
    prints, faults = each([record], lambda r: fingerprint(_decoded(r)), lambda r: r.path)
    _, of_mask = each([r for r in (record,) if r.mask], read_mask, lambda r: "")
    return _Examined(print=prints[0] if prints else None, faults=(*faults, *of_mask))


def _decoded(record: Record) -> GrayPixels:
    try:
        return pixels(record)
    except CxrEdgeError as error:
        raise InputError(reason_of(error, record.path)) from error


def prepare(data: Path, out: Path, settings: SplitSettings, *, threads: int, same: Pairs | None = None) -> list[Sample]:
    """Find duplicates, split, check for leaks; write table.csv, leakage.json and leakage.md to `out`.

    same: keys of images that are the same, if all images were examined already; None examines them here.
    An existing table is read instead. Raises InputError for a split that leaks, for an existing table of other settings, and for
    files and rows that cannot be used: all of all collections are named, in `out`/unusable.txt too.
    """
    table = out / "table.csv"
    with exclusive_lock(table):
        if table.exists():
            _check_settings(settings, out)
            return load(data, table)
        collected = collect(data, settings.selection, collections=settings.collections)
        records = collected.records
        examined = list(_in_threads(_examine, records, threads, "duplicates")) if same is None else []
        refuse([*collected.faults, *(fault for e in examined for fault in e.faults)], out / UNUSABLE)
        if same is None:
            pairs = same_image_pairs([e.print for e in examined if e.print is not None])
        else:
            rows = {r.key: i for i, r in enumerate(records)}
            pairs = [(rows[a], rows[b]) for a, b in same if a in rows and b in rows]
        names = patient_groups(records, pairs)
        sides = split(records, names, seed=settings.seed, shares=settings.shares, unit=settings.unit)
        report = check_leakage(records, names, sides, pairs, preset=settings.preset)
        samples = [Sample(record=r, group=g, side=s) for r, g, s in zip(records, names, sides, strict=True)]
        leakage.write(report, settings, out, dropped=collected.dropped)
        _write(samples, table)
        return samples


def _check_settings(settings: SplitSettings, out: Path) -> None:
    before = leakage.read_settings(out / "leakage.json")
    if before is None:  # written before settings were recorded: the seed is unknown, the others had the default
        before = SplitSettings(seed=settings.seed)
    subject, remedy = f"{out / 'table.csv'} was made for", "give another run folder, or delete this one"
    require_same_settings(asdict(before), asdict(settings), subject, remedy)


def _write(samples: Sequence[Sample], table: Path) -> None:
    with atomic_write(table) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient", "label", "source", "view", "group", "side"])
        for s in samples:
            r = s.record
            writer.writerow([r.key, r.patient, r.label, r.source, r.view, s.group, s.side])


def load(data: Path, table: Path) -> list[Sample]:
    """Load the samples of a table that `prepare` wrote, also of an old version with fewer columns.

    Raises InputError if the table is missing, damaged or does not match the data folder: other images, other labels.
    """
    rows = read_table(table)
    settings = leakage.read_settings(table.with_name("leakage.json"))
    if settings is None:  # of version 0.1: the table's sources tell its collections
        sources = [row["source"] for row in rows.values() if "source" in row]
        settings = SplitSettings(seed=0, collections=collection_names(sources) or DEFAULT_COLLECTIONS)
    records = read_collections(data, settings.selection, collections=settings.collections).records
    _check_images({r.key for r in records}, set(rows), data, table)
    for r in records:
        if rows[r.key].get("label", r.label) != r.label:
            raise InputError(
                f"{r.key} is {rows[r.key]['label']} in {table}, {r.label} in {data}: delete the run folder"
            )
    return [Sample(record=r, group=rows[r.key]["group"], side=_side(rows[r.key]["side"], table)) for r in records]


def mark_unseen(samples: Sequence[Sample], sources: Sequence[str]) -> list[Sample]:
    """Return the samples with the side `unseen` for the images of these sources, and for their copies in other sources.

    Raises InputError for a source without images.
    """
    known = {s.record.source for s in samples}
    if missing := sorted(set(sources) - known):
        raise InputError(
            f"unseen_sources names {', '.join(missing)}: expected sources of the data, {', '.join(sorted(known))}"
        )
    groups = {s.group for s in samples if s.record.source in sources}
    return [replace(s, side="unseen") if s.group in groups else s for s in samples]


def _check_images(found: set[str], listed: set[str], data: Path, table: Path) -> None:
    differences = (("only in the folder", found - listed), ("only in the table", listed - found))
    named = [f"{len(keys)} {where} (such as {min(keys)})" for where, keys in differences if keys]
    if named:
        raise InputError(
            f"{table} lists other images than {data} holds: {', '.join(named)}. Give the data of this run; or, if they have "
            "changed or the table was cut, delete the run folder"
        )


def read_table(table: Path) -> dict[str, dict[str, str]]:
    """Return rows by the path of the image, a column that old tables name `key`. Raises InputError if it is damaged."""
    if not table.is_file():
        raise InputError(f"there is no {table}: run `python -m training.starter`, or name the folder of its run")
    with reading(table, _REMAKE):
        text = table.read_text(encoding="utf-8")
        if not text.endswith("\n") or "\0" in text:
            raise ValueError("cut, or filled with zeros")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    name = "path" if rows and "path" in rows[0] else "key"
    if not rows or not {name, "group", "side"} <= set(rows[0]):
        raise InputError(f"{table} lacks rows or one of the columns path, group, side: {_REMAKE}")
    return {row[name]: row for row in rows}


_REMAKE = "delete it and start the same command again, which makes it again, the same from the same images"


def _side(text: str, table: Path) -> Side:
    sides: dict[str, Side] = {side: side for side in SIDES}
    if text not in sides:
        raise InputError(f"{table} has the side {text!r}: expected one of {', '.join(SIDES)}; delete the run folder")
    return sides[text]
