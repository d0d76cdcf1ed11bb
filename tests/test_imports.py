"""Dependencies point one way, and the runtime stays light."""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "cxr_edge"
HEAVY = ("torch", "tensorrt", "openvino", "onnx", "pydicom", "torchvision", "flask", "pycuda", "sklearn", "scipy")


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("module", ["cxr_edge", "cxr_edge.screener", "cxr_edge.cli", "cxr_edge.decode", "cxr_edge.bundle"])
def test_importing_the_runtime_pulls_in_nothing_heavy(module):
    loaded = loaded_after(f"import {module}")
    assert "numpy" in loaded or module == "cxr_edge"
    assert not loaded & set(HEAVY)


def test_nothing_in_the_package_names_training():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        assert "import training" not in text, file
        assert "from training" not in text, file
