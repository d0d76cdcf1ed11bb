"""Two bundles on the same files: verdicts crossed, counts by label, shares with intervals, failures as rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.manifest import Manifest
from cxr_edge.changes.comparison import Comparison, Version, compare
from cxr_edge.changes.sides import FilePair, Side
from cxr_edge.decoding.decode import decode
from cxr_edge.engines import reference
from cxr_edge.records import Failure, Image, Screening
from cxr_edge.screening.folder import EncodedFile
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.budget import ErrorBudget, LabelLimits
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import build_toy_bundle, toy_images, toy_refused_image


def screener(bundle: Bundle, **changes: Any) -> Screener:
    """Return a screener of the bundle's fp32 networks, with other values in its manifest."""
    changed: Manifest = replace(bundle.manifest, **changes)
    return Screener(replace(bundle, manifest=changed), reference(bundle))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("compared"), checker=True)


@pytest.fixture
def files(bundle: Bundle) -> list[Path]:
    return [bundle.root / name for name in toy_images()]


def covid_first(value: float) -> Decision:
    return Decision(thresholds={"covid-19": value}, uncertain_below=0.5, first=("covid-19",))


def test_the_same_bundle_agrees(bundle: Bundle, files: list[Path]) -> None:
    found = compare(screener(bundle), screener(bundle), files)
    assert found.changed.hits == 0
    assert found.changed.n == 3
    assert found.largest_shift == 0.0
    assert not found.exceeds(0.0)
    assert "Changed verdicts: 0.000 [0.000, 0.708] (0/3), exact 95 % interval" in found.lines()
    assert all(a == b for a, b in found.crossed)


def test_other_thresholds_change_decisions(bundle: Bundle, files: list[Path]) -> None:
    old, new = screener(bundle, decision=covid_first(1.0)), screener(bundle, decision=covid_first(0.0))
    found = compare(old, new, files)
    assert [p.new.verdict for p in found.pairs] == ["covid-19"] * 3
    assert found.changed.hits == 3
    row = next(r for r in found.by_label if r.label == "covid-19")
    assert (row.old, row.new, row.lost, row.gained) == (0, 3, 0, 3)
    assert found.exceeds(0.99)
    assert not found.exceeds(1.0)
    text = "\n".join(found.lines())
    assert "Changed files:" in text
    assert f"{files[0]}: normal 0." in text
    assert "-> covid-19 0." in text


def test_a_temperature_shifts_probabilities(bundle: Bundle, files: list[Path]) -> None:
    combination = replace(bundle.manifest.combination, temperature=9.0)
    found = compare(screener(bundle), screener(bundle, combination=combination), files)
    assert found.largest_shift is not None
    assert found.largest_shift > 0.1
    assert found.changed.hits == 0


def test_abstentions_and_refusals_are_verdicts(bundle: Bundle, files: list[Path], tmp_path: Path) -> None:
    limits = LabelLimits(set_from=0.0, answer_from=None, cases=9, answered=0, wrong=0)
    budget = ErrorBudget(max_wrong=0.05, confidence=0.9, coverage=0.95, fitted_on="nobody", labels={"normal": limits})
    refused = Image.from_array(toy_refused_image("lateral"), source="side.png")
    found = compare(screener(bundle), screener(bundle, budget=budget, checker=None), [*files, refused])
    assert [p.new.verdict for p in found.pairs] == ["abstained"] * 4
    assert found.pairs[3].old.verdict == "refused"
    assert found.pairs[3].shift is None
    assert found.pairs[3].as_json()["old"]["probability"] is None
    assert found.redecided.hits == 0
    assert found.wrong_answers is None
    assert "Decided otherwise, whether that is an answer or not: 0.000" in "\n".join(found.lines())
    assert str(found.pairs[0].new).startswith("abstained (never_answered: normal 0.")
    assert str(found.pairs[3].old).startswith("refused (lateral: ")


