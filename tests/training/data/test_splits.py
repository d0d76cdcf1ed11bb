"""The split: no patient, and no image under two names, on two sides; where one may, the report says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.errors import InputError
from training.data import splits
from training.data.duplicates import patient_groups
from training.data.records import Record
from training.data.splits import (
    FLANNEL_SHARES,
    R20_SHARES,
    SIDES,
    Side,
    Unit,
    check_leakage,
    check_plan,
    cramers_v,
    split,
)


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


SHARES_TO_TRY = st.sampled_from([splits.SHARES, R20_SHARES, {"train": 0.5, "validation": 0.0, "test": 0.5}])


@given(tables(), st.integers(0, 5), SHARES_TO_TRY)
def test_nobody_stands_on_two_sides(
    made: tuple[list[Record], list[tuple[int, int]]], seed: int, shares: dict[Side, float]
) -> None:
    records, pairs = made
    names = patient_groups(records, pairs)
    sides = split(records, names, seed=seed, shares=shares)
    assert sides == split(records, names, seed=seed, shares=shares)
    by_patient: dict[str, set[str]] = {}
    for r, side in zip(records, sides, strict=True):
        by_patient.setdefault(r.patient, set()).add(side)
    assert all(len(found) == 1 for found in by_patient.values())
    assert all(sides[i] == sides[j] for i, j in pairs)
    report = check_leakage(records, names, sides, pairs)
    assert report.patients == len(by_patient) == sum(report.patients_by_side.values())
    assert not report.leaks


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(0, 5), SHARES_TO_TRY)
def test_shares_are_met_within_the_largest_group(sizes: list[int], seed: int, shares: dict[Side, float]) -> None:
    records = [record(f"p{g}", 100 * g + k) for g, size in enumerate(sizes) for k in range(size)]
    counts = Counter(split(records, [r.patient for r in records], seed=seed, shares=shares))
    for side, share in shares.items():
        assert abs(counts[side] - share * len(records)) <= max(sizes), f"{side} of {sum(sizes)} images"
        assert share > 0 or counts[side] == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 5), SHARES_TO_TRY)
def test_a_patient_more_moves_a_patient_a_cut(sizes: list[int], seed: int, shares: dict[Side, float]) -> None:
    records = [record(f"p{g}", 100 * g + k) for g, size in enumerate(sizes) for k in range(size)]
    more = [*records, record("one more", 10_000)]
    before, after = (split(rs, [r.patient for r in rs], seed=seed, shares=shares) for rs in (records, more))
    moved = {r.patient for r, a, b in zip(records, before, after, strict=False) if a != b}
    assert len(moved) <= sum(share > 0 for share in shares.values()) - 1


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


def test_shares_of_r20_are_nine_tenths_of_nine_tenths() -> None:
    records = [record(f"p{i}", i) for i in range(1000)]
    counts = Counter(split(records, [r.patient for r in records], seed=1, shares=R20_SHARES))
    assert counts == {"train": 810, "validation": 90, "test": 100}


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 0.9, "test": 0.1},
        {"train": 0.8, "validation": 0.1, "test": 0.2},
        dict.fromkeys(SIDES, 1.0) | {"test": -1},
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[Side, float]) -> None:
    with pytest.raises(InputError, match="for each of train, validation, test, sum 1"):
        check_plan(shares, "group")
    with pytest.raises(InputError, match="'patient': expected 'group', or 'image'"):
        check_plan(R20_SHARES, "patient")


def test_a_split_by_image_divides_patients_and_says_so() -> None:
    records = [record(f"p{i // 4}", i) for i in range(80)]
    names = [r.patient for r in records]
    sides = split(records, names, seed=1, unit="image")
    for preset in ("sane", "paper"):
        with pytest.raises(InputError, match=r"patient p\d+ is in .* and \d+ more: split by group"):
            check_leakage(records, names, sides, [], preset=preset)
    pairs = [(i, j) for i in range(80) for j in range(i) if sides[i] != sides[j]][:12]
    report = check_leakage(records, names, sides, pairs, preset="code")
    divided = {p for p in names if len({s for r, s in zip(records, sides, strict=True) if r.patient == p}) > 1}
    assert report.leaks
    assert report.preset == "code"
    assert report.divided_patients == len(divided) > 10
    assert set(report.divided_patient_examples) < divided
    assert len(report.divided_patient_examples) == 10
    assert report.divided_pairs == 12
    assert len(report.divided_pair_examples) == 10
    assert sum(report.patients_by_side.values()) > report.patients == 20


def test_a_leaking_split_is_refused() -> None:
    records = [record("a", 0), record("a", 1), record("b", 2)]
    with pytest.raises(InputError, match="patient a is in train and in test"):
        check_leakage(records, ["a", "a", "b"], ["train", "test", "train"], [])
    with pytest.raises(InputError, match="same image"):
        check_leakage(records, ["a", "a", "b"], ["train", "train", "test"], [(1, 2)])


def test_the_report_counts_what_was_joined() -> None:
    records = [record("a", 0), record("b", 1), record("c", 2)]
    names = patient_groups(records, [(0, 1)])
    report = check_leakage(records, names, ["train", "train", "test"], [(0, 1)])
    assert (report.patients, report.groups, report.merged_patients, report.same_image_pairs) == (3, 2, 1, 1)
    assert report.images == {"train": {"kcx/normal": 2}, "validation": {}, "test": {"kcx/normal": 1}}
    assert set(report.images) == set(SIDES)


def test_a_source_that_tells_the_label_is_seen() -> None:
    told = [record(f"a{i}", i, "normal", "kcx") for i in range(10)]
    told += [record(f"b{i}", 10 + i, "covid-19", "ccx") for i in range(10)]
    mixed = [record(f"c{i}", i, ("normal", "covid-19")[i % 2], ("kcx", "ccx")[i // 2 % 2]) for i in range(20)]

    def report(records: list[Record]) -> splits.LeakageReport:
        return check_leakage(records, [r.patient for r in records], ["train"] * len(records), [])

    assert (report(told).label_and_source, report(told).label_by_source) == (1.0, 1.0)
    assert (report(mixed).label_and_source, report(mixed).label_by_source) == (0.0, 0.5)
    assert report(told[:10]).label_and_source is None, "one label: nothing to tell"
    assert report(told).sources["train"] == {"ccx": 10, "kcx": 10}


def test_cramers_v_of_a_table_worked_by_hand() -> None:
    # Cells 30, 10, 10, 30: chi-squared is 80 (30 * 30 - 10 * 10)^2 / 40^4 = 20, so V = sqrt(20 / 80).
    first = ["a"] * 40 + ["b"] * 40
    second = ["x"] * 30 + ["y"] * 10 + ["x"] * 10 + ["y"] * 30
    assert cramers_v(first, second) == pytest.approx(0.5, abs=1e-12)


@given(tables(), st.integers(0, 5), st.sampled_from(["group", "image"]))
def test_flannels_split_leaves_validation_to_its_folds(
    made: tuple[list[Record], list[tuple[int, int]]], seed: int, unit: Unit
) -> None:
    records, pairs = made
    sides = split(records, patient_groups(records, pairs), seed=seed, shares=FLANNEL_SHARES, unit=unit)
    assert set(sides) <= {"train", "test"}


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(0, 5))
def test_a_fifth_of_flannels_images_judge(sizes: list[int], seed: int) -> None:
    records = [record(f"p{g}", 100 * g + k) for g, size in enumerate(sizes) for k in range(size)]
    counts = Counter(split(records, [r.patient for r in records], seed=seed, shares=FLANNEL_SHARES))
    assert abs(counts["test"] - 0.2 * len(records)) <= max(sizes)
    check_plan(FLANNEL_SHARES, "group")


def test_shares_of_flannel_are_four_to_one_in_every_stratum() -> None:
    strata = [("normal", "kcx"), ("viral", "kcx"), ("viral", "ccx"), ("covid-19", "ccx")]
    records = [record(f"{label}{source}{i}", i, label, source) for label, source in strata for i in range(50)]
    sides = split(records, [r.patient for r in records], seed=1, shares=FLANNEL_SHARES)
    for label, source in strata:
        own = Counter(s for r, s in zip(records, sides, strict=True) if (r.label, r.source) == (label, source))
        assert own == {"train": 40, "test": 10}


def test_a_group_goes_where_its_middle_falls() -> None:
    """One group of 4 images: its middle, a half, is behind the share of training."""
    records = [record("p", i) for i in range(4)]
    shares: dict[Side, float] = {"train": 0.4, "validation": 0.0, "test": 0.6}
    assert split(records, ["p"] * 4, seed=0, shares=shares) == ["test"] * 4


def test_one_side_may_have_everything() -> None:
    check_plan({"train": 1.0, "validation": 0.0, "test": 0.0}, "group")


def test_a_leak_names_what_is_divided_and_how_many_more() -> None:
    records = [record(name, i) for i, name in enumerate("abcd")]
    with pytest.raises(InputError, match=r"^the split leaks: group g is in train and in test: split by group$"):
        check_leakage(records[:2], ["g", "g"], ["train", "test"], [])
    names = ["g", "g", "h", "h"]
    with pytest.raises(InputError, match=r"group g is in train and in test, and 1 more: split by group$"):
        check_leakage(records, names, ["train", "test", "train", "test"], [])
    with pytest.raises(ValueError, match="zip"):
        check_leakage(records, names, ["train"] * 3, [])


def test_the_report_of_unequal_and_of_no_images() -> None:
    records = [record(f"p{i}", i, "normal" if i < 6 else "viral", "kcx" if i % 4 else "ccx") for i in range(8)]
    report = check_leakage(records, [r.patient for r in records], ["train"] * 8, [])
    assert report.preset == "sane"
    assert report.label_by_source == (4 + 2) / 8  # kcx: 4 of 6 are normal, ccx: 2 of 2
    assert check_leakage([], [], [], []).label_by_source == 0.0


def test_cramers_v_of_three_labels_by_hand() -> None:
    """Cells 2 on the diagonal and 1 beside it: the sum of n^2 / (4 * 4) is 18 / 16, so V = sqrt((18 / 16 - 1) / 2)."""
    pairs = [(a, b) for a in "abc" for b in "abc" for _ in range(2 if a == b else 1)]
    first, second = zip(*pairs, strict=True)
    assert cramers_v(first, second) == pytest.approx(0.25, abs=1e-12)
    with pytest.raises(ValueError, match="zip"):
        cramers_v(first, second[1:])
