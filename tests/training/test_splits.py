"""The split: no patient, and no image under two names, on two sides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.errors import InputError
from training.collections import Record
from training.duplicates import Fingerprint, fingerprint, groups, same_image_pairs
from training.splits import SIDES, check_leakage, split


def record(patient: str, i: int, label: str = "normal", source: str = "kcx") -> Record:
    return Record(
        path=Path(f"{i}.png"),
        key=f"{i}.png",
        patient=patient,
        label=label,
        source=source,
        view="AP",
        finding=label,
        adult=False,
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Record], list[tuple[int, int]]]:
    """Records of few patients, and pairs of them that are the same image."""
    count = draw(st.integers(1, 40))
    patients = draw(st.lists(st.integers(0, 15), min_size=count, max_size=count))
    labels = draw(st.lists(st.sampled_from(["normal", "viral", "covid-19"]), min_size=count, max_size=count))
    records = [record(f"p{p}", i, label) for i, (p, label) in enumerate(zip(patients, labels, strict=True))]
    pairs = draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=6))
    return records, [(min(p), max(p)) for p in pairs if p[0] != p[1]]


@given(tables(), st.integers(0, 5))
def test_nobody_stands_on_two_sides(made: tuple[list[Record], list[tuple[int, int]]], seed: int) -> None:
    records, pairs = made
    names = groups(records, pairs)
    sides = split(records, names, seed=seed)
    by_patient: dict[str, set[str]] = {}
    for r, side in zip(records, sides, strict=True):
        by_patient.setdefault(r.patient, set()).add(side)
    assert all(len(found) == 1 for found in by_patient.values())
    assert all(sides[i] == sides[j] for i, j in pairs)
    assert check_leakage(records, names, sides, pairs).patients == len(by_patient)


def test_shares_hold_in_every_stratum() -> None:
    records = [record(f"{label}{i}", i, label) for label in ("normal", "viral") for i in range(100)]
    sides = split(records, [r.patient for r in records], seed=1)
    for label in ("normal", "viral"):
        assert Counter(s for r, s in zip(records, sides, strict=True) if r.label == label) == {
            "train": 72,
            "validation": 13,
            "test": 15,
        }


def test_a_seed_is_a_split() -> None:
    records = [record(f"p{i}", i) for i in range(60)]
    names = [r.patient for r in records]
    assert split(records, names, seed=1) == split(records, names, seed=1) != split(records, names, seed=2)


def test_a_leaking_split_is_refused() -> None:
    records = [record("a", 0), record("a", 1), record("b", 2)]
    with pytest.raises(InputError, match="patient a is in train and in test"):
        check_leakage(records, ["a", "a", "b"], ["train", "test", "train"], [])
    with pytest.raises(InputError, match="same image"):
        check_leakage(records, ["a", "a", "b"], ["train", "train", "test"], [(1, 2)])


def test_the_report_counts_what_was_joined() -> None:
    records = [record("a", 0), record("b", 1), record("c", 2)]
    names = groups(records, [(0, 1)])
    report = check_leakage(records, names, ["train", "train", "test"], [(0, 1)])
    assert (report.patients, report.groups, report.merged_patients, report.same_image_pairs) == (3, 2, 1, 1)
    assert report.images == {"train": {"kcx/normal": 2}, "validation": {}, "test": {"kcx/normal": 1}}
    assert set(report.images) == set(SIDES)


def test_patients_are_joined_through_others() -> None:
    records = [record(p, i) for i, p in enumerate("dcba")]
    assert groups(records, [(0, 1), (2, 3), (1, 2)]) == ["a"] * 4
    assert groups(records, []) == list("dcba")


def _picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9))
    return np.kron(coarse, np.ones((20, 20))).astype(np.uint8)


def test_equal_pixels_and_nearly_equal_pictures_are_the_same_image() -> None:
    rng = np.random.default_rng(0)
    first, other = _picture(1), _picture(2)
    noisy = np.clip(first.astype(int) + rng.integers(-1, 2, first.shape), 0, 255).astype(np.uint8)
    prints = [fingerprint(p) for p in (first, other, first.copy(), noisy)]
    assert {(0, 2), (0, 3), (2, 3)} == set(same_image_pairs(prints))


def test_equal_pixels_pair_whatever_the_hash() -> None:
    bits = np.zeros(256, bool)
    prints = [
        Fingerprint(pixels="x", bits=bits),
        Fingerprint(pixels="x", bits=~bits),
        Fingerprint(pixels="y", bits=~bits),
    ]
    assert same_image_pairs(prints, near_bits=-1) == [(0, 1)]
