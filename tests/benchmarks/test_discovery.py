"""Every benchmark script declares itself, so that `python -m benchmarks` and the page of results find it."""

from __future__ import annotations

import ast
from pathlib import Path

import benchmarks
from benchmarks.harness.script import Benchmark, discover

FOLDER = Path(benchmarks.__file__).parent


def _declares_a_main(file: Path) -> bool:
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in body)


def test_every_script_with_a_main_is_discovered() -> None:
    scripts = {f.stem for f in FOLDER.glob("[!_]*.py") if _declares_a_main(f)}
    assert {b.name for b in discover()} == scripts | {"gpu"}


def test_positions_differ_and_give_the_order() -> None:
    positions = [b.position for b in discover()]
    assert positions == sorted(set(positions))


def test_a_declaration_is_quick_by_rounds_unless_it_names_other_options() -> None:
    assert Benchmark(name="x", position=1).quick_options == ("--rounds",)
    assert {b.name: b.quick_options[-1] for b in discover() if b.quick_options != ("--rounds",)} == {
        "latency": "--iterations", "scenarios": "--min-queries", "sustained": "--minutes",
    }  # fmt: skip
