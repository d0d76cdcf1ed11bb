"""Lung segmenter of a run on own data: a run and its masks in; the packaged one, or one trained here if it is better, out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_edge.bundle import STARTER, Bundle
from cxr_edge.cli.output import print_message
from training.data.canvases import LUNG_BOX, LungFinder
from training.json_records import ROUNDED, read_json, write_json
from training.models import NetworkSpec, build
from training.recipes.config import Config
from training.recipes.own.configure import Tables
from training.recipes.own.run import OwnRun
from training.recipes.segmenter import segment
from training.shared_files import atomic_write
from training.tasks.segment import dice

__all__ = ["SegmenterChoice", "choose_segmenter", "segmenter_epochs"]

_CHOICE = "segmenter.json"
_DRAWN_IMAGES = 6000  # in a whole training
_STEPS = 2


@dataclass(frozen=True, kw_only=True)
class SegmenterChoice:
    """Mean Dice on validation patients with masks, and what was taken."""

    trained_here: float = field(metadata=ROUNDED)
    packaged: float = field(metadata=ROUNDED)
    taken: str  # `trained here` or `packaged`


def segmenter_epochs(masks: int) -> int:
    """Return the epochs for this number of training masks: about the same number of steps, within limits."""
    return max(12, min(60, round(_DRAWN_IMAGES / max(1, masks))))


def choose_segmenter(run: OwnRun) -> Tables:
    """Write OUT/segmenter.onnx. Returns the run's tables, with the packaged segmenter if it was taken."""
    first = run.first
    segment(first)
    if first.config.segmenter_of is not None:
        return run.tables
    file = run.out / _CHOICE
    if not file.exists():
        write_json(file, _choose(run))
    choice = read_json(SegmenterChoice, file)
    print_message(
        f"lung segmenter: {choice.taken} (Dice on validation patients: trained here {choice.trained_here:.3f}, packaged "
        f"{choice.packaged:.3f})"
    )
    return run.tables if choice.taken == "trained here" else _with_packaged(run.tables)


def _choose(run: OwnRun) -> SegmenterChoice:
    first, bundle = run.first, Bundle.open(STARTER)
    network = build(NetworkSpec(architecture=first.config.segmenter_architecture, labels=1))
    frames = first.segment_task(network, first.config.segmenter).validation
    found = bundle.manifest.segmenter
    assert found is not None  # the packaged bundle has one
    packaged = bundle.file(found.file)
    own, other = (_dice(onnx, frames, first.config) for onnx in (first.segmenter_onnx, packaged))
    if own > other:
        return SegmenterChoice(trained_here=own, packaged=other, taken="trained here")
    with atomic_write(first.segmenter_onnx) as beside:
        shutil.copyfile(packaged, beside)
    return SegmenterChoice(trained_here=own, packaged=other, taken="packaged")


def _dice(onnx: Path, frames: Any, config: Config) -> float:
    find = LungFinder(onnx, config.segmenter_spec, LUNG_BOX)
    values = [
        dice(find.mask(f.frame), (f.mask == 255).astype(np.float32), (f.mask != 127).astype(np.float32)) for f in frames
    ]
    return float(np.mean(values))


def _with_packaged(tables: Tables) -> Tables:
    def changed(table: Mapping[str, Any]) -> dict[str, Any]:
        return {**{k: v for k, v in table.items() if k != "segmenter"}, "segmenter_of": STARTER}

    return replace(
        tables, training=changed(tables.training), sites=None if tables.sites is None else changed(tables.sites)
    )
