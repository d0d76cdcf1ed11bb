"""`cxr-edge screen` in a pipeline: an image on standard input, lists of files, JSON lines as they are known."""

import csv
import io
import json
import os
import subprocess
import sys
import threading

import pytest

from cxr_edge.cli import main
from tests.builders.dicom_files import dataset, file_bytes, xray_pixels

PROGRAM = [sys.executable, "-c", "import sys; from cxr_edge.cli import main; sys.exit(main())"]


def run(arguments, data=b"", **options):
    return subprocess.run([*PROGRAM, *map(str, arguments)], input=data, capture_output=True, check=False, **options)


def lines(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_json_line_is_an_entry_of_the_json_document_with_its_run(built, images, capsys):
    (images / "bad.png").write_bytes(b"no image")
    assert main(["screen", str(images), "missing.png", "--json", *built]) == 1
    document = json.loads(capsys.readouterr().out)
    assert main(["screen", str(images), "missing.png", "--jsonl", *built]) == 1
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(found) == 5
    for line, result in zip(found, document["results"], strict=True):
        run_of_line = line.pop("run")
        assert run_of_line.keys() == document["run"].keys()
        assert (run_of_line["digest"], run_of_line["engines"]) == (
            document["run"]["digest"],
            document["run"]["engines"],
        )
        for timed in (line, result):
            timed.pop("times_ms", None)
        assert line == result


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_line_is_written_before_the_next_name_comes(built, images, threads):
    """Names and results go back and forth, which a buffer on the way would stop for ever."""
    command = [*PROGRAM, "screen", "--files-from", "-", "--jsonl", "--threads", threads, *built]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        for name in ("0.png", "missing.png", "2.png"):
            process.stdin.write(f"{images / name}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["source"] == str(images / name)
        process.stdin.close()
        assert process.stdout.read() == b""
        watchdog.cancel()
    assert process.returncode == 1


def test_an_image_on_standard_input_beside_files(built, images):
    done = run(["screen", images / "1.png", "-", images / "2.png", "--jsonl", *built], (images / "0.png").read_bytes())
    assert done.returncode == 0
    assert [r["source"] for r in lines(done)] == [str(images / "1.png"), "-", str(images / "2.png")]
    (named,) = lines(run(["screen", images / "0.png", "--jsonl", *built]))
    assert lines(done)[1]["sha256"] == named["sha256"]
    assert lines(done)[1]["probabilities"] == named["probabilities"]


def test_a_dicom_file_on_standard_input_with_page_and_picture(built, tmp_path):
    data = file_bytes(dataset(xray_pixels()))
    page, maps = tmp_path / "page.html", tmp_path / "maps"
    done = run(["screen", "-", "--html", page, "--heatmap", maps, *built], data)
    assert done.returncode == 0, done.stderr
    assert "<h2>-</h2>" in page.read_text()
    assert [p.name for p in maps.iterdir()] == ["00001--.png"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "standard input is empty or closed"),
        (b"no image", "the content is not an image"),
        (b"x" * ((64 << 20) + 80_001), "too large for an image of at most 10,000 pixels"),
    ],
)
def test_a_bad_standard_input_is_a_row(built, data, reason):
    done = run(["screen", "-", "--jsonl", "--max-pixels", "10000", *built], data)
    assert done.returncode == 1
    (row,) = lines(done)
    assert row["source"] == "-"
    assert row["error"].startswith(reason)


def test_a_closed_standard_input_is_a_row(built):
    done = subprocess.run([*PROGRAM, "screen", "-", "--jsonl", *built], capture_output=True, check=False,
                          preexec_fn=lambda: os.close(0))  # fmt: skip
    assert (done.returncode, lines(done)[0]["error"][:28]) == (1, "standard input is empty or c")


@pytest.mark.parametrize("arguments", [["-", "-"], ["-", "--files-from", "-"]])
def test_standard_input_is_read_once(arguments, capsys):
    assert main(["screen", *arguments]) == 2
    assert "standard input can be read once" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-"], ["--files-from", "-"]])
def test_a_terminal_is_not_waited_for(arguments):
    ours, theirs = os.openpty()
    done = subprocess.run([*PROGRAM, "screen", *arguments], stdin=theirs, capture_output=True, check=False)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert b"standard input is a terminal" in done.stderr


