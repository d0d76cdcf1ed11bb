"""Folds: every training image validates once, no patient in two of them; a fold by image leaks and says so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cxr_edge.errors import InputError
from tests.builders.flannel_run import flannel_run
from tests.training.data.test_splits import record
from training.data.dataset import Sample
from training.data.folds import as_markdown, folds, in_fold

COUNTS = st.integers(2, 5)
SEEDS = st.integers(0, 5)


def _sample(group: str, i: int, label: str = "normal", source: str = "kcx", side: str = "train") -> Sample:
    return Sample(record=record(group, i, label, source), group=group, side=side)


def _samples(patients: int, images: int, side: str = "train") -> list[Sample]:
    return [_sample(f"p{p}", images * p + k, side=side) for p in range(patients) for k in range(images)]


@st.composite
def tables(draw: st.DrawFn) -> list[Sample]:
    """Groups of one label, source and side each, as patients mostly are; in a drawn order."""
    kinds = st.tuples(
        st.integers(1, 6), st.sampled_from(["normal", "viral"]), st.sampled_from(["kcx", "ccx"]),
        st.sampled_from(["train", "train", "train", "test"]),
    )  # fmt: skip
    groups = draw(st.lists(kinds, min_size=2, max_size=25))
    rows = [(g, k) for g, (size, *_) in enumerate(groups) for k in range(size)]
    return draw(st.permutations([_sample(f"p{g}", 100 * g + k, *groups[g][1:]) for g, k in rows]))


@st.composite
def mixed_tables(draw: st.DrawFn) -> list[Sample]:
    """Groups of several patients, labels and sources; their side is the group's."""
    count = draw(st.integers(2, 40))
    samples = []
    for i in range(count):
        group = draw(st.integers(0, 12))
        r = record(f"p{group}-{draw(st.integers(0, 2))}", i, draw(st.sampled_from(["normal", "viral", "covid-19"])))
        samples.append(Sample(record=r, group=f"g{group}", side="test" if group % 4 == 3 else "train"))
    return samples


def _enough(samples: Sequence[Sample], count: int) -> None:
    assume(len({s.group for s in samples if s.side == "train"}) >= count)


@given(mixed_tables(), COUNTS, SEEDS)
def test_every_training_image_has_one_fold_and_no_patient_two(samples: list[Sample], count: int, seed: int) -> None:
    _enough(samples, count)
    found = folds(samples, count=count, seed=seed)
    by_group, by_patient = defaultdict(set), defaultdict(set)
    assert found.shape == (len(samples),)
    for s, k in zip(samples, found.tolist(), strict=True):
        assert k in range(count) if s.side == "train" else k == -1
        if k >= 0:
            by_group[s.group].add(k)
            by_patient[s.record.patient].add(k)
    assert all(len(k) == 1 for k in (*by_group.values(), *by_patient.values()))
    assert np.array_equal(found, folds(samples, count=count, seed=seed))
    assert "No patient stands in two folds." in as_markdown(samples, found)


@given(tables(), COUNTS, SEEDS)
def test_a_fold_has_its_share_of_every_label_and_source(samples: list[Sample], count: int, seed: int) -> None:
    _enough(samples, count)
    found = folds(samples, count=count, seed=seed)
    strata: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, s in enumerate(samples):
        if s.side == "train":
            strata[s.record.label, s.record.source].append(i)
    for name, rows in strata.items():
        largest = max(Counter(samples[i].group for i in rows).values())
        for k in range(count):
            assert abs((found[rows] == k).sum() - len(rows) / count) <= largest, f"fold {k} of {name}"


@given(tables(), COUNTS, SEEDS, st.sampled_from(["group", "image"]))
def test_each_training_image_validates_in_one_fold_and_trains_in_the_others(
    samples: list[Sample], count: int, seed: int, unit: str
) -> None:
    _enough(samples, count)
    found = folds(samples, count=count, seed=seed, unit=unit)
    seen = [in_fold(samples, found, k) for k in range(count)]
    for i, s in enumerate(samples):
        sides = Counter(fold[i].side for fold in seen)
        wanted = {"validation": 1, "train": count - 1} if s.side == "train" else {s.side: count}
        assert sides == wanted
        assert all((fold[i].record, fold[i].group) == (s.record, s.group) for fold in seen)


