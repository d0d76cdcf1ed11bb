"""Fixtures for installations: two versions of a toy bundle, whose engines are copied, not built, and a box with the first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxr_edge.installation import install as steps
from cxr_edge.installation.box import Box
from cxr_edge.installation.install import InstallRequest, install
from tests.builders.two_versions import FP32, TwoVersions


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fsync do nothing: disks are slow, and what it is for shows only in a power cut."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def cheap(two_versions: TwoVersions, monkeypatch: pytest.MonkeyPatch) -> TwoVersions:
    """Return both versions; builds copy their engines."""
    monkeypatch.setattr(steps, "build", two_versions.build)
    return two_versions


@pytest.fixture
def request_fp32() -> InstallRequest:
    return InstallRequest(settings=FP32)


@pytest.fixture
def box(cheap: TwoVersions, request_fp32: InstallRequest, tmp_path: Path) -> Box:
    """Return a box with the first version in use."""
    found = Box.at(tmp_path / "box", create=True)
    install(cheap.old, found, request_fp32)
    return found
