"""Builders of samples and canvases for training tests: labels in, noise images whose brightness depends on the label out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.records import Record

__all__ = ["make_canvases"]


def make_canvases(labels: Sequence[str], *, validates_every: int, side_px: int = 32) -> tuple[list[Sample], Canvases]:
    """Return a sample for each of `labels`; every `validates_every`-th one is on the validation side, the others train."""
    samples = []
    for i, label in enumerate(labels):
        record = Record(
            path=Path("x"), key=f"{i}", patient=f"{i}", label=label, source="a", view="PA", finding=label, adult=True
        )
        side = "validation" if i % validates_every == validates_every - 1 else "train"
        samples.append(Sample(record=record, group=f"{i}", side=side))
    names, n = sorted(set(labels)), len(labels)
    bright = np.array([50 * names.index(label) for label in labels], np.uint8)
    pixels = np.random.default_rng(0).integers(0, 120, (n, side_px, side_px), dtype=np.uint8) + bright[:, None, None]
    boxes = np.tile(np.array([0, 0, side_px, side_px], np.float32), (n, 1))
    return samples, Canvases(
        lungs=pixels, wide=pixels, boxes=boxes, rois=boxes.astype(np.int32), failed=np.zeros(n, bool)
    )
