"""Content and format of the reports: text, JSON, CSV, HTML, overlay images."""

import base64
import csv
import io
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote_to_bytes

import cv2
import numpy as np
import pytest

from cxr_edge.errors import InputError, OutputError
from cxr_edge.records import (
    STAGES,
    DegradedState,
    DroppedMember,
    Failure,
    Flag,
    Image,
    MemberScore,
    Roi,
    Screening,
    StageTimes,
)
from cxr_edge.report import RunInfo, Skipped
from cxr_edge.report.html import HtmlWriter, page_target
from cxr_edge.report.overlay import OverlayWriter, render_image, render_overlay
from cxr_edge.report.structured import CsvWriter, JsonLinesWriter, JsonWriter, spreadsheet_text
from cxr_edge.report.text import TextWriter, line
from cxr_edge.report.unfinished import UnfinishedFile
from cxr_edge.screening.screener import FileResult

UNSAFE = 'x<script>alert(1)</script>"&,\n\x1b]0;\u202e\udcfc.png'
SHOWN = 'x<script>alert(1)</script>"&,\\x0a\\x1b]0;\\u202e\\xfc.png'
SKIPPED = (Skipped(path=Path("table\udcfc.csv"), reason="not an image file name"),)

RUN = RunInfo(
    bundle="toy", version="1", digest="ab" * 32, labels=("normal", "covid-19"), intended_use="tests",
    engines="onnxruntime: a int8", machine="a machine", cxr_edge="0", started="2026-01-01T00:00:00+00:00", note="synthetic",
)  # fmt: skip

IMAGE = Image(
    pixels=np.tile(np.arange(400, dtype=np.uint16) * 100, (200, 1)),
    source="a.png",
    format="png",
    stored_bits=16,
    sha256="cd",
)

SCREENING = Screening(
    source="a.png", sha256="cd", width_px=400, height_px=200, labels=("normal", "covid-19"), probabilities=(0.125, 0.875),
    forced_decision="covid-19", members=(MemberScore(member="plain", probabilities=(0.25, 0.75)),),
    roi=Roi(x0=100, y0=50, x1=300, y1=150), flags=(Flag(code="uncertain", message="Look at it."),),
    times=StageTimes(decode_ms=1.0, lungs_ms=2.0, preprocess_ms=0.5, members_ms=3.0, combine_ms=0.25),
    heatmap=np.ones((8, 8), np.float32),
)  # fmt: skip

SCREENED = FileResult(outcome=SCREENING, image=IMAGE)
FAILED = FileResult(outcome=Failure(source=UNSAFE, reason="the file is <empty>"))


def write_both(writer):
    for result in (SCREENED, FAILED):
        writer.add(result)
    writer.close()


def full_disk(file, data):
    raise OSError(28, "No space left on device")


def text_of(make):
    stream = io.StringIO()
    write_both(make(stream))
    return stream.getvalue()


def test_text_shows_a_block_per_image():
    text = text_of(lambda s: TextWriter(s, RUN, compact=False))
    assert text == (
        "toy 1 (abababababab), onnxruntime: a int8\n"
        "a machine\n"
        "synthetic\n"
        "Research use only: not a medical device.\n"
        "\n"
        "a.png  (400 x 200 px)\n"
        "  decision: covid-19\n"
        "  normal       12.5%  ████\n"
        "  covid-19     87.5%  ██████████████████████████\n"
        "  member plain: normal 0.25  covid-19 0.75\n"
        "  lung box: x 100..300, y 50..150\n"
        "  note: Look at it. [uncertain]\n"
        "  time: 6.8 ms (decode 1.0, lungs 2.0, preprocess 0.50, members 3.0, combine 0.25)\n"
        "\n"
        f"failed: {SHOWN}: the file is <empty>\n"
        "1 screened, 1 failed\n"
    )


def test_compact_text_shows_a_line_per_image():
    text = text_of(lambda s: TextWriter(s, RUN, compact=True))
    assert "covid-19      0.88      6.8  a.png  [uncertain]\n" in text


def test_json_is_one_document():
    document = json.loads(text_of(lambda s: JsonWriter(s, RUN, SKIPPED, hidden=2)))
    assert document["run"]["bundle"] == "toy"
    assert document["skipped"] == [r"table\xfc.csv"]
    assert document["skipped_reasons"] == ["not an image file name"]
    assert document["skipped_bytes"] == ["table%FC.csv"]
    assert document["hidden"] == 2
    first, second = document["results"]
    assert first["probabilities"] == {"normal": 0.125, "covid-19": 0.875}
    assert first["roi"] == [100, 50, 300, 150]
    assert first["times_ms"]["total"] == 6.75
    shown, encoded = second.pop("source"), second.pop("source_bytes")
    assert shown == UNSAFE.replace("\udcfc", r"\xfc")
    assert os.fsdecode(unquote_to_bytes(encoded)) == UNSAFE
    assert second == {"error": "the file is <empty>"}


