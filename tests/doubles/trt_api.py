"""Public names and signatures of NVIDIA's Python bindings of TensorRT, per version, as an `Api`.

The bindings can be imported without a GPU if the nine C functions of nvinfer.c exist. Each version is imported in its own
process, which runs this file as a script. `make test` installs the bindings into the environment's folder `tensorrt`, on
machines for which they exist.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSIONS = ("10.3", "10.16", "11.4")

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_STUB = Path(__file__).with_name("nvinfer.c")


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Signature of one overload."""

    names: tuple[str, ...]  # of the arguments in order, without self
    required: int  # number of arguments without a default
    returns: str = ""  # name of the return type

    def accepts(self, positional: int, keywords: tuple[str, ...]) -> bool:
        """Return whether a call with this number of positional arguments and these keywords is valid."""
        by_keyword = set(keywords)
        by_position = set(self.names[:positional])
        valid = positional <= len(self.names) and by_keyword <= set(self.names) - by_position
        return valid and set(self.names[: self.required]) <= by_position | by_keyword


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One public name."""

    kind: str  # class, function, property or value
    signatures: tuple[Signature, ...] = ()
    writable: bool = False
    number: int | None = None  # value of an enumeration's member


@dataclass(frozen=True, kw_only=True)
class Api:
    """All public names of one version, dotted: `Builder.create_network`."""

    version: str
    entries: dict[str, Entry]

    def missing(self, dotted: str) -> str | None:
        """Return the part of `dotted` that this version lacks, or None. Attributes of a value or function are ignored."""
        parts = dotted.split(".")
        for i in range(1, len(parts) + 1):
            entry = self.entries.get(".".join(parts[:i]))
            if entry is None:
                return ".".join(parts[:i])
            if entry.kind != "class":
                return None
        return None


@dataclass(frozen=True, kw_only=True)
class Bindings:
    """Bindings of one version, and stubs of the libraries that they link against."""

    folder: Path
    libraries: tuple[Path, ...]

    def api(self) -> Api:
        """Return all public names."""
        output = self._run_script("")
        entries = {
            name: Entry(
                **{**e, "signatures": tuple(Signature(**{**s, "names": tuple(s["names"])}) for s in e["signatures"])}
            )
            for name, e in output["entries"].items()
        }
        return Api(version=output["version"], entries=entries)

    def run(self, code: str) -> Any:
        """Run `code` with the bindings as `trt` and return its variable `answer`, which must be valid JSON."""
        return self._run_script(code)

    def _run_script(self, code: str) -> Any:
        command = [sys.executable, __file__, str(self.folder), *map(str, self.libraries)]
        done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise AssertionError(f"the script on the bindings in {self.folder.name} failed: {done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])


def absent_because(version: str) -> str | None:
    """Return None if the bindings and a C compiler are installed, else the reason."""
    if not (_folder(version) / "tensorrt_bindings").is_dir():
        return f"no bindings of TensorRT {version}: `make test` installs them on x86-64 Linux, where the Python has a wheel"
    return None if _compiler() else "no C compiler for the stub of TensorRT's libraries"


def open_bindings(version: str, scratch: Path) -> Bindings:
    """Compile the stub libraries into `scratch` and return the bindings of that version."""
    major = version.split(".")[0]
    libraries = tuple(scratch / f"lib{name}.so.{major}" for name in _LIBRARIES)
    for library in libraries:
        command = [
            str(_compiler()),
            "-shared",
            "-fPIC",
            "-w",
            f"-Wl,-soname,{library.name}",
            "-o",
            str(library),
            str(_STUB),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    return Bindings(folder=_folder(version), libraries=libraries)


def _folder(version: str) -> Path:
    return Path(sys.prefix, "tensorrt", version)


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")


def _main(folder: str, *libraries: str) -> None:
    for library in libraries:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    sys.path[0] = folder
    import tensorrt_bindings as trt

    code = sys.stdin.read()
    answer: Any = {"version": trt.__version__, "entries": dict(_walk(trt, ""))}
    if code:
        scope: dict[str, Any] = {"trt": trt}
        exec(code, scope)
        answer = scope["answer"]
    print(json.dumps(answer))


def _walk(owner: Any, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [n for n in dir(owner) if not n.startswith("_") or n in ("__init__", "__version__")]
    for name in names:
        static = inspect.getattr_static(owner, name)
        if inspect.ismodule(static):
            continue
        yield prefix + name, _entry(owner, name, static)
        if inspect.isclass(static) and static.__module__.startswith("tensorrt_bindings"):
            yield from _walk(static, f"{prefix}{name}.")


def _entry(owner: Any, name: str, static: Any) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": "value", "signatures": []}
    if inspect.isclass(static):
        entry["kind"] = "class"
    elif isinstance(static, property):
        entry.update(kind="property", writable=static.fset is not None)
    elif callable(getattr(owner, name)):
        entry.update(kind="function", signatures=_signatures(getattr(owner, name), method=inspect.isclass(owner)))
    elif hasattr(static, "__int__"):
        entry["number"] = int(static)
    return entry


def _signatures(function: Any, *, method: bool) -> list[dict[str, Any]]:
    """Return the fields of a Signature for each overload listed in pybind11's docstring."""
    if inspect.isfunction(function):
        names = list(inspect.signature(function).parameters)
        return [{"names": names, "required": len(names)}]
    name = re.escape(function.__name__)
    quoted = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> (.*)$", function.__doc__ or "", re.MULTILINE)
    found = []
    for text, returns in quoted:
        arguments = _split(text)[1 if method else 0 :]
        required = sum("=" not in a for a in arguments)
        names = [a.split(":")[0].strip() for a in arguments]
        # A class that was registered after the function is listed by its name in C++.
        returns = returns.rpartition(".")[2].removeprefix("nvonnxparser::I")
        found.append({"names": names, "required": required, "returns": returns})
    return found


def _split(text: str) -> list[str]:
    """Split the arguments of a signature at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "([<{") - (character in ")]>}")
        if character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]] if text else []


if __name__ == "__main__":
    _main(*sys.argv[1:])
