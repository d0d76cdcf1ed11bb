"""Expansion of the PATH arguments of `screen`: selected files, skipped entries and their reasons."""

import os
import socket
import subprocess
import sys
import tempfile
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


def skipped(selection, root):
    return {s.path.relative_to(root).as_posix(): s.reason for s in selection.skipped}


def test_a_folder_is_walked_in_order_and_skipped_entries_are_listed(folder):
    selection = select([str(folder)])
    assert names(selection.files, folder) == ["a.dcm", "b.png", "noext", "sub/c.jpg"]
    assert skipped(selection, folder) == {
        "sub/DICOMDIR": "not an image file name",
        "table.csv": "not an image file name",
    }
    assert selection.hidden == 2


def test_a_named_file_is_never_skipped(folder):
    assert select([str(folder / "table.csv")]).files == (folder / "table.csv",)


def test_a_missing_file_is_selected_and_fails_as_its_own_row():
    assert select(["nowhere.png"]).files == (Path("nowhere.png"),)


def test_patterns_are_expanded_and_duplicates_removed(folder):
    selection = select([str(folder / "*.png"), str(folder / "b.png"), str(folder / "**" / "*.jpg")])
    assert names(selection.files, folder) == ["b.png", "sub/c.jpg"]


def test_an_existing_name_with_brackets_is_not_a_pattern(tmp_path):
    odd = tmp_path / "x[1].png"
    odd.write_bytes(b"x")
    assert select([str(odd)]).files == (odd,)


def test_a_pattern_without_match_and_an_empty_folder_are_errors(tmp_path):
    with pytest.raises(InputError, match="matches no file"):
        select([str(tmp_path / "*.png")])
    with pytest.raises(InputError, match="has no image"):
        select([str(tmp_path)])


def test_the_error_for_an_empty_folder_names_a_skipped_file(tmp_path):
    (tmp_path / "a.csv").write_text("")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(
        InputError, match=r"has no image to screen; skipped: .*a\.csv \(not an image file name\) and 1 more"
    ):
        select([str(tmp_path)])


def test_one_empty_folder_or_pattern_among_several_arguments_is_a_failure(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    (empty / "notes.txt").write_text("")
    selection = select([str(empty), str(folder / "a.dcm"), "nothing*.png", str(folder / "b.png")])
    first, file, second, last = selection.files
    assert (first.source, second.source, file, last) == (str(empty), "nothing*.png", folder / "a.dcm", folder / "b.png")
    assert first.reason.startswith("the folder has no image to screen; skipped: ")
    assert second.reason.startswith("the pattern matches no file: ")
    assert [s.path for s in selection.skipped] == [empty / "notes.txt"]
    with pytest.raises(
        InputError, match=r"empty\d: the folder has no image.*; nothing\*\.png: the pattern matches no file"
    ):
        select([str(empty), "nothing*.png"])


def test_an_empty_argument_is_rejected_and_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match="an empty PATH"):
        select(["a.dcm", ""])


def test_impossible_names_are_selected(tmp_path):
    for name in ("a\0b", "a\0*", "x" * 300, str(tmp_path / ("d" * 300) / "a.png")):
        assert select([name]).files == (Path(name),)


def test_special_files_are_listed_with_their_kind(folder):
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "loop.png").symlink_to("loop.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket.png"))
        found = skipped(select([str(folder)]), folder)
    assert found["pipe.png"] == "a FIFO, not a regular file"
    assert found["broken.png"] == "a broken link"
    assert found["loop.png"].startswith("it cannot be read (Too many levels")
    assert found["socket.png"] == "a socket, not a regular file"


def test_links_to_folders_are_followed_once_and_loops_are_detected(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "e.png").write_bytes(b"x")
    (outside / "back").symlink_to(folder)
    (folder / "0-outside").symlink_to(outside)
    (folder / "1-again").symlink_to(outside)
    (folder / "2-sub").symlink_to("sub")
    (folder / "sub" / "up").symlink_to("..")
    selection = select([str(folder)])
    assert names(selection.files, folder) == ["0-outside/e.png", "a.dcm", "b.png", "noext", "sub/c.jpg"]
    found = skipped(selection, folder)
    assert found["1-again"] == f"the same folder as {folder / '0-outside'}"
    assert found["2-sub"] == f"the same folder as {folder / 'sub'}"
    assert found["sub/up"] == found["0-outside/back"] == f"the same folder as {folder}"


def test_a_pattern_that_follows_a_loop_finds_every_file_once(folder):
    (folder / "sub" / "up").symlink_to("..")
    assert names(select([str(folder / "**" / "*.[jp]*g")]).files, folder) == ["b.png", "sub/c.jpg"]


def test_an_unreadable_folder_is_listed_as_skipped(folder, monkeypatch):
    listdir = os.listdir

    def fails(path):
        if Path(path) == folder / "sub":
            raise OSError(5, "Input/output error")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", fails)
    assert skipped(select([str(folder)]), folder)["sub"] == "the folder cannot be read (Input/output error)"


# root may enter every folder, so the child process changes to another user.
CLOSED = """
import os, sys
from cxr_edge.cli.files import select
if os.geteuid() == 0:
    os.seteuid(65534)
selection = select(sys.argv[1:])
print(*selection.files, sep="|")
print(*(f"{s.path}: {s.reason}" for s in selection.skipped), sep="|")
"""


def test_a_folder_without_permission_does_not_affect_other_files(tmp_path):
    root = tmp_path / "root"
    for name in ("open/a.png", "closed/b.png", "unlisted/c.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(b"x")
    for parent in (tmp_path, *tmp_path.parents):
        if tempfile.gettempdir() in map(str, parent.parents):
            parent.chmod(parent.stat().st_mode | 0o055)
    (root / "closed").chmod(0)
    (root / "unlisted").chmod(0o444)
    arguments = [str(root), str(root / "closed" / "b.png")]
    done = subprocess.run([sys.executable, "-c", CLOSED, *arguments], capture_output=True, text=True, check=False)
    (root / "closed").chmod(0o755)
    assert done.stderr == ""
    files, left_out = (line.split("|") for line in done.stdout.splitlines())
    assert files == [str(root / "open" / "a.png"), str(root / "closed" / "b.png")]
    assert left_out == [
        f"{root / 'closed'}: the folder cannot be read (Permission denied)",
        f"{root / 'unlisted' / 'c.png'}: it cannot be read (Permission denied)",
    ]