@given(tables(), COUNTS, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(samples: list[Sample], count: int, seed: int, random: object) -> None:
    _enough(samples, count)
    other = list(samples)
    random.shuffle(other)  # type: ignore[attr-defined]
    first, second = (
        {s.record.key: k for s, k in zip(of, folds(of, count=count, seed=seed).tolist(), strict=True)}
        for of in (samples, other)
    )
    assert first == second


def test_a_seed_is_a_set_of_folds() -> None:
    samples = _samples(40, 2)
    first, again, other = (folds(samples, count=5, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert Counter(first.tolist()) == dict.fromkeys(range(5), 16)


def test_test_images_change_no_fold() -> None:
    train, test = _samples(20, 2), [_sample(f"t{i}", 1000 + i, side="test") for i in range(9)]
    alone, among = folds(train, count=4, seed=1), folds(test + train, count=4, seed=1)
    assert (among[:9] == -1).all()
    assert np.array_equal(among[9:], alone)


def test_folds_by_image_leak_and_say_so() -> None:
    samples = _samples(10, 6)
    by_image = folds(samples, count=5, seed=1, unit="image")
    assert Counter(by_image.tolist()) == dict.fromkeys(range(5), 12)
    of_patient = defaultdict(set)
    for sample, k in zip(samples, by_image.tolist(), strict=True):
        of_patient[sample.group].add(k)
    assert all(len(k) > 1 for k in of_patient.values())
    said = as_markdown(samples, by_image)
    assert "**The folds leak**: 10 patients stand in several" in said
    assert "No patient" not in said


def test_the_report_counts_images_and_patients_by_fold() -> None:
    samples = [_sample("a", 0), _sample("a", 1), _sample("b", 2, "viral", "ccx"), _sample("c", 3, side="test")]
    lines = as_markdown(samples, np.array([0, 0, 1, -1])).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["source/label", "fold 0", "fold 1"]
    assert rows[2:] == [
        ["ccx/viral", "0", "1"],
        ["kcx/normal", "2", "0"],
        ["all images", "2", "1"],
        ["patients", "1", "1"],
    ]


@pytest.mark.parametrize(
    ("count", "patients", "says"), [(1, 9, "1 folds of 9"), (0, 9, "0 folds"), (5, 4, "5 folds of 4")]
)
def test_too_few_folds_or_patients_are_refused(count: int, patients: int, says: str) -> None:
    samples = _samples(patients, 8) + [_sample(f"t{i}", 1000 + i, side="test") for i in range(9)]
    with pytest.raises(InputError, match=f"{says}.*two folds or more, and a patient for each"):
        folds(samples, count=count, seed=1)


def test_images_stand_in_for_patients_where_folds_are_by_image() -> None:
    samples = _samples(1, 6)
    assert Counter(folds(samples, count=3, seed=1, unit="image").tolist()) == {0: 2, 1: 2, 2: 2}
    with pytest.raises(InputError, match="3 folds of 1"):
        folds(samples, count=3, seed=1)


def test_folds_by_anything_else_are_refused() -> None:
    with pytest.raises(InputError, match="'patient': expected 'group', or 'image'"):
        folds(_samples(9, 9), count=3, seed=1, unit="patient")  # type: ignore[arg-type]


def test_a_run_whose_folds_were_dealt_by_another_rule_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = flannel_run(tmp_path).fold_of
    assert np.array_equal(flannel_run(tmp_path).fold_of, before)
    monkeypatch.setattr(
        "training.recipes.flannel.run.folds.folds", lambda *_, **__: np.where(before < 0, before, (before + 1) % 3)
    )
    with pytest.raises(InputError, match=r"was made with folds_sha256 .*: give another run folder"):
        _ = flannel_run(tmp_path).fold_of
