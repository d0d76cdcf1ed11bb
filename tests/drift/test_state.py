"""The state file: two runs are as one, and files that are not this bundle's state are refused."""

import json
import stat

import pytest

from cxr_edge.drift import DriftMonitor, betting
from cxr_edge.drift.state import read_state, write_state
from cxr_edge.errors import InputError, OutputError
from tests.drift.conftest import exams

DIGEST = "ab" * 32


@pytest.fixture
def file(tmp_path):
    return tmp_path / "drift.json"


def resumed(reference, file):
    monitor = DriftMonitor(reference)
    assert read_state(monitor, file, digest=DIGEST)
    return monitor


@pytest.mark.parametrize("cut", [1, 60, 130, 290])
def test_two_runs_are_as_one(reference, file, cut, monkeypatch):
    monkeypatch.setattr(betting, "EPOCH_EXAMS", 120)
    rows = [*exams(200, 1), *exams(100, 2, shift=2.5)]
    once, first = DriftMonitor(reference), DriftMonitor(reference)
    for k, row in enumerate(rows):
        once.add_row(row, key=f"{k:016}", source=f"{k}.png")
    for k, row in enumerate(rows[:cut]):
        first.add_row(row, key=f"{k:016}", source=f"{k}.png")
    write_state(first, file, digest=DIGEST)
    second = resumed(reference, file)
    for k, row in enumerate(rows[cut:], cut):
        second.add_row(row, key=f"{k:016}", source=f"{k}.png")
    a, b = once.report().as_json(), second.report().as_json()
    assert once.alarm is not None
    if cut > once.alarm.exam:
        assert (a["alarm"].pop("source") != "", b["alarm"].pop("source")) == (True, "")
    assert a == b
    assert (once.progress.wealth == second.progress.wealth).all()


def test_a_repeated_picture_is_recognised_in_the_next_run(reference, file):
    monitor = DriftMonitor(reference)
    monitor.add_row(exams(1, 1)[0], key="cd" * 32)
    write_state(monitor, file, digest=DIGEST)
    assert not resumed(reference, file).add_row(exams(1, 1)[0], key="cd" * 32)


def test_no_name_is_in_the_file(reference, file):
    monitor = DriftMonitor(reference)
    for k, row in enumerate(exams(100, 2, shift=4)):
        monitor.add_row(row, key=str(k), source="Smith.dcm")
    assert monitor.alarm.source == "Smith.dcm"
    write_state(monitor, file, digest=DIGEST)
    assert "Smith" not in file.read_text()
    assert resumed(reference, file).alarm.exam == monitor.alarm.exam


def test_there_is_none_yet(reference, file):
    assert not read_state(DriftMonitor(reference), file, digest=DIGEST)
    with pytest.raises(InputError, match="is no folder: give a file in an existing one"):
        read_state(DriftMonitor(reference), file.parent / "none" / "drift.json", digest=DIGEST)


def test_the_state_of_another_bundle_is_refused(reference, file):
    write_state(DriftMonitor(reference), file, digest="cd" * 32)
    with pytest.raises(
        InputError, match=r"of another bundle, or of another version.*expected digest abab.*move it away"
    ):
        read_state(DriftMonitor(reference), file, digest=DIGEST)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema", "other", "schema must be"),
        ("names", ["image.a"], "names must be those of this monitor"),
        ("exams", -1, "exams must be a whole number"),
        ("first", 9, "rows must be a list of the epoch's exams"),
        ("rows", [[1.0]] * 3, r"rows\[0\] must be a list of 8"),
        ("rows", [[1.0] * 7 + ["a"]] * 3, r"rows\[0\]\[7\] must be a finite number"),
        ("seen", [], "seen must be a list of 3, one of each row"),
        ("seen", [1, 2, 3], r"seen\[0\] must be a text"),
        ("wealth", [[1.0]], "wealth must be a list of 8"),
        ("highest", [-1.0] * 8, "highest must be numbers of 0 or more"),
        ("alarm_exams", [0], "alarm_exams must be a list of 8"),
        ("alarm", {"exam": 0, "moved": []}, "alarm.exam must be a whole number, 1 or more"),
        ("alarm", {"exam": 1, "moved": [{}]}, r"alarm.moved\[0\].above is missing"),
    ],
)
def test_a_damaged_state_is_refused(reference, file, key, value, message):
    monitor = DriftMonitor(reference)
    for row in exams(3, 1):
        monitor.add_row(row)
    write_state(monitor, file, digest=DIGEST)
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(InputError, match=message) as error:
        read_state(monitor, file, digest=DIGEST)
    assert "move it away, and the next run begins a new state" in str(error.value)


def test_half_a_file_and_a_folder_are_refused(reference, file):
    file.write_text('{"schema"')
    with pytest.raises(InputError, match="the whole file must be JSON"):
        read_state(DriftMonitor(reference), file, digest=DIGEST)
    with pytest.raises(InputError, match="cannot be read"):
        read_state(DriftMonitor(reference), file.parent, digest=DIGEST)


def test_a_file_that_cannot_be_written_leaves_the_old_one(reference, file, monkeypatch):
    write_state(DriftMonitor(reference), file, digest=DIGEST)
    before = file.read_text()

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(file), "replace", full_disk)
    monitor = DriftMonitor(reference)
    monitor.add_row(exams(1, 1)[0])
    with pytest.raises(OutputError, match=r"could not be written to .*: No space left on device"):
        write_state(monitor, file, digest=DIGEST)
    assert file.read_text() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    assert stat.S_ISREG(file.stat().st_mode)
