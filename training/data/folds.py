"""Cross-validation within the training side: samples in, the fold of each and the samples as a fold's training sees them out.

A fold keeps patients whole, as the split does, and its share of every label and source. Each fold validates once and
trains the others, so that every training image gets one prediction from networks that never saw its patient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cxr_edge.errors import InputError
from training.data.dataset import Sample
from training.data.splits import Unit, check_unit, deal
from training.markdown import table

__all__ = ["as_markdown", "folds", "in_fold"]

NO_FOLD = -1


def folds(samples: Sequence[Sample], *, count: int, seed: int, unit: Unit = "group") -> npt.NDArray[np.int64]:
    """The fold (N,) of each sample of the side `train`, 0 to count - 1; -1 for the others.

    unit: "image" deals images one by one, as FLANNEL's code, which puts a patient into several folds. Raises InputError
    for fewer than two folds, or fewer groups than folds, and for another unit.
    """
    check_unit(unit)
    rows = [i for i, s in enumerate(samples) if s.side == "train"]
    records = [samples[i].record for i in rows]
    groups = [samples[i].group if unit == "group" else samples[i].record.key for i in rows]
    if count < 2 or len(set(groups)) < count:
        raise InputError(
            f"{count} folds of {len(set(groups))} patients: give two folds or more, and a patient for each"
        )
    found = np.full(len(samples), NO_FOLD)
    found[rows] = deal(records, groups, seed=seed, shares={k: 1 / count for k in range(count)})
    return found


def in_fold(samples: Sequence[Sample], fold_of: npt.NDArray[np.int64], fold: int) -> list[Sample]:
    """The samples with their sides in one fold's training: its own images validate, those of the others train."""
    return [replace(s, side="validation") if k == fold else s for s, k in zip(samples, fold_of, strict=True)]


def as_markdown(samples: Sequence[Sample], fold_of: npt.NDArray[np.int64]) -> str:
    """Format the images per fold by label and source, and the number of patients in several folds."""
    numbers = sorted(set(fold_of.tolist()) - {NO_FOLD})
    counts = {k: Counter(f"{s.record.source}/{s.record.label}" for s in _of(samples, fold_of, k)) for k in numbers}
    names = sorted({name for c in counts.values() for name in c})
    rows = [[name, *(counts[k][name] for k in numbers)] for name in names]
    rows.append(["all images", *(sum(counts[k].values()) for k in numbers)])
    rows.append(["patients", *(len({s.record.patient for s in _of(samples, fold_of, k)}) for k in numbers)])
    divided = divided_patients(samples, fold_of)
    summary = (
        f"**The folds leak**: {divided} patients stand in several; out-of-fold predictions are too good."
        if divided
        else "No patient stands in two folds."
    )
    return f"# Folds of the training side\n\n{table(['source/label', *(f'fold {k}' for k in numbers)], rows)}\n\n{summary}\n"


def divided_patients(samples: Sequence[Sample], fold_of: npt.NDArray[np.int64]) -> int:
    """Patients, or groups that share an image, that stand in more than one fold."""
    found: dict[str, set[int]] = {}
    for s, k in zip(samples, fold_of.tolist(), strict=True):
        if k != NO_FOLD:
            found.setdefault(s.group, set()).add(k)
    return sum(len(k) > 1 for k in found.values())


def _of(samples: Sequence[Sample], fold_of: npt.NDArray[np.int64], fold: int) -> list[Sample]:
    return [s for s, k in zip(samples, fold_of, strict=True) if k == fold]
