"""Pages of a report on own data: the report in; lines for a terminal, or one HTML page with pictures, out.

The page needs no other file and no network, and it holds pictures of patients: keep it as you keep the images.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from cxr_edge.names import printable
from training.data.own.pictures import contact_sheet, sampled
from training.data.own.records import OwnData, OwnRecord
from training.data.own.report import Association, DataReport, FindingCounts, Problem

__all__ = ["as_html", "as_lines"]

_LISTED = 8  # values of a count, and examples, in the terminal
_SHOWN = 24  # rows of a table, and pairs, on the page
_SHEET = 18  # images of a contact sheet


def as_lines(report: DataReport) -> list[str]:
    """Return the report for a terminal: what was understood, then what is there, then what is wrong."""
    lines = [f"{report.source}: what was understood", *(f"  {line}" for line in report.understood), ""]
    lines += [f"  {name}: {text}" for name, text in _facts(report)]
    lines += [
        "",
        f"{'label' if report.exclusive else 'finding':<24}{'images':>8}{'without':>9}{'unknown':>9}{'patients':>10}",
    ]
    lines += [
        f"{printable(name):<24}{c.present:>8}{c.absent:>9}{c.unknown:>9}{c.patients:>10}"
        for name, c in report.findings.items()
    ]
    lines += ["", *(line for problem in report.problems for line in _problem_lines(problem))]
    return lines if report.problems else [*lines, "no problem was found"]


def _problem_lines(problem: Problem) -> list[str]:
    examples = [f"    {example}" for example in problem.examples[:_LISTED]]
    more = ["    and more, in the report (--out)"] if len(problem.examples) > _LISTED else []
    return [f"{problem.severity.upper()}: {problem.title}", f"  {problem.advice}", *examples, *more]


def _facts(report: DataReport) -> list[tuple[str, str]]:
    ages = "" if report.age_years is None else "; {:g} to {:g} years, median {:g}".format(*_ordered(report.age_years))
    patients = f"{report.patients}" + (f", and {report.unnamed} images of no named patient" if report.unnamed else "")
    facts = {
        "images": str(report.images),
        "patients": patients,
        "sites": _counted(report.sites),
        "scanners": _counted(report.scanners),
        "views": _counted(report.views),
        "ages": _counted(report.ages) + ages,
        "sexes": _counted(report.sexes),
        "split of the source": _counted(report.splits),
        "formats": _counted(report.formats),
        "sizes": _counted(report.sizes),
        "left out": _counted(report.ignored),
    }
    pixels = (
        [] if report.pixels_examined else [("pixels", "not examined: no search for duplicates and unreadable files")]
    )
    return [(name, text) for name, text in facts.items() if text] + pixels


def _ordered(ages: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return lowest, highest, median."""
    return ages[0], ages[2], ages[1]


def _counted(counts: Mapping[str, int]) -> str:
    listed = [f"{printable(name)} {n}" for name, n in list(counts.items())[:_LISTED]]
    more = len(counts) - _LISTED
    return ", ".join([*listed, *([f"and {more} more"] if more > 0 else [])])


_STYLE = """
:root { color-scheme: light dark; } body { margin: 0 auto; max-width: 1080px; padding: 24px 20px 48px;
  font: 15px/1.45 system-ui, sans-serif; } img { max-width: 100%; background: #000; border-radius: 6px; }
h1 { font-size: 24px; } h2 { font-size: 18px; margin: 28px 0 8px; } dl { display: grid; gap: 2px 16px;
  grid-template-columns: max-content 1fr; } dt { opacity: .7; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } th, td { padding: 2px 12px 2px 0; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr td { border-top: 1px solid #8884; }
section { border: 1px solid #8886; border-left: 6px solid #8a4b00; border-radius: 8px; padding: 8px 14px; margin: 12px 0; }
section.leak, section.unusable { border-left-color: #b3261e; } section h3 { font-size: 15px; margin: 4px 0; }
li { overflow-wrap: anywhere; } .small { opacity: .7; font-size: 13px; }
"""


