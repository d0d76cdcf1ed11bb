"""The runtimes that can run engines here: a name goes in, a `Backend` comes out.

The registry is this file's one table; `auto` takes the first runtime that is installed and has just given the right
answer to a tiny network, because an installed runtime may still fail on this driver or processor. Where compiling even
that takes seconds, a build keeps the tiny engine beside its own, and the proof is to load and run it.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from cxr_edge.backends.base import Backend, CompileOptions
from cxr_edge.errors import BackendError, CxrEdgeError

__all__ = ["BACKENDS", "choose", "get", "keep_proof", "prove"]


def _later(module: str, name: str) -> Callable[[], Backend]:
    """Makes the backend; its module is imported when it is asked for."""

    def make() -> Backend:
        backend: Backend = getattr(import_module(f"cxr_edge.backends.{module}"), name)()
        return backend

    return make


# In the order in which `auto` tries them, fastest runtime first. Making one must import nothing heavy.
BACKENDS: dict[str, Callable[[], Backend]] = {
    "tensorrt": _later("tensorrt", "TensorRtBackend"),
    "onnxruntime-cuda": _later("onnxruntime_cuda", "OnnxRuntimeCudaBackend"),
    "onnxruntime": _later("onnxruntime", "OnnxRuntimeBackend"),
}

# An ONNX file (opset 13): input x (2) float32, output y = -x. In base64, so that screening never imports onnx.
_TINY_NETWORK = base64.b64decode("CAgSADoyCgsKAXgSAXkiA05lZxIBZ1oPCgF4EgoKCAgBEgQKAggCYg8KAXkSCgoICAESBAoCCAJCBAoAEA0=")

_PROOF = "proof"


def get(name: str) -> Backend:
    """The backend of that name, whether or not it can run here. Raises BackendError for an unknown name."""
    if name not in BACKENDS:
        raise BackendError(f"no backend is called {name!r}: choose from auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()


def choose(name: str = "auto", *, among: Sequence[str] = tuple(BACKENDS), engines: Path | None = None) -> Backend:
    """A backend that has just run here.

    name: one backend, which must work or the error says why it does not; or `auto` for the first of `among`, in the
    registry's order, that works. engines: the folder with a sub-folder a backend in which builds kept their proofs.
    Raises BackendError with the reason of every backend tried.
    """
    names = [name] if name != "auto" else [n for n in BACKENDS if n in among]
    reasons = []
    for candidate in names:
        backend = get(candidate)
        reason = backend.unavailable_because() or prove(backend, engines / candidate if engines else None)
        if reason is None:
            return backend
        reasons.append(f"{candidate}: {reason}")
    raise BackendError("no runtime can run engines here: " + ("; ".join(reasons) or "none was named"))


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
