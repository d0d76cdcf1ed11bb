"""Label tasks: label indices, unused labels and partial labels."""

from __future__ import annotations

import pytest

from cxr_edge.errors import InputError
from training.data.findings import FINDINGS
from training.data.targets import Target
from training.recipes.r20.tasks import binary, modality


def test_modality_maps_all_other_labels_to_abnormal() -> None:
    target = modality()
    assert target.labels == ("normal", "abnormal")
    assert {label: target.label_index(label) for label in ("normal", "viral", "tuberculosis", "other", "covid-19")} == {
        "normal": 0, "viral": 1, "tuberculosis": 1, "other": 1, "covid-19": 1,
    }  # fmt: skip
    assert all(target.target_mask(label).sum() == 1 for label in FINDINGS.values())


def test_binary_does_not_use_other_labels() -> None:
    target = binary()
    assert target.label_index("covid-19") == 1
    assert target.label_index("bacterial") == -1
    assert not target.target_mask("bacterial").any()


def test_partial_labels_train_and_are_not_evaluated() -> None:
    target = Target(labels=("normal", "bacterial", "viral"), partial={"tuberculosis": ("bacterial", "viral")})
    assert target.label_index("tuberculosis") == -1
    assert target.target_mask("tuberculosis").tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"labels": ("normal",)}, "two labels or more"),
        ({"labels": ("normal", "viral"), "partial": {"tuberculosis": ("bacterial",)}}, "renames to those only"),
        ({"labels": ("normal", "viral"), "renamed": {"flu": "viral"}}, "no collection has the labels"),
    ],
)
def test_an_invalid_task_raises(values: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Target(**values)
