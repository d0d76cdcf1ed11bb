"""Multi-label data: findings of own tables, unknown ones, splits over sets of findings, and what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cxr_edge.errors import InputError
from tests.builders.finding_records import finding_record, finding_sample
from tests.builders.own_data import write_image, write_table
from training.config import BundleConfig
from training.data.finding_counts import truth_of
from training.data.own.collection import read_own
from training.data.own.options import Options
from training.data.own.source import read_source
from training.data.own.store import FOLDER, save
from training.data.records import Record
from training.data.splits import SHARES, deal
from training.data.targets import Target, check_sides

ABC = Target(labels=("a", "b", "c"), multi_label=True)


def _read(folder: Path, rows: list[dict[str, object]]) -> list[Record]:
    for i, row in enumerate(rows):
        write_image(folder / str(row["path"]), i)
    data = read_source(write_table(folder / "table.csv", rows), Options())
    save(data, folder / "run" / FOLDER)
    return read_own(folder / "run" / FOLDER).records


def test_a_table_of_findings_becomes_records_with_unknown_ones(tmp_path: Path) -> None:
    cells = [("1", "0", ""), ("1", "1", "-1"), ("0", "0", "0"), ("0", "1", "1")]
    rows = [
        {"path": f"{i}.png", "patient": f"p{i}", "effusion": a, "nodule": b, "line": c}
        for i, (a, b, c) in enumerate(cells)
    ]
    found = _read(tmp_path, rows)  # type: ignore[arg-type]
    assert [r.label for r in found] == ["effusion", "effusion+nodule", "no finding", "nodule+line"]
    assert found[1].findings == {"effusion": True, "nodule": True, "line": None}
    truth = truth_of(found, ("line", "effusion"))
    np.testing.assert_array_equal(truth, [[np.nan, 1], [np.nan, 1], [0, 0], [1, 0]])


def test_a_column_no_finding_states_that_blank_findings_are_absent(tmp_path: Path) -> None:
    cells = [("1", "", ""), ("0", "1", ""), ("", "", ""), ("", "1", "1"), ("0", "", "")]
    rows = [
        {"path": f"{i}.png", "patient": f"p{i}", "No Finding": n, "effusion": a, "nodule": b}
        for i, (n, a, b) in enumerate(cells)
    ]
    found = _read(tmp_path, rows)  # type: ignore[arg-type]
    assert [r.findings for r in found] == [
        {"effusion": False, "nodule": False},
        {"effusion": True, "nodule": None},
        {"effusion": True, "nodule": True},
    ]


def test_a_finding_that_joins_names_is_refused(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.png", "patient": f"p{i}", "a+b": 1, "c": i % 2} for i in range(4)]
    with pytest.raises(InputError, match=r"'a\+b' has a \"\+\""):
        _read(tmp_path, rows)  # type: ignore[arg-type]


def _groups(records: list[Record]) -> list[str]:
    return [r.patient for r in records]


def test_a_split_has_every_finding_on_every_side_and_patients_whole() -> None:
    rng = np.random.default_rng(0)
    values = ["".join("1" if rng.random() < p else "0" for p in (0.5, 0.2, 0.02)) for _ in range(400)]
    records = [finding_record(f"{i}", v, patient=f"p{i // 2}", source=f"s{i % 7}") for i, v in enumerate(values)]
    sides = deal(records, _groups(records), seed=3, shares=SHARES)
    of_patient = {(r.patient, side) for r, side in zip(records, sides, strict=True)}
    assert len(of_patient) == 200
    for name in "abc":
        counts = Counter(s for r, s in zip(records, sides, strict=True) if (r.findings or {})[name])
        assert set(counts) == {"train", "validation", "test"}, (name, counts)
        if name != "c":
            assert counts["train"] / counts.total() == pytest.approx(SHARES["train"], abs=0.08)


def test_rare_sets_are_not_all_dealt_to_one_side() -> None:
    """Forty sets of one patient each: strata of their own would put each into the middle of the shares, so in training."""
    names = "".join(chr(ord("a") + i) for i in range(8))
    sets = [f"{i:08b}" for i in range(1, 256) if f"{i:08b}".count("1") == 3][:40]
    records = [finding_record(f"{i}", v, names) for i, v in enumerate(sets)]
    counts = Counter(deal(records, _groups(records), seed=1, shares=SHARES))
    assert counts["validation"] >= 3
    assert counts["test"] >= 3


def test_three_patients_with_a_finding_are_one_on_each_side() -> None:
    records = [finding_record(f"{i}", "100" if i < 3 else "010") for i in range(60)]
    for seed in range(10):
        sides = deal(records, _groups(records), seed=seed, shares=SHARES)
        assert sorted(sides[:3]) == ["test", "train", "validation"]


def test_unknown_is_no_negative_when_findings_are_counted() -> None:
    samples = [finding_sample(f"{i}", v, "train") for i, v in enumerate(["110", "00?", "11?", "0?1"])]
    sides = [finding_sample(f"{s}{i}", v, s) for s in ("validation", "test") for i, v in enumerate(["111", "000"] * 2)]
    assert (
        check_sides(ABC, [*samples, *sides])
        == [
            "c is present in 1 and absent in 1 patients of the side train: it is learnt from so few",
            "b is present in 2 and absent in 1 patients of the side train: it is learnt from so few",
        ][::-1]
    )
    with pytest.raises(InputError, match="c is present in 1 and absent in 0"):
        check_sides(ABC, [*samples[1:], *sides])


def test_labels_that_no_image_states_are_refused_with_a_guess() -> None:
    samples = [finding_sample("1", "1", "train", names="a")]
    with pytest.raises(InputError, match="no image states b, c; the findings are a"):
        check_sides(ABC, samples)


def test_a_task_and_its_data_agree_on_what_labels_are() -> None:
    several = [finding_sample("1", "110", "train")]
    with pytest.raises(InputError, match="1, have findings that do not exclude each other: set multi_label = true"):
        check_sides(Target(labels=("a", "b")), several)
    single = Record(path=Path("x"), key="k", patient="p", label="a", source="s", view="", finding="a", adult=True)
    with pytest.raises(InputError, match=r"such as k \(a\), have one label each"):
        truth_of([single], ("a",))


def test_an_image_without_a_known_finding_of_the_task_is_not_used() -> None:
    target = Target(labels=("c",), multi_label=True)
    assert [target.is_evaluated(finding_record("1", v)) for v in ("11?", "110", "001")] == [False, True, True]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"guard": "covid-19"}, 'set guard = ""'),
        ({"renamed": {"x": "normal"}}, "leave renamed"),
        ({"labels": ("a+b",)}, "has no"),
        ({"labels": ("no finding",)}, "is not 'no finding'"),
        ({"multi_label": False, "thresholds": {"specificity": 0.9}}, "set multi_label = true"),
        ({"thresholds": {"specificity": 1.0}}, "between 0 and 1"),
    ],
)
def test_settings_that_findings_cannot_have_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BundleConfig(**{"name": "x", "multi_label": True, "guard": "", **values})  # type: ignore[arg-type]


def test_findings_are_a_task_without_guard() -> None:
    config = BundleConfig(name="x", multi_label=True, guard="", labels=("a", "b"), thresholds={"specificity": 0.9})  # type: ignore[arg-type]
    assert config.target == Target(labels=("a", "b"), multi_label=True)
    assert config.thresholds.specificity == 0.9
