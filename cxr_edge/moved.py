"""Import paths of version 0.1 that moved: an old module name in, the new module and a DeprecationWarning out.

They go with version 0.3. `install` is called once by each package that moved modules.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["CXR_EDGE", "install"]

# Old name -> new name, below the package.
CXR_EDGE: Mapping[str, str] = {
    "build": "compiler",
    "build.autotune": "compiler.timing",
    "build.calibrate": "compiler.calibrate",
    "build.candidates": "compiler.candidates",
    "build.dtypes": "compiler.graph.dtypes",
    "build.emulate": "compiler.graph.half_emulation",
    "build.engine": "compiler.build_bundle",
    "build.gate": "compiler.parity",
    "build.graph": "compiler.graph.graph",
    "build.half": "compiler.graph.half",
    "build.lone": "compiler.build_network",
    "build.mixed": "compiler.fp32_fallback",
    "build.placement": "compiler.graph.int8_placement",
    "build.precision": "compiler.graph.int8",
    "build.report": "compiler.report",
    "build.samples": "compiler.samples",
    "build.sensitivity": "compiler.sensitivity",
    "build.simplify": "compiler.graph.simplify",
    "build.store": "compiler.store",
    "build.trial": "compiler.trial",
    "backends.host": "backends.cpu_info",
    "combine": "ops.combine",
    "contract": "bundle.onnx_check",
    "decode": "decoding.decode",
    "device": "gpu",
    "device.arena": "gpu.arena",
    "device.cuda": "gpu.cuda",
    "device.memory": "gpu.interface",
    "device.pipeline": "screening.gpu_pipeline",
    "device.proof": "screening.gpu_self_test",
    "device.work": "screening.gpu_enqueue",
    "heatmap": "ops.heatmap",
    "lungs": "ops.lung_box",
    "manifest": "bundle.manifest",
    "pipeline": "screening.pipeline",
    "preprocess": "ops.preprocess",
    "screener": "screening.screener",
}

# Modules of which a part went elsewhere: new name -> where the names that it no longer has are.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "cxr_edge.ops.preprocess": ("cxr_edge.specs.preprocess",),
    "cxr_edge.bundle.manifest": ("cxr_edge.specs.combination", "cxr_edge.specs.lung_box"),
    "cxr_edge.screening.screener": ("cxr_edge.screening.folder",),
}


def install(package: str, moved: Mapping[str, str]) -> None:
    """Let the old names of `package` be imported. moved: old name -> new name, both below the package."""
    names = {f"{package}.{old}": f"{package}.{new}" for old, new in moved.items()}
    sys.meta_path.append(_Finder(names))  # last: a module that is there comes first


class _Finder(MetaPathFinder):
    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        new = self._names.get(fullname)
        if new is None:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self._names)
        return ModuleSpec(fullname, _Loader(fullname, new), is_package=is_package)


class _Loader(Loader):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(
            f"{self._old} is {self._new} now; the old name goes with version 0.3", DeprecationWarning, stacklevel=2
        )
        return _Alias(self._old, self._new)

    def exec_module(self, module: ModuleType) -> None:
        """The alias is complete."""

    def get_code(self, fullname: str) -> Any:
        """The new module's, for `python -m` with an old name."""
        spec = find_spec(self._new)
        return spec.loader.get_code(self._new)  # type: ignore[union-attr]


class _Alias(ModuleType):
    """Every attribute is the new module's, or that of a module that took a part of the old one over."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(old)
        self._homes = [import_module(name) for name in (new, *_PARTS.get(new, ()))]
        self.__doc__ = self._homes[0].__doc__

    def __getattr__(self, name: str) -> Any:
        for home in self.__dict__.get("_homes", ()):
            if hasattr(home, name):
                return getattr(home, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
