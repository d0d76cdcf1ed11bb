"""A member that the plan of pruning cannot prune is refused before the first member is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.recipes.config import MemberPlan
from training.recipes.r20.config import R20Config
from training.recipes.r20.run import R20Run
from training.recipes.r20.stages import learn_modality


def test_a_member_without_zeros_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {
        "first": MemberPlan(architecture="narrow-vgg"),
        "second": MemberPlan(architecture="timm:test_efficientnet"),
    }
    config = R20Config(name="small", members=members, canvas_px=64)
    monkeypatch.setattr(R20Run, "train", lambda *arguments: pytest.fail("a member was trained"))
    monkeypatch.setattr(R20Run, "modality_target", None)  # which needs images
    run = R20Run(config, tmp_path, tmp_path)
    with pytest.raises(InputError, match=r'timm:test_efficientnet can be removed by its zeros.*ranking = "taylor"'):
        learn_modality(run)
    monkeypatch.setattr(R20Run, "train", lambda *arguments: None)
    learn_modality(R20Run(replace(config, prune=replace(config.prune, ranking="magnitude")), tmp_path, tmp_path))
