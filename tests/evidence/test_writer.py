"""The writer: rotation, several writers, what killed ones leave, disks that are full."""

from __future__ import annotations

import json
import os
import threading
from datetime import datetime, timedelta, timezone

import pytest

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence import folder as files
from cxr_edge.evidence import writer as writing
from cxr_edge.evidence.folder import file_name, file_numbers
from cxr_edge.evidence.lines import Line
from cxr_edge.evidence.writer import ChainWriter, WriterSettings
from tests.evidence.conftest import KEY, Note, checked, lines, write


def decoded(folder):
    return [Line.decode(line) for line in lines(folder)]


def test_every_file_begins_with_its_number_and_repeats_the_run(log):
    for number in file_numbers(log):
        found = [Line.decode(line) for line in (log / file_name(number)).read_bytes().splitlines()]
        assert (found[0].kind, found[0].record["file"]) == ("file", number)
        notes = [line for line in found if line.kind == "note"]
        run = notes[0]
        assert run.record == {"text": "run"}
        assert {line.run for line in notes} == {run.number}


def test_checkpoints_come_every_so_many_lines_and_at_the_end(log):
    kinds = [line.kind for line in decoded(log)]
    assert kinds[-1] == "checkpoint"
    assert kinds.count("checkpoint") == 6  # 30 notes; the end adds none


def test_a_new_file_begins_after_some_days(tmp_path):
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for days in (0, 20, 31, 40, 62):
        writer = ChainWriter(tmp_path, clock=lambda days=days: now + timedelta(days=days))
        writer.append(Note(text=str(days)))
        writer.close()
    texts = [
        [Line.decode(line).record.get("text") for line in (tmp_path / file_name(n)).read_bytes().splitlines()[1:]]
        for n in file_numbers(tmp_path)
    ]
    assert texts == [["0", "20"], ["31", "40"], ["62"]]


def test_a_clock_that_goes_back_begins_no_file(tmp_path):
    write(tmp_path, 1)
    writer = ChainWriter(tmp_path, clock=lambda: datetime(2001, 1, 1, tzinfo=timezone.utc))
    writer.append(Note(text="old"))
    writer.close()
    assert file_numbers(tmp_path) == [1]
    assert decoded(tmp_path)[-1].time == "2001-01-01T00:00:00.000Z"
    assert checked(tmp_path).intact


