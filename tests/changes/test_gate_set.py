"""The gate set of a bundle in a change plan: decisions are compared on it, with the true labels of real images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.bundle.gate_file import pack_images
from cxr_edge.bundle.gate_set import attach_gate_set
from cxr_edge.changes.images import compared_images
from cxr_edge.changes.plan import change_plan
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import build_toy_bundle, toy_images


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = build_toy_bundle(tmp_path_factory.mktemp("gate") / "b")
    pictures = [p if p.dtype == np.uint8 else (p >> 8).astype(np.uint8) for p in toy_images().values()]
    labels = made.manifest.labels
    shares = np.full((3, len(labels)), 1 / len(labels), np.float32)
    file = pack_images(pictures, (0, 1, None), labels, shares, ("normal", "bacterial", "viral"))
    return attach_gate_set(made, file, licence="CC0-1.0", attribution="nobody")


def test_decisions_are_compared_on_the_gate_set(bundle: Bundle, tmp_path: Path) -> None:
    decision = Decision(thresholds={"covid-19": 0.01}, uncertain_below=0.5, first=("covid-19",))
    new = replace(bundle, manifest=replace(bundle.manifest, decision=decision))
    plan = change_plan(bundle, new)
    assert plan.impact.images == "3 images of the new bundle's gate set, real images"
    assert plan.impact.decisions is not None
    assert {r.of: (r.old.n, r.lost) for r in plan.impact.decisions.right} == {
        "normal": (1, 1),
        "bacterial": (1, 1),
        "all": (2, 2),
    }
    assert plan.protocol.images.startswith("the bundle's gate set of 3 images (real images), or X-rays of the site")


def test_the_old_bundles_gate_set_is_used_where_the_new_one_has_none(bundle: Bundle, tmp_path: Path) -> None:
    bare = write_bundle(bundle.root, bundle.manifest)
    new = replace(bare, manifest=replace(bare.manifest, gate_set=None))
    found = compared_images(bundle, new)
    assert found.description == "3 images of the old bundle's gate set, real images"
    assert not found.drawn
