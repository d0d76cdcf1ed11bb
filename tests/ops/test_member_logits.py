"""Logits from members' probabilities: the combination of them is that of the original ones."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_edge.ops.combine import Combiner, member_logits, member_probabilities
from cxr_edge.specs.combination import ACTIVATIONS, Combination


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_combination_is_the_same(activation: str) -> None:
    combination = Combination(
        strategy="average",
        member_temperatures=(0.8, 1.3),
        temperature=0.9,
        parameters={},
        activation=activation,  # type: ignore[arg-type]
    )
    logits = np.random.default_rng(1).normal(0, 6, (50, 2, 4)).astype(np.float32)
    logits[0] = [[80, -80, 0, 0], [-80, 80, 0, 0]]  # probabilities of 0 and 1
    again = member_logits(member_probabilities(logits, combination), combination)
    combiner = Combiner(combination, labels=4)
    np.testing.assert_allclose(combiner.run(again)[0], combiner.run(logits)[0], atol=2e-6)
    assert np.isfinite(again).all()
