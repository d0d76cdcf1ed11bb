"""Attacks on a log: each is found, with file, line and kind of damage."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from cxr_edge.errors import InputError
from cxr_edge.evidence.chain_records import FileBegin
from cxr_edge.evidence.folder import file_name, file_numbers
from cxr_edge.evidence.lines import Head, Line, content_digest, link
from cxr_edge.evidence.verification import verify
from cxr_edge.evidence.writer import ChainWriter
from tests.evidence.conftest import KEY, Note, StandInKey, checked, lines, write


def edit(folder, number, change):
    """Apply `change` to the list of lines of a file, each with its newline."""
    path = folder / file_name(number)
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def found(folder, **options):
    result = checked(folder, **options)
    assert not result.intact
    return result.problem.damage, result.problem.file, result.problem.line, result.problem.message


def chained_again(folder, change):
    """Apply `change` to all lines as an attacker does who can compute digests: the chain is whole afterwards, head.json too."""
    log, previous, number = checked(folder).head.log, "0" * 64, 0
    changed = change([Line.decode(line) for line in lines(folder)])
    for path in folder.glob("evidence-*"):
        path.unlink()
    out = []
    for old in changed:
        number += 1
        line = Line(number=number, previous=previous, time=old.time, kind=old.kind, run=old.run, record=old.record)
        previous = link(previous, content_digest(line.encode()))
        out.append(line)
    files = [k for k, line in enumerate(out) if line.kind == "file"]
    for file, (start, end) in enumerate(zip(files, [*files[1:], None], strict=True), 1):
        (folder / file_name(file)).write_bytes(b"".join(line.encode() + b"\n" for line in out[start:end]))
    head = {"schema": "cxr-edge-evidence/1", "log": log, "number": number, "digest": previous}
    (folder / "head.json").write_text(json.dumps(head))


def test_an_untouched_log_is_intact(log):
    result = checked(log)
    assert result.intact
    assert result.lines == len(lines(log)) == result.head.number
    assert result.files == len(file_numbers(log))
    assert (result.first, result.signed_by) == (1, (KEY.key_id,))
    assert result.signed_through == result.head.number - 1
    assert result.notes == []
    assert result.as_json()["head"] == str(result.head)


def test_every_single_changed_byte_is_found(log):
    paths = [*(log / file_name(n) for n in file_numbers(log)), log / "head.json"]
    places = [(path, k) for path in paths for k in range(path.stat().st_size)]
    for path, k in random.Random(1).sample(places, 200):
        before = path.read_bytes()
        path.write_bytes(before[:k] + bytes([before[k] ^ 1]) + before[k + 1 :])
        assert not checked(log).intact, (path.name, k, before[max(0, k - 20) : k + 20])
        path.write_bytes(before)
    assert checked(log).intact


def test_without_a_key_the_signatures_are_counted(log):
    result = verify(log)
    assert result.intact
    assert result.signed_through is None
    assert result.notes == ["the signatures of the checkpoints were not verified: give --key"]


@pytest.mark.parametrize("index", [1, 2, 5])
def test_an_edited_line_in_the_middle(log, index):
    edit(log, 2, lambda all: [*all[:index], all[index].replace(b'"time":"2', b'"time":"1'), *all[index + 1 :]])
    damage, file, line, message = found(log)
    assert (damage, file, line) == ("changed", file_name(2), index + 1)
    assert "was changed" in message


def test_the_first_line_of_all_edited(log):
    edit(log, 1, lambda all: [all[0].replace(b'"time":"2', b'"time":"1'), *all[1:]])
    assert found(log)[:3] == ("changed", file_name(1), 1)


def test_the_previous_digest_of_a_line_edited(log):
    edit(log, 2, lambda all: [*all[:3], all[3].replace(b'"previous":"', b'"previous":"0')[:-1] + b"\n", *all[4:]])
    assert found(log)[:3] == ("changed", file_name(2), 4)
    shutil.rmtree(log)
    write(log, 30)
    digest = json.loads((log / file_name(2)).read_bytes().splitlines()[3])["previous"].encode()
    edit(log, 2, lambda all: [*all[:3], all[3].replace(digest, digest[::-1]), *all[4:]])
    assert found(log)[:3] == ("changed", file_name(2), 4)


def test_the_last_line_edited(log):
    last = file_numbers(log)[-1]
    edit(log, last, lambda all: [*all[:-1], all[-1].replace(b'"time":"2', b'"time":"1')])
    damage, file, _, message = found(log)
    assert (damage, file) == ("changed", file_name(last))
    assert "is not the one that head.json names" in message


@pytest.mark.parametrize("garbage", [b"\n", b"no json\n", b'{"number": 1}\n', b"\0" * 50 + b"\n", b'{"a": NaN}\n'])
def test_a_line_that_is_none(log, garbage):
    edit(log, 2, lambda all: [*all[:3], garbage, *all[4:]])
    damage, file, line, message = found(log)
    assert (damage, file, line) == ("changed", file_name(2), 4)
    assert "is no line of a log" in message


def test_a_deleted_line(log):
    edit(log, 2, lambda all: [*all[:3], *all[4:]])
    damage, file, line, message = found(log)
    assert (damage, file, line) == ("missing", file_name(2), 4)
    assert "is missing before it" in message


def test_several_deleted_lines_at_the_end_of_a_file(log):
    edit(log, 2, lambda all: all[:-2])
    damage, file, line, message = found(log)
    assert (damage, file, line) == ("missing", file_name(3), 1)
    assert " to " in message


def test_a_repeated_line(log):
    edit(log, 2, lambda all: [*all[:4], all[3], *all[4:]])
    assert found(log)[:3] == ("repeated", file_name(2), 5)


def test_two_lines_in_the_other_order(log):
    edit(log, 2, lambda all: [*all[:3], all[4], all[3], *all[5:]])
    damage, file, line, message = found(log)
    assert (damage, file, line) == ("reordered", file_name(2), 4)
    assert "which follows later" in message


@pytest.mark.parametrize("cut", [1, 3])
def test_a_truncated_log(log, cut):
    last = file_numbers(log)[-1]
    edit(log, last, lambda all: all[:-cut])
    damage, file, _, message = found(log)
    assert (damage, file) == ("truncated", file_name(last))
    assert f"{cut} or more lines at its end are missing" in message


def test_a_log_that_ends_within_a_line(log):
    path = log / file_name(file_numbers(log)[-1])
    path.write_bytes(path.read_bytes()[:-20])
    result = checked(log)
    assert result.problem.damage == "truncated"
    assert "the last line is incomplete" in result.notes[0]


def test_a_file_in_the_middle_that_ends_within_a_line(log):
    path = log / file_name(2)
    path.write_bytes(path.read_bytes()[:-20])
    assert found(log)[0] == "truncated"


@pytest.mark.parametrize("which", [1, 2, -1])
def test_a_missing_file(log, which):
    number = file_numbers(log)[which if which < 0 else which - 1]
    (log / file_name(number)).unlink()
    damage, file, _, message = found(log)
    assert damage == ("truncated" if which == -1 else "missing")
    assert file == file_name(number if which != -1 else number - 1)
    assert "missing" in message


def test_all_files_missing(log):
    for path in log.glob("evidence-*"):
        path.unlink()
    assert found(log)[0] == "truncated"
    (log / "head.json").unlink()
    with pytest.raises(InputError, match="has no evidence log in it: give the DIR of --evidence"):
        verify(log)
    with pytest.raises(InputError, match="is no folder with an evidence log"):
        verify(log / "none")


def test_two_files_that_changed_their_names(log):
    (log / file_name(1)).rename(log / "other")
    (log / file_name(2)).rename(log / file_name(1))
    (log / "other").rename(log / file_name(2))
    damage, file, line, message = found(log)
    assert (damage, file, line) == ("reordered", file_name(1), 1)
    assert "which follows later" in message


def test_a_renamed_file(log):
    last = file_numbers(log)[-1]
    for number in reversed(range(1, last + 1)):
        (log / file_name(number)).rename(log / file_name(number + 1))
    damage, file, _, message = found(log)
    assert (damage, file) == ("reordered", file_name(2))
    assert "it was renamed" in message


def test_head_json_edited_or_missing(log):
    path = log / "head.json"
    head = json.loads(path.read_text())
    path.write_text(json.dumps({**head, "digest": "0" * 64}))
    assert found(log)[0] == "changed"
    path.write_text(json.dumps({**head, "log": "0" * 32}))
    assert "head.json is of another log" in found(log)[3]
    path.write_text(json.dumps({**head, "number": head["number"] + 1}))
    assert found(log)[0] == "truncated"
    path.write_text("{")
    assert found(log)[3].startswith("head.json the whole file must be JSON")
    path.unlink()
    assert found(log)[:2] == ("missing", "head.json")
    assert "so lines at the end may be missing" in found(log)[3]


def test_a_checkpoint_removed_or_all_of_them_by_one_who_can_compute_digests(log):
    chained_again(log, lambda all: all)
    assert checked(log).intact  # the helper itself changes nothing
    k = next(k for k, line in enumerate(Line.decode(line) for line in lines(log)) if line.kind == "checkpoint")
    chained_again(log, lambda all: all[:k] + all[k + 1 :])
    damage, _, _, message = found(log)
    assert damage == "signature"
    assert "the signature of the checkpoint in line" in message
    chained_again(log, lambda all: [line for line in all if line.kind != "checkpoint"])
    assert found(log)[0::3] == ("signature", "no checkpoint is signed by a given key")
    assert verify(log).intact  # without the key nobody can see it


def test_an_edited_line_before_a_checkpoint_by_one_who_can_compute_digests(log):
    def change(all):
        k = next(k for k, line in enumerate(all) if line.record == {"text": "note 3"})
        edited = Line(number=1, previous="0" * 64, time=all[k].time, kind="note", run=2, record={"text": "note 4"})
        return [*all[:k], edited, *all[k + 1 :]]

    chained_again(log, change)
    assert found(log)[0] == "signature"


def test_a_checkpoint_of_another_key(log):
    result = verify(log, keys=[StandInKey("b")])
    assert result.problem.damage == "signature"
    assert "is of another key (aaaaaaaaaaaa...) than the given ones" in result.problem.message
    assert verify(log, keys=[StandInKey("b"), KEY]).intact


def test_a_shortened_log_with_its_head_is_found_by_a_head_that_was_kept_elsewhere(log):
    kept = checked(log).head
    # To the checkpoint before the last: nothing in the folder shows it.
    contents = lines(log)
    last = file_numbers(log)[-1]
    edit(log, last, lambda all: all[:-4])
    final = Line.decode(lines(log)[-1])
    assert len(contents) - len(lines(log)) == 4
    digest = link(final.previous, content_digest(lines(log)[-1]))
    head = {"schema": "cxr-edge-evidence/1", "log": kept.log, "number": final.number, "digest": digest}
    (log / "head.json").write_text(json.dumps(head))
    assert checked(log).intact
    damage, _, _, message = found(log, expected=[kept])
    assert damage == "truncated"
    assert f"the expected head names line {kept.number}" in message


def test_an_expected_head_in_the_middle_and_of_another_log(log, tmp_path):
    heads = []
    verify(log, visit=lambda v: heads.append(Head(log=v.log, number=v.line.number, digest=v.digest)))
    assert checked(log, expected=[heads[7], heads[-1]]).intact
    wrong = Head(log=heads[7].log, number=8, digest="0" * 64)
    assert "is not the one that the expected head names" in found(log, expected=[wrong])[3]
    other = write(tmp_path / "other", 3).head
    assert "the expected head is of log" in found(log, expected=[other])[3]


def test_lines_of_another_log(log, tmp_path):
    write(tmp_path / "other", 30)
    shutil.copy(tmp_path / "other" / file_name(2), log / file_name(2))
    assert found(log)[0] in ("changed", "missing", "repeated")


def test_a_log_that_was_shortened_and_then_written_to_is_not_intact(log):
    last = file_numbers(log)[-1]
    edit(log, last, lambda all: all[:-2])
    write(log, 2)
    damage, _, _, message = found(log)
    assert damage == "truncated"
    assert "although head.json named it" in message


def test_a_log_whose_last_line_was_edited_and_then_written_to_is_not_intact(log):
    last = file_numbers(log)[-1]
    edit(log, last, lambda all: [*all[:-1], all[-1].replace(b'"time":"2', b'"time":"1')])
    write(log, 2)
    assert found(log)[0] == "truncated"


def test_a_line_of_the_log_itself_in_a_wrong_place_or_form(log):
    chained_again(log, lambda all: [*all[:3], all[0], *all[3:]])
    assert found(log)[0] in ("changed", "reordered", "signature")
    shutil.rmtree(log)
    writer = ChainWriter(log)
    writer.append(type("Odd", (Note,), {"kind": "checkpoint"})(text="no signature"))
    writer.close()
    assert "is damaged: record.text is not a key of this format" in found(log)[3]


def test_a_log_of_a_later_version_is_no_damage(tmp_path, monkeypatch):
    begin = FileBegin.as_json
    monkeypatch.setattr(FileBegin, "as_json", lambda self: {**begin(self), "schema": "cxr-edge-evidence/2"})
    write(tmp_path, 1)
    with pytest.raises(InputError, match=r"has schema cxr-edge-evidence/2, this cxr-edge .* knows cxr-edge-evidence/1"):
        verify(tmp_path)


def test_a_head_that_is_none():
    head = Head(log="a" * 32, number=3, digest="b" * 64)
    assert Head.parse(f" {head}\n") == head
    with pytest.raises(InputError, match="expected a head as `cxr-edge audit show DIR --head` prints it"):
        Head.parse("a:3:b")


def test_unsigned_lines_after_the_last_checkpoint_are_noted(log):
    write(log, 3, key=None)
    kinds = [Line.decode(line).kind for line in lines(log)]
    after = kinds[::-1].index("checkpoint")
    assert after >= 4  # with the run
    assert checked(log).notes == [f"{after} lines after the last signed checkpoint"]
