"""Data types passed between the processing steps: image, roi, flag, member score, stage times, screening.

Each is a frozen, keyword-only dataclass that validates itself when it is created. Apart from that they have only their
JSON form; the steps themselves are in `decoding`, `ops` and `screening`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cxr_edge.names import json_name

__all__ = [
    "NO_FINDING",
    "STAGES",
    "AcquisitionFacts",
    "DegradedState",
    "DroppedMember",
    "Failure",
    "Flag",
    "GrayPixels",
    "Image",
    "MemberScore",
    "Outcome",
    "Roi",
    "Screening",
    "StageTimes",
    "decision_text",
]

NO_FINDING = "no finding"  # decision of a multi-label bundle without a present finding

# answered: the decision is an answer. abstained: it is too uncertain for one. refused: the bundle is not made for the image.
Outcome = Literal["answered", "abstained", "refused"]

GrayPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A fallback or an assumption that a reader of the result must know about."""

    code: str  # stable and machine-readable: `lung_box_failed`
    message: str  # human-readable sentence


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An input file that failed."""

    source: str  # name of the file, as the user gave it
    reason: str  # human-readable sentence
    sha256: str = ""  # hexadecimal, of its bytes if they were read

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this failure."""
        return {**_source_json(self.source), "error": self.reason}


@dataclass(frozen=True, kw_only=True)
class Roi:
    """A box in pixels of the image, half open: columns x0..x1-1, rows y0..y1-1."""

    x0: int
    y0: int
    x1: int
    y1: int

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 and 0 <= self.y0 < self.y1):
            raise ValueError(f"a roi needs 0 <= x0 < x1 and 0 <= y0 < y1, got {self.as_tuple()}")

    @classmethod
    def full(cls, width_px: int, height_px: int) -> Roi:
        """Return the roi that covers a full image."""
        return cls(x0=0, y0=0, x1=width_px, y1=height_px)

    @property
    def width_px(self) -> int:
        return self.x1 - self.x0

    @property
    def height_px(self) -> int:
        return self.y1 - self.y0

    def as_tuple(self) -> tuple[int, int, int, int]:
        """Return (x0, y0, x1, y1)."""
        return (self.x0, self.y0, self.x1, self.y1)


