"""Benchmark reports: tables, targets and environment of one run, printed as Markdown and written as JSON.

Takes tables from `side_by_side` and the script's settings; `page` generates the page of results from the JSON files.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.side_by_side import Table
from cxr_edge import __version__
from cxr_edge.environment import Environment, environment

__all__ = ["Report", "Target", "installed_versions", "markdown", "publish"]

_PEERS = (
    "onnxruntime", "onnxruntime-gpu", "openvino", "pillow", "pycuda", "pydicom", "tensorrt", "timm", "torch", "torchvision",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Target:
    """Limit for a measured value (design: performance targets)."""

    text: str
    required: float  # the limit
    measured: float | None  # None: not measured in this run
    at_least: bool  # the limit is a minimum, otherwise a maximum

    @property
    def verdict(self) -> str:
        """Return `met`, `missed` or `not measured`."""
        if self.measured is None:
            return "not measured"
        return (
            "met" if (self.measured >= self.required if self.at_least else self.measured <= self.required) else "missed"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this target; the key of `required` is `wanted`."""
        return {
            "text": self.text,
            "wanted": self.required,
            "measured": self.measured,
            "at_least": self.at_least,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of one run of one script."""

    name: str
    question: str
    interval: str  # what the timed interval includes
    settings: dict[str, str | int | float]
    environment: Environment
    tables: tuple[Table, ...]
    targets: tuple[Target, ...]
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this report; `markdown` reads it."""
        return {**asdict(self), "targets": [t.as_json() for t in self.targets]}


def installed_versions() -> dict[str, str]:
    """Return the versions of all compared libraries; `not installed` for missing ones."""
    return {"cxr-edge": __version__, **{name: _version(name) for name in _PEERS}}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def publish(
    *,
    name: str,
    question: str,
    interval: str,
    settings: dict[str, str | int | float],
    tables: Sequence[Table],
    targets: Sequence[Target],
    notes: Sequence[str] = (),
    out: Path,
    text: str | None = None,
) -> Report:
    """Print the report and write it to `out`, together with the environment of this machine.

    text: printed instead of the Markdown, for a script with its own output format.
    """
    report = Report(
        name=name,
        question=question,
        interval=interval,
        settings=settings,
        environment=environment(installed_versions()),
        tables=tuple(tables),
        targets=tuple(targets),
        notes=tuple(notes),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    written = json.dumps(report.as_json(), indent=1, allow_nan=False)
    out.write_text(written + "\n", encoding="utf-8")
    print(markdown(json.loads(written)) if text is None else text)
    print(f"written to {out}")
    return report


def markdown(report: dict[str, Any]) -> str:
    """Format a report's JSON object as Markdown, with padded columns for reading in a terminal."""
    env, settings = report["environment"], report["settings"]
    load = env["load_average"]
    versions = ", ".join(f"{k} {v}" for k, v in env["versions"].items())
    lines = [
        f"## {report['name']}",
        "",
        report["question"],
        "",
        f"- Interval: {report['interval']}",
        f"- Settings: {', '.join(f'{k} {v}' for k, v in settings.items())}",
        f"- Machine: {env['processor']}, {env['cores']} cores, {env['platform']}, Python {env['python']}"
        + ("" if load is None else f", load average at the end {load:.1f}"),
        f"- Versions: {versions}",
        *(f"- {note}" for note in report["notes"]),
    ]
    for table in report["tables"]:
        lines += ["", f"### {table['title']}", "", *_grid(table["columns"], table["rows"])]
    if report["targets"]:
        rows = [
            [t["text"], f"{'at least' if t['at_least'] else 'at most'} {t['wanted']:g}", t["measured"], t["verdict"]]
            for t in report["targets"]
        ]
        lines += ["", "### Targets", "", *_grid(["target", "required", "measured", "verdict"], rows)]
    return "\n".join(lines) + "\n"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    cells = [list(columns), *([_cell(v) for v in row] for row in rows)]
    widths = [max(2, *(len(row[i]) for row in cells)) for i in range(len(columns))]
    right = [all(_is_numeric(row[i]) for row in rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, right, strict=True)]
    return [line(cells[0]), f"| {' | '.join(rule)} |", *(line(row) for row in cells[1:])]


def _is_numeric(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 0.005 else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "\\|")
