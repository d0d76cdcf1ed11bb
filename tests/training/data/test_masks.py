"""Lung masks of records."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_edge.errors import InputError
from training.data.masks import read_mask
from training.data.records import Record

MASK = np.repeat([[0, 127, 255, 255]], 4, axis=0).astype(np.uint8)


def record_with(mask: Path) -> Record:
    return Record(
        path=Path("x.png"), key="x.png", patient="a/1", label="normal", source="a", view="PA", finding="", adult=True, mask=mask
    )  # fmt: skip


@pytest.mark.parametrize("name", [b"mask.png", b"m\xe4sk.png", "lung \N{GREEK SMALL LETTER ALPHA}.png".encode()])
def test_a_mask_is_read_under_any_name(tmp_path, name):
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(cv2.imencode(".png", MASK)[1].tobytes())
    np.testing.assert_array_equal(read_mask(record_with(file)), MASK)
    assert read_mask(record_with(file), (8, 8)).shape == (8, 8)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_mask_that_cannot_be_read_is_named(tmp_path, content):
    file = tmp_path / "mask.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"mask\.png: the lung mask of x\.png cannot be read"):
        read_mask(record_with(file))


def test_a_mask_with_gray_values_is_refused(tmp_path):
    file = tmp_path / "mask.png"
    file.write_bytes(cv2.imencode(".png", np.arange(16, dtype=np.uint8).reshape(4, 4))[1].tobytes())
    with pytest.raises(
        InputError, match=r"a lung mask holds 0, 127 \(not known\) and 255, this one \[0, 1, 2, 3, 4, 5\]"
    ):
        read_mask(record_with(file))
