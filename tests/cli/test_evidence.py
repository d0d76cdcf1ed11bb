"""`screen --evidence`, `audit` and `replay` from the command line, on engines of a toy bundle."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

from cxr_edge.cli import main, standard_input
from cxr_edge.evidence import folder as evidence_folder
from cxr_edge.evidence import replay as replaying
from cxr_edge.evidence.folder import file_name
from tests.builders.dicom_files import dataset, file_bytes, xray_pixels


@pytest.fixture
def log(built, images, tmp_path, capsys):
    """A log of three screenings and a failure."""
    (images / "bad.png").write_bytes(b"no image")
    (images / "b.dcm").write_bytes(file_bytes(dataset(xray_pixels(rows=120, columns=150), SOPInstanceUID="1.2.99")))
    assert main(["screen", str(images), "--evidence", str(tmp_path / "log"), *built]) == 1
    capsys.readouterr()
    return tmp_path / "log"


def run(capsys, *words):
    status = main([str(word) for word in words])
    return status, capsys.readouterr()


def kinds(log):
    return [json.loads(line)["kind"] for line in (log / file_name(1)).read_text().splitlines()]


def test_every_file_has_a_line_before_it_is_reported(log, capsys):
    assert kinds(log) == ["file", "run", "screening", "screening", "screening", "screening", "failure", "end"]
    status, captured = run(capsys, "audit", "verify", log)
    assert status == 0
    assert captured.out.startswith("intact: lines 1 to 8 in 1 files, 0 checkpoints\nhead ")


def test_several_runs_go_on_with_one_log(log, built, images, capsys):
    assert run(capsys, "screen", images / "0.png", "--evidence", log, *built)[0] == 0
    assert kinds(log)[8:] == ["run", "screening", "end"]
    assert run(capsys, "audit", "verify", log)[0] == 0


def test_a_log_that_cannot_be_written_ends_the_run_before_a_result_is_reported(
    built, images, tmp_path, capsys, monkeypatch
):
    real = os.write

    def full(descriptor, data):
        if b'"kind":"screening"' in bytes(data):
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    status, captured = run(capsys, "screen", images, "--csv", "--evidence", tmp_path / "log", *built)
    assert status == 4
    assert captured.out.count("\n") == 1  # the header
    assert (
        "cannot be written (No space left on device): free space, or give a folder that can be written" in captured.err
    )


@pytest.mark.parametrize("option", ["--evidence-names", "--evidence-key=k.pem", "--site-key=k"])
def test_options_of_a_log_without_a_log(built, images, capsys, option):
    status, captured = run(capsys, "screen", images, option, *built)
    assert status == 2
    assert "belongs to a log: give --evidence DIR too" in captured.err


def test_signed_checkpoints(built, images, tmp_path, capsys):
    pytest.importorskip("cryptography")
    from cxr_edge.signing.keys import PrivateKey

    key = PrivateKey.new()
    key.write(tmp_path / "log.pem")
    (tmp_path / "log.pub").write_bytes(key.public.pem())
    (tmp_path / "other.pub").write_bytes(PrivateKey.new().public.pem())
    log = tmp_path / "log"
    assert run(capsys, "screen", images, "--evidence", log, "--evidence-key", tmp_path / "log.pem", *built)[0] == 0
    status, captured = run(capsys, "audit", "verify", log, "--key", tmp_path / "log.pub")
    assert status == 0
    assert "1 checkpoints, signed through line 6" in captured.out
    assert "give --key" in run(capsys, "audit", "verify", log)[1].out
    status, captured = run(capsys, "audit", "verify", log, "--key", tmp_path / "other.pub")
    assert status == 1
    assert captured.out.startswith(
        f"NOT INTACT: signature: {file_name(1)} line 7: the checkpoint in line 7 is of another key"
    )
    out = tmp_path / "part.jsonl"
    status, captured = run(capsys, "audit", "export", log, "--out", out, "--from", 3, "--to", 3)
    assert (status, "1 lines written to" in captured.out, ", signed\n" in captured.out) == (0, True, True)
    assert run(capsys, "audit", "verify", out, "--key", tmp_path / "log.pub")[0] == 0
    status, captured = run(capsys, "audit", "prune", log, "--evidence-key", tmp_path / "log.pem")
    assert (status, captured.out) == (0, "0 files with 0 lines deleted\n")


def test_a_changed_line_is_named(log, capsys):
    path = log / file_name(1)
    path.write_text(path.read_text().replace('"decision":"normal"', '"decision":"viral"', 1))
    status, captured = run(capsys, "audit", "verify", log)
    assert status == 1
    assert captured.out.startswith(f"NOT INTACT: changed: {file_name(1)} line ")
    status, captured = run(capsys, "audit", "verify", log, "--json")
    document = json.loads(captured.out)
    assert (status, document["intact"], document["problem"]["damage"]) == (1, False, "changed")
    status, captured = run(capsys, "audit", "show", log, "--head")
    assert (status, captured.out) == (1, "")
    assert "NOT INTACT: changed" in captured.err


def test_a_shortened_log_is_found_by_a_head_that_was_kept(log, capsys):
    head = run(capsys, "audit", "show", log, "--head")[1].out.strip()
    assert run(capsys, "audit", "verify", log, "--expect", head)[0] == 0
    path = log / file_name(1)
    contents = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(contents[:-1]))
    tail = evidence_folder.read_tail(path)
    from cxr_edge.evidence.lines import Head, Line, content_digest, link

    last = Line.decode(tail.last)
    evidence_folder.write_head(
        log, Head(log=head[:32], number=7, digest=link(last.previous, content_digest(tail.last)))
    )
    assert run(capsys, "audit", "verify", log)[0] == 0
    status, captured = run(capsys, "audit", "verify", log, "--expect", head)
    assert status == 1
    assert "NOT INTACT: truncated" in captured.out
    status, captured = run(capsys, "audit", "verify", log, "--expect", "nonsense")
    assert status == 2
    assert "expected a head as `cxr-edge audit show DIR --head` prints it" in captured.err


def test_show(log, capsys):
    status, captured = run(capsys, "audit", "show", log)
    shown = captured.out.splitlines()
    assert status == 0
    assert [line.split()[2] for line in shown] == kinds(log)
    assert "toy 1 (" in shown[1]
    assert "highest probability 0." in shown[2]
    assert "failed: expected a" in shown[6] or "failed: " in shown[6]
    assert shown[7].endswith("run 2: 4 screenings, 1 failures")
    assert len(run(capsys, "audit", "show", log, "--since", 7)[1].out.splitlines()) == 2
    document = json.loads(run(capsys, "audit", "show", log, "--since", 3, "--json")[1].out)
    assert [line["number"] for line in document["lines"]] == [3, 4, 5, 6, 7, 8]
    assert document["verification"]["intact"]
    assert json.loads(run(capsys, "audit", "show", log, "--since", 99, "--json")[1].out)["lines"] == []


def test_show_finds_an_image_by_its_uid(log, capsys):
    shown = run(capsys, "audit", "show", log, "--uid", "1.2.99")[1].out.splitlines()
    assert len(shown) == 1
    assert run(capsys, "audit", "show", log, "--uid", "1.2.98")[1].out == ""
    status, captured = run(capsys, "audit", "show", log, "--uid", "1.2.99", "--site-key", log / "none")
    assert status == 2
    assert "cannot be read" in captured.err


def test_export_as_a_table(log, tmp_path, capsys):
    status, captured = run(capsys, "audit", "export", log, "--out", tmp_path / "log.csv", "--json")
    assert (status, json.loads(captured.out)["lines"]) == (0, 5)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["screening"] * 4 + ["failure"]
    assert rows[0]["probabilities"].startswith("normal=0.")
    assert (rows[0]["bundle"], rows[4]["bundle"]) == ("toy", "toy")
    assert rows[4]["error"]
    assert run(capsys, "audit", "export", log, "--out", tmp_path / "log.csv", "--from", 4, "--to", 4)[0] == 0
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2
    status, captured = run(capsys, "audit", "export", log, "--out", tmp_path / "x", "--from", 5, "--to", 4)
    assert status == 2
    assert "--from 5 is after --to 4" in captured.err


def test_prune_keeps_six_months(log, capsys):
    status, captured = run(capsys, "audit", "prune", log, "--keep-days", 100)
    assert status == 2
    assert (
        "less than the six months (184 days) for which Regulation (EU) 2024/1689 wants such logs kept" in captured.err
    )
    words = ["--keep-days", 100, "--shorter-than-six-months", "--dry-run", "--json"]
    assert json.loads(run(capsys, "audit", "prune", log, *words)[1].out) == {"files": [], "lines": 0, "deleted": False}


def test_a_folder_without_a_log(built, images, tmp_path, capsys):
    for words in (["audit", "verify", tmp_path], ["audit", "show", tmp_path], ["replay", tmp_path, images, *built]):
        status, captured = run(capsys, *words)
        assert status == 2
        assert "has no evidence log in it: give the DIR of --evidence" in captured.err


def test_a_replay_is_equal_bit_for_bit(log, built, images, capsys):
    status, captured = run(capsys, "replay", log, images, *built)
    assert status == 0
    assert captured.out.count(": equal bit for bit  (line ") == 5  # the failure too
    assert captured.out.endswith("5 compared: 5 equal bit for bit, 0 within 0.001\n")


def test_a_replay_uses_the_options_of_the_record(built, images, tmp_path, capsys):
    words = ["screen", images / "0.png", "--evidence", tmp_path / "log", *built]
    run(capsys, *words, "--answer-all", "--min-side", "100")
    run(capsys, *words)
    run(capsys, *words, "--min-side", "140")  # a failure
    status, captured = run(capsys, "replay", tmp_path / "log", images / "0.png", "--every", "--json", *built)
    document = json.loads(captured.out)
    assert status == 0
    assert document["summary"]["equal"] == 3
    assert [row["number"] for row in document["results"]] == [3, 6, 9]
    latest = json.loads(run(capsys, "replay", tmp_path / "log", images / "0.png", "--json", *built)[1].out)
    assert [row["number"] for row in latest["results"]] == [9]


def test_a_file_without_a_record_and_one_that_cannot_be_read(log, built, images, capsys):
    (images / "new.png").write_bytes((images / "0.png").read_bytes() + b"\0")
    status, captured = run(capsys, "replay", log, images / "new.png", images / "none.png", *built)
    assert status == 1
    assert "new.png: no record" in captured.out
    assert "none.png: not compared" in captured.out
    assert "1 no record, 1 not compared" in captured.out


def test_an_altered_record_is_different_and_the_log_is_not_intact(log, built, images, capsys):
    path = log / file_name(1)
    line = json.loads(path.read_text().splitlines()[2])
    p = line["record"]["probabilities"][0]
    path.write_text(path.read_text().replace(f'"probabilities":[{p!r}', f'"probabilities":[{p - 0.1!r}', 1))
    status, captured = run(capsys, "replay", log, images, *built)
    assert status == 1
    assert "the log is NOT INTACT, so its records prove nothing: changed" in captured.err
    assert "probabilities or scores differ by up to 0.1" in captured.out
    assert "nothing that is recorded has changed, so it should be equal: is the machine sound?" in captured.out or (
        "because of another option threads" in captured.out
    )


def test_another_bundle_is_compared_only_on_request(log, built, images, toy_bundle_copy, tmp_path, capsys):
    manifest = json.loads((toy_bundle_copy / "manifest.json").read_text())
    (toy_bundle_copy / "manifest.json").write_text(json.dumps({**manifest, "version": "2"}))
    other = ["--bundle", toy_bundle_copy, "--engines", tmp_path / "engines"]
    assert (
        run(capsys, "build-engine", toy_bundle_copy, "--engines", tmp_path / "engines", "--precision", "fp32")[0] == 0
    )
    status, captured = run(capsys, "replay", log, images / "0.png", *other)
    assert status == 1
    assert "0.png: other bundle" in captured.out
    assert "recorded with toy 1 (" in captured.out
    status, captured = run(capsys, "replay", log, images / "0.png", "--other-bundle", "--json", *other)
    row = json.loads(captured.out)["results"][0]
    assert (status, row["status"]) == (0, "equal")
    assert row["comparison"]["causes"][0] == "another bundle: toy 1 when recorded, toy 2 now"


def test_a_record_with_an_option_that_the_bundle_cannot_follow(log, built, images, capsys, monkeypatch):
    monkeypatch.setattr(replaying, "options_of", lambda run, screener: {"threads": 1, "population": "adults"})
    status, captured = run(capsys, "replay", log, images / "0.png", *built)
    assert status == 1
    assert "0.png: not compared" in captured.out
    assert "needs a bundle with a checker" in captured.out


def test_standard_input_is_compared_too(log, built, images, capsys, monkeypatch):
    monkeypatch.setattr(standard_input, "reject_terminal", lambda: None)
    monkeypatch.setattr(standard_input, "read_blocks", lambda descriptor: iter([(images / "0.png").read_bytes()]))
    status, captured = run(capsys, "replay", log, "-", *built)
    assert status == 0, captured.err
    assert "-: equal bit for bit" in captured.out


def test_without_a_log_nothing_of_it_is_imported():
    program = "import sys, cxr_edge.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "cxr_edge.cli.audit" in loaded
    assert not loaded & {
        "cxr_edge.evidence.log",
        "cxr_edge.evidence.verification",
        "importlib.metadata",
        "cryptography",
    }
