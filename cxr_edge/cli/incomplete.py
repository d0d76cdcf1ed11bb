"""Entry point of the command line where a package cannot be imported: `doctor` works all the same, every other command says so.

It imports nothing but Python's own modules until it is called.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence

__all__ = ["main_without"]

UNUSABLE = 3


def main_without(error: ImportError) -> Callable[[Sequence[str] | None], int]:
    """Return the entry point for an installation that misses what `error` names."""
    reason = str(error)

    def main(argv: Sequence[str] | None = None) -> int:
        words = list(sys.argv[1:] if argv is None else argv)
        if words[:1] == ["doctor"]:
            return _doctor("--json" in words)
        print(
            f"cxr-edge: a package that it needs cannot be imported ({reason}): cxr-edge doctor names it, with the command that "
            "mends it",
            file=sys.stderr,
        )
        return UNUSABLE

    return main


def _doctor(as_json: bool) -> int:
    """Examine the packaged bundle; other options need the packages."""
    from cxr_edge.health.doctor import examine

    report = examine()
    print(json.dumps(report.as_json(), indent=1) if as_json else "\n".join(report.lines()))
    return 0 if report.usable else UNUSABLE
