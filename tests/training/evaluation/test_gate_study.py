"""The gate study: damage that changes one network, verdicts of each set of images, and the page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.bundle.gate_file import pack_images
from cxr_edge.bundle.gate_set import attach_gate_set
from cxr_edge.decoding.decode import decode
from cxr_edge.errors import InputError
from tests.builders.toy_bundle import build_toy_bundle, toy_images
from training import gate_study as command
from training.data.targets import Target
from training.evaluation.gate_damage import damaged_engines
from training.evaluation.gate_pages import gate_as_markdown
from training.evaluation.gate_study import (
    PHANTOMS,
    REAL,
    SURROGATE,
    TEST,
    GateComparison,
    GateStudy,
    ImageSets,
    rows,
    spearman,
)
from training.json_records import as_json, from_json, read_json

LABELS = ("normal", "bacterial", "viral", "covid-19")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_toy_bundle(tmp_path_factory.mktemp("toy") / "toy", activation_ranges=True)


@pytest.fixture(scope="module")
def results(bundle: Bundle) -> GateStudy:
    images = [decode(np.ascontiguousarray(np.roll(p, 9 * i, axis=1))) for i in range(3) for p in toy_images().values()][
        :8
    ]
    sets = {name: images for name in (PHANTOMS, SURROGATE, REAL, TEST)}
    truth = {name: [None] * 8 if name == PHANTOMS else [i % 4 for i in range(8)] for name in sets}
    chosen = [d for d in damaged_engines(bundle) if d.name in NAMES]
    said: list[str] = []
    found = rows(GateComparison(bundle, ImageSets(images=sets, truth=truth)), iter(chosen), said.append)
    assert len(said) == len(NAMES)
    return GateStudy(
        bundle="toy 1", seed=1, images={k: len(v) for k, v in sets.items()}, rows=found, machine="a machine"
    )


NAMES = (
    "residual in uint8, ranges times 0.15",
    "plain, first logit shifted by 0.05",
    "plain, first logit shifted by 1",
    "depthwise, noise of 0.3 of the weights' spread",
    "segmenter, noise of 0.3 of the weights' spread",
)


def test_every_kind_of_damage_is_made_of_one_network_each(bundle):
    made = list(damaged_engines(bundle))
    assert len({d.name for d in made}) == len(made) >= 12
    assert {d.network for d in made} == {"plain", "depthwise", "residual", "segmenter"}
    assert set(NAMES) <= {d.name for d in made}


def test_small_damage_is_accepted_and_large_refused(results):
    by_name = {row.name: row for row in results.rows}
    assert by_name["plain, first logit shifted by 0.05"].verdicts[REAL].accepted
    large = by_name["plain, first logit shifted by 1"].verdicts[TEST]
    assert not large.accepted
    assert large.reason
    assert large.mean_shift > by_name["plain, first logit shifted by 0.05"].verdicts[TEST].mean_shift


def test_the_same_images_give_the_same_figures(results):
    for row in results.rows:
        assert row.verdicts[SURROGATE].mean_shift == row.verdicts[REAL].mean_shift == row.verdicts[TEST].mean_shift
        assert row.changed_moved_on_surrogate == row.changed_moved_on_real


def test_agreement_counts_engines(results):
    assert results.same_verdict(REAL, REAL) == (5, 5)


def test_the_page_has_every_engine_and_the_command_under_each_table(results):
    page = gate_as_markdown(from_json(GateStudy, as_json(results)))
    assert all(f"| {name} |" in page for name in NAMES)
    assert page.count("Command: `python -m training.gate_study`.") == len(re.findall(r"(?m)^\|---", page))
    assert "Where surrogate and real images differ: nowhere." in page


def test_the_published_page_is_of_its_json():
    folder = Path(__file__).parents[3] / "docs" / "results"
    assert gate_as_markdown(read_json(GateStudy, folder / "gate.json")) == (folder / "gate.md").read_text(
        encoding="utf-8"
    )


def test_ranks():
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])) == pytest.approx(0.5)


def test_a_bundle_without_a_surrogate_is_refused(tmp_path: Path):
    bundle = build_toy_bundle(tmp_path / "toy", known_answers=False)
    with pytest.raises(InputError, match=r"attach one with training\.gate_set"):
        command.study(bundle, [], Target(labels=LABELS), seed=1)
    file = pack_images([np.zeros((64, 64), np.uint8)], [0], LABELS, np.full((1, 4), 0.25), ["normal"])
    gated = attach_gate_set(bundle, file, licence="CC0-1.0", attribution="drawn")
    with pytest.raises(InputError, match="whose gate set is a surrogate"):
        command.study(gated, [], Target(labels=LABELS), seed=1)