@dataclass(frozen=True, kw_only=True)
class AcquisitionFacts:
    """View, age and UID by the header of a DICOM file; empty for other formats, and for what the header does not say."""

    view: str = ""  # AP, PA, or LATERAL
    age_years: float | None = None
    # SOP Instance UID, in memory only: the evidence log stores its keyed hash, no report has it.
    sop_instance_uid: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A decoded chest X-ray: upright, gray, black is low."""

    # (height, width), uint8 or uint16, C-contiguous, using the full range of its type (0..255 or 0..65535).
    pixels: GrayPixels
    source: str  # name to show in results, as the user gave it
    format: str  # `jpeg`, `png`, `tiff`, `webp`, `bmp`, `dicom`, `array`
    stored_bits: int  # significant bits per pixel in the file or array
    sha256: str  # hexadecimal: of the file's bytes, of a data set's pixel data, of an array's bytes (`tobytes()`)
    flags: tuple[Flag, ...] = ()
    facts: AcquisitionFacts = AcquisitionFacts()

    def __post_init__(self) -> None:
        p = self.pixels
        if not isinstance(p, np.ndarray):
            raise ValueError(f"an image holds a NumPy array, got {type(p).__name__}: use Image.from_array")
        if p.ndim != 2 or p.dtype not in (np.uint8, np.uint16) or not p.flags.c_contiguous or p.size == 0:
            raise ValueError(
                "an image holds a C-contiguous (height, width) array of uint8 or uint16, "
                f"got shape {p.shape}, dtype {p.dtype}"
            )

    @classmethod
    def from_array(
        cls,
        pixels: object,
        *,
        range: tuple[float, float] | None = None,
        inverted: bool = False,
        source: str | None = None,
        max_pixels: int | None = None,
        min_side_px: int | None = None,
    ) -> Image:
        """Return the image of pixels in memory, which are copied; everything that `cxr_edge.load_image` reads, and as it does.

        pixels: (height, width), or (height, width, 3 or 4) with red first; black is low. uint8 and uint16 use the full range of
        their type; other real types need `range`.
        range: lowest and highest possible value. inverted: the lowest value is white. source: name for results.
        max_pixels, min_side_px: limits of the size. Raises InputError.
        """
        import cxr_edge  # whose `load_image` is on a higher floor, and imports OpenCV

        return cxr_edge.load_image(
            pixels,
            source=source,
            range=range,
            inverted=inverted,
            max_pixels=max_pixels,
            min_side_px=min_side_px,
        )

    def __eq__(self, other: object) -> bool:
        """Compare pixels too; the equality of a dataclass cannot, since arrays compare pixel by pixel."""
        if not isinstance(other, Image):
            return NotImplemented
        same = all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name != "pixels")
        return same and self.pixels.dtype == other.pixels.dtype and np.array_equal(self.pixels, other.pixels)

    def __hash__(self) -> int:
        return hash((self.source, self.sha256))

    @property
    def width_px(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height_px(self) -> int:
        return int(self.pixels.shape[0])

    def __repr__(self) -> str:
        return f"Image({self.source!r}, {self.width_px}x{self.height_px} px, {self.format}, {self.stored_bits} bit)"


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Milliseconds per stage of one screening, in order of execution.

    Measured by the wall clock; on a GPU by its own clock, between events. Adding a stage means adding a field here:
    `STAGES`, the JSON output, `cxr-edge bench` and the text reports follow from the fields.
    """

    decode_ms: float
    upload_ms: float = 0.0  # pixels to the GPU, with the copy into pinned memory and the graph launch; 0 on the host
    lungs_ms: float
    checks_ms: float = 0.0  # whether the bundle is made for such an image; 0 without a checker
    preprocess_ms: float
    members_ms: float
    combine_ms: float
    download_ms: float = 0.0  # results back from the GPU; 0 on the host

    @property
    def total_ms(self) -> float:
        return sum(self.by_stage().values(), 0.0)

    def by_stage(self) -> dict[str, float]:
        """Return the milliseconds of every stage, by name, in order of execution."""
        return {stage: getattr(self, f"{stage}_ms") for stage in STAGES}

    def describe(self) -> str:
        """Return the stages as text; stages that a screening may lack are omitted where there were none."""
        stages = self.by_stage().items()
        used = [(stage, ms) for stage, ms in stages if ms or stage not in ("upload", "checks", "download")]
        return ", ".join(f"{stage} {ms:.{1 if stage in _SLOW_STAGES else 2}f}" for stage, ms in used)


# Names of the stages, in order of execution.
STAGES: tuple[str, ...] = tuple(f.name.removesuffix("_ms") for f in fields(StageTimes))

_SLOW_STAGES = ("decode", "lungs", "members")  # shown with one decimal


@dataclass(frozen=True, kw_only=True)
class MemberScore:
    """Output of one ensemble member."""

    member: str
    probabilities: tuple[float, ...]  # in the order of the bundle's labels; sum 1 in a single-label bundle


@dataclass(frozen=True, kw_only=True)
class DroppedMember:
    """A member that takes no part in a screening."""

    member: str
    reason: str  # a clause, such as "its output is not finite"

    def __str__(self) -> str:
        return f"{self.member} ({self.reason})"


@dataclass(frozen=True, kw_only=True)
class DegradedState:
    """Members that answered and members that did not, and what that costs."""

    answered: tuple[str, ...]  # names, in the order of the bundle
    dropped: tuple[DroppedMember, ...]
    # Figures on validation patients by name, `macro_f1` of the members that answered and `macro_f1_of_all` of all, and so on.
    cost: Mapping[str, float]
    cost_in_words: str
    thresholds: Mapping[str, float]  # that decided, by label

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of the members that did not answer."""
        return tuple(d.member for d in self.dropped)

    def describe(self) -> str:
        """Return one sentence: who did not answer and why, who decided, and the cost."""
        left_out = ", ".join(map(str, self.dropped))
        return f"Without {left_out}; decided by the calibration of {', '.join(self.answered)}: {self.cost_in_words}."

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this state."""
        return {
            "answered": list(self.answered),
            "dropped": [{"member": d.member, "reason": d.reason} for d in self.dropped],
            "cost": dict(self.cost),
            "thresholds": dict(self.thresholds),
        }