@pytest.mark.parametrize(
    "form", [b"%s\n%s\n", b"%s\n%s", b"\n\n%s\r\n\r\n%s\r\n", b"%s\0%s\0", b"%s\0\0%s", b"\xef\xbb\xbf%s\n%s\n"]
)
def test_forms_of_a_list(built, images, form):
    done = run(["screen", "--files-from", "-", "--jsonl", *built], form % (b"2.png", b"0.png"), cwd=images)
    assert done.returncode == 0, done.stderr
    assert [r["source"] for r in lines(done)] == ["2.png", "0.png"]


def test_names_of_a_list_are_literal_and_of_any_bytes(built, images, tmp_path):
    names = [b"m\xfcller.png", b"[0].png", b"-", b"=a b\n.png", b"missing*.png", b"", b"folder"]
    for name in names[:4]:
        (images / os.fsdecode(name)).write_bytes((images / "0.png").read_bytes())
    (images / "folder").mkdir()
    list_ = tmp_path / "list"
    list_.write_bytes(b"\0".join(names))
    done = run(["screen", "--files-from", list_, "--jsonl", *built], cwd=images)
    assert done.returncode == 1
    found = lines(done)
    assert [r["source"] for r in found] == [r"m\xfcller.png", "[0].png", "-", "=a b\n.png", "missing*.png", "folder"]
    assert ["error" in r for r in found] == [False] * 4 + [True] * 2
    assert "this is a folder" in found[5]["error"]


def test_a_list_follows_the_paths(built, images, tmp_path):
    list_ = tmp_path / "list"
    list_.write_text(f"{images / '0.png'}\n")
    done = run(["screen", images / "2.png", "--files-from", list_, "--csv", *built])
    rows = list(csv.DictReader(io.StringIO(done.stdout.decode())))
    assert [r["source"] for r in rows] == [str(images / "2.png"), str(images / "0.png")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the list has no file name"),
        (b"\r\n\n", "the list has no file name"),
        (b"\0\0", "the list has no file name"),
        ("a.png\n".encode("utf-16"), "the list is UTF-16: save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "this is a PNG file, expected a list of file names"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01", "this is a JPEG file, expected a list of file names"),
        (b"\0" * 128 + b"DICM\x02\0\0\0UL\x04\0", "this is a DICOM file, expected a list of file names"),
        (b"x" * (1 << 20) + b"y", "this is no list of file names"),
        (None, "the list cannot be read (No such file or directory)"),
    ],
)
def test_a_list_that_cannot_be_used(tmp_path, capsys, content, message):
    list_ = tmp_path / "list"
    if content is not None:
        list_.write_bytes(content)
    assert main(["screen", "--files-from", str(list_)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"cxr-edge: {list_}: ")
    assert message in captured.err
    assert captured.out == ""


def test_an_empty_list_beside_paths_is_a_row(built, images, tmp_path):
    list_ = tmp_path / "list"
    list_.write_text("\n")
    done = run(["screen", images / "0.png", "--files-from", list_, "--jsonl", *built])
    assert done.returncode == 1
    assert [r.get("error", "")[:26] for r in lines(done)] == ["", "the list has no file name:"]


def test_a_list_that_breaks_off_ends_in_a_row(built, images, tmp_path):
    list_ = tmp_path / "list"
    list_.write_bytes(f"{images / '0.png'}\n".encode() + b"x" * ((1 << 20) + 70_000))
    done = run(["screen", "--files-from", list_, "--json", *built])
    assert done.returncode == 1
    results = json.loads(done.stdout)["results"]
    assert [r["source"] for r in results] == [str(images / "0.png"), str(list_)]
    assert results[1]["error"] == "a name of over a million bytes: this is no list of file names"


def test_a_named_pipe_may_be_the_list(built, images, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_text, args=(f"{images / '0.png'}\n",))
    writer.start()
    done = run(["screen", "--files-from", tmp_path / "fifo", "--jsonl", *built])
    writer.join()
    assert [r["source"] for r in lines(done)] == [str(images / "0.png")]


def test_forms_of_output_exclude_each_other_and_something_must_be_given(capsys):
    for arguments in (["x", "--json", "--jsonl"], ["x", "--csv", "--jsonl"], ["--jsonl"], ["x", "--files-from", ""]):
        with pytest.raises(SystemExit) as stop:
            main(["screen", *arguments])
        assert stop.value.code == 2
    assert "expected at least one PATH, or --files-from FILE" in capsys.readouterr().err
