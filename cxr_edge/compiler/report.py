"""Report of a build, as values, as a table and as JSON: one row per network and candidate.

`build_bundle` and `build_network` fill it in, `cxr-edge build-engine` prints it, and build.json stores it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cxr_edge.compiler.image_set import ImageSet
from cxr_edge.compiler.output_kinds import ComparedOutput
from cxr_edge.compiler.parity import PER_OUTPUT, TRUE_FINDINGS, ParityResult
from cxr_edge.compiler.point_report import PointReport
from cxr_edge.compiler.sensitivity import LayerSensitivity
from cxr_edge.compiler.timing import Timing

__all__ = ["BuildReport", "Row", "Status"]

# selected: the engine that will be used. passed: as good, but slower. rejected: by the parity check. failed: could not
# be built. skipped: an input that it needs is missing.
Status = Literal["selected", "passed", "rejected", "failed", "skipped"]

_MAX_LISTED = 4  # layers in a line of text; the JSON has all

_HEAD = ("Engine", "Status", "Size", "agreement", "dAUC", "p50", "p99", "speed-up")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One candidate."""

    part: str  # name of the network
    precision: str
    status: Status
    reason: str | None = None
    size_bytes: int | None = None
    parity: ParityResult | None = None
    timing: Timing | None = None
    speed_up: float | None = None  # p50 of the plain fp32 network through ONNX Runtime, over this one's
    sensitive_layers: tuple[LayerSensitivity, ...] = ()  # of a rejected candidate, most sensitive first
    fp32_layers: tuple[LayerSensitivity, ...] = ()  # of a mixed candidate: the layers left in fp32, likewise

    def cells(self) -> tuple[str, ...]:
        """Return the row's texts under the table's head."""
        p, t = self.parity, self.timing
        return (
            f"{self.part} {self.precision}",
            self.status,
            "-" if self.size_bytes is None else f"{self.size_bytes / 1e6:.2f} MB",
            "-" if p is None else f"{p.agreement:.3f}",
            "-" if p is None or p.auc_change is None else f"{p.auc_change:+.4f}",
            "-" if t is None else f"{t.p50_ms:.2f} ms",
            "-" if t is None else f"{t.p99_ms:.2f} ms",
            "-" if self.speed_up is None else f"{self.speed_up:.2f}x",
        )


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """Result of a build."""

    name: str  # of the bundle or the single network
    backend: str
    versions: Mapping[str, str]
    threads: int
    max_loss: float
    images: str  # description of the compared images, with their number
    engines: str  # folder of the engines
    rows: tuple[Row, ...]
    ensemble: ParityResult | None  # of the selected engines together; None if some network has none
    notes: tuple[str, ...]
    outputs: tuple[ComparedOutput, ...] = ()  # what each network's outputs were taken for
    operating_point: PointReport | None = None  # of these engines together; None for a single network
    image_set: ImageSet | None = None  # what the images can show; None for a single network

    @property
    def precisions(self) -> dict[str, str]:
        """The selected precision of every network that has an engine."""
        return {r.part: r.precision for r in self.rows if r.status == "selected"}

    @property
    def complete(self) -> bool:
        """True if every network has an engine."""
        return {r.part for r in self.rows} == set(self.precisions)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        values = {**asdict(self), "complete": self.complete, "precisions": self.precisions}
        compared = [(values["ensemble"], self.ensemble)]
        compared += [(row["parity"], own.parity) for row, own in zip(values["rows"], self.rows, strict=True)]
        for found, parity in compared:
            if parity is not None:
                found["agreement_interval"] = parity.interval
        return values

    def lines(self) -> list[str]:
        """Return the table and the sentences that explain it, line by line."""
        lines = _aligned([_HEAD, *(row.cells() for row in self.rows)])
        lines += ["", f"Gate: {self.images}, compared with the fp32 networks; at most {self.max_loss:g} may be lost."]
        lines += [] if self.image_set is None else [self.image_set.line()]
        lines += [*self._reasons(), *self._layers()]
        lines += [] if self.ensemble is None else [_ensemble_line(self.ensemble)]
        lines += [] if self.operating_point is None else self.operating_point.lines()
        parity = [(r.precision, r.parity) for r in self.rows if r.parity]
        against = sorted({p.auc_against for _, p in parity if p.auc_against})
        lines += [f"Outputs: {', '.join(map(str, self.outputs))}."] if self.outputs else []
        of = ["the worst output's" if a in (PER_OUTPUT, TRUE_FINDINGS) else "macro one-vs-rest" for a in against]
        aucs = [f"{what} against {labels}" for what, labels in zip(of, against, strict=True)]
        lines += [f"dAUC is {', or '.join(aucs)}."] if aucs else []
        lines.append(f"Times: one image, {self.threads} threads, {self.backend} on {self._processor()}.")
        lines += [f"Note: {note}" for note in self.notes]
        overlaps = [f"{precision} {p.mask_iou:.4f}" for precision, p in parity if p.mask_iou is not None]
        lines += [f"Agreement of lung boxes; mean overlap (IoU) of masks: {', '.join(overlaps)}."] if overlaps else []
        missing = sorted({r.part for r in self.rows} - set(self.precisions))
        lines.append(f"NO ENGINE for {', '.join(missing)}." if missing else f"Engines: {self.engines}")
        return lines

    def _processor(self) -> str:
        return self.versions.get("gpu") or self.versions.get("processor", "?")

    def _reasons(self) -> list[str]:
        """Return one line per reason, with all engines that it applies to."""
        engines: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason:
                engines.setdefault(f"{row.status}: {row.reason}", []).append(f"{row.part} {row.precision}")
        return [f"  {', '.join(names)} {text}" for text, names in engines.items()]

    def _layers(self) -> list[str]:
        """Return one line per candidate with its most sensitive layers, or with the layers left in fp32."""
        rejected = [r for r in self.rows if r.sensitive_layers]
        mixed = [r for r in self.rows if r.fp32_layers and r.status in ("selected", "passed")]
        lines = [f"  {r.part} {r.precision}: most sensitive layers {_listed(r.sensitive_layers)}" for r in rejected]
        lines += [f"  {r.part} {r.precision}: layers in fp32 {_listed(r.fp32_layers)}" for r in mixed]
        note = (
            "  (in brackets: RMS change of the output with only that layer reduced, relative to its standard deviation)"
        )
        return [*lines, note] if lines else []


def _listed(layers: tuple[LayerSensitivity, ...]) -> str:
    more = f" and {len(layers) - _MAX_LISTED} more" if len(layers) > _MAX_LISTED else ""
    return ", ".join(map(str, layers[:_MAX_LISTED])) + more


def _ensemble_line(parity: ParityResult) -> str:
    shift = "" if parity.max_shift is None else f", largest change of a probability {parity.max_shift:.3f}"
    result = "passed" if parity.passed else "REJECTED: " + "; ".join(parity.reasons)
    of = f" of {parity.worst_finding}, the worst finding," if parity.worst_finding else ""
    answers = "" if parity.answers is None else f", of answered or not {parity.answers:.3f}"
    low, high = parity.interval
    agreement = (
        f"decision agreement {parity.agreement:.3f} [{low:.3f}, {high:.3f}]{of}{answers} on {parity.images} images"
    )
    return f"The selected engines together: {agreement}{shift}; {result}."


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
