"""Tolerances of inexact comparisons in one table, and the comparison of values without a fixed scale.

Probabilities, heat maps and pixels have a known scale and are compared with an absolute tolerance (`atol`). Logits, class
activation maps, features and weights do not: two runtimes add the same float32 products in different orders, and the
difference grows with the largest terms of a sum, even if they cancel. `assert_close` compares them relative to the largest
expected magnitude of the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "DEEP_NETWORK", "HALF", "HEAT_MAP", "NETWORK", "OF_PRECISION", "PROBABILITY", "PROBABILITY_ON_A_GPU",
    "PROBABILITY_STORED", "PROBABILITY_SUM", "assert_close",
]  # fmt: skip

# Absolute: probabilities of one combination by two implementations from the same logits. Both compute in double; exp, log
# and tanh may differ in the last bit.
PROBABILITY = 1e-6

# Absolute: sum of the float32 probabilities of one image, compared with 1.
PROBABILITY_SUM = 1e-5

# Absolute: probabilities of the toy bundle compared with those stored in its manifest, which may come from another machine.
PROBABILITY_STORED = 1e-4

# Absolute: probabilities from the networks on a GPU, compared with the CPU; fp32 is TF32 where the GPU has it.
PROBABILITY_ON_A_GPU = {"fp32": 5e-3, "fp16": 2e-2}

# Absolute: heat maps, 0 to 1, from activation maps that differ by NETWORK.
HEAT_MAP = 1e-5

# Relative to the largest magnitude: float32 outputs of a network from two runtimes, batch sizes or layouts.
NETWORK = 1e-5

# The same for NASNet-A, some 300 layers deep: 1.4e-6 measured on one processor, 4.5e-6 on another.
DEEP_NETWORK = 5e-5

# The same for the small networks of tests/backends in that precision.
OF_PRECISION = {"fp32": NETWORK, "fp16": 5e-3, "bf16": 4e-2, "int8": 0.1, "uint8": 0.1}

# The same for the networks of tests/compiler/graph/test_half.py: 11 and 8 bits of mantissa, a few layers.
HALF = {"fp16": 0.01, "bf16": 0.06}


def assert_close(actual: Any, expected: Any, relative: float = NETWORK) -> None:
    """Compare arrays whose values have no scale: within `relative` times the largest magnitude of `expected`."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * np.abs(expected).max())
