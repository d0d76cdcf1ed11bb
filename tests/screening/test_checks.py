"""Refusals by a toy checker, on drawn images: every code, their order, what the user may override, and what reports show."""

from __future__ import annotations

import csv
import io
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from cxr_edge.bundle import Bundle, file_ref, write_bundle
from cxr_edge.engines import reference
from cxr_edge.errors import ContractError, InputError
from cxr_edge.records import AcquisitionFacts, Image, Screening
from cxr_edge.report.html import HtmlWriter
from cxr_edge.report.structured import CsvWriter, JsonWriter
from cxr_edge.report.text import TextWriter, line
from cxr_edge.screening.screener import FileResult, Screener
from cxr_edge.specs.checks import CODES, SCORED_CODES
from cxr_edge.specs.preprocess import PreprocessSpec
from tests.builders.toy_bundle import (
    CHECKER_SCORES,
    LABELS,
    build_toy_bundle,
    checker_model,
    toy_images,
    toy_refused_image,
)
from tests.report.test_reports import RUN

AGES = ("child", "adult")
BY_NETWORK = tuple(code for code in SCORED_CODES if code not in AGES)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("checked"), checker=True)


@pytest.fixture(scope="module")
def screener(bundle: Bundle) -> Screener:
    return Screener(bundle, reference(bundle))


def _image(pixels: np.ndarray, **facts: object) -> Image:
    return replace(Image.from_array(pixels, source="drawn.png"), facts=AcquisitionFacts(**facts))  # type: ignore[arg-type]


def _codes(screening: Screening) -> list[str]:
    return [f.code for f in screening.flags if f.code in CODES]


def test_good_images_are_answered(screener: Screener, bundle: Bundle) -> None:
    for pixels, known in zip(toy_images().values(), bundle.manifest.known_answers, strict=True):
        screening = screener.screen(_image(pixels))
        assert (screening.outcome, screening.reason, _codes(screening)) == ("answered", None, [])
        assert screening.decision == screening.forced_decision
        assert screening.probabilities == pytest.approx(known.probabilities, abs=1e-3)
        assert list(screening.checks) == list(CHECKER_SCORES)
        assert max(screening.checks.values()) < 0.95
        assert screening.times.checks_ms > 0


@pytest.mark.parametrize("code", BY_NETWORK)
def test_each_score_refuses_from_its_limit_on(code: str, screener: Screener) -> None:
    screening = screener.screen(_image(toy_refused_image(code)), heatmap=True)
    assert screening.outcome == "refused"
    assert screening.reason is not None
    assert screening.reason.code == code
    assert screening.reason.message.startswith("Refused: ")
    assert screening.decision is None
    assert screening.forced_decision in screening.labels
    assert screening.heatmap is None
    assert screening.checks[code] == pytest.approx(1.0, abs=0.02)


def test_too_small_an_image_is_refused(screener: Screener) -> None:
    small = screener.screen(_image(toy_refused_image(side_px=96)))
    assert small.reason is not None
    assert (small.reason.code, small.outcome) == ("too_small", "refused")
    assert small.reason.message == "Refused: its shorter side has 96 pixels, the networks need 100."
    assert screener.screen(_image(toy_refused_image(side_px=100))).outcome == "answered"


def test_a_blank_image_is_refused(screener: Screener) -> None:
    ramp = np.tile(np.linspace(100, 108, 200).astype(np.uint8), (200, 1))
    screening = screener.screen(_image(ramp))
    assert screening.reason is not None
    assert screening.reason.code == "blank"
    assert "span 2.7% of the scale, expected 5.0%" in screening.reason.message


