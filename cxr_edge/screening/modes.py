"""Combination of the members that answered: their logits in, probabilities out, by the calibration of exactly these members.

A member that gave no finite output, failed, or did not end in time is left out, and the bundle's degraded mode of the others
takes over. Both pipelines combine through this module where a member is missing, so that no answer ever comes from NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import numpy as np
import numpy.typing as npt

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.bundle.networks import Member
from cxr_edge.engines import EngineSet
from cxr_edge.errors import BackendError
from cxr_edge.ops.combine import Combiner
from cxr_edge.records import DegradedState, DroppedMember, Flag
from cxr_edge.specs.budget import OperatingPoint
from cxr_edge.specs.combination import Combination
from cxr_edge.specs.degraded import DegradedMode
from cxr_edge.specs.preprocess import PreprocessSpec

__all__ = ["Combined", "Mode", "Modes", "flag_of"]

_NOT_FINITE = "its output is not finite"


@dataclass(frozen=True, kw_only=True)
class Mode:
    """Calibration that decides when exactly these members answer."""

    members: tuple[Member, ...]
    combination: Combination
    point: OperatingPoint
    labels: tuple[str, ...]
    degraded: DegradedMode | None  # None: all members of the bundle

    @cached_property
    def combiner(self) -> Combiner:
        return Combiner(self.combination, labels=len(self.labels))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.members)

    @cached_property
    def specs(self) -> tuple[PreprocessSpec, ...]:
        return tuple(m.preprocess for m in self.members)

    def state(self, dropped: tuple[DroppedMember, ...]) -> DegradedState | None:
        """Return what a result says of the members that were left out; None if none was."""
        if self.degraded is None:
            return None
        decision = self.point.decision
        of_findings = self.combination.activation == "sigmoid"
        return DegradedState(
            answered=self.names,
            dropped=dropped,
            cost=self.degraded.cost(),
            cost_in_words=self.degraded.cost_in_words(),
            thresholds={k: decision.threshold_of(k) for k in self.labels} if of_findings else decision.thresholds,
        )


@dataclass(frozen=True, kw_only=True)
class Combined:
    """Combination of the members that answered one image."""

    mode: Mode
    dropped: tuple[DroppedMember, ...]  # in the order of the bundle
    logits: npt.NDArray[np.float32]  # (members, labels), of those that answered
    probabilities: npt.NDArray[np.float32]  # (labels,)
    winner: int


class Modes:
    """The modes of a bundle with its loaded engines. Thread-safe.

    whole: every member must answer; `combine` then raises BackendError where it would go on with a degraded mode.

    Raises BackendError if members were left out when the engines were loaded, and there is no mode of the others.
    """

    def __init__(self, manifest: Manifest, engines: EngineSet, *, whole: bool = False) -> None:
        self._order = tuple(m.name for m in manifest.members)
        self._modes = {mode.names: mode for mode in _modes(manifest, engines, whole=whole)}
        self._missing = engines.dropped
        self.loaded = self.of(
            tuple(n for n in self._order if n not in {d.member for d in self._missing}), self._missing
        )

    def of(self, names: tuple[str, ...], dropped: Sequence[DroppedMember] = ()) -> Mode:
        """Return the mode of these members. Raises BackendError, with the reasons, if there is none."""
        mode = self._modes.get(names)
        if mode is not None:
            return mode
        left_out = ", ".join(map(str, dropped))
        remedy = "build its engines again (cxr-edge build-engine), or give more time if a deadline was set"
        if not names:
            raise BackendError(f"no member of the ensemble gave a result: {left_out}; {remedy}")
        raise BackendError(
            f"without {left_out} the ensemble cannot answer, since the bundle has no calibration of {', '.join(names)} alone "
            f"(degraded mode): {remedy}"
        )

    def combine(self, logits: Mapping[str, npt.NDArray[np.float32]], dropped: Sequence[DroppedMember] = ()) -> Combined:
        """Combine the logits (labels) of the loaded members, without those that are not finite.

        dropped: loaded members that gave no logits, with the reasons. Raises BackendError if the bundle has no mode of the rest.
        """
        if not dropped:
            mode, stacked = self.loaded, np.stack([logits[name] for name in self.loaded.names])
            if np.isfinite(stacked).all():
                probabilities, winners = mode.combiner.run(stacked[None])
                return _finite(mode, self._missing, stacked, probabilities[0], int(winners[0]))
        good = {name: values for name, values in logits.items() if np.isfinite(values).all()}
        bad = [DroppedMember(member=name, reason=_NOT_FINITE) for name in logits if name not in good]
        missing = tuple(sorted((*self._missing, *dropped, *bad), key=lambda d: self._order.index(d.member)))
        mode = self.of(tuple(n for n in self._order if n in good), missing)
        stacked = np.stack([good[n] for n in mode.names])
        probabilities, winners = mode.combiner.run(stacked[None])
        return _finite(mode, missing, stacked, probabilities[0], int(winners[0]))

    def combined(
        self,
        logits: Mapping[str, npt.NDArray[np.float32]],
        probabilities: npt.NDArray[np.float32],
        winner: int,
    ) -> Combined:
        """Return the combination of the loaded members that a GPU computed, or `combine` where a member's is not finite."""
        stacked = np.stack([logits[n] for n in self.loaded.names])
        if not np.isfinite(stacked).all():
            return self.combine(logits)
        return _finite(self.loaded, self._missing, stacked, probabilities, winner)

    def digest(self) -> str:
        """Return a SHA-256 over the operating points of all modes, hexadecimal."""
        return hashlib.sha256("".join(m.point.digest() for m in self._modes.values()).encode()).hexdigest()


def flag_of(state: DegradedState) -> Flag:
    """Return the flag of a degraded screening."""
    return Flag(code="degraded", message=state.describe())


def _finite(
    mode: Mode,
    dropped: tuple[DroppedMember, ...],
    logits: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    winner: int,
) -> Combined:
    if not isfinite(sum(probabilities.tolist())):
        raise BackendError(
            f"the combination of {', '.join(mode.names)} is not finite, although their outputs are: export the bundle again"
        )
    return Combined(mode=mode, dropped=dropped, logits=logits, probabilities=probabilities, winner=winner)


def _modes(manifest: Manifest, engines: EngineSet, *, whole: bool) -> list[Mode]:
    """Return the mode of all members first, then the degraded ones."""
    point = OperatingPoint(decision=manifest.decision, budget=manifest.budget)
    found = [
        Mode(
            members=manifest.members,
            combination=manifest.combination,
            point=engines.operating_point or point,
            labels=manifest.labels,
            degraded=None,
        )
    ]
    moved = {mode.members: mode.point for mode in engines.mode_points}
    for mode in () if whole else manifest.degraded:
        found.append(
            Mode(
                members=tuple(m for m in manifest.members if m.name in mode.members),
                combination=mode.combination,
                point=moved.get(mode.members, mode.point),
                labels=manifest.labels,
                degraded=mode,
            )
        )
    return found
