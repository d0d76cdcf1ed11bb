"""One build at a time in a folder; what is left by builds that are killed, stopped, or find the disk full."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from cxr_edge.compiler import build_lock as module
from cxr_edge.compiler.build_lock import build_lock, mark_owner, uninterrupted
from cxr_edge.compiler.store import PendingFiles, scratch_folder
from cxr_edge.errors import BackendError, OutputError

HOLDER = """
import pathlib, sys
from cxr_edge.compiler.build_lock import build_lock
from cxr_edge.compiler.store import scratch_folder
root = pathlib.Path(sys.argv[1])
with build_lock(root, print), scratch_folder(root / "backend") as scratch:
    (scratch / "half.onnx").write_text("x")
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that builds in tmp_path until its input ends."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def wait_for_the_lock(folder, release):
    """Take the lock in a thread; call `release` once it waits. Returns what it printed."""
    said, waiting = [], threading.Event()

    def say(text):
        said.append(text)
        waiting.set()

    def build():
        with build_lock(folder, say):
            said.append("built")
            waiting.set()

    thread = threading.Thread(target=build)
    thread.start()
    assert waiting.wait(60)
    before = list(said)
    release()
    thread.join(60)
    return before, said


def test_the_second_build_waits_and_says_for_whom(tmp_path, holder):
    before, said = wait_for_the_lock(tmp_path, holder.stdin.close)
    assert len(before) == 1
    assert before[0].startswith(f"waiting for another build in {tmp_path}: process {holder.pid} on ")
    assert said[1:] == ["built"]
    assert list((tmp_path / "backend").iterdir()) == []


def test_a_killed_build_has_no_lock_and_its_scratch_folder_is_cleared(tmp_path, holder):
    (scratch,) = (tmp_path / "backend").iterdir()
    (tmp_path / ".building-old").mkdir()
    (tmp_path / "backend" / "net.onnx").write_text("an engine")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert scratch.exists()
    with build_lock(tmp_path, print):
        assert [p.name for p in tmp_path.iterdir()] == ["backend"]
        assert [p.name for p in (tmp_path / "backend").iterdir()] == ["net.onnx"]


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    (tmp_path / ".building-of-someone").mkdir()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    with build_lock(tmp_path, print):
        assert (tmp_path / ".building-of-someone").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = "engines cannot be written into .*: give a folder that can be written"
    with pytest.raises(BackendError, match=message), build_lock(tmp_path / "file" / "engines", print):
        pass


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        (False, False, "{} has no engines yet"),
        (True, False, "the engines in {} are those of before"),
        (True, True, "the engines in {} are those of this build, complete"),
        (False, True, "the engines in {} are those of this build, complete"),
    ],
)
@pytest.mark.parametrize("name", ["backend/build.json", "net.fp32.json"])
def test_a_stopped_build_says_what_is_left(tmp_path, capsys, name, old, new, left):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if old:
        file.write_text("old")

    def build():
        with build_lock(tmp_path, print), scratch_folder(tmp_path / "backend") as scratch:
            (tmp_path / "ranges").mkdir()
            (tmp_path / "ranges" / "net.json").write_text("measured ranges are no engine")
            if new:
                (scratch / "file").write_text("new one")
                PendingFiles(folder=tmp_path, scratch=scratch, moved={name: scratch / "file"}).place()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert capsys.readouterr().out == f"the build was stopped: {left.format(tmp_path)}\n"


def test_a_full_disk_is_an_output_error(tmp_path):
    message = r"could not be written to .*, or files of the build .* \(No space left on device\): .* has no engines yet"
    with pytest.raises(OutputError, match=message), build_lock(tmp_path, print):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), build_lock(tmp_path, print):
        raise PermissionError(errno.EACCES, "Permission denied", "an image")


def test_signals_are_held_back_while_files_are_moved(tmp_path):
    order = []
    previous = signal.signal(signal.SIGTERM, lambda *_: order.append("handled"))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            order.append("moved")
        order.append("after")
        assert signal.getsignal(signal.SIGTERM) is not previous
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert order == ["moved", "handled", "after"]


def test_signals_are_left_alone_in_other_threads_and_where_they_are_ignored():
    def in_thread():
        with uninterrupted():
            pass

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_nothing_is_moved_before_all_is_written_and_removed_before_all_is_moved(tmp_path, monkeypatch):
    scratch, folder = tmp_path / ".building-x", tmp_path
    scratch.mkdir()
    for name in ("a", "b"):
        (scratch / name).write_text("new")
        (folder / f"old-{name}").write_text("old")
    files = PendingFiles(
        folder=folder, scratch=scratch, moved={n: scratch / n for n in "ab"}, removed=["old-a", "old-b"]
    )
    (scratch / "b").unlink()
    with pytest.raises(FileNotFoundError):
        files.place()
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["old-a", "old-b"]
    (scratch / "b").write_text("new")
    files.place()
    assert sorted(p.name for p in folder.iterdir() if p.is_file()) == ["a", "b"]


def test_the_owner_of_a_scratch_folder_is_one_safe_line(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="host\x1b[2J"))
    (tmp_path / ".building-x").mkdir()
    mark_owner(tmp_path / ".building-x")
    owner = module._owner(tmp_path)
    assert owner.startswith(f"process {os.getpid()} on host\\x1b[2J, since ")
    assert module._owner(tmp_path / "none") == "it has just begun"
