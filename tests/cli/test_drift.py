"""`cxr-edge drift`, and the drift note, key and state of `cxr-edge screen`, on a toy bundle with reference exams."""

import csv
import io
import json
import os
import shutil

import cv2
import numpy as np
import pytest

from cxr_edge.bundle import Bundle
from cxr_edge.cli import main
from cxr_edge.drift import Reference, attach_reference, exam_statistics
from cxr_edge.drift.reference import LEAST_EXAMS
from cxr_edge.engines import reference as reference_engines
from cxr_edge.screening.folder import screen_files
from cxr_edge.screening.screener import Screener
from tests.builders.toy_bundle import build_toy_bundle


def draw(folder, count, seed, *, side=60, bright=0):
    """Write clouds of gray values; returns the folder."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng((seed, i)).integers(0, 200, (side, side), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{seed}-{i:03}.png"), cv2.GaussianBlur(noise, (0, 0), 3) + np.uint8(bright))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folders: `known` exams of the reference's kind, `changed` ones, larger and brighter."""
    root = tmp_path_factory.mktemp("drawn")
    draw(root / "known", 30, 1)
    draw(root / "changed", 40, 2, side=90, bright=50)
    return root


@pytest.fixture(scope="module")
def built(drawn):
    """A toy bundle with reference exams, with its engines; the arguments for them."""
    bundle = build_toy_bundle(drawn / "bundle")
    screener = Screener(bundle, reference_engines(bundle, threads=1))
    paths = sorted(draw(drawn / "reference", LEAST_EXAMS, 3).iterdir())
    found = screen_files(screener, paths, workers=1)
    rows = [exam_statistics(r.outcome, r.image) for r in found]
    attach_reference(bundle, Reference.of_exams(rows, of="drawn exams"))
    assert main(["build-engine", str(bundle.root), "--precision", "fp32"]) == 0
    return ["--bundle", str(bundle.root)]


def run(capsys, *arguments, status=0):
    assert main([*map(str, arguments)]) == status
    return capsys.readouterr()


def test_a_table_without_drift(drawn, built, capsys):
    out = run(capsys, "drift", drawn / "known", *built).out
    assert "30 exams in order of name, 0 failed; medians of the last 30" in out
    assert "drift: none found in 30 exams, compared with 50 reference exams (drawn exams)" in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("image.", "output.", "box.", "check."))]
    assert len(rows) == 20
    assert {row[0]: row[1:3] for row in rows}["image.width"] == ["60", "60"]


def test_json_with_drift_gives_1(drawn, built, capsys):
    document = json.loads(run(capsys, "drift", drawn / "known", drawn / "changed", "--json", *built, status=1).out)
    assert document["run"]["order"] == "name"
    assert document["failed"] == []
    # By name, changed comes first.
    alarm = document["drift"]["alarm"]
    assert alarm["exam"] <= 30
    assert alarm["source"].startswith(str(drawn / "changed"))
    assert {"image.width", "image.height"} <= {m["name"] for m in alarm["moved"]}
    assert {m["direction"] for m in alarm["moved"] if m["name"] == "image.width"} == {"up"}


def test_order_of_time(drawn, built, capsys, tmp_path):
    for i, name in enumerate(("known", "changed")):
        for file in (drawn / name).iterdir():
            copy = shutil.copy(file, tmp_path / f"{1 - i}-{file.name}")
            os.utime(copy, (1000 + i, 1000 + i))
    document = json.loads(run(capsys, "drift", tmp_path, "--order", "time", "--json", *built, status=1).out)
    assert 30 < document["drift"]["alarm"]["exam"] <= 60


