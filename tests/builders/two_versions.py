"""Two versions of a toy bundle with their engines, built once, and a stand-in for builds that copies these engines.

Tests of installations need many builds of the same two bundles: each takes a second, a copy takes none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cxr_edge.bundle import Bundle, write_bundle
from cxr_edge.compiler.build_bundle import build
from cxr_edge.compiler.report import BuildReport
from cxr_edge.engines import BuildSettings
from cxr_edge.specs.combination import Decision
from tests.builders.toy_bundle import build_toy_bundle

__all__ = ["FP32", "TwoVersions", "build_two_versions"]

FP32 = BuildSettings(precision="fp32")


@dataclass(frozen=True, kw_only=True)
class TwoVersions:
    """Bundles 1 and 2, whose engines are built elsewhere; they decide `known-coarse.png` differently."""

    old: Bundle
    new: Bundle
    engines: dict[str, Path]  # by digest of the bundle
    reports: dict[str, BuildReport]

    @property
    def build(self) -> Callable[..., BuildReport]:
        """Return a stand-in for `build_bundle.build`."""

        def copied(bundle: Bundle, settings: BuildSettings, *_: Any, **__: Any) -> BuildReport:
            assert settings == FP32
            shutil.copytree(self.engines[bundle.digest], bundle.root / "engines")
            return self.reports[bundle.digest]

        return copied


def build_two_versions(folder: Path, **options: Any) -> TwoVersions:
    """Write the bundles and their engines into `folder`. options: of `build_toy_bundle`."""
    thresholds = [{"covid-19": 0.9}, {"covid-19": 0.05}]
    bundles = []
    for version, values in zip(("1", "2"), thresholds, strict=True):
        bundle = build_toy_bundle(folder / version, members=("plain",), thresholds=values, **options)
        first = ("covid-19",) if version == "2" else ()
        decision = Decision(thresholds=values, uncertain_below=0.5, first=first)
        bundles.append(write_bundle(bundle.root, replace(bundle.manifest, version=version, decision=decision)))
    engines = {b.digest: folder / f"engines-{b.manifest.version}" for b in bundles}
    reports = {b.digest: build(b, FP32, engines[b.digest]) for b in bundles}
    return TwoVersions(old=bundles[0], new=bundles[1], engines=engines, reports=reports)
