"""HTML report: one self-contained page with embedded images, no script, light and dark mode, printable.

`HtmlWriter` takes results one by one and writes them to a hidden file beside the page, which replaces the page when it is
complete. So a folder of any size needs the memory of one image, and an old page stays until the new one is finished.
"""

from __future__ import annotations

import base64
import os
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from types import TracebackType

import cv2

from cxr_edge.errors import InputError, OutputError
from cxr_edge.names import printable
from cxr_edge.records import Failure, Image, Screening
from cxr_edge.report import RunInfo, Skipped, outcome_counts, output_errors, shown_thresholds
from cxr_edge.report.overlay import BgrImage, render_image, render_overlay
from cxr_edge.report.unfinished import UnfinishedFile, clear_unfinished
from cxr_edge.screening.screener import FileResult

__all__ = ["HtmlWriter", "page_target"]

_JPEG_QUALITY = 82

_STYLE = """
:root { color-scheme: light dark; --ink: #1b2430; --soft: #5c6a7a; --line: #d9dfe6; --card: #ffffff; --page: #f3f5f8;
  --accent: #0b6bcb; --warn: #8a4b00; --warn-bg: #fff3e0; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf1; --soft: #9aa8b8; --line: #2c3642; --card: #171e27;
  --page: #0e141b; --accent: #6db3ff; --warn: #ffc58a; --warn-bg: #35260f; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 20px 48px; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 0; overflow-wrap: anywhere; }
header dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 14px 0 18px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.banner { background: var(--warn-bg); color: var(--warn); border-radius: 8px; padding: 10px 14px; margin: 10px 0; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px; margin: 18px 0;
  break-inside: avoid; }
.head { display: flex; justify-content: space-between; align-items: baseline; gap: 16px; margin-bottom: 12px; }
.decision { font-size: 17px; font-weight: 650; color: var(--accent); max-width: 65%; overflow-wrap: anywhere; text-align: right; }
.none { color: var(--warn); }
.body { display: grid; grid-template-columns: 1fr 1fr minmax(270px, 1fr); gap: 16px; }
figure { margin: 0; } figure img { width: 100%; border-radius: 6px; background: #000; display: block; }
figcaption, .small { color: var(--soft); font-size: 12.5px; margin-top: 4px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.scores td { padding: 2px 0; } .scores td:first-child { width: 6.2em; overflow-wrap: anywhere; }
.scores td:nth-child(3) { width: 4em; text-align: right; }
.scores .limit { width: 5em; text-align: right; color: var(--soft); white-space: nowrap; }
.bar { position: relative; } .bar b { position: absolute; top: -2px; width: 2px; height: 14px; background: var(--ink); }
.bar { background: var(--line); border-radius: 4px; height: 10px; } .bar i { display: block; height: 10px;
  border-radius: 4px; background: var(--soft); } .chosen .bar i { background: var(--accent); } .chosen { font-weight: 650; }
.members { margin-top: 12px; font-size: 13px; } .members th { color: var(--soft); font-weight: 500; text-align: right; }
.members td { text-align: right; border-top: 1px solid var(--line); padding: 2px 0; }
.members { table-layout: fixed; } .members th, .members td { overflow-wrap: anywhere; }
.members :first-child { text-align: left; }
ul.flags { margin: 12px 0 0; padding: 8px 12px 8px 28px; background: var(--warn-bg); color: var(--warn); border-radius: 8px;
  font-size: 13.5px; }
.failed h2, .failed p { color: var(--bad); } .failed p { margin: 6px 0 0; }
@media (max-width: 900px) { .body { grid-template-columns: 1fr 1fr; } .body > div { grid-column: 1 / -1; } }
@media print { body { background: #fff; max-width: none; } article { border-color: #bbb; } }
"""


