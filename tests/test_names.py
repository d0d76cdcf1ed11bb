"""Displayed file names: no control character reaches a terminal, and no name is lost."""

import json
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_edge.names import json_name, json_text, printable, printable_lines, shorten_name

CONTROLS = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x61C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
]
ANY_NAME = st.binary(min_size=1, max_size=40).map(os.fsdecode)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("müller 胸部.png", "müller 胸部.png"),
        ("m\udcfcller", r"m\xfcller"),
        ("a\nb\t\x1b[2J\x7f\x9b", r"a\x0ab\x09\x1b[2J\x7f\x9b"),
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("a\u2028b\u2066", r"a\u2028b\u2066"),
        ("\ud800", r"\ud800"),
        (Path("a/b.png"), "a/b.png"),
    ],
)
def test_unsafe_characters_are_escaped(name, shown):
    assert printable(name) == shown


def test_every_control_character_is_escaped():
    assert all(chr(c) not in printable(f"a{chr(c)}b") for c in CONTROLS)
    assert printable_lines("a\x1b\nb\x9b") == "a\\x1b\nb\\x9b"


@given(ANY_NAME)
def test_displayed_names_can_be_encoded_and_json_round_trips_them(name):
    assert not any(ord(c) in CONTROLS for c in printable(name))
    printable(name).encode("utf-8")
    text = json_text(dict(zip(("source", "bytes"), json_name(name), strict=True)))
    text.encode("utf-8")
    assert not any(ord(c) in CONTROLS for c in text)
    found = json.loads(text)
    assert name == (found["source"] if found["bytes"] is None else os.fsdecode(unquote_to_bytes(found["bytes"])))


def test_json_text_is_readable():
    assert json_text({"a": "ü\x7f"}) == '{"a": "ü\\u007f"}'


@pytest.mark.parametrize("letter", ["a", "ü", "\udcfc"])
def test_long_names_are_truncated_and_stay_distinct(letter):
    names = {shorten_name(f"00001-{letter * 250}{end}", 255, suffix=".png") for end in ("1", "2")}
    assert len(names) == 2
    for name in names:
        assert len(os.fsencode(name)) <= 255
        assert name.startswith(f"00001-{letter * 100}")
        assert name.endswith(".png")
    assert shorten_name("00001-a", 255, suffix=".png") == "00001-a.png"
