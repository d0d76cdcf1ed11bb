"""A drawn population of patients with known probabilities, for promises that are checked by simulation."""

from __future__ import annotations

import numpy as np

from cxr_edge.calibration import LabelledCases

LABELS = ("normal", "bacterial", "covid-19")


def draw(n: int, rng: np.random.Generator, *, shares=(0.5, 0.2, 0.3), strength: float = 2.0, ties: bool = False):
    """Return cases of n patients, one image each; `ties` rounds probabilities to tenths, with thousands of equal ones."""
    true = rng.choice(3, n, p=shares)
    logits = rng.normal(0, 1, (n, 3)) + strength * np.eye(3)[true]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    p = (np.round(p, 1) if ties else p).astype(np.float32)
    patients = np.array([f"p{i}" for i in range(n)])
    return LabelledCases(labels=LABELS, probabilities=p, winners=p.argmax(axis=1), true=true, patients=patients)
