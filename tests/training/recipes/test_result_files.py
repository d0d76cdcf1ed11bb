"""Committed result files: every one is read, and writing it again changes none of its keys, values or their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.evaluation.results import Evaluation, UnseenSite
from training.json_records import as_json, read_json
from training.papers.records import Smoke
from training.recipes.flannel.records import Results as FlannelResults
from training.recipes.r20.records import Results as R20Results

RESULTS = Path(__file__).parents[3] / "docs" / "results"
# The longest matching part of a file's path names its class.
KINDS = {
    "bundle.json": Evaluation,
    "starter.json": Evaluation,
    "unseen-site.json": UnseenSite,
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
    if kind is UnseenSite:  # one key has a new name
        text = json.dumps(before).replace("not_called_covid", "guard_specificity")
        before, after = json.loads(text), as_json(read_json(kind, file))
        del after["guard"]
    assert json.dumps(after, indent=1) == json.dumps(before, indent=1)


def test_every_kind_of_file_is_there() -> None:
    assert {kind for _, kind in FILES} == set(KINDS.values())