def page_target(path: Path) -> Path:
    """Return the path with links resolved. Raises InputError if it exists and is not a regular file."""
    target = Path(os.path.realpath(path))
    if os.path.lexists(target) and not os.path.isfile(target):
        kind = "a folder" if os.path.isdir(target) else "not a regular file"
        raise InputError(f"the report {printable(path)} cannot be written, it is {kind}: give the name of a file")
    return target


class HtmlWriter:
    """Report writer for the HTML page, and a context manager that removes an unfinished page.

    path: of the page.
    skipped: files and folders to list at the end.
    hidden: number of hidden files and folders that were skipped as well.

    Raises InputError if the path is that of something else than a file, OutputError if the page cannot be written.
    """

    def __init__(self, path: Path, run: RunInfo, skipped: Sequence[Skipped] = (), *, hidden: int = 0) -> None:
        self._path = path
        target = page_target(path)
        self._skipped = skipped
        self._hidden = hidden
        self._outcomes: Counter[str] = Counter()
        self._failed = 0
        self._thresholds = run.thresholds
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            clear_unfinished(target.parent)
            self._file = UnfinishedFile(target)
        except OSError as error:
            raise OutputError(
                f"the report {printable(path)} cannot be written ({error.strerror}): give a file in a folder that can be "
                "written to"
            ) from None
        self._write(_head(run))

    def __enter__(self) -> HtmlWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.discard()

    def add(self, result: FileResult) -> None:
        """Write one card."""
        outcome = result.outcome
        if isinstance(outcome, Failure) or result.image is None:
            self._write(_failure(outcome))
            self._failed += 1
        else:
            self._write(_card(outcome, result.image, shown_thresholds(outcome, self._thresholds)))
            self._outcomes[outcome.outcome] += 1

    def close(self) -> None:
        """Write the end and replace the old page."""
        for skipped in self._skipped:
            text = escape(f"{printable(skipped.path)}: {printable(skipped.reason)}")
            self._write(f'<p class="small">Skipped: {text}</p>\n')
        if self._hidden:
            self._write(f'<p class="small">Hidden files and folders skipped: {self._hidden}</p>\n')
        self._write(f"<p>{outcome_counts(self._outcomes)}, {self._failed} failed.</p>\n</body>\n</html>\n")
        try:
            with output_errors(self._path):
                self._file.finish()
        except OutputError:
            self._file.discard()
            raise

    def _write(self, text: str) -> None:
        try:
            with output_errors(self._path):
                self._file.write(text.encode("utf-8", "backslashreplace"))
        except OutputError:
            self._file.discard()
            raise


def _head(run: RunInfo) -> str:
    rows = (
        ("Bundle", f"{run.bundle} {run.version}, manifest {run.digest[:16]}"),
        ("Engines", run.engines),
        ("Machine", run.machine),
        ("Run", f"{run.started}, cxr-edge {run.cxr_edge}"),
        ("Intended use", run.intended_use),
    )
    details = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
    note = f'<p class="banner">{escape(run.note)}</p>' if run.note else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>cxr-edge screening report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n"
        "<h1>Chest X-ray screening report</h1>\n"
        '<p class="banner"><strong>Research use only.</strong> Not a medical device; no finding here replaces a '
        f"reader.</p>\n{note}\n<dl>{details}</dl>\n</header>\n"
    )


def _name(outcome: Failure | Screening) -> str:
    return escape(printable(outcome.source))


def _failure(outcome: Failure | Screening) -> str:
    reason = outcome.reason if isinstance(outcome, Failure) else "the image is missing"
    return f'<article class="failed"><h2>{_name(outcome)}</h2><p>Failed: {escape(printable(reason))}</p></article>\n'


def _card(s: Screening, image: Image, thresholds: Sequence[float] | None) -> str:
    content = "lung box and class activation map" if s.heatmap is not None else "lung box"
    return (
        f'<article>\n<div class="head"><h2>{_name(s)}</h2>{_headline(s)}</div>\n{_reason(s)}{_degraded(s)}'
        f'<div class="body">\n{_figure(render_image(image), f"{s.width_px} x {s.height_px} px")}'
        f"{_figure(render_overlay(image, s), f'{content}: {s.leading_label}' if s.heatmap is not None else content)}"
        f"<div>{_answer(s, thresholds)}{_flags(s)}{_times(s)}</div>\n</div>\n</article>\n"
    )


