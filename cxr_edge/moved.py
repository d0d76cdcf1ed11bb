"""Import paths and public names of version 0.1, served with a DeprecationWarning until version 0.3.

An old module path gives an alias of the new module; an old attribute name gives the renamed object. `install` is called once
by each package that moved modules.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["CXR_EDGE", "install"]

# Old module -> new module, below the package.
CXR_EDGE: Mapping[str, str] = {
    "build": "compiler",
    "build.autotune": "compiler.timing",
    "build.calibrate": "compiler.calibrate",
    "build.candidates": "compiler.candidates",
    "build.dtypes": "compiler.graph.dtypes",
    "build.emulate": "compiler.graph.half_emulation",
    "build.engine": "compiler.requests",
    "build.gate": "compiler.parity",
    "build.graph": "compiler.graph.graph",
    "build.half": "compiler.graph.half",
    "build.lone": "compiler.requests",
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
    "decoding.picture": "decoding.decoded_image",
    "decoding.remarks": "decoding.imagecodecs_log",
    "decoding.sniff": "decoding.formats",
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

# Modules of which a part went elsewhere: module -> the modules that have the other names. `install` adds other packages'.
_PARTS: dict[str, tuple[str, ...]] = {
    "cxr_edge.backends": ("cxr_edge.backends.self_test",),
    "cxr_edge.bench": ("cxr_edge.environment",),
    "cxr_edge.bundle": ("cxr_edge.bundle.onnx_check",),
    "cxr_edge.bundle.manifest": ("cxr_edge.specs.combination", "cxr_edge.specs.lung_box"),
    "cxr_edge.compiler.requests": ("cxr_edge.compiler.build_bundle",),
    "cxr_edge.compiler.samples": ("cxr_edge.compiler.requests",),
    "cxr_edge.decoding.decode": ("cxr_edge.decoding.limits",),
    "cxr_edge.engines": ("cxr_edge.engines.records", "cxr_edge.engines.loading"),
    "cxr_edge.ops.preprocess": ("cxr_edge.specs.preprocess",),
    "cxr_edge.screening.screener": ("cxr_edge.screening.folder",),
}

# Renamed public names: module of today -> old name -> new name in that module.
_RENAMED: dict[str, Mapping[str, str]] = {
    "cxr_edge.backends.onnxruntime": {
        "quiet_settings": "quiet_session_options",
        "short": "first_line",
    },
    "cxr_edge.backends.self_test": {
        "keep_proof": "save_self_test_engine",
        "prove": "run_self_test",
    },
    "cxr_edge.cli.output": {
        "say": "print_message",
    },
    "cxr_edge.cli.traces": {
        "Traces": "TracebackLog",
        "add_traces": "add_traceback_options",
    },
    "cxr_edge.compiler.build_bundle": {
        "options_note": "ignored_options_note",
        "silent": "no_progress",
    },
    "cxr_edge.compiler.candidates": {
        "NAMES": "PRECISION_NAMES",
        "layers": "reducible_layers",
        "make": "make_candidate",
        "on_reference": "rewrite_for_cpu",
        "recipes": "choose_recipes",
    },
    "cxr_edge.compiler.fp32_fallback": {
        "Search": "FallbackSearch",
    },
    "cxr_edge.compiler.graph.half_emulation": {
        "emulated": "emulate_half",
    },
    "cxr_edge.compiler.parity": {
        "Verdict": "ParityResult",
        "judge_member": "compare_member",
        "judge_segmenter": "compare_segmenter",
        "judge_set": "compare_ensemble",
    },
    "cxr_edge.compiler.samples": {
        "spread": "spread_evenly",
    },
    "cxr_edge.compiler.sensitivity": {
        "Harm": "LayerSensitivity",
        "units": "layer_outputs",
    },
    "cxr_edge.compiler.store": {
        "keep": "save_engine",
        "write_build": "write_build_record",
    },
    "cxr_edge.compiler.trial": {
        "Outcome": "TrialResult",
        "Tools": "BuildContext",
    },
    "cxr_edge.defects": {
        "trace": "traceback_text",
    },
    "cxr_edge.engines.loading": {
        "Part": "NetworkFile",
        "last_asked": "last_build_settings",
    },
    "cxr_edge.engines.records": {
        "Asked": "BuildSettings",
        "Selection": "BuildRecord",
    },
    "cxr_edge.gpu.cuda": {
        "missing": "gpu_unavailable_reason",
    },
    "cxr_edge.names": {
        "shortened": "shorten_name",
    },
    "cxr_edge.ops.lung_box": {
        "LungVerdict": "LungBoxStatus",
        "roi_and_flag": "roi_from_result",
    },
    "cxr_edge.report": {
        "writing": "output_errors",
    },
    "cxr_edge.report.overlay": {
        "overlay": "render_overlay",
        "picture": "render_image",
    },
    "cxr_edge.screening.gpu_enqueue": {
        "STAGES": "GPU_STAGES",
        "ScreeningWork": "GpuScreening",
    },
    "cxr_edge.screening.screener": {
        "Answer": "FileResult",
    },
}


def install(
    package: str,
    moved: Mapping[str, str],
    parts: Mapping[str, tuple[str, ...]] | None = None,
    renamed: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Make the old names of `package` importable.

    moved: old module -> new module, both below the package.
    parts: module of today -> modules that have other names of its predecessor, all with full names.
    renamed: module of today -> old name -> new name in that module.
    """
    _PARTS.update(parts or {})
    _RENAMED.update(renamed or {})
    modules = {f"{package}.{old}": f"{package}.{new}" for old, new in moved.items()}
    sys.meta_path.append(_OldModules(modules))  # last, so that existing modules have priority
    sys.meta_path.insert(0, _OldAttributes(package))


