"""cxr-edge: train, prune, compile and screen chest X-ray ensembles on small machines.

This package is the runtime: it turns an X-ray file into a screening result on a device. It depends on no deep-learning
framework; training is in the repository's `training` folder and depends on this package, never the reverse. Importing it
switches ONNX Runtime's telemetry off for this process and its child processes.

    from cxr_edge import Bundle, Screener, load_engines, load_image

    bundle = Bundle.open("starter")
    screener = Screener(bundle, load_engines(bundle, threads=2), threads=2)
    print(screener.screen(load_image("chest.dcm")).decision)

docs/python.md has the rest: pixels in memory, many files, threads, processes, errors.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cxr_edge import moved
from cxr_edge.version import __version__

if TYPE_CHECKING:
    from cxr_edge.bundle import Bundle
    from cxr_edge.decoding.decode import decode as load_image
    from cxr_edge.drift import DriftMonitor
    from cxr_edge.engines import load as load_engines
    from cxr_edge.errors import (
        BackendError,
        BundleError,
        ContractError,
        CxrEdgeError,
        EngineError,
        InputError,
        OutputError,
    )
    from cxr_edge.evidence import EvidenceLog
    from cxr_edge.records import Image, Screening
    from cxr_edge.screening.folder import screen_files
    from cxr_edge.screening.screener import Screener

__all__ = [
    "BackendError",
    "Bundle",
    "BundleError",
    "ContractError",
    "CxrEdgeError",
    "DriftMonitor",
    "EngineError",
    "EvidenceLog",
    "Image",
    "InputError",
    "OutputError",
    "Screener",
    "Screening",
    "__version__",
    "load_engines",
    "load_image",
    "screen_files",
]

# ONNX Runtime 1.29 and later writes a device id and an event database to the user's cache folder and looks up its
# telemetry host. It reads this variable when it is first imported, so every package here that imports it imports
# cxr_edge first (docs/environment.md, tests/test_privacy.py).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

moved.install("cxr_edge", moved.CXR_EDGE)

# Module and attribute of each public name. Imported on first use, so that `import cxr_edge` is fast.
_PUBLIC = {
    "Bundle": ("bundle", "Bundle"),
    "DriftMonitor": ("drift", "DriftMonitor"),
    "EvidenceLog": ("evidence", "EvidenceLog"),
    "Image": ("records", "Image"),
    "Screener": ("screening.screener", "Screener"),
    "Screening": ("records", "Screening"),
    "load_engines": ("engines", "load"),
    "load_image": ("decoding.decode", "decode"),
    "screen_files": ("screening.folder", "screen_files"),
    **{name: ("errors", name) for name in __all__ if name.endswith("Error")},
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cxr_edge' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(f"cxr_edge.{module}"), attribute)
