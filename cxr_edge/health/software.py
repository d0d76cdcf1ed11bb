"""Checks of installed software for the doctor: Python, packages, native core, runtimes, extras.

Every check imports what it looks at by itself, so that one that is missing is one failed item.
"""

from __future__ import annotations

import platform
import re
import sys
from importlib import import_module, metadata
from importlib.util import find_spec

from cxr_edge.health.checks import Checks, Finding, failed, missing, passed
from cxr_edge.version import __version__

__all__ = ["EXTRAS", "check_core", "check_extra", "check_processor", "python_checks", "runtime_checks"]

# Packages that building needs and screening does not.
_BUILD_ONLY = ("onnx", "tqdm")
# Packages that bring the module of another one: what is imported decides, not the name under which it was installed.
_MODULES = {"opencv-python-headless": "cv2"}
_ALTERNATIVES = {
    "opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime-gpu",),
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:>=\s*([0-9.]+))?")
# Extras of pyproject.toml: a module that tells whether it is installed, and what it is for.
EXTRAS = {
    "sign": ("cryptography", "signatures of bundles and logs"),
    "train": ("torch", "training on own images"),
    "gpu": ("pycuda", "running on an NVIDIA GPU"),
}


def python_checks() -> Checks:
    """Return the checks of Python and of every required package, by name."""
    checks: Checks = [("Python", _check_python), ("cxr-edge", _check_distribution)]
    for name, least in _requirements():
        checks.append((name, lambda name=name, least=least: _check_package(name, least)))  # type: ignore[misc]
    return checks


def _check_python() -> Finding:
    try:
        required = metadata.metadata("cxr-edge")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        required = ""
    least, found = required.removeprefix(">="), platform.python_version()
    if least and _numbers(found) < _numbers(least):
        return failed(f"at least {least} is needed: make a virtual environment with a newer Python", found)
    return passed(f"{found}, {sys.executable}")


def _check_distribution() -> Finding:
    try:
        installed = metadata.version("cxr-edge")
    except metadata.PackageNotFoundError:
        return missing("not installed as a package, so its requirements are not known: pip install .", __version__)
    if installed != __version__:
        return failed(f"the package says {installed}, its code {__version__}: pip install --force-reinstall .")
    return passed(installed)


def _requirements() -> list[tuple[str, str]]:
    """Return the packages that cxr-edge needs with their lowest versions, empty where any will do."""
    try:
        lines = [line for line in metadata.requires("cxr-edge") or () if "extra ==" not in line]
    except metadata.PackageNotFoundError:
        return []
    return [(match[1], match[2] or "") for line in lines if (match := _REQUIREMENT.match(line))]


def _check_package(name: str, least: str) -> Finding:
    found = next((v for other in (name, *_ALTERNATIVES.get(name, ())) if (v := _version(other))), "")
    report = missing if name in _BUILD_ONLY else failed
    try:
        module = import_module(_MODULES.get(name, name))
    except Exception as error:
        if not found:
            return report(
                f"not installed: pip install '{name}>={least}'" if least else f"not installed: pip install {name}"
            )
        return report(f"cannot be imported ({type(error).__name__}: {error}): {_remedy(error, name)}", found)
    found = found or str(
        getattr(module, "__version__", "of unknown version")
    )  # the system's own, such as JetPack's cv2
    if least and _numbers(found) and _numbers(found) < _numbers(least):
        return report(f"at least {least} is needed: pip install --upgrade '{name}>={least}'", found)
    return passed(found)


def _remedy(error: Exception, name: str) -> str:
    """Return what mends an import of the package `name`, which may have failed for another one."""
    module = (getattr(error, "name", None) or "").partition(".")[0]
    if module and module != _MODULES.get(name, name):
        return f"mend {module} first"
    return f"pip install --force-reinstall {name}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, without zeros at the end: 2.0.1rc1 gives (2, 0, 1)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_core() -> Finding:
    """Return whether the native core loads."""
    try:
        core = import_module("cxr_edge._core")
    except ImportError as error:
        return failed(f"cannot be loaded ({error}): pip install --force-reinstall . (it needs a C++17 compiler)")
    cuda = core.cuda_architectures()
    kernels = f"CUDA kernels for {', '.join(f'sm_{number}' for number in cuda)}" if cuda else "no CUDA kernels"
    return passed(f"{', '.join(core.COMBINATION_STRATEGIES)}; {kernels}")


def check_processor() -> Finding:
    """Return the processor; it is only shown."""
    from cxr_edge.backends.cpu_info import instruction_sets, platform_name, processor_name
    from cxr_edge.backends.cpu_quota import available_cores

    sets = ", ".join(instruction_sets()) or "instruction sets unknown"
    return passed(f"{processor_name()}, {platform_name()}, {available_cores()} cores for this process: {sets}")


def runtime_checks() -> Checks:
    """Return the checks of the driver and of every backend, by name."""
    from cxr_edge.backends import BACKENDS

    checks: Checks = [("NVIDIA driver", _check_driver)]
    return [*checks, *((name, lambda name=name: _check_runtime(name)) for name in BACKENDS)]


def _check_driver() -> Finding:
    from ctypes import CDLL, c_int

    try:
        cuda = CDLL("libcuda.so.1")
    except OSError:
        return missing("no libcuda.so.1: without an NVIDIA GPU nothing is to be done; with one, install its driver")
    version = c_int()
    cuda.cuDriverGetVersion(version)
    return passed(f"CUDA {version.value // 1000}.{version.value % 1000 // 10}")


def _check_runtime(name: str) -> Finding:
    """Run the two-element network. Only ONNX Runtime on the CPU is needed: the checker and the reference run there."""
    from cxr_edge.backends import get
    from cxr_edge.backends.self_test import run_self_test

    backend = get(name)
    reason = backend.unavailable_because() or run_self_test(backend)
    if reason is not None:
        return failed(reason) if name == "onnxruntime" else missing(reason)
    versions = [
        f"{key} {value}" for key, value in backend.versions().items() if key not in ("processor", "instruction_sets")
    ]
    return passed(f"{', '.join(versions)}: a test network gave its known result")


def check_extra(name: str) -> Finding:
    """Return whether an extra of pyproject.toml is installed."""
    module, purpose = EXTRAS[name]
    if find_spec(module) is None:
        return missing(f"for {purpose}: pip install 'cxr-edge[{name}]'")
    return passed(f"{module} {_version(module)}, for {purpose}")
