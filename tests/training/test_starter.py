"""Installation of the packaged starter: after any interruption a valid bundle is present, the old one or the new one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxr_edge.bundle import ENGINES_DIR, Bundle
from cxr_edge.errors import BundleError
from tests.builders.toy_bundle import build_toy_bundle
from training.starter import _install


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    """The packaged bundle."""
    return build_toy_bundle(tmp_path / "package" / "starter", strategy="average", known_answers=False)


@pytest.fixture
def new(tmp_path: Path) -> Bundle:
    """The bundle of a run."""
    return build_toy_bundle(tmp_path / "run", strategy="voting", known_answers=False)


def test_the_new_bundle_replaces_the_old_one(old: Bundle, new: Bundle) -> None:
    (old.root / "of-the-old-one.txt").touch()
    (new.root / ENGINES_DIR).mkdir()
    (new.root / ".hidden").touch()
    _install(new.root, old.root)
    installed = {p.name for p in old.root.iterdir()}
    assert Bundle.open(old.root).digest == new.digest
    assert installed == {p.name for p in new.root.iterdir()} - {ENGINES_DIR, ".hidden"}
    assert [p.name for p in old.root.parent.iterdir()] == ["starter"]


@pytest.mark.parametrize("files", [0, 1, 3])
def test_an_interrupted_installation_leaves_the_old_bundle(
    old: Bundle, new: Bundle, files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, left = shutil.copyfile, [files]

    def stopped(*args: Path, **options: bool) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return copy(*args, **options)

    monkeypatch.setattr(shutil, "copyfile", stopped)
    with pytest.raises(KeyboardInterrupt):
        _install(new.root, old.root)
    assert Bundle.open(old.root).digest == old.digest
    assert [p.name for p in old.root.parent.iterdir()] == ["starter"]


def test_an_invalid_bundle_is_not_installed(old: Bundle, new: Bundle) -> None:
    (new.root / "segmenter.onnx").write_bytes(b"altered")
    with pytest.raises(BundleError, match="was altered"):
        _install(new.root, old.root)
    assert Bundle.open(old.root).digest == old.digest