def test_json_and_csv_contain_no_control_characters():
    for text in (text_of(lambda s: JsonWriter(s, RUN, SKIPPED)), text_of(lambda s: CsvWriter(s, RUN))):
        assert "".join(c for c in text if not c.isprintable()).strip("\n") == ""


def test_json_without_results_is_valid():
    stream = io.StringIO()
    JsonWriter(stream, RUN).close()
    assert json.loads(stream.getvalue())["results"] == []


def test_json_lines_are_results_with_their_run():
    first, second = (json.loads(line) for line in text_of(lambda s: JsonLinesWriter(s, RUN)).splitlines())
    assert first == json.loads(json.dumps(SCREENING.as_json())) | {"run": json.loads(json.dumps(RUN.as_json()))}
    assert second["error"] == "the file is <empty>"
    assert second["run"] == first["run"]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(1)", "'a", "''=", " =1", "\uff1d1", "\uff20x", "a", "a=1", "", "1", r"\x09=1"]
)
def test_text_for_spreadsheets(text):
    cell = spreadsheet_text(text)
    assert cell[:1] not in tuple("=+-@\uff1d\uff20") or not text
    assert (cell.startswith("'")) == (text.lstrip()[:1] in tuple("=+-@'\uff1d\uff20") and text != "")
    assert cell.removeprefix("'") == text


def test_csv_cells_of_text_are_safe_for_spreadsheets():
    run = replace(RUN, labels=("=a", "b"))
    screening = replace(SCREENING, source="=HYPERLINK(1).png", labels=("=a", "b"), forced_decision="=a")
    stream = io.StringIO()
    writer = CsvWriter(stream, run)
    writer.add(FileResult(outcome=screening, image=IMAGE))
    writer.add(FileResult(outcome=Failure(source="@a", reason="-1")))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [(r["source"], r["decision"], r["reason"]) for r in rows] == [
        ("'=HYPERLINK(1).png", "'=a", ""),
        ("'@a", "", "'-1"),
    ]


def test_csv_round_trip():
    rows = list(csv.DictReader(io.StringIO(text_of(lambda s: CsvWriter(s, RUN)))))
    assert rows[0]["status"] == "ok"
    assert float(rows[0]["p_covid-19"]) == 0.875
    assert rows[0]["flags"] == "uncertain"
    assert rows[1]["source"] == SHOWN
    assert (rows[1]["status"], rows[1]["reason"], rows[1]["decision"]) == ("failed", "the file is <empty>", "")


STATE = DegradedState(
    answered=("plain",),
    dropped=(DroppedMember(member="wide", reason="it had not <ended>"),),
    cost={"macro_f1": 0.7, "macro_f1_of_all": 0.8},
    cost_in_words="macro-F1 0.700 (0.800) on 9 images",
    thresholds={"covid-19": 0.3},
)
DEGRADED = FileResult(outcome=replace(SCREENING, degraded=STATE), image=IMAGE)


def test_a_screening_without_a_member_says_so_everywhere(tmp_path):
    assert STATE.describe() == (
        "Without wide (it had not <ended>); decided by the calibration of plain: macro-F1 0.700 (0.800) on 9 images."
    )
    assert DEGRADED.outcome.as_json()["degraded"] == {
        "answered": ["plain"],
        "dropped": [{"member": "wide", "reason": "it had not <ended>"}],
        "cost": {"macro_f1": 0.7, "macro_f1_of_all": 0.8},
        "thresholds": {"covid-19": 0.3},
    }
    text, table = io.StringIO(), io.StringIO()
    TextWriter(text, RUN, compact=False).add(DEGRADED)
    assert "  DEGRADED: answered by plain, without wide\n" in text.getvalue()
    writer = CsvWriter(table, RUN)
    for result in (DEGRADED, SCREENED, FAILED):
        writer.add(result)
    rows = list(csv.DictReader(io.StringIO(table.getvalue())))
    assert [row["degraded"] for row in rows] == ["wide", "", ""]
    assert list(rows[0])[-1] == "degraded"
    page = HtmlWriter(tmp_path / "page.html", RUN)
    page.add(DEGRADED)
    page.close()
    assert "Degraded: answered by plain, without wide. " in (tmp_path / "page.html").read_text()


def test_findings_are_shown_with_the_thresholds_that_decided():
    state = replace(STATE, thresholds={"effusion": 0.9, "nodule": 0.95})
    result = FileResult(outcome=replace(FINDINGS_SCREENING, degraded=state), image=IMAGE)
    text = io.StringIO()
    TextWriter(text, FINDINGS_RUN, compact=False).add(result)
    assert "90.0%" in text.getvalue()
    assert "95.0%" in text.getvalue()
    assert "40.0%" not in text.getvalue()


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += [v for k, v in attrs if k == "src"]

    def handle_data(self, data):
        self.text += data


