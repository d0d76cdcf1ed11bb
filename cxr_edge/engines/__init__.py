"""Engines built from a bundle: their records on disk, and loading them where those records still hold."""

from cxr_edge.engines.load import (
    SEGMENTER,
    EngineSet,
    Part,
    check_signature,
    engine_set,
    engines_root,
    last_asked,
    load,
    parts,
    rebuild_command,
    reference,
)
from cxr_edge.engines.records import BUILD_FILE, Asked, Selection, SideCar

__all__ = [
    "BUILD_FILE",
    "SEGMENTER",
    "Asked",
    "EngineSet",
    "Part",
    "Selection",
    "SideCar",
    "check_signature",
    "engine_set",
    "engines_root",
    "last_asked",
    "load",
    "parts",
    "rebuild_command",
    "reference",
]
