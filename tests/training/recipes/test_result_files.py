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
from training.data.collections import DEFAULT_COLLECTIONS
from training.evaluation.pages import results_as_markdown
from training.evaluation.results import Evaluation
from training.json_records import as_json, read_json
from training.papers.page import page
from training.papers.records import Smoke
from training.recipes.flannel import report
from training.recipes.flannel.config import load_flannel
from training.recipes.flannel.records import Results as FlannelResults
from training.recipes.r20 import report as r20_report
from training.recipes.r20.config import load_r20
from training.recipes.r20.records import Results as R20Results

ROOT = Path(__file__).parents[3]
RESULTS, CONFIGS = ROOT / "docs" / "results", ROOT / "training" / "configs"
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


PAPERS = sorted(f.parent.name for kind in ("r20", "flannel") for f in RESULTS.glob(f"{kind}-*/results.json"))


@pytest.mark.parametrize("name", PAPERS)
def test_a_papers_page_and_tables_are_made_from_its_files(name: str, tmp_path: Path) -> None:
    """Of the pictures only the names count."""
    for file in (RESULTS / name).iterdir():
        if file.suffix == ".png":
            (tmp_path / file.name).touch()
        elif file.name == "bundle.md" or file.suffix == ".json":
            shutil.copyfile(file, tmp_path / file.name)
    before = (tmp_path / "results.json").read_bytes()
    assert (r20_report if name.startswith("r20") else report).main([str(tmp_path)]) == 0
    for file in [RESULTS / name / "index.md", *(RESULTS / name).glob("*.csv")]:
        assert (tmp_path / file.name).read_text() == file.read_text(), file.name
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("name", PAPERS)
def test_a_page_of_other_data_than_its_configuration_says_so(name: str) -> None:
    """Collections that were read, and labels of sources that were not, against the configuration of the same name."""
    config = (load_r20 if name.startswith("r20") else load_flannel)(CONFIGS / f"{name}.toml")
    found = read_json(R20Results if name.startswith("r20") else FlannelResults, RESULTS / name / "results.json")
    asked, page = found.leakage["asked"], (RESULTS / name / "index.md").read_text()
    now = (sorted(config.read_collections or DEFAULT_COLLECTIONS), sorted(config.without))
    if (sorted(asked["collections"]), sorted(asked.get("without", ()))) == now:
        assert found.earlier is None
        assert "An earlier run" not in page
    else:
        assert found.earlier is not None
        assert page.split("\n\n")[1] == f"**An earlier run.** {found.earlier}"


def test_flannels_page_has_no_link_to_what_is_not_there(tmp_path: Path) -> None:
    shutil.copyfile(RESULTS / "flannel-pruned-cpu" / "results.json", tmp_path / "results.json")
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "index.md").read_text()
    assert "roc.png" not in text
    assert "bundle.md" not in text


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
