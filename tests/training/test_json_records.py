"""Result files: a record is read as it was written, with the keys of its fields, and other content is refused by position."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from cxr_edge.errors import InputError
from training.json_records import (
    OPTIONAL,
    ROUNDED,
    as_json,
    as_stored,
    formerly,
    from_json,
    named,
    read_json,
    spread,
    write_json,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    value: float = field(metadata=ROUNDED)
    hits: int | None = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"  # added later
    label: str = field(metadata=named("covid"))
    rows: tuple[tuple[int, ...], ...]
    pair: tuple[float, str]
    by_name: Mapping[str, Inner]
    one: Inner | None = None
    absent: Inner | None = field(default=None, metadata=OPTIONAL)
    anything: Any = None
    yes: bool = True
    new: int = field(default=0, metadata=formerly("old", {}))
    by_label: Mapping[str, float] = field(metadata=spread("of_"))


RECORD = Outer(
    name="n",
    label="x",
    rows=((1, 2), ()),
    pair=(0.5, "p"),
    by_label={"viral": 0.25},
    by_name={"covid-19": Inner(value=1 / 3), "b": Inner(value=math.nan)},
)
CONTENT = {
    "name": "n", "kind": "a", "covid": "x", "rows": [[1, 2], []], "pair": [0.5, "p"],
    "by_name": {"covid-19": {"value": 0.333333, "hits": None}, "b": {"value": None, "hits": None}},
    "one": None, "anything": None, "yes": True, "new": 0, "of_viral": 0.25,
}  # fmt: skip


def test_keys_are_fields_in_their_order() -> None:
    assert json.dumps(as_json(RECORD)) == json.dumps(CONTENT)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "r.json", RECORD)
    read = read_json(Outer, tmp_path / "new" / "r.json")
    assert read.by_name["covid-19"] == Inner(value=0.333333)
    assert math.isnan(read.by_name["b"].value)
    assert (read.rows, read.pair, read.label) == (RECORD.rows, RECORD.pair, "x")
    assert as_json(read) == CONTENT
    assert as_json(as_stored(RECORD)) == CONTENT


def test_files_of_earlier_versions_lack_fields_with_a_default_and_have_others() -> None:
    before = {k: v for k, v in CONTENT.items() if k not in ("kind", "one", "yes")}
    assert as_json(from_json(Outer, {**before, "before": 1})) == CONTENT
    assert from_json(Outer, {**{k: v for k, v in CONTENT.items() if k != "new"}, "old": 3}).new == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": [[1, "2"]]}, "r: rows.0.1: expected int, got '2'"),
        ({"rows": 3}, "r: rows: expected a list"),
        ({"pair": [1.0]}, "r: pair: expected 2 items"),
        ({"kind": "c"}, "r: kind: expected one of"),
        ({"by_name": {"a": 1}}, "r: by_name.a: expected an object, got '1'"),
        ({"by_name": {"a": {}}}, "r: by_name.a.value is missing"),
        ({"by_name": {"a": {"value": True}}}, "r: by_name.a.value: expected float, got 'True'"),
        ({"yes": 1}, "r: yes: expected bool"),
        ({"of_viral": "x"}, "r: viral: expected float, got 'x'"),
        ({"name": None}, "r: name: expected str, got 'None': make the file again"),
    ],
)
def test_other_content_is_refused_by_position(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_json(Outer, {**CONTENT, **changed}, "r: ")


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_an_unreadable_file_is_named(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError, match=r"r\.json"):
        read_json(Outer, tmp_path / "r.json")
