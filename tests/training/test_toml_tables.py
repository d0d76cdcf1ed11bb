"""Configurations that no editor should write: each is a sentence with the file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.errors import InputError
from training.recipes.config import load_config
from training.recipes.r20.config import load_r20
from training.toml_tables import as_toml, read_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

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


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)  # surrogates are no text
_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_TEXTS, _VALUES, max_size=4))
def test_what_is_written_is_read_again(values: dict[str, object]) -> None:
    assert tomllib.loads(as_toml(values)) == values


def test_tables_have_headings_and_none_is_left_out() -> None:
    values = {"a": 1, "b": None, "t": {"x": (1.5, 'q"\n'), "u": {"v": {"w": True}}, "empty": {}}}
    expected = 'a = 1\n\n[t]\nx = [1.5, "q\\"\\n"]\nempty = {  }\n\n[t.u]\nv = { w = true }\n'
    assert as_toml(values) == expected
    with pytest.raises(TypeError, match="has no form in TOML"):
        as_toml({"a": object()})