def test_html_is_self_contained_and_escapes_its_content(tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_both(HtmlWriter(path, RUN, [Skipped(path=Path("<b>\udcfc"), reason="a FIFO, not a regular file")], hidden=3))
    raw = path.read_text()
    page = Page(raw)
    assert "script" not in page.tags
    assert not re.search(r"(https?:)?//", re.sub(r"base64,[A-Za-z0-9+/=]+", "", raw))
    assert SHOWN in page.text
    assert r"Skipped: <b>\xfc: a FIFO, not a regular file" in page.text
    assert "Hidden files and folders skipped: 3" in page.text
    assert "Failed: the file is <empty>" in page.text
    assert all(
        text in page.text
        for text in ("Research use only.", "synthetic", "87.5%", "Look at it.", "1 screened, 1 failed")
    )
    assert len(page.images) == 2
    for source in page.images:
        assert source.startswith("data:image/jpeg;base64,")
        jpeg = np.frombuffer(base64.b64decode(source.split(",")[1]), np.uint8)
        assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (200, 400, 3)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_an_html_report_that_is_not_closed_replaces_nothing(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    with HtmlWriter(path, RUN) as writer:
        writer.add(SCREENED)
    assert path.read_text() == "the old one"


def test_an_unfinished_html_report_is_removed(tmp_path):
    with HtmlWriter(tmp_path / "report.html", RUN) as writer:
        writer.add(SCREENED)
    assert list(tmp_path.iterdir()) == []


def test_an_html_path_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        HtmlWriter(tmp_path / "file" / "report.html", RUN)


def test_html_follows_a_link_and_keeps_the_mode_of_the_old_page(tmp_path):
    target, link = tmp_path / "deep" / "page.html", tmp_path / "link.html"
    link.symlink_to(target)
    write_both(HtmlWriter(link, RUN))
    target.chmod(0o640)
    write_both(HtmlWriter(link, RUN))
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in target.parent.iterdir()] == ["page.html"]


def test_an_html_path_that_is_not_a_regular_file_is_rejected(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    for path, kind in (
        (tmp_path, "a folder"),
        *((tmp_path / n, "not a regular file") for n in ("fifo", "link", "loop")),
    ):
        with pytest.raises(InputError, match=f"it is {kind}"):
            page_target(path)


def test_an_html_page_with_the_longest_possible_name_is_written(tmp_path):
    path = tmp_path / ("p" * 250 + ".html")
    write_both(HtmlWriter(path, RUN))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_an_output_error_and_the_old_page_stays(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    writer = HtmlWriter(path, RUN)

    monkeypatch.setattr(UnfinishedFile, "write", full_disk)
    with pytest.raises(OutputError, match=r"could not be written to .*report\.html: No space left on device"):
        writer.add(SCREENED)
    assert [p.read_text() for p in tmp_path.iterdir()] == ["the old one"]


def test_a_rendered_image_is_downscaled_and_keeps_its_aspect():
    assert render_image(IMAGE, long_side_px=100).shape == (50, 100, 3)
    assert render_image(IMAGE).shape == (200, 400, 3)  # never enlarged


def test_the_overlay_draws_the_box_and_the_heat_map_in_the_roi():
    plain, drawn = render_image(IMAGE).astype(int), render_overlay(IMAGE, SCREENING).astype(int)
    changed = np.abs(plain - drawn).sum(axis=2) > 0
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == pytest.approx((50, 149, 100, 299), abs=2)
    assert changed[100, 200]
    box_only = render_overlay(IMAGE, replace(SCREENING, heatmap=None)).astype(int)
    assert (box_only[100, 200] == plain[100, 200]).all()


def test_a_box_of_one_pixel_can_be_drawn():
    render_overlay(IMAGE, replace(SCREENING, roi=Roi(x0=399, y0=199, x1=400, y1=200)), long_side_px=20)


def test_overlays_of_the_same_name_get_different_files(tmp_path):
    writer = OverlayWriter(tmp_path / "maps")
    for result in (SCREENED, FAILED, SCREENED):
        writer.add(result)
    writer.close()
    assert sorted(p.name for p in (tmp_path / "maps").iterdir()) == ["00001-a.png.png", "00003-a.png.png"]


@pytest.mark.parametrize("name", ["m\udcfcller.png", "\x1b[2J.png", "ü" * 127, "x" * 255, "\udcfc" * 255, ".."])
def test_overlays_of_any_name_are_written(tmp_path, name):
    writer = OverlayWriter(tmp_path / "maps")
    writer.add(replace(SCREENED, outcome=replace(SCREENING, source=f"folder/{name}")))
    (file,) = (tmp_path / "maps").iterdir()
    assert file.name.startswith("00001-" + name[:100])
    assert cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR).shape == (200, 400, 3)


def test_a_file_in_place_of_the_overlay_folder_is_rejected(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        OverlayWriter(tmp_path / "file")
    with pytest.raises(OutputError, match="cannot be created"):
        OverlayWriter(tmp_path / "file" / "maps")


def test_a_read_only_overlay_folder_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to every folder
    with pytest.raises(OutputError, match="no permission to write to the folder"):
        OverlayWriter(tmp_path)


def test_an_overlay_that_cannot_be_written_leaves_no_partial_file(tmp_path, monkeypatch):
    monkeypatch.setattr(UnfinishedFile, "write", full_disk)
    with pytest.raises(OutputError, match="No space left on device"):
        OverlayWriter(tmp_path).add(SCREENED)
    assert list(tmp_path.iterdir()) == []


def test_stage_times_show_gpu_copies_only_where_there_were_some():
    host = StageTimes(decode_ms=1.0, lungs_ms=2.0, preprocess_ms=0.5, members_ms=3.0, combine_ms=0.25)
    assert host.describe() == "decode 1.0, lungs 2.0, preprocess 0.50, members 3.0, combine 0.25"
    gpu = replace(host, upload_ms=0.75, download_ms=0.125)
    assert gpu.describe() == (
        "decode 1.0, upload 0.75, lungs 2.0, preprocess 0.50, members 3.0, combine 0.25, download 0.12"
    )
    assert gpu.total_ms == host.total_ms + 0.875
    assert list(gpu.by_stage()) == list(STAGES)


FINDINGS_RUN = replace(RUN, labels=("effusion", "nodule"), thresholds=(0.4, 0.5))
FINDINGS_SCREENING = replace(
    SCREENING,
    labels=("effusion", "nodule"),
    probabilities=(0.875, 0.25),
    forced_decision="effusion",
    findings=("effusion",),
)


def test_text_shows_each_finding_with_its_threshold():
    stream = io.StringIO()
    writer = TextWriter(stream, FINDINGS_RUN, compact=False)
    writer.add(FileResult(outcome=FINDINGS_SCREENING, image=IMAGE))
    none = replace(FINDINGS_SCREENING, probabilities=(0.125, 0.0), forced_decision="no finding", findings=())
    writer.add(FileResult(outcome=none, image=IMAGE))
    text = stream.getvalue()
    assert (
        "  decision: effusion\n"
        f"  effusion    present  87.5% >= 40.0%   {'█' * 26}\n"
        f"  nodule      absent   25.0%  < 50.0%   {'█' * 8}\n"
    ) in text
    assert "  decision: no finding\n" in text
    assert "  nodule      absent    0.0%  < 50.0%\n" in text
    assert line(none) == "no finding    0.12      6.8  a.png  [uncertain]"


def test_structured_reports_of_findings():
    assert FINDINGS_RUN.as_json()["thresholds"] == {"effusion": 0.4, "nodule": 0.5}
    assert "thresholds" not in RUN.as_json()
    assert "findings" not in SCREENING.as_json()
    both = replace(
        FINDINGS_SCREENING,
        probabilities=(0.875, 0.5),
        forced_decision="effusion+nodule",
        findings=("effusion", "nodule"),
    )
    stream = io.StringIO()
    writer = CsvWriter(stream, FINDINGS_RUN)
    writer.add(FileResult(outcome=both, image=IMAGE))
    (row,) = csv.DictReader(io.StringIO(stream.getvalue()))
    assert (row["decision"], row["p_effusion"], row["p_nodule"]) == ("effusion+nodule", "0.875000", "0.500000")
    assert both.as_json()["findings"] == ["effusion", "nodule"]


def test_html_shows_each_finding_with_its_threshold(tmp_path):
    path = tmp_path / "report.html"
    writer = HtmlWriter(path, FINDINGS_RUN)
    writer.add(FileResult(outcome=FINDINGS_SCREENING, image=IMAGE))
    writer.close()
    raw = path.read_text()
    assert '<tr class="chosen"><td>effusion</td>' in raw
    assert '<b style="left:40.0%"></b></div></td><td>87.5%</td><td class="limit">&ge; 40.0%</td>' in raw
    assert "<tr><td>nodule</td>" in raw
    assert '<td>25.0%</td><td class="limit">&lt; 50.0%</td>' in raw
    assert "<tr><th>finding</th><th>plain</th></tr><tr><td>effusion</td><td>0.25</td></tr>" in raw
    assert "class activation map: effusion" in raw
