"""Configurations: only known keys, shared values handed down, errors that name the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.config import load_config


def _config(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return file


def test_the_starters_own_configuration() -> None:
    config = load_config(Path(__file__).parents[2] / "training" / "configs" / "starter.toml")
    assert list(config.members) == ["plain", "inverted", "inception"]
    assert config.member_spec.region == "lungs"
    assert config.segmenter_spec.region == "frame"
    assert config.labels == ("normal", "bacterial", "viral", "covid-19")


def test_threads_and_seed_reach_every_plan(tmp_path: Path) -> None:
    config = load_config(
        _config(tmp_path, "threads = 1\nseed = 7\n[segmenter]\nepochs = 3\n[members.plain]\nepochs = 2\nseed = 9")
    )
    assert (config.segmenter.threads, config.segmenter.seed, config.segmenter.epochs) == (1, 7, 3)
    assert (config.members["plain"].threads, config.members["plain"].seed) == (1, 9)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("epochs = 3", "epochs"),
        ("[segmenter]\nepochs = 3\nepoch = 2", "epoch"),
        ("[members.plain]\nlr = 1", r"members\.plain.*lr"),
    ],
)
def test_an_unknown_key_is_named(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(InputError, match=rf"c\.toml.*{key}"):
        load_config(_config(tmp_path, text))


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load_config(tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match=r"c\.toml"):
        load_config(_config(tmp_path, "= 3"))
