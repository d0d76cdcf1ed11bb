"""Random exams: reference and streams of eight statistics that depend on each other."""

import numpy as np
import pytest

from cxr_edge.drift import Reference

NAMES = tuple(f"image.{name}" for name in "abcdefgh")


def exams(count, seed, shift=0.0):
    """Rows of rounded normal numbers, as tuples; `shift` is added to the third."""
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(count, len(NAMES))) + 0.7 * draws.normal(size=(count, 1))
    values[:, 2] += shift
    return [tuple(row) for row in values.round(1).tolist()]


@pytest.fixture(scope="session")
def reference():
    return Reference.of_exams([dict(zip(NAMES, row, strict=True)) for row in exams(400, 99)], of="random exams")
