"""Start of a run: a segmenter is trained on the source's masks only if the budget has time for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.builders.own_data import write_table
from tests.builders.two_sites import TINY, write_two_sites
from training.recipes.own import start
from training.recipes.own.presets import PRESETS
from training.recipes.own.request import Request
from training.recipes.own.run import CONFIG, Settings
from training.recipes.own.speed import Speed


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of images of one site, each with a lung mask."""
    root = write_two_sites(tmp_path_factory.mktemp("masks") / "xrays", patients=40, sites=("Here",))
    cv2.imwrite(str(root / "mask.png"), np.full((64, 64), 255, np.uint8))
    rows = [
        {"file": p.relative_to(root).as_posix(), "label": p.parts[-3], "patient": p.parts[-2], "mask": "mask.png"}
        for p in sorted(root.rglob("x.png"))
    ]
    return write_table(root / "t.csv", rows)


@pytest.mark.parametrize(("images_s", "trained"), [(1e6, True), (1.0, False)])
def test_a_segmenter_is_trained_if_there_is_time(
    table: Path,
    images_s: float,
    trained: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(PRESETS, "quick", replace(TINY, own_segmenter=True))
    monkeypatch.setattr(start, "measure", lambda *_, **__: Speed(train=1e6, predict=1e6))
    monkeypatch.setattr(start, "measure_segmenter", lambda *_, **__: Speed(train=images_s, predict=1.0))
    found = start.start_or_resume(Request(source=str(table)), tmp_path, 1, None)
    assert ("segmenter_of" not in found.settings.tables.training) == trained
    assert (found.plan.of("segmenter") > 0) == trained
    note = "a segmenter trained on the lung masks would take 70 of 10 minutes: the packaged one is taken"
    assert (note in capsys.readouterr().err) != trained
    assert Settings.read(tmp_path / CONFIG).tables.training["labels"] == ["normal", "opacity"]
    again = start.start_or_resume(Request(source=str(table)), tmp_path, 1, None)
    assert again.plan == found.plan
    assert again.understood.data == found.understood.data
