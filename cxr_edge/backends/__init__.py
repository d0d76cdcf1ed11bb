"""Registry of inference backends: `choose` takes a name and returns a `Backend` that works on this machine.

`auto` selects the first backend that is installed and passes its self-test (`self_test.py`), because an installed runtime
may still fail on this driver or processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from cxr_edge.backends.base import Backend
from cxr_edge.backends.self_test import run_self_test
from cxr_edge.errors import BackendError

__all__ = ["BACKENDS", "choose", "get"]


def _lazy(module: str, class_name: str) -> Callable[[], Backend]:
    """Return a constructor that imports the backend's module when it is first called."""

    def construct() -> Backend:
        backend: Backend = getattr(import_module(f"cxr_edge.backends.{module}"), class_name)()
        return backend

    return construct


# In the order in which `auto` tries them, fastest runtime first. Constructing a backend must import nothing heavy.
BACKENDS: dict[str, Callable[[], Backend]] = {
    "tensorrt": _lazy("tensorrt", "TensorRtBackend"),
    "onnxruntime-cuda": _lazy("onnxruntime_cuda", "OnnxRuntimeCudaBackend"),
    "onnxruntime": _lazy("onnxruntime", "OnnxRuntimeBackend"),
}


def get(name: str) -> Backend:
    """Return the backend of that name, whether or not it can run here. Raises BackendError for an unknown name."""
    if name not in BACKENDS:
        raise BackendError(f"no backend is called {name!r}: choose from auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()


def choose(name: str = "auto", *, among: Sequence[str] = tuple(BACKENDS), engines: Path | None = None) -> Backend:
    """Return a backend that passed its self-test.

    name: one backend, or `auto` for the first of `among`, in the registry's order, that works.
    among: names that `auto` may select.
    engines: folder with one sub-folder per backend, where builds saved their self-test engines; None if there is none.

    Raises BackendError with the reason for every backend that was tried.
    """
    names = [name] if name != "auto" else [n for n in BACKENDS if n in among]
    reasons = []
    for candidate in names:
        backend = get(candidate)
        reason = backend.unavailable_because() or run_self_test(backend, engines / candidate if engines else None)
        if reason is None:
            return backend
        reasons.append(f"{candidate}: {reason}")
    raise BackendError("no runtime can run engines here: " + ("; ".join(reasons) or "none was named"))
