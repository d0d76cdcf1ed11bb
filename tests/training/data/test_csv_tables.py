"""Tables as downloads and spreadsheets leave them: what is read, and the sentence for everything else."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.data.csv_tables import read_rows

COLUMNS = {"patientid", "finding", "filename"}
TEXT = 'patientid,finding,notes,filename\n1,COVID-19,"a note, of\ntwo lines",a.png\n2,SARS,"Größe ""x""",b.png\n'
ROWS = [
    {"patientid": "1", "finding": "COVID-19", "notes": "a note, of\ntwo lines", "filename": "a.png"},
    {"patientid": "2", "finding": "SARS", "notes": 'Größe "x"', "filename": "b.png"},
]


def _other_separator(mark: str) -> str:
    return TEXT.replace(",", mark).replace(f"a note{mark} of", "a note, of")


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, TEXT)
    return buffer.getvalue()


READABLE = {
    "as published": TEXT.encode(),
    "CRLF": TEXT.replace("\n", "\r\n").replace("of\r\n", "of\n").encode(),
    "without a last line break": TEXT.rstrip("\n").encode(),
    "UTF-8 with a mark": TEXT.encode("utf-8-sig"),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 of a big-endian machine, with a mark": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "UTF-16 without a mark": TEXT.encode("utf-16-le"),
    "UTF-16 of a big-endian machine": TEXT.encode("utf-16-be"),
    "semicolons": _other_separator(";").encode(),
    "tabs": _other_separator("\t").encode(),
    "Excel's sep": ("sep=;\r\n" + _other_separator(";")).encode(),
    "blank lines": ("\n\n" + TEXT.replace("\n2", "\n\n,,,\n2")).encode(),
    "spaces in the first line": TEXT.replace("finding,", " finding ,", 1).encode(),
    "gzipped": gzip.compress(TEXT.encode()),
    "zipped": _zip("__MACOSX/._table.csv", "readme.txt", "table.csv"),
}


@pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
def test_rows_of_a_readable_table(data: bytes, tmp_path: Path) -> None:
    """By content: all have the suffix .csv, as a browser or a spreadsheet may have saved them."""
    (tmp_path / "table.csv").write_bytes(data)
    assert read_rows(tmp_path / "table.csv", COLUMNS) == ROWS


def test_missing_cells_are_empty_and_text_after_a_quote_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,b,c\n1,"x"y,3\n4\n')
    assert read_rows(tmp_path / "t.csv", {"a"}) == [{"a": "1", "b": "xy", "c": "3"}, {"a": "4", "b": "", "c": ""}]


UNREADABLE = {
    "empty": (b"", r"is empty, or holds zeros only \(0 bytes\): download it again"),
    "blank": (b" \r\n\n", "is empty"),
    "zeros": (bytes(4096), r"holds zeros only \(4,096 bytes\)"),
    "zeros at the end": (TEXT.encode()[:60] + bytes(60), "holds zero bytes from line 3 on"),
    "first line only": (TEXT.encode().splitlines(keepends=True)[0], "has a first line and no rows"),
    "first line only, semicolons": (b"patientid;finding;filename", "has a first line and no rows"),
    "other columns": (
        b"patient,label\n1,SARS\n",
        "lacks the columns filename, finding, patientid: .* has patient, label",
    ),
    "one column less": (b"patientid,finding,name\n1,SARS,a\n", "lacks the columns filename: "),
    "a column twice": (b"patientid,finding,filename,finding\n1,a,b,c\n", "has the columns finding more than once"),
    "Latin-1": (TEXT.encode("latin-1"), r"is not in UTF-8 or UTF-16 \(line 4, byte 0xf6\): .* save it as CSV UTF-8"),
    "a web page": (b"<!DOCTYPE html>\n<html>", "is a web page, not the file: the download failed; download it again"),
    "a web page after a mark": (b"\xef\xbb\xbf\n<HTML>", "is a web page"),
    "XML": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "is a web page"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "git-annex": (b"/annex/objects/MD5E-s12--a.csv", "is a git-annex pointer"),
    "cut in a quoted cell": (TEXT.encode()[:58], "ends within a quoted cell, so it is cut: download it again"),
    "cut in a row": (TEXT.encode()[:-3].rsplit(b",", 1)[0], "ends within its last row, '2,SARS,.*, so it is cut"),
    "a cut gzip": (gzip.compress(TEXT.encode())[:-20], r"is a cut or damaged archive \(\d+ bytes\)"),
    "a cut zip": (_zip("table.csv")[:-30], "is a cut or damaged archive"),
    "another zip": (_zip("images/a.png"), r"is a zip archive without a \.csv \(but images/a\.png\)"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is not in UTF-8 or UTF-16"),
    "a long cell": (b"a" * 200_000 + b"\n", "(lacks the columns|cannot be read as a table)"),
}


@pytest.mark.parametrize(("data", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_the_sentence_for_another_file(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes(data)
    with pytest.raises(InputError, match=rf"table\.csv {message}|table\.csv .*{message}") as error:
        read_rows(tmp_path / "table.csv", COLUMNS)
    assert "columns" not in str(error.value) or "column" in message, "columns are no reason for an empty table"


def test_a_table_without_permission(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(InputError, match=r"table\.csv cannot be read \(Is a directory\)"):
        read_rows(tmp_path / "table.csv", COLUMNS)
