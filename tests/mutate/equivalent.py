"""Mutants that no test can find, with the reason: by file and the changed line, as `python -m tests.mutate` prints it."""

from __future__ import annotations

_REASONS: dict[str, list[tuple[str, str]]] = {}

EQUIVALENT = {mutant: reason for reason, mutants in _REASONS.items() for mutant in mutants}