def test_a_file_that_fails_is_a_row(bundle: Bundle, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    items = [tmp_path / "text.png", Failure(source="gone", reason="missing"), files[0]]
    found = compare(screener(bundle), screener(bundle), items)
    assert [p.failed for p in found.pairs] == [True, True, False]
    assert found.changed.n == 1
    lines = found.lines()
    assert "Not screened:" in lines
    assert "  gone: missing" in lines


def test_a_file_that_one_bundle_cannot_screen_is_a_change(
    bundle: Bundle, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = screener(bundle), screener(bundle)

    def defect(image: Image) -> Screening:
        raise RuntimeError("memory of 'PATIENT'")

    monkeypatch.setattr(new, "screen", defect)
    found = compare(old, new, files[:1])
    assert found.changed.hits == 1
    assert found.pairs[0].new.verdict == "failed"
    assert "PATIENT" not in "\n".join(found.lines())


def test_bytes_and_images_are_taken(bundle: Bundle, files: list[Path]) -> None:
    items = [EncodedFile(source="-", data=files[0].read_bytes()), decode(files[1])]
    found = compare(screener(bundle), screener(bundle), items)
    assert [p.source for p in found.pairs] == ["-", str(files[1])]


def test_each_file_is_decoded_once(bundle: Bundle, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import cxr_edge.changes.comparison as module

    decoded = []
    monkeypatch.setattr(module, "decode", lambda item, **options: decoded.append(item) or decode(item, **options))
    compare(screener(bundle), screener(bundle), files)
    assert decoded == files


def test_known_truth_gives_right_decisions(bundle: Bundle, files: list[Path]) -> None:
    true = dict(zip(map(str, files), ("normal", "bacterial", "covid-19"), strict=True))
    found = compare(screener(bundle), screener(bundle, decision=covid_first(0.0)), files, true=true)
    rows = {r.of: (r.old.hits, r.new.hits, r.lost, r.gained) for r in found.right}
    assert rows == {
        "normal": (1, 0, 1, 0),
        "bacterial": (1, 0, 1, 0),
        "covid-19": (0, 1, 0, 1),
        "all": (2, 1, 2, 1),
    }
    assert any(line.split()[:1] == ["all"] for line in found.lines())
    assert found.wrong_answers is not None
    assert [(s.hits, s.n) for s in found.wrong_answers] == [(1, 3), (2, 3)]
    assert any(line.startswith("Wrong among the answers: old 0.333 [") for line in found.lines())
    assert json.loads(json.dumps(found.as_json()))["right"][0]["of"] == "bacterial"


def test_other_labels_are_compared_where_both_have_them(bundle: Bundle, files: list[Path], tmp_path: Path) -> None:
    findings = build_toy_bundle(tmp_path / "findings", multi_label=True)
    found = compare(screener(bundle), Screener(findings, reference(findings)), files)
    assert found.largest_shift is None
    assert found.notes == (
        "only the old bundle knows bacterial, covid-19, normal, viral; probabilities are compared for the labels of both",
        "only the new bundle knows effusion, nodule, opacity; probabilities are compared for the labels of both",
        "the labels of one bundle exclude each other, those of the other do not: verdicts are compared as text",
    )
    assert found.pairs[0].new.verdict == "effusion+nodule"
    gained = {r.label: r.gained for r in found.by_label}
    assert gained["nodule"] == 1


def version() -> Version:
    return Version(name="b", version="1", digest="0" * 64, engines="e", labels=("x",))


def test_long_lists_are_cut_in_the_text_alone() -> None:
    sides = [Side(verdict=v, decided=v, label=v, probability=0.5, reason="", present=(v,)) for v in ("x", "y")]
    pairs = tuple(FilePair(source=f"{i}.png", old=sides[0], new=sides[1], shift=0.0) for i in range(25))
    found = Comparison(old=version(), new=version(), pairs=pairs)
    assert found.lines()[-1] == "  and 5 more, listed with --json"
    assert len(found.as_json()["results"]) == 25


def test_names_are_printable() -> None:
    pair = FilePair.of("\x1b[2J.png", Failure(source="", reason="r"), Failure(source="", reason="r"))
    assert "\x1b" not in "\n".join(Comparison(old=version(), new=version(), pairs=(pair,)).lines())


def test_nothing_compared_is_no_change() -> None:
    found = Comparison(old=version(), new=version(), pairs=())
    assert not found.exceeds(0.0)
    assert np.isclose(found.changed.high, 1.0)
    assert found.median_shift is None
