"""Signatures of bundles and engines: keys, statements, who is trusted, and the highest counter seen on this machine.

The names here are imported when they are first used: commands that verify nothing need none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_edge.signing.sign import SignedBundle, sign_bundle, with_counter
    from cxr_edge.signing.verify import Verified, verify_bundle

__all__ = ["SignedBundle", "Verified", "sign_bundle", "verify_bundle", "with_counter"]

_MODULES = {
    "SignedBundle": "sign",
    "sign_bundle": "sign",
    "with_counter": "sign",
    "Verified": "verify",
    "verify_bundle": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cxr_edge.signing' has no attribute {name!r}")
    return getattr(import_module(f"cxr_edge.signing.{_MODULES[name]}"), name)
