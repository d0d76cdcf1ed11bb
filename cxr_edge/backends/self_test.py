"""Self-test of a backend: run a two-element network and compare its output with the expected one.

An installed runtime may still fail on this driver or processor. A build saves the compiled test engine beside its own
engines, and later self-tests only load and run it: compiling takes seconds on some backends, and a device may have no folder
for temporary files (a read-only root file system).
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cxr_edge.backends.base import Backend, CompileOptions
from cxr_edge.errors import BackendError, CxrEdgeError

__all__ = ["SELF_TEST_STEM", "run_self_test", "save_self_test_engine"]

# An ONNX file (opset 13): input x (2) float32, output y = -x. In base64, so that screening never imports onnx.
_TEST_NETWORK = base64.b64decode("CAgSADoyCgsKAXgSAXkiA05lZxIBZ1oPCgF4EgoKCAgBEgQKAggCYg8KAXkSCgoICAESBAoCCAJCBAoAEA0=")

# File name, without suffix, of a saved test engine and its side-car; no bundle member's name may begin with "_".
SELF_TEST_STEM = "_self-test"


def run_self_test(backend: Backend, saved: Path | None = None) -> str | None:
    """Run the two-element network on `backend`. Return None if the output is correct, else the reason for failure.

    saved: folder where `save_self_test_engine` may have left the test engine. It is compiled again unless that engine was
    built with the current versions.
    """
    try:
        if (engine := _saved_engine(backend, saved)) is not None:
            return _output_error(backend, engine)
        with _scratch_folder() as folder:
            return _output_error(backend, _compile(backend, folder))
    except (CxrEdgeError, OSError) as error:
        return str(error)


def save_self_test_engine(backend: Backend, folder: Path) -> tuple[Path, Path]:
    """Compile the test engine into `folder`, for `run_self_test`, and return its two files.

    Raises BackendError if the backend cannot compile it.
    """
    with _scratch_folder() as scratch:
        compiled = _compile(backend, scratch)
        engine = folder / compiled.name
        engine.write_bytes(compiled.read_bytes())
    versions = folder / f"{SELF_TEST_STEM}.json"
    versions.write_text(json.dumps(backend.versions(), indent=1) + "\n", encoding="utf-8")
    return engine, versions


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="cxr-edge-")
    except OSError as error:
        raise BackendError(
            f"its self-test needs a folder for temporary files ({error.strerror}): set TMPDIR to one that can be written, or "
            f"build the engines with `cxr-edge build-engine`, which saves the test engine beside them"
        ) from None
    with folder as name:
        yield Path(name)


def _compile(backend: Backend, folder: Path) -> Path:
    onnx, engine = folder / "tiny.onnx", folder / f"{SELF_TEST_STEM}{backend.suffix}"
    onnx.write_bytes(_TEST_NETWORK)
    backend.compile(onnx, engine, CompileOptions())
    return engine


def _saved_engine(backend: Backend, saved: Path | None) -> Path | None:
    """Return the saved test engine, or None unless it was built with the current versions."""
    if saved is None:
        return None
    try:
        versions = json.loads((saved / f"{SELF_TEST_STEM}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    engine = saved / f"{SELF_TEST_STEM}{backend.suffix}"
    return engine if versions == backend.versions() and engine.is_file() else None


def _output_error(backend: Backend, engine: Path) -> str | None:
    x = np.array([1.0, -2.0], np.float32)
    y = backend.load(engine, CompileOptions()).run({"x": x})["y"]
    return None if np.array_equal(y, -x) else f"the self-test gave {y.tolist()}, expected {(-x).tolist()}"