def test_several_writers_and_threads_make_one_chain(tmp_path):
    writers = [
        ChainWriter(tmp_path, key=KEY, run=Note(text=f"run {k}"), settings=WriterSettings(file_bytes=3000))
        for k in range(3)
    ]
    heads = []

    def work(writer, name):
        for k in range(15):
            heads.append(writer.append(Note(text=f"{name} {k}")))

    threads = [threading.Thread(target=work, args=(w, f"{k}-{t}")) for k, w in enumerate(writers) for t in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for writer in writers:
        writer.close()
    result = checked(tmp_path, expected=heads)
    assert result.intact, result.problem
    assert len({head.number for head in heads}) == 90
    by_number = {line.number: line for line in decoded(tmp_path)}
    for line in by_number.values():
        if line.kind == "note" and not line.record["text"].startswith("run"):
            assert by_number[line.run].record["text"] == f"run {line.record['text'][0]}"


def test_a_forked_child_goes_on_with_files_of_its_own(tmp_path):
    writer = ChainWriter(tmp_path, run=Note(text="run"))
    writer.append(Note(text="parent"))
    child = os.fork()
    if child == 0:
        try:
            writer.append(Note(text="child"))
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    writer.append(Note(text="parent again"))
    writer.close()
    assert [line.record.get("text") for line in decoded(tmp_path)][1:] == [
        "run",
        "parent",
        "run",
        "child",
        "parent again",
    ]
    assert checked(tmp_path, expected=[writer.head]).problem.damage == "signature"  # there is no checkpoint
    writer.abandon()


@pytest.mark.parametrize("torn", [b"{", b'{"number":5,"previous":"0', b"\0" * 5000])
def test_an_incomplete_line_is_moved_aside_and_a_line_says_so(log, torn):
    path, count = log / file_name(file_numbers(log)[-1]), len(lines(log))
    with path.open("ab") as file:
        file.write(torn)
    result = checked(log)
    assert result.intact
    assert result.notes[0].startswith(f"the last line is incomplete ({len(torn)} bytes)")
    write(log, 1)
    result = checked(log)
    assert result.intact
    assert f"{len(torn)} bytes of a line that a killed writer left are in torn-{count + 1}.bin" in result.notes[0]
    assert (log / f"torn-{count + 1}.bin").read_bytes() == torn
    record = next(line for line in decoded(log) if line.kind == "recovered").record
    assert record["cut_bytes"] == len(torn)
    assert record["expected_number"] is None
    write(log, 1)
    assert len(checked(log).notes) == 1  # once


def test_a_writer_that_is_killed_while_it_recovers_loses_nothing(log, monkeypatch):
    path, count = log / file_name(file_numbers(log)[-1]), len(lines(log))
    with path.open("ab") as file:
        file.write(b"{first")
    writer = ChainWriter(log)  # moves it aside
    writer.abandon()  # killed before it writes a line
    with path.open("ab") as file:
        file.write(b"{second")  # the next one is killed while it does
    write(log, 1)
    assert (log / f"torn-{count + 1}.bin").read_bytes() == b"{first{second"
    assert checked(log).intact
    assert "13 bytes" in checked(log).notes[0]


@pytest.mark.parametrize("content", [b"", b'{"number":'])
def test_a_file_that_a_killed_writer_has_just_begun(log, content):
    last = file_numbers(log)[-1]
    (log / file_name(last + 1)).write_bytes(content)
    assert checked(log).intact
    write(log, 1)
    result = checked(log)
    assert result.intact, result.problem
    assert file_numbers(log)[-1] == last + 1
    assert bool(result.notes) is bool(content)


def test_a_recovery_in_a_new_file_is_noted_after_a_second_kill(log):
    last, count = file_numbers(log)[-1], len(lines(log))
    (log / file_name(last + 1)).write_bytes(b"{torn")
    writer = ChainWriter(log)
    with writer._exclusive():
        writer._begin_file()  # killed before the line that says so
    writer.abandon()
    write(log, 1)
    result = checked(log)
    assert result.intact
    assert f"torn-{count + 1}.bin" in result.notes[0]


def test_an_append_that_fails_leaves_no_half_line(log, monkeypatch):
    writer = ChainWriter(log, key=KEY)
    real = os.write

    def full(descriptor, data):
        if data.startswith(b'{"number"'):
            return real(descriptor, data[: len(data) // 2])
        return real(descriptor, data)

    before = lines(log)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"cannot be written .No space left on device.: free space, or give a folder"):
        writer.append(Note(text="lost"))
    monkeypatch.setattr(os, "write", real)
    assert lines(log) == before
    writer.append(Note(text="later"))
    writer.close()
    assert checked(log).intact
    assert checked(log).notes == []


def test_lines_are_on_the_disk_before_append_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writing, "sync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    writer = ChainWriter(tmp_path)
    for k in range(3):
        head = writer.append(Note(text=str(k)))
        assert synced[-1] == (tmp_path / file_name(1)).stat().st_size
        assert json.loads((tmp_path / "head.json").read_text())["number"] == head.number
    writer.close()


def test_with_sync_every_ten_the_head_is_behind_until_the_end(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(writing, "sync", lambda descriptor: synced.append(1))
    writer = ChainWriter(tmp_path, settings=WriterSettings(sync_every=10))
    for k in range(12):
        writer.append(Note(text=str(k)))
    assert len(synced) == 1
    assert "head.json is 2 lines behind: a writer was killed, or is at work" in checked(tmp_path).notes
    writer.close()
    assert len(synced) == 2
    writer.close()
    with pytest.raises(InputError, match="this evidence log is closed: open it again"):
        writer.append(Note(text="late"))


def test_a_head_that_is_behind_is_no_damage(log):
    path = log / "head.json"
    before = path.read_bytes()
    write(log, 3)
    path.write_bytes(before)
    assert checked(log).intact
    write(log, 1)
    assert checked(log).intact


def test_a_folder_that_is_damaged_is_not_written_to(log):
    path = log / "head.json"
    text = path.read_text()
    path.write_text("{")
    with pytest.raises(
        OutputError, match=r"head.json is damaged .*keep the folder as it is for `cxr-edge audit verify`"
    ):
        ChainWriter(log)
    path.unlink()
    with pytest.raises(OutputError, match=r"has an evidence log without head.json"):
        ChainWriter(log)
    path.write_text(text)
    with (log / file_name(file_numbers(log)[-1])).open("ab") as file:
        file.write(b"nonsense\n")
    with pytest.raises(OutputError, match=r"is damaged .its last line: the whole must be JSON in UTF-8"):
        ChainWriter(log)


def test_a_folder_that_cannot_be_made_or_locked(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        ChainWriter(tmp_path / "file" / "log")

    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with pytest.raises(OutputError, match=r"cannot be locked .Operation not supported., and two programs that write"):
        ChainWriter(tmp_path / "log")


@pytest.mark.parametrize("name", ["sync_every", "checkpoint_every", "file_bytes", "file_days"])
@pytest.mark.parametrize("value", [0, True, 1.5])
def test_settings_out_of_range(name, value):
    with pytest.raises(InputError, match=f"{name} of an evidence log is a whole number of 1 or more"):
        WriterSettings(**{name: value})
