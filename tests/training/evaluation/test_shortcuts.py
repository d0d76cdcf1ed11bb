"""Shortcut checks find a planted shortcut and no other, and paint over the lungs only."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.canvases import Canvases
from training.data.dataset import Sample
from training.data.records import Record
from training.evaluation.bundle import Screened, safety
from training.evaluation.metrics import Bootstrap
from training.evaluation.shortcuts import (
    lung_masks,
    lung_share,
    lungs_painted_over,
    small_copies,
    source_classifier_accuracy,
)
from training.recipes.config import Config

LABELS = ("normal", "bacterial", "viral", "covid-19")


def _sample(i: int, *, source: str = "kcx", label: str = "normal", adult: bool = False, side: str = "test") -> Sample:
    record = Record(
        path=Path(f"{i}.png"),
        key=f"{i}.png",
        patient=f"{source}/{i}",
        label=label,
        source=source,
        view="PA",
        finding=label,
        adult=adult,
    )
    return Sample(record=record, group=record.patient, side=side)  # type: ignore[arg-type]


def _canvases(lungs: np.ndarray) -> Canvases:
    n, side = lungs.shape[:2]
    return Canvases(
        lungs=lungs,
        wide=lungs,
        boxes=np.zeros((n, 4), np.float32),
        rois=np.tile(np.array([0, 0, side, side], np.int32), (n, 1)),
        failed=np.zeros(n, bool),
    )


@pytest.mark.parametrize(("planted", "low", "high"), [(True, 0.95, 1.0), (False, 0.3, 0.7)])
def test_the_source_classifier_finds_a_planted_mark(planted: bool, low: float, high: float) -> None:
    rng = np.random.default_rng(0)
    samples = [_sample(i, source=("kcx", "shenzhen")[i % 2], side=("train", "test")[i // 2 % 2]) for i in range(200)]
    lungs = rng.integers(80, 160, (200, 64, 64), dtype=np.uint8)
    if planted:
        lungs[1::2, :12, :12] = 255
    found = source_classifier_accuracy(
        samples, small_copies(lungs), ("normal", "covid-19"), Bootstrap(seed=0, resamples=20)
    )
    assert set(found) == {"all images", "normal only"}  # neither COVID-19 nor adults are among them
    assert found["all images"].chance == 0.5
    assert low <= found["all images"].balanced_accuracy.value <= high


class _Finder:
    """A lung finder with the lungs in the left half."""

    def mask(self, image: np.ndarray) -> np.ndarray:
        mask = np.zeros((16, 16), np.float32)
        mask[:, :8] = 1.0
        return mask


def test_only_the_lungs_are_painted_over(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 200, (64, 64), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "0.png"), image)
    sample = _sample(0)
    sample = Sample(record=Record(**{**vars(sample.record), "path": tmp_path / "0.png"}), group="g", side="test")
    spec = PreprocessSpec(canvas_px=64, crop_px=64)
    finder = _Finder()
    masks = lung_masks([sample], _canvases(image[None]), [0], finder, spec, threads=1)  # type: ignore[arg-type]
    (painted,) = lungs_painted_over(image[None], masks)
    assert np.unique(painted[:, :30]).size == 1
    assert painted[0, 0] == pytest.approx(image[:, 40:].mean(), abs=4)
    assert np.array_equal(painted[:, 40:], image[:, 40:])


def test_specificity_counts_false_alarms_by_subgroup() -> None:
    samples = (
        _sample(0, source="shenzhen", adult=True),
        _sample(1, source="shenzhen", adult=True),
        _sample(2, source="montgomery", adult=True),
        _sample(3, source="shenzhen", label="tuberculosis", adult=True),
        _sample(4, source="kcx"),
        _sample(5, source="ccx", label="covid-19", adult=True),
    )
    predicted = np.array([3, 0, 0, 3, 0, 3])
    screened = Screened(
        samples=samples,
        probabilities=np.eye(4)[predicted] * 0.8 + 0.05,
        predicted=predicted,
        members=np.zeros((6, 1, 4)),
        flags=(frozenset(),) * 6,
    )
    found = safety(screened, LABELS, Config(resamples=10))
    counts = {k: (v.hits, v.n) for k, v in found.groups["adult_normals"].items()}
    assert counts == {"shenzhen": (1, 2), "montgomery": (1, 1), "together": (2, 3)}
    assert {k: (v.hits, v.n) for k, v in found.watch.items()} == {"tuberculosis": (0, 1), "children": (1, 1)}
    assert found.areas["adults"].value == pytest.approx((2 + 0.5 * 2) / 4)


def test_the_lung_share_is_of_positive_activation() -> None:
    masks = np.zeros((3, 8, 8), bool)
    masks[:, :, :4] = True
    maps = np.zeros((3, 2, 2), np.float32)
    maps[0] = [[3, 1], [-5, 0]]  # three quarters inside; negative evidence does not count
    maps[1] = [[1, 1], [1, 1]]  # without any aim: the lungs' share of the canvas
    assert lung_share(maps, masks)[:2] == pytest.approx([0.75, 0.5])
    assert np.isnan(lung_share(maps, masks)[2])