def _resolve(module: str, name: str) -> tuple[str, Any] | None:
    """Return the new full name and the value of an old public name of a module of today, or None."""
    for home in (module, *_PARTS.get(module, ())):
        new_name = _RENAMED.get(home, {}).get(name, name)
        values = vars(import_module(home))  # not getattr: it would call the module's __getattr__ again
        if new_name in values:
            return f"{home}.{new_name}", values[new_name]
    return None


class _OldModules(MetaPathFinder):
    """Finds old module paths."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        new = self._modules.get(fullname)
        if new is None:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self._modules)
        return ModuleSpec(fullname, _AliasLoader(fullname, new), is_package=is_package)


class _AliasLoader(Loader):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(
            f"{self._old} is {self._new} now; the old name goes with version 0.3", DeprecationWarning, stacklevel=2
        )
        return _Alias(self._old, self._new)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the alias is complete."""

    def get_code(self, fullname: str) -> Any:
        """Return the code of the new module, for `python -m` with an old name."""
        spec = find_spec(self._new)
        return spec.loader.get_code(self._new)  # type: ignore[union-attr]


class _Alias(ModuleType):
    """Module with the attributes of the new module, and of those that have a part of the old one."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(old)
        self._new = new
        self.__doc__ = import_module(new).__doc__

    def __getattr__(self, name: str) -> Any:
        new = self.__dict__.get("_new")
        # Of the special names only __all__: with the new package's __path__, its submodules would be loaded a second time.
        public = name == "__all__" or not name.startswith("__")
        found = _resolve(new, name) if new is not None and public else None
        if found is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return found[1]


class _OldAttributes(MetaPathFinder):
    """Adds old attribute names to modules that kept their path."""

    def __init__(self, package: str) -> None:
        self._modules = {name for name in (*_PARTS, *_RENAMED) if name.startswith(f"{package}.")}

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._modules else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                module.__dict__.setdefault("__getattr__", _old_attribute_of(fullname))

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # each spec has its own loader
        return spec


def _old_attribute_of(module: str) -> Callable[[str], Any]:
    """Return the module-level `__getattr__` that serves the old names of a module."""

    def __getattr__(name: str) -> Any:  # noqa: N807
        found = None if name.startswith("__") else _resolve(module, name)
        if found is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, value = found
        warnings.warn(
            f"{module}.{name} is {new} now; the old name goes with version 0.3", DeprecationWarning, stacklevel=2
        )
        return value

    return __getattr__
