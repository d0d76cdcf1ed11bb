"""Recipes killed at least once per stage, the starter only in its own stages, have the same files as a run without kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.recipes.kills import (
    RECIPES,
    Kill,
    differences,
    kill_and_finish,
    make_data,
    run_to_end,
    spread_kills,
)

# The first operation on a file is its opening (or, where torch opens it, its renaming), the second its renaming.
KILLS = {
    "r20": (
        Kill(stage="data", name="leakage.json", event=0),
        Kill(stage="data", name="table.csv", event=0),
        Kill(stage="segment", name="segmenter.onnx", event=0),
        Kill(stage="canvases", name="canvases.npz", event=1),
        Kill(stage="search", name="last.pt", event=0),
        Kill(stage="search", name="plain.json", event=0),
        Kill(stage="modality", name="last.pt", event=2),
        Kill(stage="task", name="predictions.npz", event=1),
        Kill(stage="prune", name="plan.json", event=0),
        Kill(stage="bundle", name="MODEL_CARD.md", event=2),
    ),
    # Stages that R20 has, too, are killed there.
    "flannel": (
        Kill(stage="segment", name="run.json", event=1),
        Kill(stage="learn", name="predictions.npz", event=3),
        Kill(stage="prune", name="predictions.npz", event=1),
        Kill(stage="augmented", name="augmented.npz", event=5),
        Kill(stage="combine", name="fold-0.json", event=0),
        Kill(stage="bundle", name="segmenter.onnx", event=2),
        Kill(stage="taken", name="network.json", event=0),
    ),
    "starter": (
        Kill(stage="members", name="last.pt", event=1),
        Kill(stage="members", name="plain.onnx", event=1),
        Kill(stage="bundle", name="results.json", event=0),
        Kill(stage="install", name="plain.onnx", event=0),
    ),
}

# The tables' figures take seconds and no stage needs them; `python -m tests.training.recipes.kills` kills there, too.
STAGES = {name: tuple(s for s in recipe.stages if s != "tables") for name, recipe in RECIPES.items()}


@pytest.mark.parametrize("recipe", KILLS)
def test_kills_change_nothing(recipe: str, tmp_path: Path) -> None:
    kills, stages = KILLS[recipe], STAGES[recipe]
    make_data(tmp_path)
    run_to_end(tmp_path, recipe, "complete", stages)
    kill_and_finish(tmp_path, recipe, "killed", kills, stages)
    assert differences(tmp_path / "complete", tmp_path / "killed") == []


def test_every_stage_of_r20_is_killed() -> None:
    assert {k.stage for k in KILLS["r20"]} == set(STAGES["r20"])


def test_differences_finds_changed_and_missing_files(tmp_path: Path) -> None:
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "table.csv").write_text(run)
        (tmp_path / run / "log.txt").write_text(run)
    (tmp_path / "b" / "last.pt").touch()
    assert differences(tmp_path / "a", tmp_path / "b") == ["only in one: last.pt", "table.csv"]


def test_spread_keeps_the_order_of_stages_and_their_operations() -> None:
    kills = spread_kills({"data": 8, "segment": 21, "bundle": 40}, 8, seed=0)
    assert [k.stage for k in kills] == ["data"] * 3 + ["segment"] * 3 + ["bundle"] * 2
    assert all(k.event < {"data": 2, "segment": 7, "bundle": 20}[k.stage] for k in kills)
    assert kills == spread_kills({"data": 8, "segment": 21, "bundle": 40}, 8, seed=0)
    assert kills[0] == Kill(stage="data", event=kills[0].event)
