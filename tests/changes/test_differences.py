"""Differences of JSON values, and how they read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cxr_edge.changes.differences import ABSENT, Change, differences, value_text


def found(old: Any, new: Any, **options: Any) -> list[tuple[str, Any, Any]]:
    return [(c.key, c.old, c.new) for c in differences(old, new, **options)]


def test_objects_are_compared_key_by_key() -> None:
    old = {"a": 1, "b": {"c": [1, 2], "d": True}, "gone": {"x": 1, "y": 2}}
    new = {"a": 1.0, "b": {"c": [1, 3], "d": 1}, "more": {}}
    assert found(old, new) == [
        ("b.c", [1, 2], [1, 3]),
        ("b.d", True, 1),
        ("gone.x", 1, ABSENT),
        ("gone.y", 2, ABSENT),
        ("more", ABSENT, {}),
    ]


def test_objects_of_one_side_can_be_one_difference() -> None:
    assert found({"a": {"x": 1}}, {}, whole=re.compile("a")) == [("a", {"x": 1}, ABSENT)]
    assert found({"a": {"x": 1}}, {"a": {"x": 2}}, whole=re.compile("a")) == [("a.x", 1, 2)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (0.123456789, "0.123457"),
        ([1.5, 2], "1.5, 2"),
        ([], "none"),
        ({"a": 1, "b": None}, "a 1, b none"),
        ("ab" * 32, "abababababab"),
        ("x" * 101, "x" * 97 + "..."),
    ],
)
def test_values_are_short(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_long_texts_are_whole_and_below_each_other() -> None:
    change = Change(key="intended_use", words="intended use", old="a " * 60, new="b")
    assert change.lines() == ["intended use:", f"  old: {('a ' * 60).strip()}", "  new: b"]
    assert Change(key="k", words="", old=1, new=2).lines() == ["k: 1 -> 2"]
