"""Checks and their results: a function that returns a `Finding` goes in, an `Item` with its time comes out.

No check ends the run: an exception of one becomes its own failed item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

from cxr_edge import defects
from cxr_edge.errors import CxrEdgeError

__all__ = [
    "Checks",
    "Finding",
    "Item",
    "Status",
    "failed",
    "import_reason",
    "missing",
    "passed",
    "run_check",
    "skipped",
]

_PACKAGES = {"cv2": "opencv-python-headless", "cxr_edge": "cxr-edge"}  # of modules with other names than their package

# missing: something that screening does not need is not here (doctor only). skipped: nothing to check, or it cannot be checked.
Status = Literal["passed", "failed", "missing", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Result of a check."""

    status: Status
    figure: str = ""  # what was found or measured
    message: str = ""  # failed, missing: what is wrong, and what to do; skipped: why

    def __post_init__(self) -> None:
        if (self.status == "passed") is not (self.message == ""):
            raise ValueError(f"a finding has a message unless it passed, got {self.status} and {self.message!r}")


@dataclass(frozen=True, kw_only=True)
class Item:
    """A check that was run."""

    name: str
    finding: Finding
    seconds: float

    @property
    def status(self) -> Status:
        return self.finding.status

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of the item."""
        found = self.finding
        head = {"name": self.name, "status": found.status, "figure": found.figure, "message": found.message}
        return {**head, "seconds": round(self.seconds, 4)}


Checks = list[tuple[str, Callable[[], Finding]]]  # by name, in their order


def passed(figure: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding(status="passed", figure=figure)


def failed(message: str, figure: str = "") -> Finding:
    """Return the finding of a check that failed. message: what is wrong, and what to do."""
    return Finding(status="failed", figure=figure, message=message)


def missing(message: str, figure: str = "") -> Finding:
    """Return the finding that something optional is not here. message: how to get it."""
    return Finding(status="missing", figure=figure, message=message)


def skipped(message: str) -> Finding:
    """Return the finding of a check that has nothing to check here. message: why."""
    return Finding(status="skipped", message=message)


def import_reason(error: ImportError) -> str:
    """Return the sentence about a module that cannot be imported, with the command that mends it."""
    module = (error.name or "").partition(".")[0]
    package = _PACKAGES.get(module, module)
    remedy = f"pip install --force-reinstall {package}" if package else "cxr-edge doctor names the package"
    return f"a package cannot be imported ({error}): {remedy}"


def run_check(name: str, check: Callable[[], Finding]) -> Item:
    """Run a check, time it, and turn whatever it raises into a failed item."""
    start = perf_counter()
    try:
        finding = check()
    except CxrEdgeError as error:
        finding = failed(str(error))
    except OSError as error:
        finding = failed(f"{error.strerror or error}: check {error.filename or 'the disk'} and its permissions")
    except ImportError as error:
        finding = failed(import_reason(error))
    except Exception as error:
        finding = failed(defects.reason(error))
    return Item(name=name, finding=finding, seconds=perf_counter() - start)
