"""The page of parameters: every row of Tables 3 and 4, by name and count, equal to what the code counts now."""

from __future__ import annotations

import json
from pathlib import Path

from training.recipes.r20.parameters import ROWS, Count, counts, page
from training.recipes.r20.published import MODALITY

RESULTS = Path(__file__).parents[4] / "docs" / "results"
STORED = [Count(**row) for row in json.loads((RESULTS / "r20-parameters.json").read_text())]


def test_every_row_of_table_3_is_counted_once_with_the_papers_names() -> None:
    assert set(ROWS.values()) == {name for _, name in MODALITY}
    named = [c for c in STORED if c.configuration == "r20-full" and c.labels == 2]
    assert sorted(c.row for c in named) == sorted(ROWS.values())
    assert {c.row for c in named if c.as_in_keras != c.printed} == {"DenseNet-201", "MobileNet-V2"}
    counted = {c.row: c for c in STORED if c.configuration == "r20-full-counts"}
    assert {row: (c.network, c.parameters) for row, c in counted.items()} == {
        "DenseNet-201": ("timm:densenet121", 16_394_114),
        "MobileNet-V2": ("timm:mobilenetv1_100", 12_647_234),
    }
    assert all(c.as_in_keras == c.printed for c in counted.values())


def test_the_head_of_the_text_fits_no_row() -> None:
    text = [c for c in STORED if c.configuration == "r20-full-code"]
    assert len(text) == 11
    assert {c.head for c in text} == {"separable-5x5"}
    assert all(c.as_in_keras != c.printed for c in text)


def test_the_stored_page_is_what_is_counted_now() -> None:
    some = ("custom", "vgg16", "mobilenet-v2")
    assert list(counts(some)) == [c for c in STORED if c.row in {ROWS[m] for m in some}]
    assert (RESULTS / "r20-parameters.md").read_text() == page(STORED)
