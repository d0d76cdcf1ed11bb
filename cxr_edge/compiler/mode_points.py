"""Operating points of degraded modes with a set of engines: screenings by the reference and by the engines in, moved limits out.

The modes' limits move by the rule of the limits of all members, on the same images: the members' outputs are known from the
screenings, so that nothing is run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.calibration.decisions import decided
from cxr_edge.compiler.operating_point import Outputs, fit_point
from cxr_edge.ops.combine import Combiner, member_logits
from cxr_edge.records import Screening
from cxr_edge.specs.degraded import DegradedMode, ModePoint

__all__ = ["fit_mode_points"]

Logits = npt.NDArray[np.float32]  # (N, members, labels)


def fit_mode_points(
    manifest: Manifest, reference: Sequence[Screening], engines: Sequence[Screening]
) -> tuple[ModePoint, ...]:
    """Return the points of the modes of which a limit moves. Both sides: screenings by all members of the same X-rays."""
    if not manifest.degraded:
        return ()
    before, after = _logits(manifest, reference), _logits(manifest, engines)
    return tuple(_moved(manifest, before, after))


def _moved(manifest: Manifest, before: Logits, after: Logits) -> Iterator[ModePoint]:
    for mode in manifest.degraded:
        rows = [k for k, m in enumerate(manifest.members) if m.name in mode.members]
        combiner = Combiner(mode.combination, labels=len(manifest.labels))
        reference, winners = combiner.run(np.ascontiguousarray(before[:, rows]))
        outputs = Outputs(
            labels=manifest.labels,
            multi_label=manifest.multi_label,
            reference=reference,
            engines=combiner.run(np.ascontiguousarray(after[:, rows]))[0],
            decided=_decided(manifest, mode, reference, winners),
        )
        fitted = fit_point(mode.point, outputs)
        if fitted.moved:
            yield ModePoint(members=mode.members, point=fitted.point)


def _decided(
    manifest: Manifest, mode: DegradedMode, probabilities: npt.NDArray[np.float32], winners: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Return the decided label, or the present findings (N, labels)."""
    labels = manifest.labels
    if manifest.multi_label:
        limits = [mode.decision.threshold_of(label) for label in labels]
        return np.asarray(probabilities >= np.array(limits, dtype=np.float32))
    chosen = decided(probabilities, winners.astype(np.int64), labels, mode.decision)
    return np.asarray(chosen[:, None] == np.arange(len(labels)))


def _logits(manifest: Manifest, screenings: Sequence[Screening]) -> Logits:
    scores = np.array([[m.probabilities for m in s.members] for s in screenings], dtype=np.float64)
    return member_logits(scores, manifest.combination)
