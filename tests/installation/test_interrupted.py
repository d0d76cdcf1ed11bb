"""An installation that is killed at any of its changes to the disk leaves the old or the new version, and the next succeeds.

Every function that changes the disk is replaced by one that counts, and from the k-th call on raises in place of working:
clean-up code cannot tidy up, as after kill -9. All k are tried.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr_edge import engines
from cxr_edge.bundle import Bundle
from cxr_edge.errors import BundleError
from cxr_edge.installation import install as steps
from cxr_edge.installation.box import Box
from cxr_edge.installation.install import InstallRequest, install, roll_back
from tests.builders.two_versions import FP32, TwoVersions, build_two_versions

_OS = ("replace", "rename", "symlink", "mkdir", "rmdir", "unlink", "fsync", "write")
_REQUEST = InstallRequest(settings=FP32)


class Killed(BaseException):
    """Stands for the end of the process."""


class Saw:
    """Lets the first `k` changes happen, and none after them."""

    def __init__(self, patch: pytest.MonkeyPatch, k: int) -> None:
        self.calls, self._k = 0, k
        for name in _OS:
            patch.setattr(os, name, self._sawn(getattr(os, name)))
        patch.setattr(shutil, "copyfile", self._half_copied(shutil.copyfile))

    def _count(self) -> None:
        self.calls += 1
        if self.calls > self._k:
            raise Killed

    def _sawn(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return function(*args, **kwargs)

        return call

    def _half_copied(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Path, target: Path, **kwargs: Any) -> Any:
            if self.calls == self._k:  # the one that is killed
                Path(target).write_bytes(Path(source).read_bytes()[:100])
            self._count()
            return function(source, target, **kwargs)

        return call


@pytest.fixture(autouse=True)
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the self-test do nothing: it changes nothing on the disk."""
    monkeypatch.setattr(steps, "self_test", lambda *_, **__: 0)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> TwoVersions:
    """Return two versions of few and small files."""
    return build_two_versions(tmp_path_factory.mktemp("bare"), segmenter=False)


def interrupted(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], k: int) -> bool:
    """Run until the k-th change; return whether it was killed."""
    with monkeypatch.context() as patch:
        Saw(patch, k)
        try:
            run()
        except Killed:
            return True
    return False


def used(box: Box) -> str:
    """Return the digest of the version that screens: its files and engines are whole."""
    bundle = Bundle.open(box.root)
    engines.load(bundle)
    return bundle.digest


def assert_tidy(box: Box, *digests: str) -> None:
    assert [record.digest for record in box.installed()] == list(digests)
    assert sorted(p.name for p in box.versions_dir.iterdir()) == sorted(r.folder for r in box.installed())
    assert {p.name for p in box.root.iterdir()} <= {"box.json", "current", "journal.jsonl", "versions"}


def boxes(template: Path, folder: Path) -> Callable[[int], Box]:
    def copy(k: int) -> Box:
        return Box.at(Path(shutil.copytree(template, folder / f"box-{k}", symlinks=True)))

    return copy


def test_killed_at_every_step_of_an_update(bare: TwoVersions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "build", bare.build)
    first = Box.at(tmp_path / "first", create=True)
    install(bare.old, first, _REQUEST)
    copy, seen, k = boxes(first.root, tmp_path), [], 0
    while interrupted(monkeypatch, lambda: install(bare.new, box, _REQUEST), k) if (box := copy(k)) else False:
        seen.append(used(box))
        install(bare.new, box, _REQUEST)
        assert used(box) == bare.new.digest
        shutil.rmtree(box.root)
        k += 1
    assert k > 30, "the steps are no longer seen"
    assert seen == sorted(seen, key=[bare.old.digest, bare.new.digest].index), "old up to the switch, then new"
    assert set(seen) == {bare.old.digest, bare.new.digest}
    assert used(box) == bare.new.digest
    assert_tidy(box, bare.old.digest, bare.new.digest)


def test_killed_at_every_step_of_a_first_installation(
    bare: TwoVersions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "build", bare.build)
    k, found = 0, []
    while True:
        box = Box.at(tmp_path / f"box-{k}", create=True)
        if not interrupted(monkeypatch, lambda box=box: install(bare.old, box, _REQUEST), k):  # type: ignore[misc]
            break
        try:
            found.append(used(box))
        except BundleError:
            found.append("none")
        install(bare.old, box, _REQUEST)
        assert used(box) == bare.old.digest
        assert_tidy(box, bare.old.digest)
        k += 1
    assert found == sorted(found, key=["none", bare.old.digest].index)
    assert len(set(found)) == 2


def test_killed_at_every_step_of_a_rollback(bare: TwoVersions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "build", bare.build)
    first = Box.at(tmp_path / "first", create=True)
    for bundle in (bare.old, bare.new):
        install(bundle, first, _REQUEST)
    copy, seen, k = boxes(first.root, tmp_path), [], 0
    while interrupted(monkeypatch, lambda: roll_back(box), k) if (box := copy(k)) else False:
        seen.append(used(box))
        k += 1
    assert seen == sorted(seen, key=[bare.new.digest, bare.old.digest].index)
    assert set(seen) == {bare.new.digest, bare.old.digest}
    assert used(box) == bare.old.digest
