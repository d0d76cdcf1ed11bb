"""`cxr-edge screen` and `bench` from the command line, on engines of a toy bundle."""

import csv
import io
import json

import cv2
import pytest

from cxr_edge.cli import main


def test_valid_files_give_0_and_one_screening_each(built, images, capsys):
    assert main(["screen", str(images), *built]) == 0
    out = capsys.readouterr().out
    assert out.count("  decision: ") == 3
    assert "3 screened, 0 failed" in out
    assert "Research use only" in out


def test_a_bad_file_is_a_failed_row_and_gives_1(built, images, capsys):
    (images / "bad.png").write_bytes(b"no image")
    (images / "notes.txt").write_text("skipped")
    assert main(["screen", str(images), "missing.png", "--json", *built]) == 1
    document = json.loads(capsys.readouterr().out)
    assert [("error" in r) for r in document["results"]] == [False, False, False, True, True]
    assert document["skipped"] == [str(images / "notes.txt")]
    assert document["skipped_reasons"] == ["not an image file name"]
    assert document["hidden"] == 0
    assert "skipped_bytes" not in document
    assert document["run"]["engines"].startswith("onnxruntime: ")


def test_csv_goes_to_stdout_and_messages_to_stderr(built, images, capsys):
    (images / "notes.txt").write_text("skipped")
    assert main(["screen", str(images), "--csv", *built]) == 0
    captured = capsys.readouterr()
    assert [r["status"] for r in csv.DictReader(io.StringIO(captured.out))] == ["ok"] * 3
    assert f"1 files or folders skipped:\n  {images / 'notes.txt'}: not an image file name\n" in captured.err


def test_one_and_two_threads_give_the_same_decisions(built, images, capsys):
    decisions = []
    for threads in ("1", "2"):
        main(["screen", str(images), "--json", "--threads", threads, *built])
        results = json.loads(capsys.readouterr().out)["results"]
        decisions.append([(r["source"], r["decision"]) for r in results])
    assert decisions[0] == decisions[1]


def test_html_and_heatmaps_are_written(built, images, tmp_path, capsys):
    page, maps = tmp_path / "report.html", tmp_path / "maps"
    assert main(["screen", str(images), "--html", str(page), "--heatmap", str(maps), "--note", "A note.", *built]) == 0
    assert "class activation map" in page.read_text()
    assert "A note." in page.read_text()
    assert len(list(maps.iterdir())) == 3
    stderr = capsys.readouterr().err
    assert f"written: {page}" in stderr
    assert f"written: {maps}" in stderr


def test_missing_engines_are_reported_with_the_build_command(toy_bundle, images, tmp_path, capsys):
    status = main(["screen", str(images), "--bundle", str(toy_bundle), "--engines", str(tmp_path / "none")])
    assert status == 3
    assert f"cxr-edge build-engine {toy_bundle}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["screen", "x.png", "--bundle", "nowhere"], 3, "there is no folder nowhere"),
        (["screen", "nowhere/*.png"], 2, "matches no file"),
    ],
)
def test_invalid_arguments_are_reported_in_one_sentence(arguments, status, message, capsys):
    assert main(arguments) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["screen"], ["screen", "x", "--threads", "0"], ["screen", "x", "--csv", "--json"]]
)
def test_usage_errors_give_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    capsys.readouterr()


def test_bench_prints_a_table_or_json(built, capsys):
    assert main(["bench", *built, "--warmup", "1", "--iterations", "3", "--image-px", "256"]) == 0
    assert "preprocess" in capsys.readouterr().out
    assert main(["bench", *built, "--warmup", "1", "--iterations", "3", "--image-px", "256", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["stages"]["total"]["n"] == 3
    assert report["stages"]["total"]["p50_ms"] >= report["stages"]["members"]["p50_ms"]
    assert report["environment"]["cores"] >= 1
    assert report["throughput"][0]["images_per_s"] > 0


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "9" * 5000, "\u0663", ""])
def test_a_number_that_is_none_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["screen", "x", f"--max-pixels={text}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "expected a whole number of 1 or more" in error
    assert len(error) < 200


def test_threads_are_shared_out_over_the_images(built, images, tmp_path, capsys):
    (tmp_path / "list").write_text(f"{images}/0.png")
    for arguments, shared in (
        (["0.png", "nothing*.png"], "images at a time: 1, threads for each: 2"),
        (["0.png", "1.png", "2.png"], "images at a time: 2, threads for each: 1"),
        (["--files-from", str(tmp_path / "list")], "images at a time: 2, threads for each: 1"),
    ):
        paths = [f"{images}/{a}" if a.endswith("png") else a for a in arguments]
        main(["screen", *paths, "--json", "--threads", "2", *built])
        assert shared in json.loads(capsys.readouterr().out)["run"]["machine"]


def test_bench_rejects_an_image_that_is_too_large(built, capsys):
    assert main(["bench", *built, "--image-px", "10001"]) == 2
    assert "--image-px 10001: an image has at most 100,000,000 pixels" in capsys.readouterr().err


def test_a_progress_bar_is_shown_only_on_a_terminal(built, images, capsys, monkeypatch):
    for i in range(3, 10):
        cv2.imwrite(str(images / f"{i}.png"), cv2.imread(str(images / "0.png")))
    main(["screen", str(images), *built])
    assert "10/10" not in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    main(["screen", str(images), *built])
    captured = capsys.readouterr()
    assert "/10 [" in captured.err
    assert "10 screened, 0 failed" in captured.out


def test_more_threads_than_the_machine_can_use_are_reduced(built, images, capsys, monkeypatch):
    monkeypatch.setattr("cxr_edge.cli.arguments.thread_limit", lambda: 4)
    assert main(["screen", str(images), "--threads", "20000", "--json", *built]) == 0
    captured = capsys.readouterr()
    assert "--threads 20000: using 4, four for each of the cores that this process may use" in captured.err
    assert ", 4 threads" in json.loads(captured.out)["run"]["machine"]
