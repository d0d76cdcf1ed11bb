"""A bundle below a floor is no bundle, unless the option is given: then its provenance says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.errors import BundleError, InputError
from tests.builders.toy_bundle import build_toy_bundle
from tests.training.evaluation.test_floors import evaluation
from training.bundles.floors import keep_above_floors
from training.evaluation.metrics import proportion


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_toy_bundle(tmp_path / "toy", members=("plain",), segmenter=False, known_answers=False)


def test_a_bundle_below_a_floor_does_not_open(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="no bundle was written"):
        keep_above_floors(bundle, evaluation(proportion(7, 17)), below_floor=False)
    with pytest.raises(BundleError):
        Bundle.open(bundle.root)
    assert (bundle.root / "plain.onnx").exists()


def test_with_the_option_the_provenance_has_the_floors_that_are_missed(bundle: Bundle) -> None:
    kept = keep_above_floors(bundle, evaluation(proportion(7, 17)), below_floor=True)
    recorded = Bundle.open(kept.root).manifest.provenance
    assert recorded["made_by"] == "tests/builders/toy_bundle.py"
    assert [text.split(",")[0] for text in recorded["below_floor"]] == ["children", "found in women"]
