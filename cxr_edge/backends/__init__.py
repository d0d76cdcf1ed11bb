"""The runtimes that can run engines here: a name goes in, a `Backend` comes out.

The registry is this file's one table; `auto` takes the first runtime that is installed and has just given the right
answer to a tiny network, because an installed runtime may still fail on this driver or processor.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cxr_edge.backends.base import Backend, CompileOptions
from cxr_edge.backends.onnxruntime import OnnxRuntimeBackend
from cxr_edge.errors import BackendError, CxrEdgeError

__all__ = ["BACKENDS", "choose", "get", "prove"]

# In the order in which `auto` tries them, fastest runtime first. Making one must import nothing heavy.
BACKENDS: dict[str, Callable[[], Backend]] = {"onnxruntime": OnnxRuntimeBackend}

# An ONNX file (opset 13): input x (2) float32, output y = -x. In base64, so that screening never imports onnx.
_TINY_NETWORK = base64.b64decode("CAgSADoyCgsKAXgSAXkiA05lZxIBZ1oPCgF4EgoKCAgBEgQKAggCYg8KAXkSCgoICAESBAoCCAJCBAoAEA0=")


def get(name: str) -> Backend:
    """The backend of that name, whether or not it can run here. Raises BackendError for an unknown name."""
    if name not in BACKENDS:
        raise BackendError(f"no backend is called {name!r}: choose from auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()


def choose(name: str = "auto", *, among: Sequence[str] = tuple(BACKENDS)) -> Backend:
    """A backend that has just run here.

    name: one backend, which must work or the error says why it does not; or `auto` for the first of `among`, in the
    registry's order, that works. Raises BackendError with the reason of every backend tried.
    """
    names = [name] if name != "auto" else [n for n in BACKENDS if n in among]
    reasons = []
    for candidate in names:
        backend = get(candidate)
        reason = backend.unavailable_because() or prove(backend)
        if reason is None:
            return backend
        reasons.append(f"{candidate}: {reason}")
    raise BackendError("no runtime can run engines here: " + ("; ".join(reasons) or "none was named"))


def prove(backend: Backend) -> str | None:
    """Compile, load and run a tiny network on `backend`: None if the answer is right, else what went wrong."""
    x = np.array([1.0, -2.0], np.float32)
    try:
        with tempfile.TemporaryDirectory(prefix="cxr-edge-") as folder:
            onnx, engine = Path(folder, "tiny.onnx"), Path(folder, f"tiny-engine{backend.suffix}")
            onnx.write_bytes(_TINY_NETWORK)
            backend.compile(onnx, engine, CompileOptions())
            y = backend.load(engine, CompileOptions()).run({"x": x})["y"]
    except (CxrEdgeError, OSError) as error:
        return str(error)
    return None if np.array_equal(y, -x) else f"a tiny network gave {y.tolist()} for {(-x).tolist()}"
