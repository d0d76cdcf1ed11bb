"""The running comparison: no alarm without a change, an alarm soon after one, what moved, and that ranks are exact."""

from dataclasses import replace

import numpy as np
import pytest

from cxr_edge.drift import DriftMonitor, Reference, betting
from cxr_edge.errors import InputError
from tests.drift.conftest import NAMES, exams
from tests.drift.test_statistics import IMAGE, SCREENING


def follow(monitor, rows):
    """Add rows until the alarm. Returns their number, None without one."""
    for k, row in enumerate(rows, 1):
        monitor.add_row(row)
        if monitor.alarm is not None:
            return k
    return None


def random_reference(seed, count=100):
    return Reference.of_exams([dict(zip(NAMES, row, strict=True)) for row in exams(count, seed)], of="random exams")


@pytest.mark.parametrize("seed", range(5))
def test_exams_like_the_reference_give_no_alarm(reference, seed):
    monitor = DriftMonitor(reference, seed=seed)
    assert follow(monitor, exams(1000, seed)) is None
    assert monitor.report().evidence < 3


def test_false_alarms_are_no_more_frequent_than_promised():
    """At 1 in 5, since 1 in 10,000 takes too long to see; 99.9 % of fair tests of 80 streams have at most 28 alarms."""
    monitors = [DriftMonitor(random_reference(1000 + k), false_alarms=0.2, seed=k) for k in range(80)]
    alarms = sum(follow(monitor, exams(150, 2000 + k)) is not None for k, monitor in enumerate(monitors))
    assert 1 <= alarms <= 28


def test_p_values_of_exams_like_the_reference_are_uniform_and_independent():
    draws = np.array([
        [monitor._p_values(row, k)[0] for k, row in enumerate(exams(4, 500 + seed))]
        for seed in range(600)
        for monitor in [DriftMonitor(random_reference(seed, 50), seed=seed)]
    ])  # fmt: skip
    for column in draws.T:
        counts = np.bincount((column * 10).astype(int), minlength=10)
        assert ((counts - 60) ** 2 / 60).sum() < 27.9  # chi-squared, 9 degrees of freedom: 0.1 %
    assert abs(np.corrcoef(draws.T)[0, 1:]).max() < 0.14


@pytest.mark.parametrize("quiet", [0, 500])
def test_a_shift_is_noticed_and_named(reference, quiet):
    monitor = DriftMonitor(reference)
    assert follow(monitor, exams(quiet, 3)) is None
    assert follow(monitor, exams(200, 4, shift=-1.2)) <= 100
    moved = monitor.alarm.moved[0]
    assert (moved.name, moved.direction) == ("image.c", "down")
    assert moved.above < 0.35
    assert moved.median < moved.reference_median
    assert monitor.alarm.exam == monitor.report().exams


def test_a_shift_across_the_end_of_an_epoch_is_noticed(reference, monkeypatch):
    monkeypatch.setattr(betting, "EPOCH_EXAMS", 100)
    monitor = DriftMonitor(reference)
    assert follow(monitor, exams(190, 3)) is None
    assert monitor.progress.epoch == 1
    assert follow(monitor, exams(200, 4, shift=1.5)) is not None
    assert monitor.progress.epoch == 2
    assert len(monitor._sorted[0]) == reference.exams + len(monitor.progress.rows) - monitor.progress.first


def test_a_narrower_spread_is_noticed(reference):
    monitor = DriftMonitor(reference)
    typical = tuple(reference.median(name) for name in NAMES)
    assert follow(monitor, [typical] * 200) <= 60
    assert monitor.alarm.moved[0].direction == "spread"


def test_a_rare_value_that_becomes_frequent_is_noticed():
    rows = [{"image.format": float(k % 10 == 0)} for k in range(100)]
    monitor = DriftMonitor(Reference.of_exams(rows, of="one in ten"))
    assert follow(monitor, [(1.0,)] * 100) <= 30


def test_the_report_orders_statistics_by_evidence(reference):
    monitor = DriftMonitor(reference)
    for row in exams(150, 4, shift=3.0):
        monitor.add_row(row)
    report = monitor.report()
    evidence = [s.evidence for s in report.statistics]
    assert evidence == sorted(evidence, reverse=True)
    assert report.statistics[0].moved.name == "image.c"
    assert report.statistics[0].alarm_exam == report.alarm.exam
    assert report.statistics[1].alarm_exam is None
    assert (report.exams, report.recent, report.limit) == (150, 150, 4.0)
    assert report.as_json()["alarm"]["moved"][0]["name"] == "image.c"


def test_a_report_without_exams(reference):
    report = DriftMonitor(reference).report()
    assert (report.exams, report.alarm, report.statistics) == (0, None, ())


def one_exam_reference():
    from cxr_edge.drift import exam_statistics

    return Reference.of_exams([exam_statistics(SCREENING, IMAGE)] * 50, of="one exam")


def test_a_repeated_picture_is_not_counted():
    monitor = DriftMonitor(one_exam_reference())
    assert monitor.add(SCREENING, IMAGE)
    assert not monitor.add(SCREENING, IMAGE)
    assert monitor.add(replace(SCREENING, sha256="ef"), IMAGE)
    assert (monitor.report().exams, monitor.report().repeated) == (2, 1)


def test_the_screening_of_another_bundle_is_refused():
    with pytest.raises(InputError, match=r"no statistic output.normal, which the reference has"):
        DriftMonitor(one_exam_reference()).add(
            replace(SCREENING, labels=("healthy", "sick"), forced_decision="sick"), IMAGE
        )


@pytest.mark.parametrize("value", [0, 1, -0.1])
def test_a_promise_that_is_no_probability_is_refused(reference, value):
    with pytest.raises(InputError, match="false_alarms is a probability above 0 and below 1"):
        DriftMonitor(reference, false_alarms=value)
