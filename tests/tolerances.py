"""Tolerances of comparisons that cannot be exact, in one table, and the comparison of values that have no scale.

A probability, a heat map and a pixel have a known scale: they are compared with an absolute tolerance (`atol`). Logits,
class activation maps, features and weights have none: two runtimes add the same float32 products in different orders, and
the difference grows with the largest terms of a sum, whatever remains of it. They are compared by `assert_close`,
relative to the largest expected magnitude of the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["DEEP_NETWORK", "NETWORK", "PROBABILITY", "assert_close"]

# Absolute. Probabilities of one combination computed by two implementations from the same logits.
PROBABILITY = 1e-6

# Relative to the largest magnitude. Outputs in float32 of a network of up to about fifty layers, by two runtimes, batch
# sizes or layouts: 5e-7 is typical.
NETWORK = 1e-5

# The same for NASNet-A, some 300 layers deep: 1.4e-6 measured here, 4.5e-6 on another processor.
DEEP_NETWORK = 5e-5


def assert_close(actual: Any, expected: Any, relative: float = NETWORK) -> None:
    """Compare arrays whose values have no scale: within `relative` times the largest magnitude of `expected`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max())
