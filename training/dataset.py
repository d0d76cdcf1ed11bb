"""The data of one training, settled once: the data folder in, records with their group and side out.

Duplicates are searched in decoded pixels, which takes a while, so the answer is kept in `table.csv` of the run folder;
every later stage reads the same table. `pixels` is the one place where training opens an image, by the deployed decoder.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from cxr_edge.decode import decode
from cxr_edge.errors import InputError
from cxr_edge.records import GrayPixels
from training.collections import Record, gather
from training.duplicates import fingerprint, groups, same_image_pairs
from training.splits import SIDES, Side, check_leakage, split

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


def read_all(records: Sequence[Record], threads: int, take: Callable[[Record, GrayPixels], Taken]) -> Iterator[Taken]:
    """`take(record, pixels)` of each record, in order, `threads` images at a time; pixels are not kept."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda r: take(r, pixels(r)), records)


def prepare(data: Path, out: Path, *, seed: int, threads: int) -> list[Sample]:
    """Find duplicates, split, check for leaks; write table.csv and leakage.json to `out`. A table that is there is read."""
    table = out / "table.csv"
    if table.exists():
        return load(data, table)
    records = gather(data)
    prints = list(read_all(records, threads, lambda _, p: fingerprint(p)))
    pairs = same_image_pairs(prints)
    names = groups(records, pairs)
    sides = split(records, names, seed=seed)
    report = check_leakage(records, names, sides, pairs)
    samples = [Sample(record=r, group=g, side=s) for r, g, s in zip(records, names, sides, strict=True)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "leakage.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    _write(samples, table)
    return samples


def _write(samples: Sequence[Sample], table: Path) -> None:
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "group", "side", "label", "source"])
        writer.writerows([s.record.key, s.group, s.side, s.record.label, s.record.source] for s in samples)


def load(data: Path, table: Path) -> list[Sample]:
    """The samples of a table that `prepare` wrote. Raises InputError if the data folder no longer fits it."""
    with table.open(newline="") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    records = gather(data)
    if {r.key for r in records} != set(rows):
        raise InputError(
            f"{table} was made from other images than {data} holds: delete the run folder or give its data"
        )
    sides: dict[str, Side] = {side: side for side in SIDES}
    return [Sample(record=r, group=rows[r.key]["group"], side=sides[rows[r.key]["side"]]) for r in records]
