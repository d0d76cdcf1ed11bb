"""Engines built from a bundle: their records on disk, and loading those that still match bundle and machine."""

from cxr_edge.engines.loading import (
    SEGMENTER,
    EngineSet,
    NetworkFile,
    check_files,
    check_signature,
    engine_set,
    engines_root,
    last_build_settings,
    load,
    parts,
    rebuild_command,
    reference,
)
from cxr_edge.engines.records import (
    BUILD_FILE,
    MEASURED_FILE,
    PRECISION_CHOICES,
    BuildRecord,
    BuildSettings,
    Measured,
    SideCar,
)

__all__ = [
    "BUILD_FILE",
    "MEASURED_FILE",
    "PRECISION_CHOICES",
    "SEGMENTER",
    "BuildRecord",
    "BuildSettings",
    "EngineSet",
    "Measured",
    "NetworkFile",
    "SideCar",
    "check_files",
    "check_signature",
    "engine_set",
    "engines_root",
    "last_build_settings",
    "load",
    "parts",
    "rebuild_command",
    "reference",
]
