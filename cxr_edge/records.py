"""The values that travel between the steps: image, roi, flag, member score, screening.

Each is a frozen, keyword-only dataclass that checks itself when it is made, so a value that exists is valid. They hold
no behaviour beyond that and their JSON form; the steps (`decode`, `lungs`, `preprocess`, `combine`, `screener`) make them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from cxr_edge.names import json_name

__all__ = ["Failure", "Flag", "Image", "MemberScore", "Roi", "Screening", "StageTimes"]

GrayPixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Something the reader of a result must know: a fallback taken, an assumption made.

    `code` is stable and machine-readable (`lung_box_failed`); `message` is a sentence for a person.
    """

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be answered, and the reason as a sentence for a person."""

    source: str
    reason: str

    def as_json(self) -> dict[str, Any]:
        """The JSON object of this failure."""
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
        """The roi that covers a whole image."""
        return cls(x0=0, y0=0, x1=width_px, y1=height_px)

    @property
    def width_px(self) -> int:
        return self.x1 - self.x0

    @property
    def height_px(self) -> int:
        return self.y1 - self.y0

    def as_tuple(self) -> tuple[int, int, int, int]:
        """(x0, y0, x1, y1)."""
        return (self.x0, self.y0, self.x1, self.y1)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A decoded chest X-ray: upright, gray, black is low.

    pixels: (height, width), uint8 or uint16, C-contiguous, using the full range of its type (0..255 or 0..65535).
    source: the name to show in results, as the user gave it. format: `jpeg`, `png`, `tiff`, `webp`, `dicom`.
    stored_bits: significant bits a pixel had in the file. sha256: of the file's bytes, hexadecimal.
    """

    pixels: GrayPixels
    source: str
    format: str
    stored_bits: int
    sha256: str
    flags: tuple[Flag, ...] = ()

    def __post_init__(self) -> None:
        p = self.pixels
        if p.ndim != 2 or p.dtype not in (np.uint8, np.uint16) or not p.flags.c_contiguous or p.size == 0:
            raise ValueError(
                "an image holds a C-contiguous (height, width) array of uint8 or uint16, "
                f"got shape {p.shape}, dtype {p.dtype}"
            )

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
    """Milliseconds spent in each stage of one screening: wall clock, on a GPU by its own clock between the stages.

    upload_ms and download_ms: pixels to the GPU and answers back, 0 where the host does all. The image's way to the GPU
    holds its copy into pinned memory and the launch.
    """

    decode_ms: float
    lungs_ms: float
    preprocess_ms: float
    members_ms: float
    combine_ms: float
    upload_ms: float = 0.0
    download_ms: float = 0.0

    @property
    def total_ms(self) -> float:
        return sum((getattr(self, f.name) for f in fields(self)), 0.0)

    def describe(self) -> str:
        """The stages in the order of the work, for people; copies to and from a GPU only where there were some."""
        there = f"upload {self.upload_ms:.2f}, " if self.upload_ms else ""
        back = f", download {self.download_ms:.2f}" if self.download_ms else ""
        return (
            f"decode {self.decode_ms:.1f}, {there}lungs {self.lungs_ms:.1f}, preprocess {self.preprocess_ms:.2f}, "
            f"members {self.members_ms:.1f}, combine {self.combine_ms:.2f}{back}"
        )


@dataclass(frozen=True, kw_only=True)
class MemberScore:
    """One member's opinion: softmax probabilities in the order of the bundle's labels."""

    member: str
    probabilities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Screening:
    """The answer for one image.

    probabilities: calibrated, of the whole ensemble, in the order of `labels`. decision: one of `labels`.
    roi: the lung box, or the full frame when it failed (a flag says so). heatmap: (h, w) float32 in 0..1 over the roi
    for the decided label, or None when it was not asked for or the members give none.
    """

    source: str
    sha256: str
    width_px: int
    height_px: int
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    decision: str
    members: tuple[MemberScore, ...]
    roi: Roi
    flags: tuple[Flag, ...]
    times: StageTimes
    heatmap: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.probabilities) != len(self.labels) or self.decision not in self.labels:
            raise ValueError(
                f"a screening needs a probability a label and a decision among {self.labels}, "
                f"got {len(self.probabilities)} and {self.decision!r}"
            )

    def as_json(self) -> dict[str, Any]:
        """The JSON object of this screening; no pixels."""
        t = self.times
        return {
            **_source_json(self.source),
            "sha256": self.sha256,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "decision": self.decision,
            "probabilities": dict(zip(self.labels, self.probabilities, strict=True)),
            "members": {m.member: dict(zip(self.labels, m.probabilities, strict=True)) for m in self.members},
            "roi": list(self.roi.as_tuple()),
            "flags": [{"code": f.code, "message": f.message} for f in self.flags],
            "times_ms": {
                "decode": t.decode_ms,
                "upload": t.upload_ms,
                "lungs": t.lungs_ms,
                "preprocess": t.preprocess_ms,
                "members": t.members_ms,
                "combine": t.combine_ms,
                "download": t.download_ms,
                "total": t.total_ms,
            },
        }


def _source_json(source: str) -> dict[str, str]:
    """`source`, and `source_bytes` where the name holds bytes that are no text."""
    shown, encoded = json_name(source)
    return {"source": shown} if encoded is None else {"source": shown, "source_bytes": encoded}
