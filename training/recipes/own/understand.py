"""Reading and checking of a source for a training: a request in; the report, the images that train and the others out.

What was understood is printed before anything else. The files are those of `check-data`, and left-out.csv; own/images.csv has
only the images that train, so that every later stage has the same ones whatever happens to the source.
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cxr_edge.cli.output import print_results
from cxr_edge.names import json_name
from training.data.own.examine import examine
from training.data.own.identities import run_salt
from training.data.own.page import as_html, as_lines
from training.data.own.published import read_published
from training.data.own.records import OwnData
from training.data.own.report import DataReport, check
from training.data.own.source import read_source
from training.data.own.store import FOLDER, load, save
from training.json_records import as_json, read_json
from training.recipes.own.request import Request
from training.recipes.own.usable import Usable, require_trainable, usable, write_left_out
from training.shared_files import reading, write_text

__all__ = ["Understood", "load_understood", "understand"]

_REPORT, _LEFT_OUT = "check-data.json", "left-out.csv"


@dataclass(frozen=True, kw_only=True)
class Understood:
    """Contents of a source."""

    report: DataReport
    data: OwnData  # the images that train
    left_out: dict[str, int]  # kind of the reason -> images
    seconds: float = 0.0  # of reading and checking

    @property
    def same_pictures(self) -> list[tuple[str, str]]:
        """Keys of equal pictures."""
        return [(p.first, p.second) for p in self.report.same_pictures]

    @property
    def unnamed(self) -> int:
        """Images that train and have no patient."""
        return sum(not r.patient for r in self.data.records)


def understand(request: Request, out: Path, *, threads: int) -> Understood:
    """Read and check the source, print what was understood and what is left out, and write it to `out`.

    Raises InputError for a source that cannot be read or trained.
    """
    begin, salt = time.monotonic(), run_salt(out)
    source = Path(request.source)
    if request.collections:
        data = read_published(source, request.collections, salt=salt)
    else:
        data = read_source(source, request.options, salt=salt)
    examination = examine(data.records, threads)
    report = check(data, threads=threads, examination=examination)
    found = usable(data, examination[1], report.same_pictures)
    print_results("\n".join([*as_lines(report), *_left_out_lines(found)]))
    _write(report, data, found, out)
    require_trainable(found)
    save(found.data, out / FOLDER)
    return Understood(report=report, data=found.data, left_out=found.counts, seconds=time.monotonic() - begin)


def _left_out_lines(found: Usable) -> list[str]:
    lines = [f"left out of the training: {n} images, {kind}" for kind, n in found.counts.items()]
    lines += [f"  {i.key}: {i.reason}" for i in found.left_out[:8]]
    if len(found.left_out) > 8:
        lines.append(f"  and {len(found.left_out) - 8} more, in {_LEFT_OUT}")
    lines += [f"lung masks that cannot be used: {len(found.lost_masks)}"] if found.lost_masks else []
    if any(r.split for r in found.data.records):
        lines.append(
            "the source's own split is not used: patients are split again, so that copies of a picture stay together"
        )
    return ["", *lines] if lines else []


def _write(report: DataReport, data: OwnData, found: Usable, out: Path) -> None:
    text = json.dumps(as_json(report), indent=1)
    write_text(out / _REPORT, json_name(text)[0] + "\n")
    write_text(out / "check-data.html", as_html(report, data))
    write_left_out(found.left_out, out / _LEFT_OUT)


def load_understood(out: Path) -> Understood:
    """Load what `understand` wrote, and print it. Raises InputError if a file is missing or damaged."""
    report, file = read_json(DataReport, out / _REPORT), out / _LEFT_OUT
    with reading(file):
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines(), strict=True))
        counts = dict(Counter(row["kind"] for row in rows))
    print_results("\n".join(as_lines(report)))
    return Understood(report=report, data=load(out / FOLDER), left_out=counts)