def test_failed_files_give_1_and_repeated_ones_do_not_count(drawn, built, capsys, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in "ab":
        shutil.copy(drawn / "known" / "1-000.png", tmp_path / f"{name}.png")
    captured = run(capsys, "drift", tmp_path, *built, status=1)
    assert "1 exams in order of name, 1 repeated pictures not counted, 1 failed" in captured.out
    assert f"failed: {tmp_path / 'bad.png'}" in captured.err


def test_a_bundle_without_reference_is_refused(drawn, toy_bundle, capsys, tmp_path):
    bundle = ["--bundle", toy_bundle]
    assert "has no reference exams" in run(capsys, "drift", drawn / "known", *bundle, status=2).err
    state = ["--drift-state", tmp_path / "state.json"]
    err = run(capsys, "screen", drawn / "known", *state, *bundle, status=2).err
    assert "--drift-state needs a bundle with reference exams, which 'toy' lacks" in err


def test_screen_ends_with_a_note(drawn, built, capsys):
    out = run(capsys, "screen", drawn / "known", *built).out
    assert out.splitlines()[-1].startswith("drift: none found in 30 exams")
    lines = run(capsys, "screen", drawn / "changed", *built).out.splitlines()
    assert lines[-1] == "  Find the cause before you rely on further answers: docs/drift.md."
    assert any(line.startswith("DRIFT: exams are no longer like the 50 reference exams") for line in lines)
    assert any("image.width is higher: median now 90, in the reference 60" in line for line in lines)


def test_a_few_images_have_no_note(drawn, built, capsys):
    files = sorted((drawn / "changed").iterdir())[:19]
    assert "drift" not in run(capsys, "screen", *files, *built).out.lower().replace("changed", "")
    assert "drift" not in json.loads(run(capsys, "screen", *files, "--json", *built).out)


def test_screen_json_has_a_last_key(drawn, built, capsys):
    document = json.loads(run(capsys, "screen", drawn / "changed", "--json", *built).out)
    assert list(document)[-1] == "drift"
    assert document["drift"]["exams"] == len(document["results"]) == 40
    assert document["drift"]["alarm"]["exam"] <= 30
    assert all("drift" not in result for result in document["results"])


@pytest.mark.parametrize("form", ["--csv", "--jsonl"])
def test_forms_without_a_place_for_it_say_it_on_stderr(drawn, built, capsys, form):
    captured = run(capsys, "screen", drawn / "changed", form, *built)
    assert "DRIFT" in captured.err
    assert "DRIFT" not in captured.out
    assert "DRIFT" not in run(capsys, "screen", drawn / "known", form, *built).err


def test_the_state_goes_from_run_to_run(drawn, built, capsys, tmp_path):
    state = ["--drift-state", tmp_path / "state.json"]
    files = sorted((drawn / "changed").iterdir())
    run(capsys, "screen", *files[:3], *state, *built)
    exams = []
    for k in range(3, 30, 9):
        document = json.loads(run(capsys, "screen", *files[k : k + 9], "--json", *state, *built).out)
        exams.append(document["drift"]["exams"])
    assert exams == [12, 21, 30]
    once = json.loads(run(capsys, "screen", *files[:30], "--json", *built).out)["drift"]
    document["drift"]["alarm"]["source"] = once["alarm"]["source"]
    assert document["drift"] == once


def test_the_state_of_another_bundle_is_refused(drawn, built, capsys, tmp_path):
    file = tmp_path / "state.json"
    run(capsys, "screen", drawn / "known", "--csv", "--drift-state", file, *built)
    state = json.loads(file.read_text())
    assert state["bundle"] == Bundle.open(built[1]).digest
    file.write_text(json.dumps({**state, "bundle": "cd" * 32}))
    captured = run(capsys, "screen", drawn / "known", "--csv", "--drift-state", file, *built, status=2)
    assert "is the drift state of another bundle" in captured.err
    assert captured.out == ""


def test_csv_rows_are_as_without_a_reference(drawn, built, capsys):
    rows = list(csv.DictReader(io.StringIO(run(capsys, "screen", drawn / "known", "--csv", *built).out)))
    assert len(rows) == 30
    assert not any("drift" in key for key in rows[0])


def test_inspect_shows_the_reference(drawn, built, toy_bundle, capsys):
    assert "50 exams, 20 statistics: drawn exams" in run(capsys, "inspect", built[1]).out
    assert "none, drift is not measured" in run(capsys, "inspect", toy_bundle).out


def test_a_reference_of_other_networks_makes_the_bundle_unusable(drawn, capsys, tmp_path):
    bundle = build_toy_bundle(tmp_path, known_answers=False)
    attach_reference(bundle, Reference.of_exams([{"check.ap": 1.0}] * 50, of="another bundle"))
    assert "the statistic check.ap" in run(capsys, "inspect", tmp_path, status=3).err
