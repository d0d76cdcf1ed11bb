"""Findings of multi-label samples as numbers: records in, truth, counts and refusals out.

Unknown is never a negative: it is NaN in the truth, and counts neither as present nor as absent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.dataset import Sample
from training.data.records import Record
from training.data.splits import SIDES

__all__ = ["check_finding_sides", "check_findings", "truth_of"]

Floats = npt.NDArray[np.float32]
_VALUES = {True: 1.0, False: 0.0, None: float("nan")}


def truth_of(records: Sequence[Record], labels: Sequence[str]) -> Floats:
    """Return 1 for present, 0 for absent and NaN for unknown (N, labels). Raises InputError for single-label records."""
    if single := [r for r in records if r.findings is None]:
        raise InputError(
            f"multi_label = true, but {len(single)} images, such as {single[0].key} ({single[0].label}), have one label each: "
            "leave multi_label out, or give data with a column for each finding"
        )
    rows = [[_VALUES[(r.findings or {}).get(label)] for label in labels] for r in records]
    return np.array(rows, dtype=np.float32).reshape(len(records), len(labels))


def check_findings(labels: Sequence[str], train: Sequence[Record], *, min_images: int = 1) -> None:
    """Raise InputError for a label that no record names, and for one with fewer than `min_images` present or absent."""
    truth = truth_of(train, labels)
    known = sorted({name for r in train for name in r.findings or {}})
    if unknown := [label for label in labels if label not in known]:
        near = [match for name in unknown for match in get_close_matches(name, known, n=1)]
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise InputError(f"no image states {', '.join(unknown)}{hint}; the findings are {', '.join(known)}")
    present, absent = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    few = [
        f"{label} is present in {p} and absent in {a}"
        for label, p, a in zip(labels, present, absent, strict=True)
        if min(p, a) < min_images
    ]
    if few:
        raise InputError(
            f"too few training images, unknown ones not counted: {'; '.join(few)}. Expected {min_images} or more of each; give "
            "more images, or take the finding out of `labels`"
        )


def check_finding_sides(labels: Sequence[str], samples: Sequence[Sample], *, min_images: int = 1) -> list[str]:
    """Return a sentence for each finding without patients, or with one only, present or absent, on a side.

    Raises InputError as `check_findings` for the side `train`, and for another side without a known finding.
    """
    check_findings(labels, [s.record for s in samples if s.side == "train"], min_images=min_images)
    warnings = []
    for side in SIDES:
        own = [s for s in samples if s.side == side]
        truth = truth_of([s.record for s in own], labels)
        if np.isnan(truth).all():
            raise InputError(
                f"the side {side} has 0 images with a known finding of {', '.join(labels)}: give more images, or change the "
                "shares of the split"
            )
        for k, label in enumerate(labels):
            counts = [
                _patients(s.group for s, value in zip(own, truth[:, k], strict=True) if value == kind)
                for kind in (1, 0)
            ]
            if min(counts) < 2:
                warnings.append(_warning(label, side, *counts))
    return warnings


def _patients(groups: Iterable[str]) -> int:
    return len(set(groups))


def _warning(label: str, side: str, present: int, absent: int) -> str:
    effect = {
        "train": "it is learnt from so few",
        "validation": "its temperature stays 1 and its threshold 0.5 where a kind is missing",
        "test": "its figures are those of so few, or missing",
    }[side]
    return f"{label} is present in {present} and absent in {absent} patients of the side {side}: {effect}"
