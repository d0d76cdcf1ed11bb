"""An unexpected exception fails one file, not the run."""

import json
from pathlib import Path

import pytest

from cxr_edge.cli import main, screen
from cxr_edge.report import html, overlay
from cxr_edge.screening import screener

FEW = ["--warmup", "1", "--iterations", "1"]


@pytest.fixture
def broken_decoder(monkeypatch):
    """Replace the decoder by one that fails for the file 1.png."""
    decode = screener.decode

    def defect(path, **options):
        if Path(path).name == "1.png":
            raise OverflowError("Python int too large to convert to C ssize_t")
        return decode(path, **options)

    monkeypatch.setattr(screener, "decode", defect)


@pytest.fixture
def broken_rendering(monkeypatch):
    """Replace the rendering of overlays by one that fails for the file 1.png."""
    for module in (html, overlay):

        def defect(image, screening, render=module.render_overlay):
            if Path(image.source).name == "1.png":
                raise MemoryError
            return render(image, screening)

        monkeypatch.setattr(module, "render_overlay", defect)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_file_fails_and_the_others_are_screened(built, images, broken_decoder, capsys, threads):
    assert main(["screen", str(images), "--json", "--threads", threads, *built]) == 1
    captured = capsys.readouterr()
    errors = [r.get("error", "") for r in json.loads(captured.out)["results"]]
    assert [e.split(";")[0] for e in errors] == [
        "",
        "internal error: OverflowError: Python int too large to convert to C ssize_t",
        "",
    ]
    assert "report it" in errors[1]
    assert "Traceback" not in captured.err
    assert "defect(path" not in captured.err


def test_the_traceback_is_written_where_requested(built, images, broken_decoder, capsys, tmp_path):
    log = tmp_path / "log.txt"
    assert main(["screen", str(images), "--verbose", "--log", str(log), *built]) == 1
    captured = capsys.readouterr()
    assert "1.png\n" in captured.err
    assert "in defect\n" in captured.err
    assert "in defect" not in captured.out
    first = log.read_text()
    assert "in defect\n" in first
    assert first.endswith("OverflowError: Python int too large to convert to C ssize_t\n")
    assert main(["screen", str(images), "--log", str(log), *built]) == 1
    assert log.read_text().startswith(first)
    assert log.read_text().count("in defect\n") == 2
    assert "in defect\n" not in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_that_cannot_be_written_gives_4(built, images, broken_decoder, capsys):
    assert main(["screen", str(images), "--log", "/dev/full", "--html", str(images / "page.html"), *built]) == 4
    assert "could not be written to /dev/full: No space left on device" in capsys.readouterr().err
    assert not list(images.glob("*page*"))
    assert not list(images.glob(".*"))


def test_an_unreadable_bundle_is_reported_in_one_sentence(images, monkeypatch, capsys):
    def deny(path):
        raise PermissionError(13, "Permission denied", "closed/\x1b")

    monkeypatch.setattr(screen.Bundle, "open", deny)
    assert main(["screen", str(images)]) == 3
    assert (
        capsys.readouterr().err
        == r"cxr-edge: closed/\x1b cannot be used (Permission denied): check the path and its permissions" + "\n"
    )


def test_an_image_that_cannot_be_rendered_fails_in_every_report(built, images, broken_rendering, capsys, tmp_path):
    page, maps = tmp_path / "page.html", tmp_path / "maps"
    assert main(["screen", str(images), "--csv", "--html", str(page), "--heatmap", str(maps), *built]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4
    assert "internal error: MemoryError;" in rows[2]
    assert "2 screened, 1 failed" in page.read_text()
    assert "internal error: MemoryError;" in page.read_text()
    assert sorted(p.name for p in maps.iterdir()) == ["00001-0.png.png", "00003-2.png.png"]


def test_bench_skips_the_file(built, images, broken_decoder, capsys, tmp_path):
    log = tmp_path / "log.txt"
    (images / "bad.png").write_bytes(b"no image")
    files = [str(images / f"{name}.png") for name in ("0", "1", "2", "bad")]
    assert main(["bench", *files, "--json", "--log", str(log), *FEW, *built]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["images"] == "2 given files"
    assert f"skipped: {images / '1.png'}: internal error: OverflowError" in captured.err
    assert f"skipped: {images / 'bad.png'}: " in captured.err
    assert "in defect" in log.read_text()
    assert main(["bench", files[1], *FEW, *built]) == 2
    assert "none of the given files can be screened" in capsys.readouterr().err


def test_the_minimum_side_is_an_option(built, images, capsys):
    assert main(["screen", str(images), "--min-side", "121", "--csv", *built]) == 1
    assert capsys.readouterr().out.count(",failed,") == 3
    assert main(["screen", str(images), "--min-side", "120", *built]) == 0
