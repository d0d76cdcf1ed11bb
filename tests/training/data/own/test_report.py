"""Report on own data: every problem is found where it is, and not where it is not."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from statsmodels.stats.proportion import proportion_confint

from tests.builders.own_data import write_folder, write_image, write_table
from training.data.own.page import as_html, as_lines
from training.data.own.pictures import contact_sheet, sampled
from training.data.own.report import DataReport, Problem, check
from training.data.own.source import read_source
from training.data.splits import cramers_v


def _table(folder: Path, rows: Sequence[dict[str, object]], *, side_px: int = 32) -> DataReport:
    """Check rows whose images are drawn, each another."""
    for seed, row in enumerate(rows):
        if not (folder / str(row["path"])).exists():
            write_image(folder / str(row["path"]), seed, side_px=side_px)
    return check(read_source(write_table(folder / "t.csv", rows)), threads=1)


def _sound_rows(n: int = 40) -> list[dict[str, object]]:
    """Rows of patients with one image, with labels and sites that are independent."""
    return [
        {
            "path": f"{i}.png",
            "label": ("normal", "tb")[i % 2],
            "patient": f"p{i}",
            "site": ("north", "south")[i // 2 % 2],
        }
        for i in range(n)
    ]


def _problem(report: DataReport, words: str) -> Problem:
    (found,) = [p for p in report.problems if words in p.title]
    return found


def test_sound_data_has_counts_and_the_one_problem_that_it_has(tmp_path: Path) -> None:
    report = _table(tmp_path, _sound_rows())
    assert (report.images, report.patients, report.unnamed, report.unlabelled) == (40, 40, 0, 0)
    assert report.sites == {"north": 20, "south": 20}
    assert report.formats == {"png, 8 bit": 40}
    tb = report.findings["tb"]
    assert (tb.present, tb.absent, tb.unknown, tb.patients) == (20, 20, 0, 20)
    low, high = proportion_confint(18, 20, alpha=0.05, method="beta")
    assert tb.all_tested == pytest.approx((low, high), abs=1e-3)
    assert [p.severity for p in report.problems] == ["warning"]
    assert "'tb' (20)" in _problem(report, "too few patients").title
    assert report.is_sound


def test_too_few_patients_are_named_with_their_interval(tmp_path: Path) -> None:
    rows = [{"path": "0.png", "label": "x", "patient": "1"}, {"path": "1.png", "label": "y", "patient": "2"}]
    report = _table(tmp_path, rows)
    assert _problem(report, "too few patients for a claim: 'x' (1), 'y' (1)").examples[0] == (
        "x: a measured sensitivity of 90 % is not to be had on a test side of 15 % (0 patients), and 2% to 100% if all 1 are "
        "tested once"
    )


def test_the_same_picture_under_two_labels_or_patients_is_a_leak(tmp_path: Path) -> None:
    rows = _sound_rows()
    for row, same in ((1, 0), (4, 2), (7, 5)):
        shutil.copy(write_image(tmp_path / f"{same}.png", same), tmp_path / f"{row}.png")
    rows[7]["patient"] = rows[5]["patient"]
    report = _table(tmp_path, rows)
    assert _problem(report, "under different labels").examples == ("0.png and 1.png (equal)",)
    assert _problem(report, "of different patients").examples == ("2.png and 4.png (equal)",)
    assert _problem(report, "of the same patient").examples == ("5.png and 7.png (equal)",)
    assert [p.two_labels for p in report.same_pictures] == [True, False, False]
    assert not report.is_sound


def test_a_smaller_copy_is_the_same_picture(tmp_path: Path) -> None:
    rows = _sound_rows()
    write_image(tmp_path / "2.png", 0, side_px=64)
    pairs = _table(tmp_path, rows).same_pictures
    assert [(p.first, p.second, p.equal) for p in pairs] == [("0.png", "2.png", False)]


def test_images_without_a_patient_are_named_loudly(tmp_path: Path) -> None:
    rows = _sound_rows()
    for row in rows[:3]:
        row["patient"] = ""
    report = _table(tmp_path, rows)
    problem = _problem(report, "3 of 40 images have no patient")
    assert problem.severity == "leak"
    assert problem.advice.startswith("EACH COUNTS AS A PATIENT OF ITS OWN")
    assert (report.patients, report.unnamed) == (37, 3)


def test_a_patient_with_two_labels_two_sites_or_two_sides_is_named_by_its_files(tmp_path: Path) -> None:
    rows = [{**row, "split": "train"} for row in _sound_rows()]
    rows[0]["patient"] = rows[3]["patient"] = "p3"
    rows[0]["split"] = "test"
    report = _table(tmp_path, rows)
    assert _problem(report, "1 patients have images with different labels").examples == ("0.png (normal), 3.png (tb)",)
    assert _problem(report, "1 patients have images of several sites").examples == ("0.png (north), 3.png (south)",)
    sides = _problem(report, "the split of the source has 1 patients on several sides")
    assert (sides.severity, sides.examples) == ("leak", ("0.png (test), 3.png (train)",))
    assert not any("p3" in text for p in report.problems for text in (p.title, *p.examples))


def test_a_site_that_tells_the_label_is_a_shortcut(tmp_path: Path) -> None:
    rows = _sound_rows()
    for i, row in enumerate(rows):
        row["site"] = ("north", "south")[i % 2] if i < 36 else "north"
    report = _table(tmp_path, rows)
    problem = _problem(report, "the site tells 'normal' (0.")
    assert problem.severity == "shortcut"
    assert "north: 20 with and 2 without 'normal'" in problem.examples
    sites, labels = [str(row["site"]) for row in rows], [str(row["label"]) for row in rows]
    strength = cramers_v(labels, sites)
    assert strength is not None
    assert report.associations[0].cramers_v == pytest.approx((strength**2 - 1 / 39) ** 0.5, abs=1e-3)
    assert not any("tells" in p.title for p in _table(tmp_path / "b", _sound_rows()).problems)


def test_sizes_and_formats_that_tell_the_label_are_shortcuts(tmp_path: Path) -> None:
    rows = _sound_rows()
    for i, row in enumerate(rows):
        row["path"] = f"{i}.{('png', 'jpg')[i % 2]}"
        write_image(tmp_path / str(row["path"]), i, side_px=(32, 320)[i % 2])
    report = _table(tmp_path, rows)
    assert _problem(report, "the file format tells").severity == "shortcut"
    assert _problem(report, "the size tells").severity == "shortcut"
    assert report.sizes == {"long side up to 256 px, square": 20, "long side up to 512 px, square": 20}


def test_other_views_are_named(tmp_path: Path) -> None:
    rows = [{**row, "view": view} for row, view in zip(_sound_rows(4), ("AP Supine", "PA", "L", ""), strict=True)]
    assert _problem(_table(tmp_path, rows), "1 images have another view than AP or PA: L 1").examples == ("2.png",)


def test_files_that_cannot_be_read_end_nothing(tmp_path: Path) -> None:
    rows = _sound_rows()
    (tmp_path / "3.png").write_bytes(b"")
    (tmp_path / "4.png").write_text("version https://git-lfs.github.com/spec/v1\n")
    report = _table(tmp_path, rows)
    problem = _problem(report, "2 files or rows cannot be used")
    assert "the file is empty" in problem.examples[0]
    assert "a Git LFS pointer" in problem.examples[1]
    assert not report.is_sound
    assert sum(report.formats.values()) == 38


def test_labels_that_teach_nothing_are_named(tmp_path: Path) -> None:
    assert not check(read_source(write_folder(tmp_path / "a", ["x/1.png", "x/2.png"])), threads=1).is_sound
    one = check(read_source(tmp_path / "a"), threads=1)
    assert _problem(one, "all images have the one label 'x'").severity == "unusable"
    none = check(read_source(write_folder(tmp_path / "b", ["1.png", "2.png"])), threads=1)
    assert _problem(none, "no image has a label").severity == "unusable"
    rows = [{"path": "1.png", "N": 1, "M": 0}, {"path": "2.png", "N": 0, "M": 0}]
    assert _problem(_table(tmp_path / "c", rows), "never present, or never absent: 'M'").severity == "warning"
    rows = [{"path": "1.png", "class": 1}, {"path": "2.png", "class": 0}, {"path": "3.png", "class": ""}]
    numbers = _table(tmp_path / "d", rows)
    assert "--label-name 0=normal" in _problem(numbers, "the labels are numbers: 0, 1").advice
    assert _problem(numbers, "1 images have no label").examples == ("3.png",)


def test_unknown_findings_are_no_negatives_in_any_count(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.png", "N": ("1", "0", "", "-1")[i % 4], "patient": i} for i in range(8)]
    counts = _table(tmp_path, rows).findings["N"]
    assert (counts.present, counts.absent, counts.unknown, counts.patients) == (2, 2, 4, 2)


def test_lines_begin_with_what_was_understood(tmp_path: Path) -> None:
    lines = as_lines(_table(tmp_path, _sound_rows()))
    assert lines[0].endswith("what was understood")
    assert "label = 'label'" in lines[2]
    text = "\n".join(lines)
    assert "patients: 40" in text
    assert text.index("what was understood") < text.index("sites: north 20, south 20") < text.index("WARNING: too few")


def test_the_page_has_pictures_and_escapes_names(tmp_path: Path) -> None:
    rows = _sound_rows()
    shutil.copy(write_image(tmp_path / "0.png", 0), tmp_path / "1.png")
    rows = [{**row, "patient": f"MRN-{i}"} for i, row in enumerate(rows)]
    rows[0]["label"] = "<b>"
    data = read_source(write_table(tmp_path / "t.csv", [row for row in rows if _write(tmp_path, row)]))
    page = as_html(check(data, threads=1), data)
    assert page.count("data:image/jpeg;base64,") == 3 + 1, "a sheet for each label, and a pair"
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "MRN-" not in page, "no patient's name"


def _write(folder: Path, row: dict[str, object]) -> bool:
    path = folder / str(row["path"])
    return path.exists() or write_image(path, int(path.stem)).exists()


def test_sheets_show_many_patients_and_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    data = read_source(write_folder(tmp_path, [f"x/a/{i}.png" for i in range(5)] + ["x/b/1.png", "y/c/1.png"]))
    of_x = [r for r in data.records if r.present == ("x",)]
    assert len({r.patient for r in sampled(of_x, 2)}) == 2
    assert len(sampled(of_x, 10)) == 6
    assert contact_sheet(of_x).startswith(b"\xff\xd8")
    for r in of_x:
        r.path.write_bytes(b"")
    assert contact_sheet(of_x) == b""
