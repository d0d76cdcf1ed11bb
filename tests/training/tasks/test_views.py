"""Estimated views: stated ones stay, others are learnt from sources that state both, and the accuracy is that across sources."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cxr_edge.specs.preprocess import PreprocessSpec
from training.data.dataset import Sample
from training.data.records import Record
from training.models import NetworkSpec, build
from training.tasks.views import check_views, estimate_views, frame_features, stated_views


def _samples(source: str, views: list[str]) -> list[Sample]:
    return [
        Sample(
            record=Record(
                path=Path("x"), key=f"{source}/{i}", patient=f"{source}/{i}", label="normal", source=source, view=view,
                finding="x", adult=True,
            ),
            group=f"{source}/{i}",
            side="train",
        )
        for i, view in enumerate(views)
    ]  # fmt: skip


def _features(views: list[str], *, seed: int, sign: float = 1.0) -> np.ndarray:  # type: ignore[type-arg]
    """Eight features, the first of which is high for AP; sign -1 makes it low, as on another machine."""
    found = np.random.default_rng(seed).normal(size=(len(views), 8)).astype(np.float32)
    found[:, 0] += sign * np.array([4 if v.startswith("AP") else -4 for v in views])
    return found


STATED = ["AP Supine", "PA"] * 30
HIDDEN = ["AP", "PA", "AP"] * 10


def test_unknown_views_are_learnt_from_sources_that_state_both() -> None:
    samples = [*_samples("a", STATED), *_samples("b", ["unknown"] * 30), *_samples("c", ["PA"] * 40)]
    features = np.concatenate([_features(v, seed=i) for i, v in enumerate((STATED, HIDDEN, ["PA"] * 40))])
    found = estimate_views(samples, features)
    assert found[:60] == ["AP", "PA"] * 30
    assert found[60:90] == HIDDEN
    assert found[90:] == ["PA"] * 40


def test_without_a_source_that_states_both_unknown_views_stay_empty() -> None:
    samples = [*_samples("c", ["PA"] * 40), *_samples("b", ["unknown"] * 5), *_samples("d", ["AP"] * 10 + ["PA"] * 10)]
    assert estimate_views(samples, np.zeros((65, 8), np.float32)) == ["PA"] * 40 + [""] * 5 + ["AP"] * 10 + ["PA"] * 10
    assert check_views(samples, np.zeros((65, 8), np.float32)) == {}


def test_the_accuracy_is_reported_within_and_across_sources() -> None:
    samples = [*_samples("a", STATED), *_samples("b", STATED)]
    features = np.concatenate([_features(STATED, seed=0), _features(STATED, seed=1, sign=-1.0)])
    found = check_views(samples, features)
    assert list(found) == ["a", "b"]
    for accuracy in found.values():
        assert (accuracy.ap, accuracy.pa) == (30, 30)
        assert accuracy.within > 0.97
        assert accuracy.across < 0.1, "what one source teaches is wrong on the other"
    alone = check_views(samples[:60], features[:60])["a"]
    assert np.isnan(alone.across)


def test_stated_views_are_projections() -> None:
    assert stated_views(_samples("a", ["AP Supine", "Portable AP", "PA", "L", "unknown", ""])) == [
        "AP",
        "AP",
        "PA",
        "",
        "",
        "",
    ]


def test_features_are_means_and_maxima_of_the_trunks_maps() -> None:
    torch.manual_seed(0)
    network = build(NetworkSpec(architecture="narrow-vgg", labels=2, head_maps=0))
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    spec = PreprocessSpec(region="frame", canvas_px=64, crop_px=64, standardize="image")
    found = frame_features(network, frames, spec)
    assert found.shape == (3, 256)
    assert (found[:, 128:] >= found[:, :128]).all()
    again = frame_features(network, frames[::-1], spec)[::-1]
    assert np.allclose(found, again, atol=1e-5)
