"""An unseen site: its images are not trained on, all are evaluated, and a configuration without one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_edge.errors import InputError
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.records import Record
from training.loop.plan import Plan
from training.recipes.config import Config
from training.unseen import FinishedRun, evaluate_unseen_site


def _data(n: int = 24, side_px: int = 32) -> tuple[list[Sample], Canvases]:
    """Canvases of noise; every third image is of the site `away`."""
    labels = ("normal", "bacterial", "viral", "covid-19")
    samples = []
    for i in range(n):
        source, label = ("away" if i % 3 == 0 else "home"), labels[i % 4]
        record = Record(
            path=Path("x"),
            key=f"{i}",
            patient=f"{source}/{i}",
            label=label,
            source=source,
            view="PA",
            finding=label,
            adult=True,
        )
        samples.append(Sample(record=record, group=record.patient, side="validation" if i % 5 == 0 else "train"))
    pixels = np.random.default_rng(0).integers(0, 256, (n, side_px, side_px), dtype=np.uint8)
    boxes = np.tile(np.array([0, 0, side_px, side_px], np.float32), (n, 1))
    return samples, Canvases(
        lungs=pixels, wide=pixels, boxes=boxes, rois=boxes.astype(np.int32), failed=np.zeros(n, bool)
    )


def _run(out: Path, **changes: object) -> FinishedRun:
    plan = Plan(epochs=1, batch=4, threads=1)
    config = Config(canvas_px=32, epoch_images=8, members={"plain": plan}, threads=1, **changes)  # type: ignore[arg-type]
    run = FinishedRun(config, Path("nowhere"), out)
    run.__dict__["samples"], run.__dict__["canvases"] = _data()
    return run


def test_all_images_of_the_unseen_site_are_evaluated(tmp_path: Path) -> None:
    found = evaluate_unseen_site(_run(tmp_path, left_out=("away",))).members
    assert {kind: figure.guard_specificity.n for kind, figure in found["plain"].items()} == {
        "away/normal": 2,
        "away/bacterial": 2,
        "away/viral": 2,
        "away/covid-19": 2,
    }
    for figure in found["plain"].values():
        assert sum(figure.predicted.values()) == 2
        assert figure.guard_specificity.hits == 2 - figure.predicted["covid-19"]


def test_a_configuration_without_an_unseen_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="left_out"):
        evaluate_unseen_site(_run(tmp_path))
