"""Floors of a run on own data: from config.toml to the bundle, and past a floor with `--below-floor`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cxr_edge.cli.main import main as cxr_edge
from training.recipes.own import flow
from training.recipes.own.configure import Epochs, make_tables, members_config
from training.recipes.own.presets import PRESETS
from training.recipes.own.request import Request
from training.recipes.own.run import Settings


def _settings(watch: dict[str, Any]) -> Settings:
    tables = make_tables(
        PRESETS["quick"], Epochs(share=0.0), name="own", labels=("normal", "tb"), sites=(), guard="tb", seed=1,
        epoch_images=100, segmenter_epochs=0, by_view=False,
    )  # fmt: skip
    tables = replace(tables, training={**tables.training, "watch": watch})
    return Settings(request=Request(source="/x", guard="tb"), tables=tables, versions={})


def test_groups_and_floors_of_config_toml_are_watched(tmp_path: Path) -> None:
    watch = {"women": {"sex": "F", "floor": 0.8}, "found": {"label": "tb", "view": "AP"}}
    _settings(watch).write(tmp_path / "config.toml")
    tables = Settings.read(tmp_path / "config.toml").tables
    guard = members_config(tables, "", threads=1).guarded
    assert guard is not None
    assert (guard.watch["women"].sex, guard.watch["women"].floor, guard.watch["found"].view) == ("F", 0.8, "AP")


@pytest.mark.parametrize("below_floor", [True, False])
def test_the_option_reaches_the_bundle(tmp_path: Path, below_floor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = []

    def assemble(members: Any, *_: object) -> None:
        reached.append(members.below_floor)
        raise KeyboardInterrupt

    for name in ("export_members", "_provenance", "card_words", "_combination"):
        monkeypatch.setattr(flow, name, lambda *_: None)
    monkeypatch.setattr(flow, "assemble_members", assemble)
    run: Any = SimpleNamespace(out=tmp_path, members=lambda _: SimpleNamespace())
    with pytest.raises(KeyboardInterrupt):
        flow._bundle(run, SimpleNamespace(), "", below_floor=below_floor)  # type: ignore[arg-type]
    assert reached == [below_floor]


def test_the_command_has_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cxr_edge(["train", "--help"])
    assert "--below-floor" in capsys.readouterr().out
