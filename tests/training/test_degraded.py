"""`python -m training.degraded`: modes for a finished bundle, from files through the deployed path."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.errors import InputError
from tests.builders.site_cases import STRIPES, write_cases
from tests.builders.toy_bundle import FINDINGS, build_toy_bundle
from training import degraded
from training.budget import add_budget
from training.data.dataset import Sample
from training.data.records import Record
from training.data.splits import Side
from training.evaluation.degraded import HEADING, DegradedResults
from training.json_records import read_json
from training.recipes.config import Config, parse_config

SIDES: tuple[Side, ...] = ("validation", "test")


def _record(path: Path, label: str) -> Record:
    facts = {"patient": path.name, "source": "drawn", "view": "PA", "finding": label, "adult": True}
    return Record(path=path, key=path.as_posix(), label=label, **facts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Return 20 validation and 20 test patients of each of three labels."""
    folder = write_cases(tmp_path_factory.mktemp("cases"), dict.fromkeys(STRIPES, 40))
    return [
        Sample(record=_record(file, label), group=f"{label}{file.name}", side=SIDES[int(file.stem) % 2])
        for label in STRIPES
        for file in sorted((folder / label).iterdir())
    ]


def _config(**values: object) -> Config:
    table = {
        "name": "drawn",
        "labels": ["normal", "bacterial", "viral", "covid-19"],
        "members": {"a": {"architecture": "narrow-vgg"}},
        "resamples": 20,
    }
    return parse_config({**table, **values}, "drawn")


def test_a_finished_bundle_gets_modes_and_nothing_else(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = build_toy_bundle(tmp_path / "toy")
    old = bundle.manifest
    add_budget(bundle, samples, _config(budget={"max_wrong": 0.2}))
    found = degraded.add_modes(Bundle.open(bundle.root), samples, _config())
    new = Bundle.open(bundle.root).manifest
    assert len(new.degraded) == 6
    assert all(m.budget is not None and m.budget.max_wrong == 0.2 for m in new.degraded)
    assert (new.version, new.members, new.decision, new.combination, new.known_answers) == (
        *(old.version, old.members, old.decision, old.combination, old.known_answers),
    )
    assert [len(rows) for rows in found.sides.values()] == [7, 7]
    assert found.sides["test"][0].members == ("plain", "depthwise", "residual")
    assert found.sides["validation"][0].images == 60
    for mode, row in zip(new.degraded, found.sides["validation"][1:], strict=True):
        assert mode.members == row.members
        assert mode.figures.macro_f1 == pytest.approx(row.macro_f1.value, abs=1e-5)
        assert mode.figures.macro_auc == pytest.approx(row.macro_auc.value, abs=1e-5)
        assert row.answered is not None
        assert mode.figures.answered is not None
        assert mode.figures.answered.hits == row.answered.hits
    card = (bundle.root / new.model_card.path).read_text()
    assert "On 60 images of 60 test patients:" in card
    assert "| plain, depthwise | " in card
    degraded.add_modes(Bundle.open(bundle.root), samples, _config())
    assert (bundle.root / new.model_card.path).read_text().count(HEADING) == 1


def test_another_budget_leaves_the_modes_out(
    tmp_path: Path, samples: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build_toy_bundle(tmp_path / "toy", known_answers=False)
    degraded.add_modes(bundle, samples, _config())
    add_budget(Bundle.open(bundle.root), samples, _config(budget={"max_wrong": 0.2}))
    new = Bundle.open(bundle.root).manifest
    assert (new.budget is not None, new.degraded) == (True, ())
    assert "fit them again by python -m training.degraded" in capsys.readouterr().err
    card = (bundle.root / new.model_card.path).read_text()
    assert HEADING not in card
    assert "## Answers and abstentions" in card


def test_modes_of_a_bundle_of_findings(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = build_toy_bundle(tmp_path / "toy", multi_label=True, known_answers=False)
    of_stripes = {"normal": "101", "bacterial": "010", "viral": "00?"}
    findings = [
        dataclasses.replace(
            s,
            record=dataclasses.replace(
                s.record, findings={k: {"1": True, "0": False, "?": None}[v] for k, v in zip(
                    FINDINGS, of_stripes[s.record.label], strict=True)},
            ),
        )
        for s in samples
    ]  # fmt: skip
    found = degraded.add_modes(
        bundle, findings, _config(labels=list(FINDINGS), multi_label=True, guard="", guard_groups={})
    )
    new = Bundle.open(bundle.root).manifest
    assert len(new.degraded) == 6
    assert all(m.combination.activation == "sigmoid" and m.guard is None for m in new.degraded)
    assert found.guard is None
    for mode, row in zip(new.degraded, found.sides["validation"][1:], strict=True):
        assert mode.figures.macro_f1 == pytest.approx(row.macro_f1.value, abs=1e-5)
        assert row.sensitivity is None


def test_the_command_writes_a_page(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = build_toy_bundle(tmp_path / "toy")
    monkeypatch.setattr(degraded, "load", lambda *_: samples)
    monkeypatch.setattr(degraded, "load_config", lambda _: _config())
    arguments = ["--bundle", str(bundle.root), "--run", str(tmp_path), "--data", str(tmp_path)]
    assert degraded.main([*arguments, "--out", str(tmp_path / "page")]) == 0
    assert HEADING in capsys.readouterr().out
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# Degraded modes of toy 1\n")
    assert "| plain | " in page
    stored = read_json(DegradedResults, tmp_path / "page.json")
    assert stored.sides["test"][0].images == 60
    assert json.loads((tmp_path / "page.json").read_text())["guard"] == "covid-19"
    monkeypatch.setattr(degraded, "load", lambda *_: [])
    assert degraded.main(arguments) == 2
    assert "the run has no images on the validation side" in capsys.readouterr().err


def test_other_bundles_are_refused(tmp_path: Path, samples: list[Sample]) -> None:
    bundle = build_toy_bundle(tmp_path / "toy", known_answers=False)
    with pytest.raises(InputError, match="the configuration has the labels normal, covid-19, the bundle normal"):
        degraded.add_modes(bundle, samples, _config(labels=["normal", "covid-19"]))
    with pytest.raises(InputError, match="the bundle has thresholds of covid-19, the configuration guards None"):
        degraded.add_modes(bundle, samples, _config(guard="", guard_groups={}, watch={}, auc_groups={}))
    one = build_toy_bundle(tmp_path / "one", members=("plain",), known_answers=False)
    with pytest.raises(InputError, match="degraded modes are for 2 to 9 members, the bundle has 1"):
        degraded.add_modes(one, samples, _config())


def test_figures_of_an_incomplete_ensemble_are_refused(tmp_path: Path, samples: list[Sample]) -> None:
    from cxr_edge.screening.screener import Screener
    from tests.screening.test_degraded import NanEngine, with_engines
    from training.evaluation.bundle import screen_samples

    bundle = build_toy_bundle(tmp_path / "toy", degraded=True, known_answers=False)
    screener = Screener(bundle, with_engines(bundle, NanEngine, {"plain"}))
    with pytest.raises(InputError, match=r"figures need all members\. Without plain"):
        screen_samples(screener, samples[:1], threads=1)
    whole = write_bundle(bundle.root, dataclasses.replace(bundle.manifest, degraded=()))
    with pytest.raises(InputError, match="cannot be screened: without plain"):
        screen_samples(Screener(whole, with_engines(whole, NanEngine, {"plain"})), samples[:1], threads=1)
