"""Answers for programs: one JSON document, or a CSV table with one row a file. Both are written as the answers come.

In: answers and a text stream; out: the document. The keys are those of `Screening.as_json`; columns never change their
order or meaning.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from cxr_edge.records import Failure
from cxr_edge.report import RunInfo
from cxr_edge.screener import Answer

__all__ = ["CsvWriter", "JsonWriter"]


class JsonWriter:
    """{"run": {...}, "skipped": [...], "results": [...]}; a result holds `error` or the screening's keys."""

    def __init__(self, stream: TextIO, run: RunInfo, skipped: Sequence[Path] = ()) -> None:
        self._stream = stream
        self._first = True
        head = json.dumps({"run": run.as_json(), "skipped": [str(p) for p in skipped]}, ensure_ascii=False)
        stream.write(head[:-1] + ', "results": [')

    def add(self, answer: Answer) -> None:
        """Write one result, on a line of its own."""
        self._stream.write("\n" if self._first else ",\n")
        self._stream.write(json.dumps(answer.outcome.as_json(), ensure_ascii=False))
        self._first = False

    def close(self) -> None:
        """Write the end."""
        self._stream.write("\n]}\n")


class CsvWriter:
    """Columns: source, status (ok or failed), reason, decision, p_<label> each, roi_x0 roi_y0 roi_x1 roi_y1, flags (codes,
    joined by a space), total_ms, sha256."""

    def __init__(self, stream: TextIO, run: RunInfo) -> None:
        self._labels = run.labels
        self._rows = csv.writer(stream, lineterminator="\n")
        scores = [f"p_{label}" for label in run.labels]
        box = ["roi_x0", "roi_y0", "roi_x1", "roi_y1"]
        self._rows.writerow(["source", "status", "reason", "decision", *scores, *box, "flags", "total_ms", "sha256"])

    def add(self, answer: Answer) -> None:
        """Write one row."""
        s = answer.outcome
        if isinstance(s, Failure):
            self._rows.writerow([s.source, "failed", s.reason, "", *[""] * (len(self._labels) + 4), "", "", ""])
            return
        scores = [f"{p:.6f}" for p in s.probabilities]
        codes = " ".join(f.code for f in s.flags)
        row = [s.source, "ok", "", s.decision, *scores, *s.roi.as_tuple(), codes, f"{s.times.total_ms:.3f}", s.sha256]
        self._rows.writerow(row)

    def close(self) -> None:
        """Nothing is left to write."""
