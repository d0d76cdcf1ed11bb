"""Engines built from a bundle: their records on disk, and loading those that still match bundle and machine."""

from cxr_edge.engines.loading import (
    SEGMENTER,
    EngineSet,
    NetworkFile,
    check_signature,
    engine_set,
    engines_root,
    last_build_settings,
    load,
    parts,
    rebuild_command,
    reference,
)
from cxr_edge.engines.records import BUILD_FILE, PRECISION_CHOICES, BuildRecord, BuildSettings, SideCar

__all__ = [
    "BUILD_FILE",
    "PRECISION_CHOICES",
    "SEGMENTER",
    "BuildRecord",
    "BuildSettings",
    "EngineSet",
    "NetworkFile",
    "SideCar",
    "check_signature",
    "engine_set",
    "engines_root",
    "last_build_settings",
    "load",
    "parts",
    "rebuild_command",
    "reference",
]
