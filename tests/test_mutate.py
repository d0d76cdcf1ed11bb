"""The mutator of csrc: what it changes and what it leaves alone. And the table of `make coverage`."""

from __future__ import annotations

import json

import pytest

from tests import coverage_table
from tests.mutate.native import mutations
from tests.mutate.records import Mutant


@pytest.mark.parametrize(
    ("line", "mutated"),
    [
        ("x = a + b;", ["x = a - b;"]),
        ("if (i <= n && ok) return true;", ["if (i < n && ok) return true;", "if (i <= n || ok) return true;",
                                            "if (i <= n && ok) return false;"]),
        ("y[2] = larger(v, 0.5) << 3u;", ["y[3] = larger(v, 0.5) << 3u;", "y[2] = smaller(v, 0.5) << 3u;",
                                          "y[2] = larger(v, 1.5) << 3u;", "y[2] = larger(v, 0.5) >> 3u;",
                                          "y[2] = larger(v, 0.5) << 4u;"]),
        ("const T* row = *at<T>(0x7f);  // 2 + 2", ["const T* row = *at<T>(0x80);  // 2 + 2"]),
        ('#include "a + b.h"', []),
        ('fail("1 + 1");', []),
        ("std::vector<uint8_t> v2(int32_t{});", []),
    ],
)  # fmt: skip
def test_operators_numbers_and_names_are_changed_outside_texts_and_comments(line: str, mutated: list[str]) -> None:
    assert [line[:start] + new + line[end:] for start, end, new in mutations(line)] == mutated


def test_a_mutant_of_wording_alone_is_told_from_one_of_a_name() -> None:
    old = 'raise InputError(f"no images: {n}")'
    assert Mutant(file="f", old=old, new='raise InputError(f"XXno images: {n}XX")').rewords
    assert Mutant(file="f", old=old, new='raise InputError(f"NO IMAGES: {N}")').rewords
    assert not Mutant(file="f", old=old, new="raise InputError(None)").rewords
    assert not Mutant(file="f", old='mode = "train"', new='mode = "XXtrainXX"').rewords


def test_coverage_is_added_up_by_package() -> None:
    def file(*figures: int) -> dict[str, dict[str, int]]:
        return {"summary": dict(zip(coverage_table.FIGURES, figures, strict=True))}

    files = {
        "cxr_edge/a.py": file(10, 5, 4, 1),
        "cxr_edge/ops/b.py": file(3, 3, 0, 0),
        "cxr_edge/ops/c/d.py": file(1, 0, 4, 4),
    }
    assert coverage_table.table(json.dumps({"files": files})).splitlines()[2:] == [
        "| `cxr_edge` | 10 | 50.0 % | 4 | 25.0 % |",
        "| `cxr_edge/ops` | 4 | 75.0 % | 4 | 100.0 % |",
        "| `all` | 14 | 57.1 % | 8 | 62.5 % |",
    ]