def as_html(report: DataReport, data: OwnData) -> str:
    """Return the page: summary, problems, a contact sheet of each label, duplicates side by side, tables of sites."""
    records = {r.key: r for r in data.records}
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Data check</title><style>{_STYLE}</style>"
    parts = [
        head,
        f"<h1>Data check: {escape(report.source)}</h1>",
        "<p class=small>This page holds pictures of patients: keep it as you keep the images.</p>",
        "<h2>What was understood</h2>",
        _list(report.understood),
        f"<dl>{''.join(f'<dt>{escape(k)}<dd>{escape(v)}' for k, v in _facts(report))}</dl>",
        "<h2>Problems</h2>",
        *([_problem(p) for p in report.problems] or ["<p>None was found.</p>"]),
        "<h2>Labels</h2>",
        _findings_table(report.findings),
        *_sheets(data),
        *_pairs(report, records),
        *_associations(report.associations),
    ]
    return "\n".join(parts) + "\n"


def _list(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(printable(item))}' for item in items)}</ul>"


def _problem(problem: Problem) -> str:
    head = f"<h3>{problem.severity.upper()}: {escape(printable(problem.title))}</h3>"
    return (
        f"<section class={problem.severity}>{head}<p>{escape(problem.advice)}.</p>{_list(problem.examples)}</section>"
    )


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    top = "".join(f"<th>{escape(name)}" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(printable(str(cell)))}' for cell in row)}" for row in rows)
    return f"<table><tr>{top}{body}</table>"


def _findings_table(findings: Mapping[str, FindingCounts]) -> str:
    head = (
        "label",
        "images",
        "without",
        "unknown",
        "patients",
        "90 % sensitivity, all tested",
        "on a test side of 15 %",
    )
    rows = [
        (name, c.present, c.absent, c.unknown, c.patients, _interval(c.all_tested), _interval(c.one_side))
        for name, c in findings.items()
    ]
    note = (
        "<p class=small>Exact 95 % intervals that a measured sensitivity of 90 % would have with so many patients.</p>"
    )
    return _table(head, rows) + note


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.0%} to {interval[1]:.0%}"


def _sheets(data: OwnData) -> list[str]:
    parts = []
    for name in data.findings:
        records = sampled((r for r in data.records if r.findings[name]), _SHEET)
        if picture := contact_sheet(records):
            parts.append(f"<h2>{escape(printable(name))}</h2>{_image(picture, f'images with {name}')}")
    return parts


def _image(jpeg: bytes, text: str) -> str:
    return f'<img alt="{escape(printable(text))}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'


def _pairs(report: DataReport, records: Mapping[str, OwnRecord]) -> list[str]:
    """Return the duplicates side by side, the worst first."""
    pairs = sorted(report.same_pictures, key=lambda p: (not p.two_labels, not p.two_patients))[:_SHOWN]
    parts = ["<h2>The same picture in two files</h2>"] if pairs else []
    for pair in pairs:
        both = [records[key] for key in (pair.first, pair.second)]
        picture = contact_sheet(both, cell_px=256)
        text = " | ".join(f"{r.key} ({', '.join(r.present) or 'no finding'})" for r in both)
        parts.append(f"<p>{_image(picture, text)}<br><span class=small>{escape(printable(text))}</span></p>")
    return parts


def _associations(associations: Sequence[Association]) -> list[str]:
    """Return a table of each association, strongest first."""
    parts = ["<h2>What tells the labels besides the picture of the lungs</h2>"] if associations else []
    for a in associations[:_SHOWN]:
        rows = [(value, *n, f"{n[0] / sum(n):.0%}") for value, n in list(a.table.items())[:_SHOWN]]
        title = f"<h3>{escape(a.factor)} and {escape(printable(a.finding))}: Cramer's V {a.cramers_v:.2f}</h3>"
        parts.append(title + _table((a.factor, "with", "without", "share"), rows))
    return parts
