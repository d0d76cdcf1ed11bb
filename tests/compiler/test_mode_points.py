"""Limits of degraded modes move with the engines as those of all members do, and no further."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cxr_edge.bundle.manifest import Manifest
from cxr_edge.compiler.ensemble import compare_at_points
from cxr_edge.compiler.mode_points import fit_mode_points
from cxr_edge.compiler.parity import Limits
from cxr_edge.ops.combine import Combiner, member_probabilities
from cxr_edge.records import MemberScore, Screening
from tests.builders.toy_bundle import build_toy_bundle
from tests.compiler.screenings import screenings

Logits = npt.NDArray[np.float32]


def _manifest(folder: Path, *, multi_label: bool = False) -> Manifest:
    return build_toy_bundle(folder, degraded=True, known_answers=False, multi_label=multi_label).manifest


def _screenings(manifest: Manifest, logits: Logits) -> list[Screening]:
    """Return screenings of these logits (N, members, labels)."""
    probabilities, _ = Combiner(manifest.combination, labels=len(manifest.labels)).run(logits)
    scores = member_probabilities(logits, manifest.combination)
    found = screenings(probabilities, manifest.labels, manifest.decision, findings=manifest.multi_label)
    names = [m.name for m in manifest.members]
    return [
        dataclasses.replace(
            s, members=tuple(MemberScore(member=n, probabilities=tuple(p)) for n, p in zip(names, rows, strict=True))
        )
        for s, rows in zip(found, scores, strict=True)
    ]


def _logits(manifest: Manifest) -> Logits:
    rng = np.random.default_rng(5)
    base = rng.normal(0, 1.2, (300, 1, len(manifest.labels)))
    return (base + rng.normal(0, 0.1, (300, 3, len(manifest.labels)))).astype(np.float32)


@pytest.mark.parametrize("multi_label", [False, True], ids=["labels", "findings"])
def test_the_modes_with_a_shifted_member_move(tmp_path: Path, multi_label: bool) -> None:
    manifest = _manifest(tmp_path, multi_label=multi_label)
    before = _logits(manifest)
    after = before.copy()
    after[:, 0, -1] -= 1.0  # the first member alone
    label = manifest.labels[-1]
    found = fit_mode_points(manifest, _screenings(manifest, before), _screenings(manifest, after))
    moved = {p.members: p.point.decision.thresholds[label] for p in found}
    assert set(moved) == {m.members for m in manifest.degraded if "plain" in m.members}
    assert moved["plain",] < moved["plain", "depthwise"] < manifest.decision.thresholds[label]


def test_engines_that_equal_the_reference_move_nothing(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    same = _screenings(manifest, _logits(manifest))
    assert fit_mode_points(manifest, same, same) == ()
    assert fit_mode_points(dataclasses.replace(manifest, degraded=()), same, same) == ()


@pytest.mark.parametrize("drawn", [False, True], ids=["X-rays", "drawings"])
def test_a_build_moves_them_on_xrays_alone(tmp_path: Path, drawn: bool) -> None:
    manifest = _manifest(tmp_path)
    before = _logits(manifest)
    after = before.copy()
    after[:, :, -1] -= 0.6
    result = compare_at_points(
        manifest,
        _screenings(manifest, before),
        _screenings(manifest, after),
        truth=None,
        known=np.full((300, 4), -1, np.int8),
        limits=Limits(max_loss=0.9),
        drawn=drawn,
    )
    assert {p.members for p in result.mode_points} == (set() if drawn else {m.members for m in manifest.degraded})
