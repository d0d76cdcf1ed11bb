"""Report files that are complete or absent, and what killed processes leave."""

import fcntl
import os
import subprocess
import sys

import pytest

from cxr_edge.report import unfinished
from cxr_edge.report.unfinished import UnfinishedFile, clear_unfinished

KILLED = """
import os, pathlib, signal, sys
from cxr_edge.report.unfinished import UnfinishedFile
file = UnfinishedFile(pathlib.Path(sys.argv[1]))
file.write(b"x" * 100_000)
os.kill(os.getpid(), signal.SIGKILL)
"""


def hidden(folder):
    return [p for p in folder.iterdir() if p.name.startswith(".")]


def test_the_target_appears_whole(tmp_path):
    target = tmp_path / "page"
    target.write_bytes(b"the old one")
    file = UnfinishedFile(target)
    file.write(b"new")
    assert target.read_bytes() == b"the old one"
    file.finish()
    file.discard()
    assert target.read_bytes() == b"new"
    assert hidden(tmp_path) == []


def test_files_of_killed_processes_are_cleared_and_those_of_living_ones_stay(tmp_path):
    target = tmp_path / "page"
    subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    (dead,) = hidden(tmp_path)
    living = UnfinishedFile(target)
    (tmp_path / ".cxr-edge-notes").write_text("of the user")
    clear_unfinished(tmp_path)
    assert not dead.exists()
    assert len(hidden(tmp_path)) == 2
    living.finish()
    assert [p.name for p in hidden(tmp_path)] == [".cxr-edge-notes"]


def test_a_file_that_another_process_cleared_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    lock, made = fcntl.flock, []

    def clear_first(file, operation):
        if not made:
            made.append(hidden(tmp_path)[0].name)
            os.unlink(tmp_path / made[0])
        lock(file, operation)

    monkeypatch.setattr(unfinished.fcntl, "flock", clear_first)
    file = UnfinishedFile(tmp_path / "page")
    file.finish()
    assert (tmp_path / "page").exists()
    assert made


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(unfinished.fcntl, "flock", unsupported)
    file = UnfinishedFile(tmp_path / "page")
    clear_unfinished(tmp_path)
    file.finish()
    assert (tmp_path / "page").exists()


def test_nothing_can_be_cleared_in_a_folder_that_is_missing(tmp_path):
    clear_unfinished(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        UnfinishedFile(tmp_path / "missing" / "page")
