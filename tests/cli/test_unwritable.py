"""Results that cannot be written: one line on stderr and status 4, for every output format and command."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_edge.cli import main

PROGRAM = [sys.executable, "-c", "import sys; from cxr_edge.cli import main; sys.exit(main())"]
FORMS = [[], ["--csv"], ["--json"]]
FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


def assert_one_line(done, status=4):
    """Check that the process printed one line and ended with the status; return the line."""
    assert done.returncode == status, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("measuring", "  ", "building"))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("cxr-edge: the results could not be written to ")
    return lines[0]


def run(arguments, stdout, **options):
    return subprocess.run(
        [*PROGRAM, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, **options
    )


@needs_full
@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_gives_4(built, images, form):
    with FULL.open("w") as full:
        assert "No space left on device" in assert_one_line(run(["screen", str(images), *form, *built], full))


@needs_full
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_gives_4_for_other_commands(built, toy_bundle, unbuffered):
    few = ["--warmup", "1", "--iterations", "1", "--image-px", "64"]
    commands = [
        ["bench", *built, *few],
        ["bench", *built, *few, "--json"],
        ["inspect", str(toy_bundle)],
        ["--help"],
        ["--version"],
    ]
    for command in commands:
        with FULL.open("w") as full:
            assert_one_line(run(command, full, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}))


@needs_full
def test_a_full_disk_gives_4_for_a_build(toy_bundle, tmp_path):
    command = ["build-engine", str(toy_bundle), "--engines", str(tmp_path), "--precision", "fp32", "--json"]
    with FULL.open("w") as full:
        done = run(command, full)
    assert done.returncode == 4
    assert done.stderr.endswith("standard output: No space left on device\n")
    assert "Traceback" not in done.stderr


def test_a_closed_output_is_reported_before_the_work_starts(built, images, toy_bundle, tmp_path):
    page = tmp_path / "page.html"
    commands = [
        *(["screen", str(images), *form, "--html", str(page), *built] for form in FORMS),
        ["inspect", str(toy_bundle)],
    ]
    for command in commands:
        done = run(command, None, preexec_fn=lambda: os.close(1))
        assert assert_one_line(done).endswith("standard output: it is closed")
    assert not page.exists()


@pytest.mark.parametrize("form", FORMS)
def test_a_closed_pipe_gives_4(built, images, form):
    read, write = os.pipe()
    os.close(read)
    done = run(["screen", str(images), *form, *built], write)
    os.close(write)
    assert "Broken pipe" in assert_one_line(done)


def test_closed_standard_error_does_not_affect_the_results(built, images):
    (images / "notes.txt").write_text("")
    for i in range(3, 10):  # enough for a progress bar
        shutil.copy(images / "0.png", images / f"{i}.png")
    done = run(["screen", str(images), "--json", "--html", str(images / "page.html"), *built], subprocess.PIPE,
               preexec_fn=lambda: os.close(2))  # fmt: skip
    assert done.returncode == 0
    assert len(json.loads(done.stdout)["results"]) == 10


@needs_full
def test_messages_that_cannot_be_written_are_dropped(built, images):
    (images / "notes.txt").write_text("")
    with FULL.open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "screen", str(images), *built], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert done.returncode == 0
    assert "3 screened, 0 failed" in done.stdout


def limit_file_size():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))


def test_reports_that_cannot_be_written_leave_the_old_ones_and_no_temporary_files(built, images, tmp_path):
    page, maps = tmp_path / "out" / "page.html", tmp_path / "out" / "maps"
    page.parent.mkdir()
    page.write_text("the old one")
    for option in (["--html", str(page)], ["--heatmap", str(maps)]):
        done = run(["screen", str(images), *option, *built], subprocess.DEVNULL, preexec_fn=limit_file_size)
        assert "File too large" in assert_one_line(done)
    assert page.read_text() == "the old one"
    assert sorted(p.relative_to(page.parent).as_posix() for p in page.parent.rglob("*")) == ["maps", "page.html"]


def test_a_page_is_not_finished_if_the_results_could_not_be_written(built, images, tmp_path):
    page = tmp_path / "out" / "page.html"
    read, write = os.pipe()
    os.close(read)
    assert_one_line(
        run(["screen", str(images), "--html", str(page), *built], write, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    )
    os.close(write)
    assert list(page.parent.iterdir()) == []


def test_report_paths_of_the_wrong_kind_are_rejected_before_the_work_starts(images, tmp_path, capsys):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    targets = [
        ("--html", tmp_path),
        ("--html", "/dev/null"),
        ("--html", tmp_path / "fifo"),
        ("--heatmap", tmp_path / "file"),
    ]
    for option, target in targets:
        assert main(["screen", str(images), option, str(target), "--bundle", "nowhere"]) == 2
        assert f"{target}" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--html", "--heatmap", "--log"])
def test_report_paths_that_cannot_be_written_give_4_before_any_result(built, images, tmp_path, capsys, option):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    bad = [tmp_path / "file" / "inside", Path("/proc/none/inside"), *([tmp_path / "fifo"] if option == "--log" else [])]
    for path in bad:
        assert main(["screen", str(images), option, str(path), *built]) == 4
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("cxr-edge: ")
        assert str(path) in captured.err


def test_a_page_is_written_through_a_link(built, images, tmp_path, capsys):
    (tmp_path / "link.html").symlink_to(tmp_path / "real.html")
    assert main(["screen", str(images), "--html", str(tmp_path / "link.html"), *built]) == 0
    assert (tmp_path / "link.html").is_symlink()
    assert "3 screened, 0 failed" in (tmp_path / "real.html").read_text()
