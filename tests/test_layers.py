"""The floors of the house: every import goes to a lower floor or stays in its room, and no private name crosses packages."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the foundation upwards; rooms of one line do not import each other. docs/architecture.md says what each is for.
FLOORS: dict[str, tuple[str, ...]] = {
    "cxr_edge": (
        "version errors names digests forks _core moved",
        "records defects phantoms",
        "specs decoding",
        "ops gpu bundle",
        "backends calibration drift signing",
        "engines",
        "screening",
        "environment report compiler evidence",
        "bench imports site changes health",
        "installation",
        "cli",
    ),
    "training": (
        "parallel phantoms toml_tables moved",
        "shared_files",
        "json_records markdown models",
        "data",
        "loop check_data",
        "tasks functions_0_1",
        "pruning",
        "config",
        "evaluation",
        "ensembles",
        "bundles",
        "recipes",
        "starter evaluate seeds papers train budget checker drift_reference drift_study decoded_files "
        "gate_set gate_study",
        "reproduce degraded",
        "papers_smoke probe sites site_kit",
    ),
    "benchmarks": (
        "harness",
        "sensors peers trainers cold_probe",
        "combine",
        "gpu",
        "preprocess end_to_end cold_start throughput latency scenarios idle sustained train_speed rivals evidence self_test",
        "__main__",
    ),
}


def _imports(file: Path, package: str) -> Iterator[tuple[str, int, str]]:
    """Module, line and name of each import from the same package."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package:
            for alias in node.names:
                yield node.module or "", node.lineno, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    yield alias.name, node.lineno, ""


def _room(module: str, name: str, package: str) -> str | None:
    """The room of a module; None for the package's own face."""
    parts = module.split(".")
    if len(parts) > 1:
        return parts[1]
    if not name:
        return None
    path = ROOT / package / name
    return name if path.is_dir() or path.with_suffix(".py").exists() or name == "_core" else None


@pytest.mark.parametrize("package", FLOORS)
def test_every_import_goes_down(package: str) -> None:
    floor = {room: k for k, rooms in enumerate(FLOORS[package]) for room in rooms.split()}
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        here = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        for module, line, name in _imports(file, package):
            there = _room(module, name, package)
            if there not in (None, here) and floor[there] >= floor[here]:
                wrong.append(f"{file.relative_to(ROOT)}:{line} {here} ({floor[here]}) -> {there} ({floor[there]})")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", FLOORS)
def test_no_private_name_crosses_packages(package: str) -> None:
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        own = ".".join(file.relative_to(ROOT).with_suffix("").parts[:-1])
        for module, line, name in _imports(file, package):
            private = [
                p for p in (*module.split(".")[1:], name) if p.startswith("_") and not p.endswith("__") and p != "_core"
            ]
            if private and not module.startswith(own):
                wrong.append(f"{file.relative_to(ROOT)}:{line} {module} {name}")
    assert not wrong, "\n".join(wrong)
