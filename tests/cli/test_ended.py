"""Runs that a signal ends: their status, what they print and what they leave; builds side by side."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from cxr_edge.cli import main

# A process that was started in the background, or by nohup, hands ignored signals on to its children.
DEFAULT_SIGNALS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""

PROGRAM = "import sys; from cxr_edge.cli import main; sys.exit(main())"

# The process ends itself at the second file.
AT_THE_SECOND_FILE = """
import os, signal, sys
from cxr_edge.screening import screener
decode, seen = screener.decode, []
def ending(path, **options):
    seen.append(path)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.{signal})
    return decode(path, **options)
screener.decode = ending
"""

# The process ends itself before the engines are moved into place, or between two of them.
BEFORE_THE_FILES_ARE_MOVED = """
import os, signal
from cxr_edge.compiler import store
write = store.write_build_record
def ending(*values):
    write(*values)
    os.kill(os.getpid(), signal.{signal})
store.write_build_record = ending
"""
WHILE_FILES_ARE_MOVED = """
import os, signal
from cxr_edge.compiler import store
class Os:
    def __getattr__(self, name):
        return getattr(os, name)
    def replace(self, *names):
        os.replace(*names)
        os.kill(os.getpid(), signal.{signal})
store.os = Os()
"""


def run(arguments, *, program="", **options):
    command = [sys.executable, "-c", DEFAULT_SIGNALS + program + PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_an_ended_screening_leaves_no_unfinished_file(built, images, tmp_path, name, status):
    page = tmp_path / "out" / "page.html"
    program = AT_THE_SECOND_FILE.format(signal=name)
    done = run(
        ["screen", images, "--html", page, "--heatmap", page.parent, "--jsonl", "--threads", "1", *built],
        program=program,
    )
    assert done.returncode == status, done.stderr
    message = "interrupted" if name == "SIGINT" else f"ended by {name}"
    assert done.stderr == f"cxr-edge: {message}\n"
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == [str(images / "0.png")]
    assert [p.name for p in page.parent.iterdir()] == ["00001-0.png.png"]


def test_an_ignored_signal_stays_ignored(built, images):
    program = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + AT_THE_SECOND_FILE.format(signal="SIGHUP")
    done = run(["screen", images, "--csv", *built], program=program)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_the_callers_handlers_are_restored(built, images, capsys):
    import signal

    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)]
    assert main(["screen", str(images), *built]) == 0
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)] == before
    capsys.readouterr()


@pytest.fixture
def earlier(built, tmp_path):
    """Return a copy of the engines, and the arguments of a build into it."""
    engines = shutil.copytree(built[3], tmp_path / "engines")
    return engines, ["build-engine", built[1], "--engines", str(engines), "--precision", "fp32", "--images", "7"]


def screens(built, engines, images):
    return main(["screen", str(images), *built[:2], "--engines", str(engines), "--csv"]) == 0


def images_of_the_build(engines):
    """Return the setting that tells the builds apart: 200 in the earlier one, 7 in the new one."""
    return json.loads((engines / "onnxruntime" / "build.json").read_text())["settings"]["images"]


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)])
def test_the_earlier_engines_stay_if_a_build_is_ended(built, earlier, images, capsys, name, status):
    engines, build = earlier
    done = run(build, program=BEFORE_THE_FILES_ARE_MOVED.format(signal=name))
    assert done.returncode == status
    if name != "SIGKILL":
        assert f"the build was stopped: the engines in {engines} are those of before\n" in done.stderr
        assert "Traceback" not in done.stderr
        assert not list(engines.rglob(".building-*"))
    assert images_of_the_build(engines) == 200
    assert screens(built, engines, images)
    assert main(build) == 0
    assert not list(engines.rglob(".building-*"))
    assert screens(built, engines, images)
    capsys.readouterr()


def test_a_signal_while_files_are_moved_waits_until_they_are(built, earlier, images, capsys):
    engines, build = earlier
    done = run(build, program=WHILE_FILES_ARE_MOVED.format(signal="SIGTERM"))
    assert done.returncode == 143
    assert f"the build was stopped: the engines in {engines} are those of this build, complete\n" in done.stderr
    assert images_of_the_build(engines) == 7
    assert screens(built, engines, images)
    capsys.readouterr()


def test_of_two_builds_into_one_folder_one_wins_whole(built, earlier, images, capsys):
    engines, build = earlier
    commands = [build, [*build[:-1], "9"]]
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, *c], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for c in commands
    ]
    messages = b"".join(p.communicate()[1] for p in running)
    assert [p.returncode for p in running] == [0, 0]
    assert messages.count(b"waiting for another build in ") <= 1
    assert screens(built, engines, images)
    assert images_of_the_build(engines) in (7, 9)
    assert (
        len(list((engines / "onnxruntime").iterdir())) == 12
    )  # four networks and the self-test, side-cars, build.json, measured.json
    capsys.readouterr()


def test_of_several_screenings_with_rebuild_one_builds(built, images, tmp_path):
    command = ["screen", str(images), *built[:2], "--engines", str(tmp_path / "new"), "--rebuild", "--csv"]
    running = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    outputs = [p.communicate() for p in running]
    assert [p.returncode for p in running] == [0, 0, 0]
    assert [len(out.splitlines()) for out, _ in outputs] == [4, 4, 4]
    assert sum(err.count(b"comparing this machine with the bundle's known answers") for _, err in outputs) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_anywhere_is_status_4(built, images, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/tmp/x\x1b")

    monkeypatch.setattr("cxr_edge.cli.screen.Bundle.open", full)
    assert main(["screen", str(images)]) == 4
    assert capsys.readouterr().err == (
        "cxr-edge: /tmp/x\\x1b could not be written (No space left on device): free space, or give other folders\n"
    )
