"""Reports for programs: one JSON document, JSON lines, or a CSV table with one row per file.

The writers take a text stream and results one by one, and write each result immediately. The JSON keys are those of
`Screening.as_json`; CSV columns never change their order or meaning.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Any

from cxr_edge.drift import DriftMonitor, DriftReport
from cxr_edge.names import json_name, json_text, printable
from cxr_edge.records import Failure
from cxr_edge.report import RunInfo, Skipped, TextStream
from cxr_edge.screening.screener import FileResult

__all__ = ["CsvWriter", "JsonLinesWriter", "JsonWriter", "drift_json", "spreadsheet_text"]

# What spreadsheets take for the start of a formula, in their wide forms too (OWASP, CSV injection), and the mark itself.
_FORMULA_START = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|'")
_TEXT_MARK = "'"


def spreadsheet_text(text: str) -> str:
    """Return the text with a leading apostrophe if a spreadsheet might take it for a formula, or if it begins with one.

    Removing one leading apostrophe from any cell restores the text.
    """
    return _TEXT_MARK + text if _FORMULA_START.match(text) else text


class JsonWriter:
    """Writer of {"run": {...}, "skipped": [...], ..., "results": [...]}; a result holds `error` or the screening's keys.

    stream: must accept any character, as UTF-8 does.
    hidden: number of hidden files and folders that were skipped.
    drift: for a last key `drift`.
    """

    def __init__(
        self,
        stream: TextStream,
        run: RunInfo,
        skipped: Sequence[Skipped] = (),
        *,
        hidden: int = 0,
        drift: DriftMonitor | None = None,
    ) -> None:
        self._stream = stream
        self._drift = drift
        self._first = True
        head = json_text({"run": run.as_json(), **_skipped_json(skipped), "hidden": hidden})
        stream.write(head[:-1] + ', "results": [')

    def add(self, result: FileResult) -> None:
        """Write one result, on its own line."""
        self._stream.write("\n" if self._first else ",\n")
        self._stream.write(json_text(result.outcome.as_json()))
        self._first = False

    def close(self) -> None:
        """Write the end."""
        last = "" if self._drift is None else f', "drift": {json_text(drift_json(self._drift.report()))}'
        self._stream.write(f"\n]{last}}}\n")


class JsonLinesWriter:
    """Writer of one JSON object per line and result: an entry of `JsonWriter`'s `results` with the key `run`.

    Each line has the whole head of the run, so that the lines of several runs may be joined, filtered and sorted.
    """

    def __init__(self, stream: TextStream, run: RunInfo) -> None:
        self._stream = stream
        self._run = run.as_json()

    def add(self, result: FileResult) -> None:
        """Write one line."""
        self._stream.write(json_text({**result.outcome.as_json(), "run": self._run}) + "\n")

    def close(self) -> None:
        """Do nothing: every line is already written."""


def drift_json(report: DriftReport) -> dict[str, Any]:
    """Return the JSON object of a drift report; the name of the alarm's file is written as every `source`."""
    found = report.as_json()
    if found["alarm"]:
        found["alarm"]["source"] = json_name(found["alarm"]["source"])[0]
    return found


def _skipped_json(skipped: Sequence[Skipped]) -> dict[str, Any]:
    names = [json_name(s.path) for s in skipped]
    keys: dict[str, Any] = {"skipped": [shown for shown, _ in names], "skipped_reasons": [s.reason for s in skipped]}
    if any(encoded is not None for _, encoded in names):
        keys["skipped_bytes"] = [encoded for _, encoded in names]
    return keys


class CsvWriter:
    """CSV writer.

    Columns: source, status (ok or failed), reason, decision, p_<label> for each label, roi_x0, roi_y0, roi_x1, roi_y1,
    flags (codes, joined by a space), total_ms, sha256, outcome, code (of a refusal or abstention), prediction_set (labels,
    joined by a |), view, degraded (members that did not answer, joined by a |). Without an answer `decision` is empty, of a
    refused image the probabilities too, and `reason` says why.
    Cells of text are written by `spreadsheet_text`.
    """

    def __init__(self, stream: TextStream, run: RunInfo) -> None:
        self._labels = run.labels
        self._rows = csv.writer(stream, lineterminator="\n")
        scores = [f"p_{label}" for label in run.labels]
        box = ["roi_x0", "roi_y0", "roi_x1", "roi_y1"]
        outcome = ["outcome", "code", "prediction_set", "view", "degraded"]
        facts = ["flags", "total_ms", "sha256", *outcome]
        self._rows.writerow(["source", "status", "reason", "decision", *scores, *box, *facts])

    def add(self, result: FileResult) -> None:
        """Write one row."""
        s = result.outcome
        name = spreadsheet_text(printable(s.source))
        if isinstance(s, Failure):
            reason = spreadsheet_text(printable(s.reason))
            self._rows.writerow([name, "failed", reason, "", *[""] * (len(self._labels) + 12)])
            return
        refused = s.outcome == "refused"
        scores = ["" if refused else f"{p:.6f}" for p in s.probabilities]
        codes = " ".join(f.code for f in s.flags)
        reason, code = ("", "") if s.reason is None else (spreadsheet_text(s.reason.message), s.reason.code)
        possible = "" if refused else "|".join(s.prediction_set or ())
        row = [name, "ok", reason, spreadsheet_text(s.decision or ""), *scores, *s.roi.as_tuple(), codes]
        row += [f"{s.times.total_ms:.3f}", s.sha256, s.outcome, code, spreadsheet_text(possible), s.view]
        row.append("" if s.degraded is None else "|".join(s.degraded.missing))
        self._rows.writerow(row)

    def close(self) -> None:
        """Do nothing: every row is already written."""
