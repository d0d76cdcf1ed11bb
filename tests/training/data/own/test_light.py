"""Reading and checking data needs none of training's packages."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import training.data

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "scipy",
    "sklearn",
    "statsmodels",
    "matplotlib",
    "safetensors",
    "pandas",
    "onnxscript",
)
MODULES = sorted(
    module.name for module in pkgutil.walk_packages(training.data.__path__, "training.data.") if not module.ispkg
)


@pytest.mark.parametrize("names", [MODULES, ["training.check_data"]], ids=["training.data", "check_data"])
def test_modules_of_data_are_imported_without_trainings_packages(names: list[str]) -> None:
    block = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))"  # None: the import fails
    code = f"{block}; from importlib import import_module; [import_module(name) for name in {names!r}]"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[4])
    assert run.returncode == 0, run.stderr
