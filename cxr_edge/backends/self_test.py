"""Self-test of a backend: run a two-element network and compare its output.

An installed runtime may still fail on this driver or processor. Where compiling even that network takes seconds, a build
saves its engine beside its own, and the test loads and runs it.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from cxr_edge.backends.base import Backend, CompileOptions
from cxr_edge.errors import CxrEdgeError

__all__ = ["keep_proof", "prove"]


# An ONNX file (opset 13): input x (2) float32, output y = -x. In base64, so that screening never imports onnx.
_TINY_NETWORK = base64.b64decode("CAgSADoyCgsKAXgSAXkiA05lZxIBZ1oPCgF4EgoKCAgBEgQKAggCYg8KAXkSCgoICAESBAoCCAJCBAoAEA0=")


_PROOF = "proof"


def prove(backend: Backend, kept: Path | None = None) -> str | None:
    """Run a tiny network on `backend`: None if the answer is right, else what went wrong.

    kept: a folder where `keep_proof` may have left the tiny engine; one of these very versions is not compiled again.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
            engine = _kept_engine(backend, kept) or _compiled(backend, Path(folder))
            return _wrong(backend, engine)
    except (CxrEdgeError, OSError) as error:
        return str(error)


def keep_proof(backend: Backend, folder: Path) -> None:
    """Leave the tiny engine in `folder`, for `prove`. Raises BackendError if the backend cannot compile it."""
    with tempfile.TemporaryDirectory(prefix="cxr-edge-") as scratch:
        shutil.copyfile(_compiled(backend, Path(scratch)), folder / f"{_PROOF}{backend.suffix}")
    versions = json.dumps(backend.versions(), indent=1)
    (folder / f"{_PROOF}.json").write_text(versions + "\n", encoding="utf-8")


def _compiled(backend: Backend, folder: Path) -> Path:
    onnx, engine = folder / "tiny.onnx", folder / f"{_PROOF}{backend.suffix}"
    onnx.write_bytes(_TINY_NETWORK)
    backend.compile(onnx, engine, CompileOptions())
    return engine


def _kept_engine(backend: Backend, kept: Path | None) -> Path | None:
    if kept is None:
        return None
    try:
        versions = json.loads((kept / f"{_PROOF}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    engine = kept / f"{_PROOF}{backend.suffix}"
    return engine if versions == backend.versions() and engine.is_file() else None


def _wrong(backend: Backend, engine: Path) -> str | None:
    x = np.array([1.0, -2.0], np.float32)
    y = backend.load(engine, CompileOptions()).run({"x": x})["y"]
    return None if np.array_equal(y, -x) else f"a tiny network gave {y.tolist()} for {(-x).tolist()}"
