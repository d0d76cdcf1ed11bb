"""Evidence of what was screened, with what and with which result: an append-only log that shows every later change."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_edge.evidence.lines import Head
    from cxr_edge.evidence.log import EvidenceLog
    from cxr_edge.evidence.verification import Verification, verify
    from cxr_edge.evidence.writer import WriterSettings

__all__ = ["EvidenceLog", "Head", "Verification", "WriterSettings", "verify"]

# Imported on first use: a screening without a log needs none of it.
_PUBLIC = {
    "EvidenceLog": "log",
    "Head": "lines",
    "Verification": "verification",
    "WriterSettings": "writer",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'cxr_edge.evidence' has no attribute {name!r}")
    return getattr(import_module(f"cxr_edge.evidence.{_PUBLIC[name]}"), name)
