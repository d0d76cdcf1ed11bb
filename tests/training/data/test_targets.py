"""Label tasks: label indices, unused labels and partial labels."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cxr_edge.errors import InputError
from tests.training.data.test_splits import record
from training.data.dataset import Sample
from training.data.findings import FINDINGS
from training.data.targets import Target, check_names, check_sides
from training.loop.plan import Plan
from training.recipes.config import Config, MemberPlan
from training.recipes.r20.config import R20Config
from training.recipes.r20.tasks import binary, modality


def test_modality_maps_all_other_labels_to_abnormal() -> None:
    target = modality()
    assert target.labels == ("normal", "abnormal")
    assert {label: target.label_index(label) for label in ("normal", "viral", "tuberculosis", "other", "covid-19")} == {
        "normal": 0, "viral": 1, "tuberculosis": 1, "other": 1, "covid-19": 1,
    }  # fmt: skip
    assert all(target.target_mask(label).sum() == 1 for label in FINDINGS.values())


def test_modality_maps_labels_of_own_data_too() -> None:
    """Own data name their labels themselves: none is dropped, and one that counts as normal does so in this stage."""
    target = modality(("normal", "silicosis", "healthy"), {"healthy": "normal", "viral": "other"})
    expected = {"normal": 0, "healthy": 0, "silicosis": 1, "viral": 1, "pneumonia": 1}
    assert {label: target.label_index(label) for label in expected} == expected


def test_the_binary_stage_renames_as_the_configuration() -> None:
    member = {"plain": MemberPlan(architecture="narrow-vgg")}
    config = R20Config(
        name="x", members=member, renamed={"other": "normal", "viral": "bacterial"}, binary=Plan(epochs=1)
    )
    target = config.binary_target
    assert [target.label_index(name) for name in ("normal", "other", "covid-19", "viral")] == [0, 0, 1, -1]
    assert target.guard == config.guarded


def test_binary_does_not_use_other_labels() -> None:
    target = binary()
    assert target.label_index("covid-19") == 1
    assert target.label_index("bacterial") == -1
    assert not target.target_mask("bacterial").any()


def test_partial_labels_train_and_are_not_evaluated() -> None:
    target = Target(labels=("normal", "bacterial", "viral"), partial={"tuberculosis": ("bacterial", "viral")})
    assert target.label_index("tuberculosis") == -1
    assert target.target_mask("tuberculosis").tolist() == [False, True, True]


def test_renamed_findings_count_as_their_label_where_the_task_has_it() -> None:
    config = Config(
        name="x", labels=("normal", "covid-19", "other"), renamed={"tuberculosis": "other", "viral": "bacterial"}
    )
    target = config.target
    assert target.label_index("tuberculosis") == target.label_index("other") == 2
    assert target.label_index("viral") == target.label_index("bacterial") == -1
    assert target.partial == {}, "a renamed finding is not partly known, too"
    assert config.target_of(("normal", "covid-19")).label_index("tuberculosis") == -1


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"labels": ("normal",)}, "two labels or more"),
        ({"labels": ("normal", "viral"), "partial": {"tuberculosis": ("bacterial",)}}, "renames to those only"),
    ],
)
def test_an_invalid_task_raises(values: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Target(**values)


def _on_sides(**labels: str) -> list[Sample]:
    """Return a sample per letter, each of its own patient: n normal, v viral, c covid-19, t tuberculosis."""
    names = {"n": "normal", "v": "viral", "c": "covid-19", "t": "tuberculosis"}
    return [
        Sample(
            record=record(f"a/{side}{i}", 10 * k + i, label=names[letter], source="a"),
            group=f"a/{side}{i}",
            side=side,  # type: ignore[arg-type]
        )
        for k, (side, letters) in enumerate(labels.items())
        for i, letter in enumerate(letters)
    ]


NORMAL_OR_VIRAL = Target(labels=("normal", "viral"), partial={"tuberculosis": ("viral",)})


@pytest.mark.parametrize(
    ("sides", "warnings"),
    [
        ({"train": "nnvv", "validation": "nnvvc", "test": "nnvv"}, []),
        (
            {"train": "nnv", "validation": "nnttt", "test": "nvv"},
            [
                "viral has 1 patient (1 images) on the side train: it is learnt from this patient alone",
                "viral has 0 images on the side validation: no epoch, temperature or threshold is selected for it",
                "normal has 1 patient (1 images) on the side test: its figures are those of one patient",
            ],
        ),
    ],
)
def test_labels_absent_from_a_side_or_of_one_patient_are_named(sides: dict[str, str], warnings: list[str]) -> None:
    assert check_sides(NORMAL_OR_VIRAL, _on_sides(**sides)) == warnings


def test_several_images_of_one_patient_are_one_patient() -> None:
    samples = _on_sides(train="nnvv", validation="nnvv", test="nnvv")
    samples = [replace(s, group="a/one") if s.record.label == "viral" and s.side == "test" else s for s in samples]
    assert check_sides(NORMAL_OR_VIRAL, samples) == [
        "viral has 1 patient (2 images) on the side test: its figures are those of one patient"
    ]


def test_a_label_that_no_image_and_no_collection_has_is_named() -> None:
    samples = _on_sides(train="nnvv", validation="nnvv", test="nnvv")
    target = Target(labels=("normal", "viral"), renamed={"virall": "viral"})
    with pytest.raises(InputError, match=r"no collection has the labels \['virall'\] \(did you mean viral\?\)"):
        check_sides(target, samples)
    check_names({"tuberculosis", "nodule"}, {"nodule"})


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"train": "nn", "validation": "nv", "test": "nv"}, "0 of viral among its training images"),
        ({"train": "nntt", "validation": "nv", "test": "nv"}, "0 of viral among its training images"),
        ({"train": "nnvv", "validation": "tc", "test": "nv"}, "the side validation has 0 images of normal, viral"),
        ({"train": "nnvv", "validation": "nv"}, "the side test has 0 images of normal, viral"),
    ],
)
def test_a_side_without_images_or_a_label_that_cannot_be_learnt_raises(sides: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_sides(NORMAL_OR_VIRAL, _on_sides(**sides))
