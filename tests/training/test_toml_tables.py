"""Configurations that no editor should write: each is a sentence with the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.recipes.config import load_config
from training.recipes.r20.config import load_r20
from training.toml_tables import read_toml

MEMBER = 'name = "a"\n[members.m]\narchitecture = "plain"\n'


def test_a_mark_of_windows_editors_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfname = 'a'\r\n")
    assert read_toml(tmp_path / "a.toml") == {"name": "a"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"name = 'Gr\xf6\xdfe'", r"a\.toml is not in UTF-8 \(byte 10\): save it as UTF-8"),
        (b"name = ", r"configuration .*a\.toml cannot be read"),
        (b"\0\0", r"configuration .*a\.toml cannot be read"),
    ],
)
def test_a_file_that_is_no_toml(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_toml(tmp_path / "a.toml")


@pytest.mark.parametrize("name", ["search", "modality", "segmenter", "prune"])
def test_a_value_in_place_of_a_table(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(f"{name} = 3\n{MEMBER}")
    with pytest.raises(InputError, match=rf"a\.toml: {name} is a table \(\[{name}\] with keys below it\), got 3"):
        load_r20(tmp_path / "a.toml")


@pytest.mark.parametrize("text", ["members = 3\n", "[members]\nplain = 3\n", "segmenter = [1]\n"])
def test_a_value_in_place_of_a_starters_table(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match="is a table"):
        load_config(tmp_path / "a.toml")
