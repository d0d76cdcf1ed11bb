"""The runtimes that can run engines here: a name goes in, a `Backend` comes out.

The registry is this file's one table; `auto` takes the first runtime that is installed and has just given the right
answer to a tiny network, because an installed runtime may still fail on this driver or processor. Where compiling even
that takes seconds, a build keeps the tiny engine beside its own, and the proof is to load and run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from cxr_edge.backends.base import Backend
from cxr_edge.backends.self_test import prove
from cxr_edge.errors import BackendError

__all__ = ["BACKENDS", "choose", "get"]


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
