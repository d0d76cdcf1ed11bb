"""Screenings by a bundle whose labels are findings: decision, heat map, flags, host and emulated GPU alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.decoding.decode import decode
from cxr_edge.ops.combine import decide_findings
from cxr_edge.records import NO_FINDING, Screening
from cxr_edge.screening.screener import Screener
from cxr_edge.specs.combination import STRATEGIES, Decision
from tests.builders.toy_bundle import FINDINGS, build_toy_bundle
from tests.doubles.emulated_device import EmulatedDevice
from tests.screening.test_gpu_pipeline import assert_same, on_device
from tests.tolerances import PROBABILITY


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("findings"), multi_label=True)


@pytest.fixture(scope="module")
def screenings(bundle: Bundle) -> list[Screening]:
    screener = Screener(bundle, engines.reference(bundle))
    return [screener.screen(decode(bundle.file(a.file)), heatmap=True) for a in bundle.manifest.known_answers]


def test_an_image_has_any_number_of_findings(screenings: list[Screening]) -> None:
    assert [s.findings for s in screenings] == [("effusion", "nodule"), ("opacity",), ()]
    assert [s.decision for s in screenings] == ["effusion+nodule", "opacity", NO_FINDING]
    assert [s.as_json()["findings"] for s in screenings] == [["effusion", "nodule"], ["opacity"], []]


def test_the_heat_map_is_of_the_leading_label(bundle: Bundle, screenings: list[Screening]) -> None:
    """Of the present finding with the highest probability, else of the highest probability."""
    of_all = [dict(zip(s.labels, s.probabilities, strict=True)) for s in screenings]
    assert [s.leading_label for s in screenings] == [max(p, key=lambda label: p[label]) for p in of_all]
    probable_but_absent = dataclasses.replace(bundle.manifest.decision, thresholds={screenings[0].leading_label: 1.0})
    manifest = dataclasses.replace(bundle.manifest, decision=probable_but_absent)
    screener = Screener(dataclasses.replace(bundle, manifest=manifest), engines.reference(bundle))
    second = screener.screen(decode(bundle.file(manifest.known_answers[0].file)), heatmap=True)
    assert second.leading_label != screenings[0].leading_label
    assert second.findings == (second.leading_label,)
    assert second.heatmap is not None
    assert screenings[0].heatmap is not None
    assert not np.array_equal(second.heatmap, screenings[0].heatmap)


def test_members_have_the_sigmoids_of_their_logits(bundle: Bundle) -> None:
    screener = Screener(bundle, engines.reference(bundle))
    image = decode(bundle.file(bundle.manifest.known_answers[0].file))
    logits = screener._pipeline.run(image).logits
    temperatures = np.array(bundle.manifest.combination.member_temperatures)[:, None]
    found = [m.probabilities for m in screener.screen(image).members]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-logits / temperatures)), atol=PROBABILITY)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gpu_screens_as_the_host(tmp_path: Path, strategy: str) -> None:
    bundle = build_toy_bundle(tmp_path, strategy=strategy, multi_label=True, known_answers=False)
    on_gpu, on_host = Screener(bundle, on_device(bundle, EmulatedDevice())), Screener(bundle, engines.reference(bundle))
    image = decode(np.random.default_rng(0).integers(0, 256, (90, 80), np.uint8))
    for _ in range(2):  # eagerly, then by the graph
        assert_same(on_gpu.screen(image, heatmap=True), on_host.screen(image, heatmap=True))


@pytest.mark.parametrize(
    ("probabilities", "findings", "message"),
    [
        ((0.5, 0.49, 0.4), ("effusion", "opacity"), "Present with a probability below 0.60: effusion 0.50, opacity 0.40; "),
        ((0.9, 0.6, 0.39), ("effusion", "nodule"), ""),
        ((0.1, 0.2, 0.3), (), ""),
        ((0.0, 0.0, 1.0), ("opacity",), ""),
    ],
)  # fmt: skip
def test_each_finding_is_decided_by_its_own_threshold(
    probabilities: tuple[float, ...], findings: tuple[str, ...], message: str
) -> None:
    rule = Decision(thresholds={"opacity": 0.4}, uncertain_below=0.6)
    found, flags = decide_findings(np.array(probabilities, np.float32), FINDINGS, rule)
    assert found == findings
    expected = [f"{message}have the image read by a person."] if message else []
    assert [f.message for f in flags] == expected
    assert [f.code for f in flags] == ["uncertain"] * len(expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": ("nodule", "effusion")},  # not in the order of the labels
        {"findings": ("effusion",)},  # which the decision does not say
        {"findings": ("effusion", "cat"), "forced_decision": "effusion+cat"},
        {"findings": (), "forced_decision": ""},
        {"findings": None},  # then the decision is one label
    ],
)
def test_a_screening_says_what_it_found(screenings: list[Screening], changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="a decision among"):
        dataclasses.replace(screenings[0], **changes)  # type: ignore[arg-type]
