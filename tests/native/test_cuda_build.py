"""Build of the core with and without CUDA: compiled if there is a CUDA compiler, replaced by the same symbols if not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cxr_edge._core as _core

CSRC = Path(__file__).parents[2] / "csrc"
INCLUDES = ("-std=c++17", f"-I{CSRC / 'include'}", f"-I{CSRC}")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


def symbols(*command: str | Path, into: Path) -> set[str]:
    """Return the GPU functions of namespace cxr that an object file exports."""
    subprocess.run([*map(str, command), "-c", "-o", str(into)], check=True, capture_output=True, text=True)
    listed = subprocess.run(["nm", "-C", "--defined-only", "--extern-only", into], check=True, capture_output=True)
    rows = (line.split(" ", 2) for line in listed.stdout.decode().splitlines())
    names = [name for _, kind, name in rows if kind == "T"]
    kinds = ("Cuda::", "Event::", "Graph::", "begin_capture", "end_capture", "cuda_architectures")
    return {n for n in names if n.startswith(tuple(f"cxr::{kind}" for kind in kinds)) and "[clone" not in n}


@needs_nvcc
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the CUDA toolkit's libraries are Linux's here")
def test_the_core_was_built_for_all_known_gpus():
    built = _core.cuda_architectures()
    known = subprocess.run(["nvcc", "--list-gpu-arch"], check=True, capture_output=True, text=True).stdout.split()
    expected = [n for n in (75, 80, 86, 87, 89, 90, 100, 110, 120, 121) if f"compute_{n}" in known]
    assert built == expected
    assert 87 in built  # Jetson Orin


@needs_compiler
@needs_nvcc
def test_a_build_without_cuda_has_the_same_symbols(tmp_path):
    absent = symbols("g++", *INCLUDES, CSRC / "cuda_absent.cc", into=tmp_path / "absent.o")
    present = symbols(
        "nvcc", "-arch=compute_87", "-code=compute_87", *INCLUDES, CSRC / "device_cuda.cu", into=tmp_path / "present.o"
    )
    assert absent == present
    assert len(absent) >= 12


@needs_compiler
def test_without_cuda_the_functions_report_the_missing_toolkit(tmp_path):
    program = tmp_path / "try.cc"
    program.write_text(
        '#include <cstdio>\n#include <stdexcept>\n#include "cxr/device.h"\n'
        "int main() {\n  try {\n    cxr::begin_capture(0);\n  } catch (const std::runtime_error& error) {\n"
        "    std::puts(error.what());\n  }\n  return cxr::cuda_architectures().empty() ? 0 : 1;\n}\n"
    )
    binary = tmp_path / "try"
    subprocess.run(["g++", *INCLUDES, program, CSRC / "cuda_absent.cc", "-o", binary], check=True, capture_output=True)
    printed = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    assert "was built without CUDA: install the CUDA toolkit" in printed


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_requested_but_missing_cuda_is_an_error(tmp_path):
    """Configure cmake/cuda.cmake without Python and pybind11."""
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\nproject(try LANGUAGES CXX)\n"
        f'include("{CSRC.parent / "cmake" / "cuda.cmake"}")\nmessage(STATUS "CUDA: ${{CXR_EDGE_HAS_CUDA}}")\n'
    )

    def configure(choice: str) -> subprocess.CompletedProcess[str]:
        options = [f"-DCXR_EDGE_CUDA={choice}", "-DCMAKE_CUDA_COMPILER=NOTFOUND"]
        command = ["cmake", "-S", tmp_path, "-B", tmp_path / choice, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    rejected = configure("ON")
    assert rejected.returncode != 0
    assert "no CUDA compiler works here" in " ".join(rejected.stderr.split())
    for choice in ("AUTO", "OFF"):
        done = configure(choice)
        assert done.returncode == 0, done.stderr
        assert "CUDA: OFF" in done.stdout
