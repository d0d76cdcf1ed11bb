"""Promises from cases with known labels: probabilities and true labels in, limits that keep an error budget out."""

from cxr_edge.calibration.fit import (
    LabelledCases,
    Promise,
    fit_budget,
    fit_threshold,
    guarded_label,
    one_per_patient,
    threshold_rules,
)

__all__ = [
    "LabelledCases",
    "Promise",
    "fit_budget",
    "fit_threshold",
    "guarded_label",
    "one_per_patient",
    "threshold_rules",
]
