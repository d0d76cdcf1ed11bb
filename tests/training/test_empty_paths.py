"""An empty path, as an unset shell variable gives, is a usage error of every command, never the current folder."""

import importlib
import os

import pytest

from training.phantoms import write_samples

COMMANDS = [
    ("training.starter", ["--data", "--config", "--out"]),
    ("training.evaluate", ["--data", "--bundle", "--engines", "--out"]),
    ("training.papers_smoke", ["--out", "--results"]),
    ("training.phantoms", [""]),
    ("training.seeds", [""]),
    ("benchmarks.__main__", ["--bundle", "--engines", "--page"]),
]


@pytest.mark.parametrize(("module", "option"), [(m, o) for m, options in COMMANDS for o in options])
def test_an_empty_path_is_a_usage_error(module, option, capsys):
    arguments = [option, ""] if option else [""]
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main(arguments)
    assert stop.value.code == 2
    assert "expected a path, got an empty one" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--data", "--config", "--out", "--results"])
def test_an_empty_path_of_a_paper(option, capsys):
    from training.reproduce import main

    with pytest.raises(SystemExit) as stop:
        main(["r20", option, ""])
    assert stop.value.code == 2
    assert "expected a path, got an empty one" in capsys.readouterr().err


def test_phantoms_in_a_folder_of_any_name(tmp_path):
    folder = tmp_path / os.fsdecode(b"m\xfcller")
    written = write_samples(folder, count=4, seed=0, size_px=64)
    assert all(path.stat().st_size > 0 for path in written)
    for path in written:
        path.unlink()
    folder.rmdir()
