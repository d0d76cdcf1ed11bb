"""A learner that the plan of pruning cannot prune is refused before the first learner is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.pruning.plan import PrunePlan
from training.recipes.config import MemberPlan
from training.recipes.flannel.config import FlannelConfig
from training.recipes.flannel.run import FlannelRun
from training.recipes.flannel.stages import learn


def test_a_learner_without_zeros_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learners = {
        "first": MemberPlan(architecture="narrow-vgg"),
        "second": MemberPlan(architecture="timm:test_efficientnet"),
    }
    config = FlannelConfig(name="small", learners=learners, canvas_px=64, prune=PrunePlan())
    trained: list[object] = []
    monkeypatch.setattr(FlannelRun, "train_or_load", lambda *arguments: trained.append(arguments))
    monkeypatch.setattr(FlannelRun, "task", lambda *arguments: None)
    run = FlannelRun(config, tmp_path, tmp_path)
    folds = [run.fold(0)]
    with pytest.raises(InputError, match=r'timm:test_efficientnet can be removed by its zeros.*ranking = "taylor"'):
        learn(run, folds)
    assert not trained
