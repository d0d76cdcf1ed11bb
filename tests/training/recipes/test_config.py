"""Configurations: only known keys, shared values handed down, errors with file and key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from cxr_edge.errors import InputError
from training.data.augment import Augmentation
from training.recipes.config import RunConfig, load_config
from training.recipes.flannel.config import load_flannel
from training.recipes.r20.config import load_r20


def _config(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "c.toml"
    file.write_text(text)
    return file


def test_the_starters_own_configuration() -> None:
    config = load_config(Path(__file__).parents[3] / "training" / "configs" / "starter.toml")
    assert [m.architecture for m in config.members.values()] == ["timm:tf_efficientnet_lite0", "inverted", "plain"]
    assert config.member_spec.region == "lungs"
    assert config.segmenter_spec.region == "frame"
    assert config.labels == ("normal", "bacterial", "viral", "covid-19", "other")


def test_threads_and_seed_reach_every_plan(tmp_path: Path) -> None:
    config = load_config(
        _config(tmp_path, "threads = 1\nseed = 7\n[segmenter]\nepochs = 3\n[members.plain]\nepochs = 2\nseed = 9")
    )
    assert (config.segmenter.threads, config.segmenter.seed, config.segmenter.epochs) == (1, 7, 3)
    assert (config.members["plain"].train.threads, config.members["plain"].train.seed) == (1, 9)


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


_LOADERS = pytest.mark.parametrize(("load", "kind"), [(load_r20, "members"), (load_flannel, "learners")])


def _papers(load: Callable[[Path], RunConfig], kind: str, tmp_path: Path, preset: str, augment: str = "") -> RunConfig:
    """Return a paper's configuration with two networks."""
    networks = "".join(f'[{kind}.{name}]\narchitecture = "narrow-vgg"\n' for name in "ab")
    return load(_config(tmp_path, f'name = "x"\npreset = "{preset}"\n{networks}{augment}'))


@_LOADERS
def test_an_unknown_augmentation_is_named_with_the_known_ones(
    load: Callable[[Path], RunConfig], kind: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"c\.toml: augment: unknown keys \['blurr'\]; known are ") as error:
        _papers(load, kind, tmp_path, "sane", "[augment]\nblurr = 0.1\nblur = 0.2\n")
    for known in fields(Augmentation):
        assert repr(known.name) in str(error.value)
    with pytest.raises(InputError, match="blurr"):
        _papers(load, kind, tmp_path, "paper", "[augment]\nblurr = 0.1\n")


@_LOADERS
def test_augmentation_settings_apply_to_sane_only(load: Callable[[Path], RunConfig], kind: str, tmp_path: Path) -> None:
    changes = "[augment]\nrotation_deg = 3.0\nequalize = 0.0\n"
    sane = _papers(load, kind, tmp_path, "sane", changes)
    assert sane.augmentation == replace(Augmentation(), rotation_deg=3.0, equalize=0.0)
    assert _papers(load, kind, tmp_path, "sane").augmentation == Augmentation()
    for preset in ("paper", "code"):
        changed, plain = (_papers(load, kind, tmp_path, preset, text) for text in (changes, ""))
        assert changed.augmentation == plain.augmentation


def test_gate_images_are_a_table_with_their_terms(tmp_path: Path) -> None:
    terms = 'folder = "images", licence = "CC0-1.0"'
    found = load_config(
        _config(tmp_path, f'gate_images = {{ {terms}, attribution = "us", images = 50 }}\n')
    ).gate_images
    assert found is not None
    assert (found.folder, found.licence, found.attribution, found.images) == ("images", "CC0-1.0", "us", 50)
    with pytest.raises(InputError, match="attribution"):
        load_config(_config(tmp_path, f"gate_images = {{ {terms} }}\n"))


def test_the_starter_has_a_surrogate() -> None:
    assert load_config(Path(__file__).parents[3] / "training" / "configs" / "starter.toml").gate_surrogate
