"""Trainers side by side: copies are planted, a program's predictions become figures, and one that fails has its reason."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import rivals
from benchmarks.harness.left_out import Row, figures, plant, predictions_of_screenings, read_rows

SIDE_PX = 40


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites of 12 images; the sick have a bright square."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "patient", "site"])
        for i in range(24):
            pixels = rng.integers(60, 120, (SIDE_PX, SIDE_PX), dtype=np.uint8)
            if i % 2:
                pixels[8:20, 8:20] = 230
            cv2.imwrite(str(folder / f"{i}.png"), pixels)
            writer.writerow([f"{i}.png", ("normal", "sick")[i % 2], f"p{i}", "here" if i < 12 else "there"])
    return folder / "table.csv"


def test_copies_are_cropped_and_have_patients_of_their_own(table: Path, tmp_path: Path) -> None:
    rows = read_rows(table)
    inside = [r for r in rows if r.site == "here"]
    assert (len(rows), len(inside)) == (24, 12)
    found = plant(inside, 4, tmp_path)
    assert found[:12] == inside
    copies = found[12:]
    assert [c.patient for c in copies] == [f"copy-{k}" for k in range(4)]
    assert {c.site for c in copies} == {"here"}
    assert cv2.imread(copies[0].path, cv2.IMREAD_GRAYSCALE).shape == (SIDE_PX - 4, SIDE_PX - 4)
    drawn = np.random.default_rng(0).permutation(12)[:4]
    assert [c.label == inside[i].label for c, i in zip(copies, drawn, strict=True)] == [True, False, True, False]


def test_figures_of_predictions(tmp_path: Path) -> None:
    measured = [Row(path=f"/{i}.png", label=("a", "b")[i % 2], patient=f"p{i}", site="s") for i in range(8)]
    lines = ["path,a,b"] + [f"/{i}.png,{1 - s},{s}" for i, s in enumerate([0.1, 0.9, 0.2, 0.8, 0.3, 0.4, 0.6, 0.7])]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    found = figures(tmp_path / "p.csv", measured, "b")
    assert found["auc"].value == pytest.approx(15 / 16)
    assert (found["sensitivity"].hits, found["sensitivity"].n) == (3, 4)
    assert (found["specificity"].hits, found["specificity"].n) == (3, 4)


def test_screenings_become_predictions_with_decisions(tmp_path: Path) -> None:
    measured = [Row(path=f"/{i}.png", label="a", patient=f"p{i}", site="s") for i in range(2)]
    (tmp_path / "s.csv").write_text("source,decision,p_a,p_b\nx/00001.png,b,0.2,0.8\nx/00000.png,a,0.7,0.3\n")
    predictions_of_screenings(tmp_path / "s.csv", measured, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines() == [
        "path,a,b,decision",
        "/1.png,0.2,0.8,b",
        "/0.png,0.7,0.3,a",
    ]


def test_a_rival_trains_and_a_missing_one_has_its_reason(table: Path, tmp_path: Path) -> None:
    options = [
        "--positive",
        "sick",
        "--left-out",
        "there",
        "--minutes",
        "0.01",
        "--planted",
        "2",
        "--out",
        str(tmp_path),
    ]
    python = ["--python", f"timm={sys.executable}", "ultralytics=/nowhere/python"]
    assert rivals.main([str(table), *options, "--only", "timm", "ultralytics", *python]) == 0
    report = json.loads((tmp_path / "rivals.json").read_text())
    timm, missing = report["results"]
    assert timm["auc"]["n"] == 12
    assert timm["failed"] == ""
    assert missing["auc"] is None
    assert "cannot be started" in missing["failed"]
    assert "| timm |" in (tmp_path / "rivals.md").read_text()


def test_a_table_without_the_site_is_refused(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--positive", "sick", "--left-out", "elsewhere", "--out", str(tmp_path)]
    assert rivals.main([str(table), *options]) == 2
    assert "the site elsewhere has the labels []" in capsys.readouterr().err
