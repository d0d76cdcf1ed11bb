"""Parts of a log with their proof: verified alone, and every change of them is found."""

from __future__ import annotations

import json

import pytest

from cxr_edge.errors import InputError, OutputError
from cxr_edge.evidence.export import export_lines
from cxr_edge.evidence.export_verification import verify_export
from cxr_edge.evidence.folder import file_name
from cxr_edge.evidence.lines import Head
from tests.evidence.conftest import KEY, StandInKey, checked, lines, write


@pytest.fixture
def exported(log, tmp_path):
    """An export of lines 10 to 12, and its contents."""
    out = tmp_path / "part.jsonl"
    result = export_lines(log, out, first=10, last=12)
    assert (result.lines, result.signed) == (3, True)
    return out


def contents(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


def verified(out, **options):
    return verify_export(out, keys=[KEY], **options)


def test_a_part_is_verified_alone_up_to_the_next_checkpoint(exported, log):
    result = verified(exported)
    assert result.intact
    assert result.signed_through == result.head.number - 1 >= 12
    assert verified(exported, expected=[result.head]).intact
    heads = checked(log, expected=[result.head])
    assert heads.intact


def test_only_the_requested_lines_their_run_and_checkpoints_are_whole(exported, log):
    whole = [c for c in contents(exported)[1:] if "record" in c]
    numbers = {c["number"] for c in whole}
    assert {10, 11, 12} <= numbers
    assert all(c["kind"] == "checkpoint" or c["number"] == c["run"] for c in whole if c["number"] not in (10, 11, 12))
    hidden = [c for c in contents(exported)[1:] if "content" in c]
    assert hidden
    assert all(set(c) == {"number", "content"} for c in hidden)
    assert [json.loads(line)["number"] for line in exported.read_text().splitlines()[1:]] == list(
        range(contents(exported)[1]["number"], contents(exported)[-1]["number"] + 1)
    )


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5, 6])
def test_a_changed_line_is_found(exported, index):
    kept = exported.read_text().splitlines()
    line = json.loads(kept[index])
    if "content" in line:
        line["content"] = "0" * 64
    else:
        line["time"] = line["time"].replace("2", "1", 1)
    kept[index] = json.dumps(line, separators=(",", ":"))
    exported.write_text("\n".join(kept) + "\n")
    assert verified(exported).problem.damage in ("changed", "signature")


def test_a_removed_line_is_found(exported):
    kept = exported.read_text().splitlines()
    exported.write_text("\n".join(kept[:3] + kept[4:]))
    problem = verified(exported).problem
    assert (problem.damage, problem.line) == ("missing", 4)
    exported.write_text("\n".join(kept[:-1]))
    assert verified(exported).problem.message == "no checkpoint after line 12 is signed by a given key"


def test_another_key_another_head_and_no_line(exported):
    assert "is a checkpoint of another key" in verify_export(exported, keys=[StandInKey("b")]).problem.message
    assert verify_export(exported).intact
    head = verified(exported).head
    wrong = Head(log=head.log, number=head.number, digest="0" * 64)
    assert "is not the one that the expected head names" in verified(exported, expected=[wrong]).problem.message
    later = Head(log=head.log, number=99, digest="0" * 64)
    assert "the expected head names line 99" in verified(exported, expected=[later]).problem.message
    kept = exported.read_text().splitlines()
    exported.write_text("\n".join([*kept[:2], "nonsense", *kept[3:]]))
    assert "line 3 is no line of an export" in verified(exported).problem.message


def test_a_file_that_is_no_export(tmp_path):
    path = tmp_path / "x"
    path.write_text("{}\n")
    with pytest.raises(InputError, match="is no export of an evidence log"):
        verify_export(path)
    with pytest.raises(InputError, match="cannot be read"):
        verify_export(tmp_path)


def test_a_log_without_checkpoints_is_exported_to_its_end(tmp_path):
    write(tmp_path / "log", 5, key=None)
    result = export_lines(tmp_path / "log", tmp_path / "out", first=3, last=3)
    assert (result.lines, result.signed, result.head.number) == (1, False, 7)
    assert verify_export(tmp_path / "out", expected=[result.head]).intact


def test_a_damaged_log_is_not_exported(log, tmp_path):
    path = log / file_name(2)
    path.write_bytes(path.read_bytes().replace(b'"time":"2', b'"time":"1', 1))
    with pytest.raises(InputError, match=r"is not intact .*nothing was exported"):
        export_lines(log, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_lines_that_there_are_not_and_a_folder_that_there_is_not(log, tmp_path):
    with pytest.raises(InputError, match=f"has no lines from 900 to its end, it has 1 to {len(lines(log))}"):
        export_lines(log, tmp_path / "out", first=900)
    with pytest.raises(OutputError, match="could not be written"):
        export_lines(log, tmp_path / "none" / "out")