def test_a_saturated_image_is_refused(screener: Screener) -> None:
    pixels = toy_images()["known-smooth.png"].copy()
    pixels[: len(pixels) * 2 // 3] = 0
    screening = screener.screen(_image(pixels))
    assert screening.reason is not None
    assert screening.reason.code == "saturated"


def test_the_first_code_is_the_reason_and_the_others_are_flags(screener: Screener) -> None:
    screening = screener.screen(_image(toy_refused_image("marks", "inverted", "unfamiliar", side_px=96)))
    assert screening.reason is not None
    assert screening.reason.code == "too_small"
    assert _codes(screening) == ["inverted", "marks", "unfamiliar"]


def test_answer_all_answers_and_flags_what_would_have_been_the_reason(bundle: Bundle) -> None:
    screener = Screener(bundle, reference(bundle), answer_all=True)
    screening = screener.screen(_image(toy_refused_image("turned", "photo")), heatmap=True)
    assert (screening.outcome, screening.reason) == ("answered", None)
    assert screening.decision == screening.forced_decision
    assert screening.heatmap is not None
    assert _codes(screening) == ["turned", "photo"]


@pytest.mark.parametrize(
    ("population", "cells", "age", "code"),
    [
        (None, ("child", "adult"), 3.0, None),  # as the bundle says, which is made for any
        ("any", ("child", "adult"), None, None),
        ("adults", ("child",), None, "child"),
        ("adults", ("adult",), None, None),
        ("adults", (), 17.9, "child"),
        ("adults", ("child",), 18.0, None),  # the header comes before the estimate
        ("children", ("adult",), None, "adult"),
        ("children", ("child",), None, None),
        ("children", (), 18.0, "adult"),
        ("children", ("adult",), 0.5, None),
    ],
)
def test_children_and_adults(
    population: str | None, cells: tuple[str, ...], age: float | None, code: str | None, bundle: Bundle
) -> None:
    screener = Screener(bundle, reference(bundle), population=population)  # type: ignore[arg-type]
    screening = screener.screen(_image(toy_refused_image(*cells), age_years=age))
    assert (None if screening.reason is None else screening.reason.code) == code


def test_the_bundles_own_population_holds_unless_another_is_given(bundle: Bundle, tmp_path: Path) -> None:
    adults = build_toy_bundle(tmp_path, checker=True, known_answers=False)
    assert adults.manifest.checker is not None
    checker = replace(adults.manifest.checker, population="adults")
    adults = write_bundle(adults.root, replace(adults.manifest, checker=checker))
    image = _image(toy_refused_image("child"))
    assert Screener(adults, reference(adults)).screen(image).outcome == "refused"
    assert Screener(adults, reference(adults), population="any").screen(image).outcome == "answered"


def test_a_header_that_says_lateral_is_a_refusal(screener: Screener) -> None:
    screening = screener.screen(_image(toy_refused_image(), view="LATERAL"))
    assert screening.reason is not None
    assert screening.reason.code == "lateral"
    assert "the header says" in screening.reason.message
    assert (screening.view, screening.view_estimated) == ("LATERAL", False)


@pytest.mark.parametrize(
    ("cells", "header", "view", "estimated"),
    [(("ap",), "", "AP", True), ((), "", "AP", True), (("ap",), "PA", "PA", False)],
)
def test_the_view_is_the_headers_else_an_estimate(
    cells: tuple[str, ...], header: str, view: str, estimated: bool, screener: Screener
) -> None:
    screening = screener.screen(_image(toy_refused_image(*cells), view=header))
    assert (screening.view, screening.view_estimated) == (view, estimated)
    assert screening.as_json()["view_estimated"] is estimated


def test_a_dark_cell_is_estimated_as_pa(screener: Screener) -> None:
    pixels = toy_refused_image()
    row, column = (60 * i for i in divmod(CHECKER_SCORES.index("ap"), 4))
    pixels[row : row + 60, column : column + 60] = 20
    assert screener.screen(_image(pixels)).view == "PA"


def test_a_checker_with_an_input_of_its_own_gives_the_same_scores(bundle: Bundle, tmp_path: Path) -> None:
    own = build_toy_bundle(tmp_path, checker=True, known_answers=False)
    assert own.manifest.checker is not None
    spec = PreprocessSpec(region="frame", canvas_px=32, crop_px=32, standardize="none")
    onnx.save(checker_model(spec), own.root / "checker.onnx")
    checker = replace(own.manifest.checker, preprocess=spec, file=file_ref(own.root, "checker.onnx"))
    own = write_bundle(own.root, replace(own.manifest, checker=checker))
    image = _image(toy_refused_image("photo"))
    scores = Screener(own, reference(own)).screen(image).checks
    assert scores == pytest.approx(Screener(bundle, reference(bundle)).screen(image).checks, abs=0.02)


def test_a_checker_with_another_input_than_the_manifest_has_is_a_contract_error(tmp_path: Path) -> None:
    bundle = build_toy_bundle(tmp_path, checker=True, known_answers=False)
    assert bundle.manifest.checker is not None
    spec = PreprocessSpec(region="frame", canvas_px=32, crop_px=32, standardize="none")
    bundle = write_bundle(
        bundle.root, replace(bundle.manifest, checker=replace(bundle.manifest.checker, preprocess=spec))
    )
    with pytest.raises(ContractError, match="checker: expected the one input"):
        Screener(bundle, reference(bundle))


def test_a_population_needs_a_checker_and_a_known_name(bundle: Bundle, toy_bundle: Path) -> None:
    plain = Bundle.open(toy_bundle)
    with pytest.raises(InputError, match="population 'adults' needs a bundle with a checker, which 'toy' lacks"):
        Screener(plain, reference(plain), population="adults")
    assert Screener(plain, reference(plain), population="any").screen(_image(toy_refused_image())).checks == {}
    with pytest.raises(InputError, match="population is one of any, adults, children, got 'pets'"):
        Screener(bundle, reference(bundle), population="pets")  # type: ignore[arg-type]


def test_a_pickled_screener_refuses_as_the_first(bundle: Bundle) -> None:
    again = pickle.loads(pickle.dumps(Screener(bundle, reference(bundle), population="adults")))
    assert again.screen(_image(toy_refused_image("child"))).outcome == "refused"


@pytest.fixture
def refused(screener: Screener) -> FileResult:
    image = _image(toy_refused_image("inverted", "marks"))
    return FileResult(outcome=screener.screen(image), image=image)


def test_json_of_a_refusal_has_no_probabilities(refused: FileResult) -> None:
    stream = io.StringIO()
    writer = JsonWriter(stream, replace(RUN, labels=LABELS))
    writer.add(refused)
    writer.close()
    (result,) = json.loads(stream.getvalue())["results"]
    assert (result["outcome"], result["decision"], result["probabilities"]) == ("refused", None, None)
    assert result["reason"]["code"] == "inverted"
    assert result["checks"]["marks"] == pytest.approx(1.0, abs=0.02)
    assert "marks" in [flag["code"] for flag in result["flags"]]


def test_csv_of_a_refusal_has_code_and_reason(refused: FileResult) -> None:
    stream = io.StringIO()
    writer = CsvWriter(stream, replace(RUN, labels=LABELS))
    writer.add(refused)
    writer.close()
    (row,) = csv.DictReader(io.StringIO(stream.getvalue()))
    assert (row["status"], row["outcome"], row["code"], row["decision"]) == ("ok", "refused", "inverted", "")
    assert "black and white are exchanged" in row["reason"]
    assert row["p_normal" if "p_normal" in row else "normal"] == ""


def test_text_and_page_show_the_reason_and_no_label(refused: FileResult, tmp_path: Path) -> None:
    assert isinstance(refused.outcome, Screening)
    stream = io.StringIO()
    writer = TextWriter(stream, RUN, compact=False)
    writer.add(refused)
    writer.close()
    shown = stream.getvalue()
    assert "refused: black and white are exchanged: bones are dark, air is bright." in shown
    assert "[inverted]" in shown
    assert "decision" not in shown
    assert "1 screened (1 refused), 0 failed" in shown
    assert line(refused.outcome).startswith("refused ")
    page = tmp_path / "page.html"
    with HtmlWriter(page, RUN) as html:
        html.add(refused)
        html.close()
    text = page.read_text(encoding="utf-8")
    assert "black and white are exchanged" in text
    assert 'class="decision none">refused' in text
    assert "covid-19</" not in text
