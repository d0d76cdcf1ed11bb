"""Which files `screen` takes from its PATH arguments."""

from pathlib import Path

import pytest

from cxr_edge.cli.files import select
from cxr_edge.errors import InputError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.dcm", "noext", "table.csv", "sub/c.jpg", ".hidden/d.png", ".DS_Store", "sub/DICOMDIR"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def names(paths, root):
    return [p.relative_to(root).as_posix() for p in paths]


def test_a_folder_is_walked_in_order_and_what_is_left_out_is_said(folder):
    selection = select([str(folder)])
    assert names(selection.files, folder) == ["a.dcm", "b.png", "noext", "sub/c.jpg"]
    assert names(selection.skipped, folder) == ["sub/DICOMDIR", "table.csv"]


def test_a_named_file_is_never_left_out(folder):
    assert select([str(folder / "table.csv")]).files == (folder / "table.csv",)


def test_a_missing_file_stays_in_to_be_refused_as_its_own_row():
    assert select(["nowhere.png"]).files == (Path("nowhere.png"),)


def test_patterns_expand_and_repeats_fall_together(folder):
    selection = select([str(folder / "*.png"), str(folder / "b.png"), str(folder / "**" / "*.jpg")])
    assert names(selection.files, folder) == ["b.png", "sub/c.jpg"]


def test_a_name_with_brackets_that_exists_is_a_file(tmp_path):
    odd = tmp_path / "x[1].png"
    odd.write_bytes(b"x")
    assert select([str(odd)]).files == (odd,)


def test_a_pattern_without_match_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="matches no file"):
        select([str(tmp_path / "*.png")])
    with pytest.raises(InputError, match="holds no image"):
        select([str(tmp_path)])