@dataclass(frozen=True, kw_only=True)
class Screening:
    """The result for one image: an answer, or why there is none."""

    source: str  # name of the image, as the user gave it
    sha256: str  # of the image, hexadecimal
    width_px: int
    height_px: int
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]  # calibrated, of the ensemble, in the order of `labels`
    # By the decision rule, whatever the outcome: one of `labels`; of a multi-label bundle findings joined by +, or NO_FINDING.
    forced_decision: str
    members: tuple[MemberScore, ...]
    roi: Roi  # the lung box, or the full frame if it was rejected (a flag says so)
    flags: tuple[Flag, ...]
    times: StageTimes
    findings: tuple[str, ...] | None = None  # the present ones, in the order of `labels`; None in a single-label bundle
    outcome: Outcome = "answered"
    reason: Flag | None = None  # for an outcome other than `answered`
    # Labels that are not excluded at the budget's coverage, in the order of `labels`; None without a budget.
    prediction_set: tuple[str, ...] | None = None
    view: str = ""  # AP, PA or LATERAL by the header, or AP or PA by the checker's estimate; empty if unknown
    view_estimated: bool = False
    checks: Mapping[str, float] = field(default_factory=dict)  # the checker's scores by name; empty without one
    degraded: DegradedState | None = None  # None: all members answered; `members` has those that did
    # (h, w) float32 in 0..1 over the roi, for the `leading_label`; None if it was not requested or the members have no CAM.
    heatmap: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.probabilities) != len(self.labels) or not self._decided():
            raise ValueError(
                f"a screening needs one probability per label and a decision among {self.labels}, "
                f"got {len(self.probabilities)} and {self.forced_decision!r}"
            )
        if (self.reason is None) is not (self.outcome == "answered"):
            raise ValueError(f"a screening has a reason unless it is answered, got {self.outcome} and {self.reason}")

    @property
    def decision(self) -> str | None:
        """The `forced_decision` if it is an answer; None if the image was refused or the ensemble abstained."""
        return self.forced_decision if self.outcome == "answered" else None

    @property
    def present(self) -> tuple[str, ...]:
        """The labels that the forced decision consists of: the decided one, or the present findings."""
        return (self.forced_decision,) if self.findings is None else self.findings

    @property
    def leading_label(self) -> str:
        """The label that reports show first: the decided one; of findings the most probable one, of those present if any are."""
        return max(self.present or self.labels, key=lambda label: self.probabilities[self.labels.index(label)])

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of this screening, without pixels. A refused image has no probabilities in it."""
        refused = self.outcome == "refused"
        findings = None if self.findings is None or self.outcome != "answered" else list(self.findings)
        scores = dict(zip(self.labels, self.probabilities, strict=True))
        members = {m.member: dict(zip(self.labels, m.probabilities, strict=True)) for m in self.members}
        return {
            **_source_json(self.source),
            "sha256": self.sha256,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "outcome": self.outcome,
            "reason": None if self.reason is None else _flag_json(self.reason),
            "decision": self.decision,
            **({} if self.findings is None else {"findings": findings}),
            **({} if self.prediction_set is None or refused else {"prediction_set": list(self.prediction_set)}),
            "probabilities": None if refused else scores,
            "members": None if refused else members,
            "roi": list(self.roi.as_tuple()),
            **({"view": self.view, "view_estimated": self.view_estimated} if self.view else {}),
            **({"checks": dict(self.checks)} if self.checks else {}),
            **({} if self.degraded is None else {"degraded": self.degraded.as_json()}),
            "flags": [_flag_json(f) for f in self.flags],
            "times_ms": {**self.times.by_stage(), "total": self.times.total_ms},
        }

    def _decided(self) -> bool:
        if self.findings is None:
            return self.forced_decision in self.labels
        known = self.findings == tuple(label for label in self.labels if label in self.findings)
        return known and self.forced_decision == decision_text(self.findings)


def _flag_json(flag: Flag) -> dict[str, str]:
    return {"code": flag.code, "message": flag.message}


def decision_text(findings: Sequence[str]) -> str:
    """Return the decision of a multi-label bundle, from the present findings in the order of its labels."""
    return "+".join(findings) or NO_FINDING


def _source_json(source: str) -> dict[str, str]:
    """Return `source`, and `source_bytes` where the name has bytes that are not UTF-8."""
    shown, encoded = json_name(source)
    return {"source": shown} if encoded is None else {"source": shown, "source_bytes": encoded}
