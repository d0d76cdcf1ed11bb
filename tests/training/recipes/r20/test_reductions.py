"""Parameter reduction per pruning step of R20's networks, for both readings of the paper."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.json_records import read_json
from training.models import NetworkSpec
from training.recipes.r20.alignment import Alignment, _page, measure
from training.recipes.r20.reductions import PRINTED, curve

STORED = Path(__file__).parents[4] / "docs" / "results" / "r20-reductions.json"


def test_reduction_of_one_step_of_the_custom_network() -> None:
    found = curve("custom", "layer", side_px=32, count=2, steps=2)
    assert found[0] == 0.0
    assert found == sorted(found)
    assert 0 < found[1] < 10


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_the_stored_curves_pass_table_6(name: str) -> None:
    """On the paper's three networks, global pruning reaches the printed reduction within 25 steps, at most one step apart."""
    reductions = json.loads(STORED.read_text())[name]["global"]
    above = next(k for k, r in enumerate(reductions) if r >= PRINTED[name])
    assert reductions[above - 1] < PRINTED[name] <= reductions[above]
    assert len(reductions) == 26


def test_alignment_times_networks_of_aligned_channels() -> None:
    spec = NetworkSpec(architecture="plain", labels=3)
    rows = measure(spec, 32, threads=1, steps=1)
    assert [(r.step, r.multiple_of) for r in rows] == [(s, m) for s in (0, 1) for m in (1, 8, 16)]
    assert rows[0].channels > rows[3].channels
    assert rows[4].channels % 8 == 0
    assert all(r.milliseconds > 0 for r in rows)


def test_the_stored_page_of_alignment_is_made_from_its_file() -> None:
    stored = STORED.with_name("r20-alignment.json")
    assert stored.with_suffix(".md").read_text() == _page(read_json(Alignment, stored))
