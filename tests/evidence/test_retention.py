"""Deletion of old files: what is left is verified, and nothing is deleted in doubt."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cxr_edge.errors import InputError
from cxr_edge.evidence.constants import SIX_MONTHS_DAYS
from cxr_edge.evidence.folder import file_name, file_numbers
from cxr_edge.evidence.retention import prune
from cxr_edge.evidence.verification import verify
from cxr_edge.evidence.writer import ChainWriter
from tests.evidence.conftest import KEY, SETTINGS, Note, checked

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)


def day(number):
    return lambda: BEGIN + timedelta(days=number)


@pytest.fixture
def old(tmp_path):
    """A log with one file each of days 0, 40, 80 and 120."""
    for k in range(4):
        writer = ChainWriter(tmp_path, key=KEY, run=Note(text="run"), settings=SETTINGS, clock=day(40 * k))
        writer.append(Note(text=str(k)))
        writer.close()
    assert file_numbers(tmp_path) == [1, 2, 3, 4]
    return tmp_path


def test_six_months_are_never_shorter_than_the_longest_six_months_of_a_year():
    longest = max(
        (datetime(2024 + (m + 6) // 12, (m + 6) % 12 + 1, 1) - datetime(2024, m + 1, 1)).days for m in range(12)
    )
    assert longest == SIX_MONTHS_DAYS


def test_old_files_are_deleted_and_the_rest_is_verified(old):
    kept = checked(old).head
    result = prune(old, keep_days=100, key=KEY, clock=day(145))
    assert result.files == (file_name(1), file_name(2))
    assert result.lines > 4
    assert file_numbers(old) == [3, 4]
    found = checked(old, expected=[kept])
    assert found.intact, found.problem
    assert found.first > 1
    assert prune(old, keep_days=100, key=KEY, clock=day(145)).files == ()


def test_a_head_of_a_deleted_line_cannot_be_compared(old):
    heads = []
    verify(old, visit=lambda v: heads.append((v.line.number, v.digest)))
    log = checked(old).head.log
    prune(old, keep_days=100, key=KEY, clock=day(145))
    first = checked(old).first
    from cxr_edge.evidence.lines import Head

    deleted = [Head(log=log, number=n, digest=d) for n, d in heads if n < first]
    assert "was pruned and cannot be compared" in checked(old, expected=deleted[:1]).notes[0]
    assert checked(old, expected=deleted[-1:]).intact
    wrong = Head(log=log, number=deleted[-1].number, digest="0" * 64)
    assert "is not the last line that was pruned" in checked(old, expected=[wrong]).problem.message


def test_files_that_somebody_else_deleted_are_missing(old):
    prune(old, keep_days=130, key=KEY, clock=day(145))
    assert file_numbers(old) == [2, 3, 4]
    (old / file_name(2)).unlink()
    problem = checked(old).problem
    assert (problem.damage, problem.file) == ("missing", file_name(2))
    assert "no line says that they were pruned" in problem.message


def test_a_deletion_that_was_interrupted_leaves_a_log_that_is_intact(old, monkeypatch):
    contents = (old / file_name(2)).read_bytes()
    prune(old, keep_days=100, key=KEY, clock=day(145))
    (old / file_name(2)).write_bytes(contents)  # as if it had not been deleted yet
    assert checked(old).intact
    assert prune(old, keep_days=100, key=KEY, clock=day(145)).files == (file_name(2),)
    assert checked(old).intact


def test_the_last_file_stays(old):
    prune(old, keep_days=1, clock=day(4000))
    assert file_numbers(old)[0] == 4
    assert verify(old).intact


def test_a_dry_run_deletes_nothing(old):
    before = sorted(p.name for p in old.iterdir())
    assert len(prune(old, keep_days=100, dry_run=True, clock=day(145)).files) == 2
    assert sorted(p.name for p in old.iterdir()) == before


def test_a_clock_that_is_behind_deletes_nothing(old):
    with pytest.raises(
        InputError, match=r"the clock of this machine \(2026-01-11.* is behind the newest line of the log .2026-05-01"
    ):
        prune(old, keep_days=1, clock=day(10))
    assert file_numbers(old) == [1, 2, 3, 4]


def test_a_line_with_a_late_time_keeps_its_file(old):
    """The clock was ahead for a while: the latest time of a file counts."""
    writer = ChainWriter(old, settings=SETTINGS, clock=day(121))
    writer.append(Note(text="late"))
    writer.close()
    assert prune(old, keep_days=20, clock=day(150)).files == tuple(file_name(n) for n in (1, 2, 3))


def test_a_log_that_is_not_intact_is_not_pruned(old):
    path = old / file_name(1)
    path.write_bytes(path.read_bytes().replace(b'"text":"0"', b'"text":"1"'))
    with pytest.raises(InputError, match=r"is not intact .*nothing was deleted, since it would remove the traces"):
        prune(old, keep_days=1, clock=day(4000))
    assert file_numbers(old) == [1, 2, 3, 4]


def test_what_was_moved_aside_goes_with_its_file(old):
    (old / "torn-2.bin").write_bytes(b"x")
    (old / "torn-900.bin").write_bytes(b"x")
    prune(old, keep_days=100, clock=day(145))
    assert sorted(p.name for p in old.glob("torn*")) == ["torn-900.bin"]


@pytest.mark.parametrize("days", [0, True, 1.5])
def test_days_out_of_range(old, days):
    with pytest.raises(InputError, match="keep_days is a whole number of 1 or more"):
        prune(old, keep_days=days)


def test_an_empty_log(tmp_path):
    ChainWriter(tmp_path).close()
    with pytest.raises(InputError, match="has no lines yet: there is nothing to delete"):
        prune(tmp_path)
