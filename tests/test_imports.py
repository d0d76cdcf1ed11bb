"""Import rules: the runtime does not import training or heavy packages, and every public name exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cxr_edge"
HEAVY = (
    "torch",
    "cryptography",
    "tensorrt",
    "openvino",
    "onnx",
    "pydicom",
    "torchvision",
    "flask",
    "pycuda",
    "sklearn",
    "scipy",
)


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "cxr_edge",
        "cxr_edge.screening.screener",
        "cxr_edge.cli",
        "cxr_edge.decoding.decode",
        "cxr_edge.bundle",
        "cxr_edge.signing.verify",
    ],
)
def test_importing_the_runtime_loads_no_heavy_package(module):
    loaded = modules_after(f"import {module}")
    assert "numpy" in loaded or module == "cxr_edge"
    assert not loaded & set(HEAVY)


def test_the_package_does_not_import_training():
    for file in PACKAGE.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) training\b", file.read_text(), re.MULTILINE), file


def test_every_public_name_exists():
    import cxr_edge

    for name in cxr_edge.__all__:
        assert getattr(cxr_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cxr_edge.nonsense  # noqa: B018
