"""The list of attacks in docs/security.md is complete: rows name tests that exist, and every test of an attack is in a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ATTACKS = ROOT / "tests" / "signing" / "test_attacks.py"
HONEST = {"test_an_honest_bundle_is_accepted", "test_engines_that_the_box_has_signed_are_loaded"}


def rows() -> list[list[str]]:
    """Return the cells of the table of attacks."""
    table = PAGE.split("## Attacks tried")[1]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_row_names_tests_that_exist() -> None:
    """A test of another file is named `tests/FILE.py::test_name`."""
    own = functions_of(ATTACKS)
    assert len(rows()) >= 15
    for attack, *_, names in rows():
        named = re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", names)
        assert named, attack
        for file, test in named:
            assert test in (functions_of(ROOT / file) if file else own), (attack, test)


def test_every_attack_that_is_tested_has_a_row() -> None:
    named = {name for row in rows() for name in re.findall(r"test_\w+", row[-1])}
    assert functions_of(ATTACKS) - named - HONEST == set()


def test_the_messages_of_the_table_are_those_of_the_program() -> None:
    source = "".join(
        file.read_text(encoding="utf-8")
        for folder in ("signing", "engines", "bundle", "specs")
        for file in (ROOT / "cxr_edge" / folder).glob("*.py")
    )
    pieces = re.sub(r'"\s*f?"', "", source)  # texts that are written in several parts
    for _, _, seen, _ in rows():
        for message in re.findall(r"`([^`]+)`", seen):
            assert message in pieces, message
