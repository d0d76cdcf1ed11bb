"""Self-test of installed engines: it passes what the gate passes, and fails for anything else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.errors import ContractError
from cxr_edge.installation.self_test import self_test
from tests.builders.two_versions import TwoVersions


def test_the_known_answers_are_reproduced(two_versions: TwoVersions) -> None:
    assert self_test(two_versions.old, engines.reference(two_versions.old), max_loss=0.01) == 3


def test_other_answers_fail(two_versions: TwoVersions) -> None:
    manifest = two_versions.old.manifest
    answers = tuple(replace(a, probabilities=a.probabilities[::-1]) for a in manifest.known_answers)
    other = Bundle(root=two_versions.old.root, digest="", manifest=replace(manifest, known_answers=answers))
    with pytest.raises(
        ContractError, match=r"the self-test failed: for known-\w+.png the engines give .* at most 0.2 apart"
    ):
        self_test(other, engines.reference(two_versions.old), max_loss=0.01)


def test_a_bundle_without_known_answers_screens_a_drawing(two_versions: TwoVersions) -> None:
    manifest = replace(two_versions.old.manifest, known_answers=())
    bare = Bundle(root=two_versions.old.root, digest="", manifest=manifest)
    assert self_test(bare, engines.reference(two_versions.old), max_loss=0.01) == 1
