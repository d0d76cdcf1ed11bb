"""Tasks over the collections' labels: what is asked, what takes part, what is only known in part."""

from __future__ import annotations

import pytest

from cxr_edge.errors import InputError
from training.data.findings import FINDINGS
from training.data.targets import Target, binary, modality


def test_modality_calls_everything_else_abnormal() -> None:
    target = modality()
    assert target.labels == ("normal", "abnormal")
    assert {label: target.truth(label) for label in ("normal", "viral", "tuberculosis", "other", "covid-19")} == {
        "normal": 0, "viral": 1, "tuberculosis": 1, "other": 1, "covid-19": 1,
    }  # fmt: skip
    assert all(target.allowed(label).sum() == 1 for label in FINDINGS.values())


def test_binary_leaves_the_rest_out() -> None:
    target = binary()
    assert target.truth("covid-19") == 1
    assert target.truth("bacterial") == -1
    assert not target.allowed("bacterial").any()


def test_partial_labels_train_and_are_not_judged() -> None:
    target = Target(labels=("normal", "bacterial", "viral"), partial={"tuberculosis": ("bacterial", "viral")})
    assert target.truth("tuberculosis") == -1
    assert target.allowed("tuberculosis").tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"labels": ("normal",)}, "two labels or more"),
        ({"labels": ("normal", "viral"), "partial": {"tuberculosis": ("bacterial",)}}, "renames to those only"),
        ({"labels": ("normal", "viral"), "renamed": {"flu": "viral"}}, "no collection has the labels"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(values: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Target(**values)
