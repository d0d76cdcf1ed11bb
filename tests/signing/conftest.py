"""A maker with a root key, a release key and signed bundles, and a box with a copy of the trusted keys."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.bundle.gate_file import pack_images
from cxr_edge.bundle.gate_set import attach_gate_set
from cxr_edge.signing.authority import certify
from cxr_edge.signing.keys import PrivateKey
from cxr_edge.signing.sign import sign_bundle, with_counter
from cxr_edge.signing.statements import ReleaseKey
from cxr_edge.signing.verify import Verified, verify_bundle


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Keys of a maker, and the folders of a box."""

    root: PrivateKey
    key: PrivateKey
    keys: Path  # trusted keys on the box
    state: Path  # of the box
    make: Callable[[str], Path]  # a copy of the toy bundle

    def signed(self, folder: str = "toy", *, counter: int = 1, key: PrivateKey | None = None, **changes: Any) -> Path:
        """Make a bundle with this counter and these changes of its manifest, signed with `key` or the release key."""
        root = self.make(folder)
        bundle = Bundle.open(root)
        bundle = write_bundle(root, dataclasses.replace(bundle.manifest, **changes)) if changes else bundle
        sign_bundle(with_counter(bundle, counter), key or self.key)
        return root

    def verify(self, root: Path, **options: Any) -> Verified:
        """Verify on the box."""
        return verify_bundle(Bundle.open(root), self.keys, state=self.state, **options)


@pytest.fixture
def maker(toy_bundle: Path, tmp_path: Path) -> Maker:
    root, key = PrivateKey.new(), PrivateKey.new()
    certify(tmp_path / "keys", root, ReleaseKey(key=key.public, name="Test maker"))

    def make(name: str) -> Path:
        bundle = Bundle.open(shutil.copytree(toy_bundle, tmp_path / name))
        images = [np.full((20, 30), 40 * i, np.uint8) for i in range(2)]
        labels = bundle.manifest.labels
        shares = np.full((2, len(labels)), 1 / len(labels))
        gate_set = pack_images(images, (0, None), labels, shares, [labels[0]] * 2)
        return attach_gate_set(bundle, gate_set, licence="CC0-1.0", attribution="drawn").root

    return Maker(root=root, key=key, keys=tmp_path / "keys", state=tmp_path / "state", make=make)
