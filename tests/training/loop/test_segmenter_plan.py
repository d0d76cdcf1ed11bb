"""Segmenter stage and plan: a segmenter started or finished with another plan raises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cxr_edge.bundle import Bundle
from cxr_edge.errors import InputError
from tests.builders.pruned import FRAME, segment_task
from training.loop.plan import Plan
from training.recipes.segmenter import SEGMENTER, copy_segmenter, segment

PLAN = Plan(epochs=2, batch=4, seed=3, threads=1, precision="fp32", learning_rate=1e-3)


class _Run(SimpleNamespace):
    """The part of a Run that the stage uses. killed_after: epochs after which the process ends, before its next checkpoint."""

    def __init__(self, out: Path, plan: Plan, *, killed_after: int | None = None, segmenter_px: int = 32) -> None:
        config = SimpleNamespace(
            segmenter=plan,
            segmenter_px=segmenter_px,
            segmenter_spec=FRAME,
            segmenter_architecture="lung-unet",
            prune_segmenter=None,
            segmenter_of=None,
        )
        super().__init__(
            out=out, config=config, killed_after=killed_after, segmenter_onnx=out / "segmenter.onnx", epochs=0
        )

    def segment_task(self, network: nn.Module, plan: Plan) -> Any:
        task = segment_task(network)
        score = task.score

        def scored(model: nn.Module) -> dict[str, float]:
            if self.epochs == self.killed_after:
                raise KeyboardInterrupt
            self.epochs += 1
            return score(model)

        task.score = scored  # type: ignore[method-assign]
        return task


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a segmenter trained without interruption."""
    out = tmp_path_factory.mktemp("finished")
    segment(_Run(out, PLAN))
    return out


def test_a_killed_segmenter_resumes_with_its_own_plan_only(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        segment(_Run(tmp_path, PLAN, killed_after=1))
    for plan, named in (
        (replace(PLAN, learning_rate=2e-3), r"plan learning_rate 0\.001, not 0\.002"),
        (replace(PLAN, schedule="step", step_epochs=(1,)), "plan schedule cosine, not step"),
    ):
        with pytest.raises(InputError, match=rf"segmenter was trained with .*{named}.*: delete it to train it again"):
            segment(_Run(tmp_path, plan))
    segment(_Run(tmp_path, PLAN))
    weights = [load_file(out / SEGMENTER / "weights.safetensors") for out in (finished, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_finished_segmenter_of_another_plan_raises(finished: Path) -> None:
    with pytest.raises(InputError, match="plan epochs 2, not 3"):
        segment(_Run(finished, replace(PLAN, epochs=3)))
    with pytest.raises(InputError, match="segmenter_px 32, not 64"):
        segment(_Run(finished, PLAN, segmenter_px=64))
    segment(_Run(finished, replace(PLAN, threads=2)))


def test_a_copied_segmenter_can_have_another_plan(finished: Path, tmp_path: Path) -> None:
    for folder in (finished, tmp_path):
        (folder / "table.csv").write_text("path,group,side\na.png,a,train\n")
    copy_segmenter(_Run(tmp_path, PLAN), finished)
    segment(_Run(tmp_path, replace(PLAN, epochs=9)))
    assert (tmp_path / "segmenter.onnx").exists()


def test_a_bundles_segmenter_is_taken_if_it_has_the_same_input(tmp_path: Path) -> None:
    run = _Run(tmp_path / "run", PLAN)
    run.config.segmenter_of = "starter"
    with pytest.raises(
        InputError, match="segmenter_of = 'starter': expected a bundle whose lung segmenter has the input"
    ):
        segment(run)
    assert not run.segmenter_onnx.exists()
    bundle = Bundle.open("starter")
    assert bundle.manifest.segmenter is not None
    run.config.segmenter_spec = bundle.manifest.segmenter.preprocess
    segment(run)
    assert run.segmenter_onnx.read_bytes() == bundle.file(bundle.manifest.segmenter.file).read_bytes()
