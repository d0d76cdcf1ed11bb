"""Several processes on one run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_edge.errors import InputError
from training.models import NetworkSpec, build
from training.recipes.run import Run, SampleLogits


def test_a_checkpoint_is_deleted_after_the_barrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, checkpoint, seen = NetworkSpec(architecture="plain", labels=2, head_maps=8), tmp_path / "best.pt", []
    checkpoint.touch()
    logits = SampleLogits(rows=np.arange(1), logits=np.zeros((1, 2), dtype=np.float32))
    monkeypatch.setattr(Run, "predict", lambda *_: logits)
    monkeypatch.setattr("training.recipes.run.barrier", lambda _: seen.append(checkpoint.exists()))
    Run.save(Run.__new__(Run), build(spec), spec, tmp_path, logits.rows)
    assert seen == [True]
    assert not checkpoint.exists()


def test_a_network_without_trunk_takes_no_imagenet_weights() -> None:
    """COVID-Net with the dense layers of its paper has none."""
    spec = NetworkSpec(architecture="narrow-covid-net", labels=3, head_maps=0)
    run = Run.__new__(Run)
    with pytest.raises(InputError, match="narrow-covid-net"):
        run.init_network(spec, "hub", 1)