def _headline(s: Screening) -> str:
    kind = "decision" if s.decision is not None else "decision none"
    return f'<span class="{kind}">{escape(s.decision or s.outcome)}</span>'


def _reason(s: Screening) -> str:
    if s.reason is None:
        return ""
    return f'<p class="banner">{escape(s.reason.message)} <span class="small">{escape(s.reason.code)}</span></p>\n'


def _degraded(s: Screening) -> str:
    """Return the banner of a screening that some members did not take part in."""
    if s.degraded is None:
        return ""
    text = f"Degraded: answered by {', '.join(s.degraded.answered)}, without {', '.join(s.degraded.missing)}."
    return f'<p class="banner">{escape(text)} <span class="small">degraded</span></p>\n'


def _answer(s: Screening, thresholds: Sequence[float] | None) -> str:
    """Return probabilities, members, prediction set and view; of a refused image only the view."""
    view = f'<p class="small">View: {s.view}{" (estimated)" if s.view_estimated else ""}</p>' if s.view else ""
    if s.outcome == "refused":
        return view
    possible = ""
    if s.prediction_set is not None:
        possible = f'<p class="small">Not excluded: {escape(", ".join(s.prediction_set) or "none of the labels")}</p>'
    return f"{_scores(s, thresholds)}{_members(s)}{possible}{view}"


def _figure(pixels: BgrImage, caption: str) -> str:
    jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
    source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>\n'


def _scores(s: Screening, thresholds: Sequence[float] | None) -> str:
    """Return the table of probabilities; of findings each has its threshold, as a mark on its bar and as a number."""
    rows, limits = [], [None] * len(s.labels) if thresholds is None else thresholds
    for label, p, threshold in zip(s.labels, s.probabilities, limits, strict=True):
        chosen = ' class="chosen"' if s.decision is not None and label in s.present else ""
        mark = "" if threshold is None else f'<b style="left:{100 * threshold:.1f}%"></b>'
        limit = "" if threshold is None else f'<td class="limit">{"&ge;" if chosen else "&lt;"} {threshold:.1%}</td>'
        bar = f'<div class="bar"><i style="width:{100 * p:.1f}%"></i>{mark}</div>'
        rows.append(f"<tr{chosen}><td>{escape(label)}</td><td>{bar}</td><td>{p:.1%}</td>{limit}</tr>")
    return f'<table class="scores">{"".join(rows)}</table>'


def _members(s: Screening) -> str:
    """Return the members' probabilities: a row per member, or per finding, of which there may be many."""
    if s.findings is not None:
        head = "".join(f"<th>{escape(m.member)}</th>" for m in s.members)
        columns = zip(s.labels, *(m.probabilities for m in s.members), strict=True)
        rows = "".join(
            f"<tr><td>{escape(label)}</td>{''.join(f'<td>{p:.2f}</td>' for p in shares)}</tr>"
            for label, *shares in columns
        )
        return f'<table class="members"><tr><th>finding</th>{head}</tr>{rows}</table>'
    head = "".join(f"<th>{escape(label)}</th>" for label in s.labels)
    rows = "".join(
        f"<tr><td>{escape(m.member)}</td>{''.join(f'<td>{p:.2f}</td>' for p in m.probabilities)}</tr>"
        for m in s.members
    )
    return f'<table class="members"><tr><th>member</th>{head}</tr>{rows}</table>'


def _flags(s: Screening) -> str:
    items = "".join(f"<li>{escape(f.message)}</li>" for f in s.flags)
    return f'<ul class="flags">{items}</ul>' if items else ""


def _times(s: Screening) -> str:
    return f'<p class="small">{s.times.total_ms:.1f} ms: {s.times.describe()}</p>'
