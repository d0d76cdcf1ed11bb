"""What a run's processes owe each other where they share its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.models import NetworkSpec, build
from training.recipes.run import Run, SampleLogits


def test_a_checkpoint_stays_until_every_process_has_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, checkpoint, seen = NetworkSpec(architecture="plain", labels=2, head_maps=8), tmp_path / "best.pt", []
    checkpoint.touch()
    answers = SampleLogits(rows=np.arange(1), logits=np.zeros((1, 2), dtype=np.float32))
    monkeypatch.setattr(Run, "predict", lambda *_: answers)
    monkeypatch.setattr("training.recipes.run.barrier", lambda _: seen.append(checkpoint.exists()))
    Run.save(Run.__new__(Run), build(spec), spec, tmp_path, answers.rows)
    assert seen == [True]
    assert not checkpoint.exists()
