"""Committed result files: every one is read, and writing it again changes none of its keys, values or their order."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training import seeds
from training.bundles import model_card
from training.bundles.card_words import CardWords
from training.evaluation.pages import results_as_markdown
from training.evaluation.results import Evaluation
from training.json_records import as_json, read_json
from training.papers.page import page
from training.papers.records import Smoke
from training.recipes.flannel import report
from training.recipes.flannel.records import Results as FlannelResults
from training.recipes.r20 import report as r20_report
from training.recipes.r20.records import Results as R20Results

RESULTS = Path(__file__).parents[3] / "docs" / "results"
# The longest matching part of a file's path names its class.
KINDS = {
    "bundle.json": Evaluation,
    "starter.json": Evaluation,
    "papers-smoke.json": Smoke,
    "r20-*/results.json": R20Results,
    "flannel-*/results.json": FlannelResults,
}
FILES = [(file, kind) for part, kind in KINDS.items() for file in sorted(RESULTS.rglob(part))]


def _as_before(now: Any, before: Any) -> Any:
    """Return `now` without the keys that files of earlier versions lack."""
    if isinstance(before, dict):
        return {k: _as_before(v, before[k]) for k, v in now.items() if k in before}
    if isinstance(before, list):
        return [_as_before(a, b) for a, b in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize(("file", "kind"), FILES, ids=[f.relative_to(RESULTS).as_posix() for f, _ in FILES])
def test_a_committed_file_is_written_as_it_was_read(file: Path, kind: type) -> None:
    before = json.loads(file.read_text())
    after = _as_before(as_json(read_json(kind, file)), before)
    assert json.dumps(after, indent=1) == json.dumps(before, indent=1)


def test_every_kind_of_file_is_there() -> None:
    assert {kind for _, kind in FILES} == set(KINDS.values())


PAGES: dict[type, Callable[[Any], str]] = {Evaluation: results_as_markdown, Smoke: page}


@pytest.mark.parametrize(
    ("file", "kind"),
    [(f, k) for f, k in FILES if k in PAGES],
    ids=[f.relative_to(RESULTS).as_posix() for f, k in FILES if k in PAGES],
)
def test_a_committed_page_is_made_from_its_file(file: Path, kind: type) -> None:
    assert file.with_suffix(".md").read_text() == PAGES[kind](read_json(kind, file))


def test_flannels_page_is_made_from_its_file_and_pictures(tmp_path: Path) -> None:
    """The committed pages are of an earlier version, whose table of findings had other words."""
    shutil.copyfile(RESULTS / "flannel-cpu" / "results.json", tmp_path / "results.json")
    for name in ("f1-covid-19", "cam"):
        (tmp_path / f"{name}.png").touch()
    before = (tmp_path / "results.json").read_bytes()
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "index.md").read_text()
    for section in (RESULTS / "flannel-cpu" / "index.md").read_text().split("\n\n"):
        if section.startswith(("| method |", "| compared |", "# FLANNEL", "![F1 for COVID-19, mean", "![Where")):
            assert section in text
    assert "roc.png" not in text
    assert "bundle.md" not in text
    assert (tmp_path / "results.json").read_bytes() == before


def test_other_content_is_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    for command in (report.main, r20_report.main, seeds.main):
        assert command([str(tmp_path)]) == 2
        assert "results.json: " in capsys.readouterr().err


def test_the_model_card_has_the_limits_of_the_collections_that_were_used() -> None:
    found = read_json(Evaluation, RESULTS / "starter.json")
    assert "children of one hospital" in model_card._limits(found, None, CardWords())
    others = tuple(row for row in found.sources if row.source != "kcx")
    assert "children of one hospital" not in model_card._limits(replace(found, sources=others), None, CardWords())
