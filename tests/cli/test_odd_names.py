"""`cxr-edge screen` on files with unusual names, in any locale."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from cxr_edge.cli import main

LATIN_1 = b"m\xfcller.png"
UTF_8 = "thörax.png"
UNSAFE = "\x1b[2J\u202e\n.png"
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = [ASCII_LOCALE, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C.UTF-8"}]


@pytest.fixture
def oddly_named(images):
    for i, name in enumerate((LATIN_1, UTF_8.encode(), UNSAFE.encode())):
        os.rename(images / f"{i}.png", os.fsencode(images) + b"/" + name)
    (images / "skipped\x1b.csv").write_text("")
    return images


def run_in_child(arguments, **environment):
    program = "import sys; from cxr_edge.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], env={**os.environ, **environment}, capture_output=True, check=False
    )


def is_printable(data):
    text = data.decode("utf-8")
    return [c for c in text if not c.isprintable() and c != "\n"] == []


@pytest.mark.parametrize("locale", LOCALES, ids=["ascii", "ascii-stdout", "utf-8"])
def test_json_round_trips_every_name(built, oddly_named, locale):
    done = run_in_child(["screen", str(oddly_named), "--json", *built], **locale)
    assert done.returncode == 0, done.stderr
    assert is_printable(done.stdout)
    document = json.loads(done.stdout)
    found = {}
    for result in document["results"]:
        shown = Path(result["source"]).name
        found[shown] = unquote_to_bytes(result["source_bytes"]) if "source_bytes" in result else None
    assert found.pop(r"m\xfcller.png") == os.fsencode(oddly_named) + b"/" + LATIN_1
    assert set(found) == {UTF_8, UNSAFE} or set(found) == {r"th\xc3\xb6rax.png", UNSAFE}
    assert found[UNSAFE] is None or found[UNSAFE] == os.fsencode(oddly_named / UNSAFE)
    assert document["skipped"] == [str(oddly_named / "skipped\x1b.csv")]


@pytest.mark.parametrize("locale", LOCALES, ids=["ascii", "ascii-stdout", "utf-8"])
@pytest.mark.parametrize("form", [[], ["--csv"]], ids=["text", "csv"])
def test_text_and_csv_show_every_name(built, oddly_named, form, locale):
    done = run_in_child(["screen", str(oddly_named), *form, *built], **locale)
    assert done.returncode == 0, done.stderr
    assert is_printable(done.stdout)
    assert is_printable(done.stderr)
    assert b"/m\\xfcller.png" in done.stdout
    assert rb"/\x1b[2J\u202e\x0a.png" in done.stdout
    assert rb"skipped\x1b.csv: not an image file name" in done.stderr
    if not form:
        assert ("█" if "LC_ALL" in locale and locale is not ASCII_LOCALE else "####").encode() in done.stdout


def test_html_and_overlays_are_written_for_every_name(built, oddly_named, tmp_path, capsys):
    page, maps = tmp_path / "r\udcfc.html", tmp_path / "maps\x1b"
    assert main(["screen", str(oddly_named), "--html", str(page), "--heatmap", str(maps), *built]) == 0
    assert r"m\xfcller.png</h2>" in page.read_text(encoding="utf-8")
    written = {os.fsencode(p.name)[6:] for p in maps.iterdir()}
    assert written == {LATIN_1 + b".png", UTF_8.encode() + b".png", UNSAFE.encode() + b".png"}
    stderr = capsys.readouterr().err
    assert rf"written: {tmp_path}/r\xfc.html" in stderr
    assert rf"written: {tmp_path}/maps\x1b" in stderr


def test_messages_contain_no_escape_sequence(built, images, capsys):
    unsafe = "\x1b[2J\u202e"
    commands = [
        ["screen", str(images), "--bundle", unsafe],
        ["screen", f"{unsafe}*.png"],
        ["inspect", unsafe],
        ["build-engine", unsafe],
        ["screen", str(images), "--html", f"{images}/0.png/{unsafe}", *built],
    ]
    for command in commands:
        assert main(command) in (2, 3, 4)
        stderr = capsys.readouterr().err
        assert r"\x1b[2J\u202e" in stderr
        assert "\x1b" not in stderr
    with pytest.raises(SystemExit):
        main(["screen", "a.png", f"--{unsafe}"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_failing_file_with_an_unsafe_name_is_shown_safely(built, tmp_path, capsys):
    bad = tmp_path / UNSAFE
    bad.write_bytes(b"no image")
    for form in ([], ["--csv"], ["--json"]):
        assert main(["screen", str(bad), "closed/\x1b\udcfc.png", *form, *built]) == 1
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        rows = (
            json.loads(captured.out)["results"]
            if form == ["--json"]
            else list(csv.DictReader(io.StringIO(captured.out)))
        )
        if form:
            assert len(rows) == 2
            assert all(UNSAFE[:3] not in (row.get("error") or row.get("reason")) for row in rows)


def test_a_named_file_that_cannot_be_read_is_a_failed_row(built, images, capsys):
    paths = ["x" * 300, f"{images}/0.png/inside.png", "loop", "a\0b", str(images / "0.png")]
    (Path(images) / "loop").symlink_to("loop")
    paths[2] = str(images / "loop")
    assert main(["screen", *paths, "--json", *built]) == 1
    results = json.loads(capsys.readouterr().out)["results"]
    assert ["error" in r for r in results] == [True, True, True, True, False]
    assert not any("internal error" in r.get("error", "") for r in results)


def test_an_empty_path_is_rejected(images, built, capsys):
    assert main(["screen", "", *built]) == 2
    assert "an empty PATH" in capsys.readouterr().err
    for option in ("--html", "--heatmap", "--log", "--bundle", "--engines", "--files-from"):
        with pytest.raises(SystemExit) as stop:
            main(["screen", str(images), option, ""])
        assert stop.value.code == 2
        assert "is a shell variable unset?" in capsys.readouterr().err


def test_skipped_files_are_listed_up_to_a_limit(built, images, capsys):
    for i in range(23):
        (images / f"{i:02d}.csv").write_text("")
    (images / ".hidden").write_text("")
    assert main(["screen", str(images), *built]) == 0
    stderr = capsys.readouterr().err
    assert stderr.count("not an image file name") == 20
    assert "23 files or folders skipped:" in stderr
    assert "and 3 more, listed with --json or --html" in stderr
    assert "1 hidden files or folders skipped" in stderr
    assert main(["screen", str(images), "--json", *built]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["skipped"]) == len(document["skipped_reasons"]) == 23
    assert document["hidden"] == 1


@pytest.mark.parametrize("locale", LOCALES, ids=["ascii", "ascii-stdout", "utf-8"])
def test_a_bundle_in_a_folder_of_any_name(toy_bundle, images, tmp_path, locale):
    """Every command, from the build to the screening: ONNX Runtime and OpenCV open no file whose name is not UTF-8."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/b\xfcndel \x1b[2J")
    shutil.copytree(toy_bundle, folder)
    commands = [
        ["build-engine", folder, "--precision", "fp32", "--json"],
        ["inspect", folder, "--json"],
        ["bench", "--bundle", folder, "--json", "--warmup", "1", "--iterations", "1", "--image-px", "64"],
        ["screen", str(images), "--bundle", folder, "--json"],
    ]
    for command in commands:
        done = run_in_child(command, **locale)
        assert done.returncode == 0, done.stderr
        text = json.dumps(json.loads(done.stdout), ensure_ascii=False)
        text.encode("utf-8")  # no lone surrogate, which other languages reject
        assert is_printable(done.stderr)
    shutil.rmtree(folder)


def test_a_network_of_any_name(toy_bundle, tmp_path):
    network = os.fsdecode(os.fsencode(tmp_path) + b"/n\xfc.onnx")
    shutil.copy(toy_bundle / "plain.onnx", network)
    manifest = json.loads((toy_bundle / "manifest.json").read_text())
    spec = next(m["preprocess"] for m in manifest["members"] if m["name"] == "plain")
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    done = run_in_child(
        ["build-engine", network, "--spec", str(tmp_path / "spec.json"), "--precision", "fp32", "--json"]
    )
    assert done.returncode == 0, done.stderr
    assert sorted(os.fsencode(p.name) for p in (tmp_path / "engines").iterdir()) == [
        b"n\xfc.fp32.json",
        b"n\xfc.fp32.onnx",
    ]
