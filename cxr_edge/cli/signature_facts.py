"""A bundle's signatures as `inspect` shows them: whose they claim to be, and whether a trusted key's is among them."""

from __future__ import annotations

import argparse
from typing import Any

from cxr_edge.bundle import Bundle
from cxr_edge.errors import CxrEdgeError, InputError
from cxr_edge.names import printable
from cxr_edge.signing.trust import short, trusted_keys_folder
from cxr_edge.signing.verify import signing_key_ids, verify_bundle

__all__ = ["signature_facts", "signature_text"]


def signature_facts(args: argparse.Namespace, bundle: Bundle) -> dict[str, Any]:
    """Return JSON values: the claimed keys by file; `verified` is null where there are no trusted keys to verify with."""
    claimed = {name: list(key_ids) for name, key_ids in signing_key_ids(bundle).items()}
    try:
        folder = trusted_keys_folder(args.trusted_keys)
    except InputError:
        if args.trusted_keys is not None:
            raise
        return {"files": claimed, "verified": None, "reason": "--trusted-keys DIR checks it"}
    if not claimed:
        return {"files": claimed, "verified": False, "reason": "no signature"}
    try:
        verified = verify_bundle(bundle, folder, state=args.state, record=False)
    except CxrEdgeError as error:
        checked = None if isinstance(error, InputError) else False
        return {"files": claimed, "verified": checked, "reason": str(error)}
    return {"files": claimed, "verified": True, "reason": "", **verified.as_json()}


def signature_text(facts: dict[str, Any]) -> str:
    """Return the facts for a person."""
    if not facts["files"]:
        return "none"
    if facts["verified"]:
        return f"by {printable(facts['key_name'])}, key {facts['key_id']}: verified"
    claimed = ", ".join(sorted({short(key_id) for key_ids in facts["files"].values() for key_id in key_ids})) or "none"
    if facts["verified"] is None:
        return f"claims key {claimed}: not checked ({facts['reason']})"
    return f"claims key {claimed}: NOT ACCEPTED: {facts['reason']}"
