"""Signatures of bundles and engines: keys, statements, who is trusted, and the highest counter seen on this machine."""

from cxr_edge.signing.sign import SignedBundle, sign_bundle, with_counter
from cxr_edge.signing.verify import Verified, verify_bundle

__all__ = ["SignedBundle", "Verified", "sign_bundle", "verify_bundle", "with_counter"]
