"""What a build did, as values, as a table and as JSON: one row a part and candidate.

`engine` fills it in; the command prints it and build.json keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxr_edge.compiler.parity import Verdict
from cxr_edge.compiler.sensitivity import Harm
from cxr_edge.compiler.timing import Timing

__all__ = ["BuildReport", "Row", "Status"]

# kept: the engine that will be used. passed: as good, but slower. refused: by the gate. failed: could not be made.
# skipped: something that it needs was not given.
Status = Literal["kept", "passed", "refused", "failed", "skipped"]

_NAMED = 4  # layers that a line names; the JSON has all

_HEAD = ("Engine", "Status", "Size", "agreement", "dAUC", "p50", "p99", "speed-up")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate.

    speed_up: p50 of the plain fp32 network through ONNX Runtime, over this one's. hurt: of a refused one, the layers
    that moved the output most when they alone were reduced. kept_float: of a mixed one, those that stayed fp32. Both
    worst first.
    """

    part: str
    precision: str
    status: Status
    reason: str | None = None
    size_bytes: int | None = None
    verdict: Verdict | None = None
    timing: Timing | None = None
    speed_up: float | None = None
    hurt: tuple[Harm, ...] = ()
    kept_float: tuple[Harm, ...] = ()

    def cells(self) -> tuple[str, ...]:
        """The row's texts under the table's head."""
        v, t = self.verdict, self.timing
        return (
            f"{self.part} {self.precision}",
            self.status,
            "-" if self.size_bytes is None else f"{self.size_bytes / 1e6:.2f} MB",
            "-" if v is None else f"{v.agreement:.3f}",
            "-" if v is None or v.auc_change is None else f"{v.auc_change:+.4f}",
            "-" if t is None else f"{t.p50_ms:.2f} ms",
            "-" if t is None else f"{t.p99_ms:.2f} ms",
            "-" if self.speed_up is None else f"{self.speed_up:.2f}x",
        )


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """A whole build. images: which the gate used, with their number. whole: the verdict on the chosen set; None where
    there is none to judge. engines: where the engines lie.
    """

    name: str
    backend: str
    versions: Mapping[str, str]
    threads: int
    max_loss: float
    images: str
    engines: str
    rows: tuple[Row, ...]
    whole: Verdict | None
    notes: tuple[str, ...]

    @property
    def precisions(self) -> dict[str, str]:
        """The chosen precision of every part that has an engine."""
        return {r.part: r.precision for r in self.rows if r.status == "kept"}

    @property
    def complete(self) -> bool:
        """Whether every part has an engine."""
        return {r.part for r in self.rows} == set(self.precisions)

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return {**asdict(self), "complete": self.complete, "precisions": self.precisions}

    def lines(self) -> list[str]:
        """The table and what must be read with it."""
        lines = _aligned([_HEAD, *(row.cells() for row in self.rows)])
        lines += ["", f"Gate: {self.images}, compared with the fp32 networks; at most {self.max_loss:g} may be lost."]
        lines += [*self._reasons(), *self._layers()]
        lines += [] if self.whole is None else [_whole_line(self.whole)]
        against = {r.verdict.auc_against for r in self.rows if r.verdict and r.verdict.auc_against}
        lines += [f"dAUC is macro one-vs-rest against {', '.join(sorted(against))}."] if against else []
        lines.append(f"Times: one image, {self.threads} threads, {self.backend} on {self._where()}.")
        lines += [f"Note: {note}" for note in self.notes]
        overlaps = [
            f"{r.precision} {r.verdict.mask_iou:.4f}" for r in self.rows if r.verdict and r.verdict.mask_iou is not None
        ]
        lines += [f"Agreement of lung boxes; mean overlap (IoU) of masks: {', '.join(overlaps)}."] if overlaps else []
        empty = sorted({r.part for r in self.rows} - set(self.precisions))
        lines.append(f"NO ENGINE for {', '.join(empty)}." if empty else f"Engines: {self.engines}")
        return lines

    def _where(self) -> str:
        return self.versions.get("gpu") or self.versions.get("processor", "?")

    def _reasons(self) -> list[str]:
        """One line a reason, with all engines that it holds for."""
        said: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason:
                said.setdefault(f"{row.status}: {row.reason}", []).append(f"{row.part} {row.precision}")
        return [f"  {', '.join(names)} {text}" for text, names in said.items()]

    def _layers(self) -> list[str]:
        """One line for the layers that each refused candidate suffers from, or that a mixed one keeps in fp32."""
        mixed = [r for r in self.rows if r.kept_float and r.status in ("kept", "passed")]
        lines = [f"  {r.part} {r.precision} is hurt most by {_listed(r.hurt)}" for r in self.rows if r.hurt]
        lines += [f"  {r.part} {r.precision} keeps in fp32 {_listed(r.kept_float)}" for r in mixed]
        note = "  (in brackets: how far the layer alone moved the output, in per cent of the output's spread)"
        return [*lines, note] if lines else []


def _listed(harms: tuple[Harm, ...]) -> str:
    more = f" and {len(harms) - _NAMED} more" if len(harms) > _NAMED else ""
    return ", ".join(map(str, harms[:_NAMED])) + more


def _whole_line(whole: Verdict) -> str:
    moved = "" if whole.max_shift is None else f", probabilities moved by at most {whole.max_shift:.3f}"
    said = "passed" if whole.passed else "REFUSED: " + "; ".join(whole.reasons)
    same = f"decision agreement {whole.agreement:.3f} on {whole.images} images"
    return f"The chosen engines together: {same}{moved}; {said}."


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
